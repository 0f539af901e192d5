"""The options of each task. Importing them loads neither the tasks nor NumPy, so the command's help appears at once."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any, ClassVar, Literal, Self

from throughtime.options import Count, Options, Paths, PathText


class TaskOptions(Options):
    """Data options, shared by all tasks.

    `defaults` are the task's own defaults of network and training options. `unused` are options of the base
    classes that have no effect in the task; its help leaves them out.

    Attributes:
        task: the task to learn; inferred from the data by default.
        data: the files and directories to train on.
        valid: validation data; part of the training data is held out by default.
        test: test data to evaluate the trained network on.
        encoding_errors: how to handle bytes that are not valid UTF-8.
    """

    defaults: ClassVar[Mapping[str, Any]] = {}
    unused: ClassVar[Collection[str]] = ()

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


class StreamOptions(TaskOptions):
    """Options of tasks on one long sequence.

    Attributes:
        window: the window of truncated backpropagation through time, in steps.
    """

    window: Count = 50


class SequenceOptions(TaskOptions):
    """Options of tasks on separate sequences."""

    defaults: ClassVar[Mapping[str, Any]] = {"batch": 64, "hidden_size": 256, "dropout": 0.5, "epochs": 20}
