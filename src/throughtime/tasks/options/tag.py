"""Options of the tagging task."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator

from throughtime.options import Count, Share
from throughtime.tasks.options import SequenceOptions


def _column(value: Any) -> Any:
    """Convert a column number from the command line to an integer."""
    return int(value) if isinstance(value, str) and re.fullmatch(r"-?\d+", value) else value


Column = Annotated[int | str, BeforeValidator(_column)]


class TagOptions(SequenceOptions):
    """Options of the tagging task.

    Attributes:
        data: files with a token and its tag per line and a blank line between sequences, as in CoNLL, or tables (CSV or
            Parquet) with a row per token.
        valid: validation data; part of the data is held out by default.
        test: test data to evaluate the trained network on.
        token_column: the token column, as a number counted from 0, or as a name in a table.
        tag_column: the tag column, as a number counted from 0 (or from the end, as -1), or as a name in a table.
        sentence_column: the table column that identifies the sequence each row belongs to.
        min_count: the minimum number of occurrences for a token to enter the vocabulary; 2 by default.
        valid_share: the fraction of the data to hold out for selecting the best weights.
        test_share: the fraction of the data to hold out for testing the trained network.
    """

    defaults: ClassVar = {**SequenceOptions.defaults, "bidirectional": True, "dropout": 0.5, "lr": 0.01, "epochs": 40}

    task: Literal["tag"] = "tag"
    token_column: Column = 0
    tag_column: Column = -1
    sentence_column: str | None = None
    min_count: Count | None = None
    valid_share: Share = 0.1
    test_share: Share = 0.0
