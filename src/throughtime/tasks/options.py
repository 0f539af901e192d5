"""The options that every task has."""

from __future__ import annotations

import os
from typing import Literal, Self

from throughtime.options import Options, Paths, PathText


class TaskOptions(Options):
    """What the data are, whatever the task.

    Attributes:
        task: what to learn; guessed from the data if not given.
        data: files and directories.
        valid: data to validate on; a part of the training data is held out if not given.
        test: data to measure the trained network on.
        encoding_errors: what to do with bytes that are not UTF-8.
    """

    task: str
    data: Paths = None
    valid: PathText = None
    test: PathText = None
    encoding_errors: Literal["strict", "replace"] = "strict"

    def anywhere(self) -> Self:
        """The same with absolute paths, good for any working directory."""
        paths = {
            "data": self.data and tuple(path if path == "-" else os.path.abspath(path) for path in self.data),
            "valid": self.valid and os.path.abspath(self.valid),
            "test": self.test and os.path.abspath(self.test),
        }
        return self.model_copy(update=paths)
