"""The base class of the scikit-learn estimators: their files, and their parameters as plain data."""

from __future__ import annotations

import os
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ValidationError
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from throughtime import model_file
from throughtime.codecs import Codecs
from throughtime.errors import ModelError
from throughtime.model_file import ModelFile
from throughtime.nn.sequence_model import SequenceModel
from throughtime.program.cell import Cell
from throughtime.tasks.base import Task


class SavedEstimator(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """An estimator that can be saved and loaded."""

    _task_class: ClassVar[Any]  # a task with `require_codecs` and `fits`, whose option `estimator` holds the parameters

    model_: SequenceModel
    _task: Any
    _codecs: Codecs

    def save(self, path: str | os.PathLike[str]) -> None:
        """Save the fitted estimator to a safetensors file, which `load` reads without running any code from it.

        `throughtime.load` reads only the network from the file.

        Args:
            path: the path of the file; an existing file is replaced.

        Raises:
            NotFittedError: if the estimator isn't fitted.
            UserError: if the file can't be written.
        """
        check_is_fitted(self, "model_")
        model_file.save(self.model_, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Load an estimator saved by `save`.

        A generator passed as `random_state` isn't saved, and a custom cell is saved as its equations. To fit again, set
        `cell` and `random_state` first.

        Args:
            path: the path of the file.

        Raises:
            ModelError: if the file is missing, damaged, or not a saved estimator of this class.
        """
        described = ModelFile.open(path).task
        if described is None or described.name != cls._task_class.name:
            kind = "has no description of its data" if described is None else f"is for the task {described.name!r}"
            raise ModelError(f"{path}: the model {kind}; {cls.__name__}.load reads models saved by {cls.__name__}.save")
        try:
            task: Any = Task.of_description(described)
            estimator = cls(**task.options.estimator)
            task.require_codecs(described.codecs)
            estimator._restore(task, described.codecs)
        except (ValueError, TypeError, AttributeError, OverflowError) as error:
            reason = "its options are invalid" if isinstance(error, ValidationError) else error
            raise ModelError(f"{path}: its metadata is damaged: {reason}") from None
        model = model_file.load(path, task.options.estimator.get("engine"))
        if not isinstance(model, SequenceModel) or not task.fits(model, described.codecs):
            raise ModelError(f"{path}: its metadata is damaged: the network doesn't match the estimator")
        estimator.model_ = model
        return estimator

    def _restore(self, task: Any, codecs: Codecs) -> None:
        """Restore the attributes that `fit` set from the description in a file."""
        self._task, self._codecs = task, codecs

    def _saved_parameters(self) -> dict[str, Any]:
        """Return the parameters in types that JSON supports: a custom cell as its name, a random generator as None."""
        parameters = {name: as_data(value) for name, value in self.get_params(deep=False).items()}
        if isinstance(parameters["cell"], Cell):
            parameters["cell"] = parameters["cell"].name
        if not isinstance(parameters["random_state"], int):
            parameters["random_state"] = None
        return parameters

    def _seed(self) -> int:
        """Draw the seed of one fit from `random_state`."""
        return int(check_random_state(self.random_state).randint(np.iinfo(np.int32).max))


def plain(value: Any) -> Any:
    """Convert NumPy scalars, which parameter grids may contain, to Python scalars."""
    return value.item() if isinstance(value, np.generic) else value


def as_data(value: Any) -> Any:
    """Convert a parameter to types that JSON supports."""
    return [plain(each) for each in value] if isinstance(value, np.ndarray | list | tuple) else plain(value)
