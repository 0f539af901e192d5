"""Options of the classification task."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from throughtime.data.limits import BANDS, MAX_FRAME, MAX_RATE
from throughtime.options import Count, Share
from throughtime.tasks.options import SequenceOptions


def _pattern(value: str | None) -> str | None:
    try:
        re.compile(value or "")
    except re.error as error:
        raise ValueError(f"expected a regular expression ({error})") from None
    return value


class ClassifyOptions(SequenceOptions):
    """Options of the classification task.

    Attributes:
        data: a folder with one text file per label and one sequence per line, a folder with one folder of text or
            sound files per label, or a table (CSV or Parquet).
        valid: validation data; part of the data is held out by default.
        test: test data to evaluate the trained network on.
        label: the table column with the labels.
        text: the table column with the texts, one sequence per row.
        group: the table column that identifies the sequence each row belongs to.
        time: the table column that orders the rows of a sequence.
        gaps: whether the network also reads the time since the sequence's previous row, in units of the mean; the cell
            must have an input named dt, as cfc has.
        columns: the numeric table columns to read, separated by commas; all others by default.
        group_by: the column, or the named group in `label_pattern`, whose values must not occur on both sides of a
            split, such as the speaker; the value text keeps identical texts on the same side.
        label_pattern: a regular expression for the names of sound files, with a group named label.
        rate: the sampling rate in Hz to resample sounds to; their own rate by default.
        features: the input features for sounds; log-mel are the logarithms of mel band energies, raw are the samples.
        frame: the number of samples per step with raw features.
        normalize: the normalization of log-mel features; level (the default) subtracts each recording's mean log
            energy, so that loudness doesn't matter; none turns it off.
        augment: the number of augmented copies per recording: faster or slower, louder or softer, with noise and
            masks; by default, up to 20 if there are fewer than 4,000 recordings.
        bands: the number of mel bands per frame of sound.
        level: the kind of tokens of a text: characters or words.
        min_count: the minimum number of occurrences for a token to enter the vocabulary.
        valid_share: the fraction of the data to hold out for selecting the best weights.
        test_share: the fraction of the data to hold out for testing the trained network.
        class_weights: the weights of labels in the loss; balanced makes rare labels count as much as frequent ones.
    """

    task: Literal["classify"] = "classify"
    label: str | None = None
    text: str | None = None
    group: str | None = None
    time: str | None = None
    gaps: bool = False
    columns: str | None = None
    group_by: str | None = None
    label_pattern: Annotated[str | None, AfterValidator(_pattern)] = None
    rate: Annotated[int, Field(ge=1, le=MAX_RATE)] | None = None
    features: Literal["log-mel", "raw"] = "log-mel"
    frame: Annotated[int, Field(ge=1, le=MAX_FRAME)] = 32
    normalize: Literal["level", "none"] | None = None
    augment: Annotated[int, Field(ge=0, le=1000)] | None = None
    bands: Annotated[int, Field(ge=1, le=512)] = BANDS
    level: Literal["char", "word"] = "char"
    min_count: Count | None = None
    valid_share: Share = 0.1
    test_share: Share = 0.0
    class_weights: Literal["none", "balanced"] = "none"
