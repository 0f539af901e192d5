"""Options of the text task."""

from __future__ import annotations

from typing import Literal

from throughtime.options import Count
from throughtime.tasks.options import StreamOptions


class TextOptions(StreamOptions):
    """Options of the text task.

    Attributes:
        data: text files and directories of them; Python's own documentation by default.
        valid: a text to validate on; the last tenth of the data is held out by default.
        test: a text to evaluate the trained network on.
        level: the kind of tokens: characters, words or byte pairs.
        vocab_size: the maximum vocabulary size; the most frequent tokens are kept.
        min_count: the minimum number of occurrences for a token to enter the vocabulary.
    """

    task: Literal["text"] = "text"
    level: Literal["char", "word", "bpe"] = "char"
    vocab_size: Count | None = None
    min_count: Count | None = None
