"""Options that all tasks share."""

from __future__ import annotations

import os
from typing import Literal, Self

from throughtime.options import Options, Paths, PathText


class TaskOptions(Options):
    """Data options, shared by all tasks.

    Attributes:
        task: the task to learn; guessed from the data by default.
        data: the files and directories to train on.
        valid: validation data; part of the training data is held out by default.
        test: test data to evaluate the trained network on.
        encoding_errors: how to handle bytes that are not valid UTF-8.
    """

    task: str
    data: Paths = None
    valid: PathText = None
    test: PathText = None
    encoding_errors: Literal["strict", "replace"] = "strict"

    def anywhere(self) -> Self:
        """Return a copy with absolute paths, valid in any working directory."""
        paths = {
            "data": self.data and tuple(path if path == "-" else os.path.abspath(path) for path in self.data),
            "valid": self.valid and os.path.abspath(self.valid),
            "test": self.test and os.path.abspath(self.test),
        }
        return self.model_copy(update=paths)
