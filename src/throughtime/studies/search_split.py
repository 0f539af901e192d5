"""Set aside the data that a search must not see."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from throughtime.data.corpus import EncodedText
from throughtime.data.sequences import Sequences
from throughtime.tasks.base import Data

_MIN_TOKENS = 8  # the shortest validation text to split in half


def split_off_test(data: Data[Any]) -> tuple[Data[Any], Any]:
    """Return the data without the test part, which the search must not see, and the test part.

    If there is none, half of the validation part becomes the test part if it can be split.
    """
    valid, test = data.valid, data.test
    if test is None and isinstance(valid, Sequences) and len(valid) > 1:
        order = np.random.default_rng(0).permutation(len(valid))
        valid, test = valid.take(order[::2]), valid.take(order[1::2])
    elif test is None and isinstance(valid, EncodedText) and valid.token_count >= _MIN_TOKENS:
        half = valid.token_count // 2
        valid, test = (_part_of(valid, start, stop) for start, stop in ((0, half), (half, valid.token_count)))
    return replace(data, valid=valid, test=None), test


def _part_of(part: EncodedText, start: int, stop: int) -> EncodedText:
    share = (stop - start) / part.token_count
    return replace(
        part,
        ids=part.ids[start:stop],
        characters=max(1, round(share * part.characters)),
        bytes=max(1, round(share * part.bytes)),
        digest=f"{part.digest}[{start}:{stop}]",
    )
