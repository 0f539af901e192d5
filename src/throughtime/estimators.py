"""scikit-learn estimators: recurrent networks that classify sequences in arrays or predict values for them."""

from __future__ import annotations

from typing import Any, ClassVar, Self, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, RegressorMixin
from sklearn.utils import check_array, check_consistent_length, column_or_1d
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from throughtime.codecs import Codecs
from throughtime.errors import UserError, nearest
from throughtime.program.cell import Cell
from throughtime.saved_estimator import SavedEstimator, plain
from throughtime.tasks.arrays import ArrayClassification, ArrayRegression, ArrayTask, ClassType
from throughtime.tasks.sequences import all_raw_outputs
from throughtime.training.callbacks import ProgressBar
from throughtime.training.config import ENDS, TrainConfig, TrainingOptions
from throughtime.training.display import Display
from throughtime.training.fitting import fit
from throughtime.training.session import settings_kept

Array = NDArray[Any]

_LAYOUTS = ("time_first", "channels_first")
_FLOATS = (np.float64, np.float32)
_OWN = ("validation_fraction", "layout", "verbose", "random_state")  # parameters that aren't training options


class _SequenceEstimator(SavedEstimator):
    """Base class of the classifier and the regressor: parameters, inputs, training and files."""

    _task_class: ClassVar[type[ArrayTask]]

    n_features_in_: int
    feature_names_in_: Array
    _table: bool  # whether the estimator was fitted to a table [cases, time]

    def __init__(
        self,
        *,
        cell: str | Cell = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        bidirectional: bool = False,
        dropout: float = 0.1,
        epochs: float | None = 100,
        steps: int | None = None,
        minutes: float | None = None,
        batch: int = 32,
        lr: float | None = None,
        optimizer: str = "adamw",
        weight_decay: float | None = None,
        validation_fraction: float = 0.1,
        layout: str = "time_first",
        engine: str | None = None,
        threads: int | None = None,
        verbose: int = 0,
        random_state: int | np.random.RandomState | None = None,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.dropout = dropout
        self.epochs = epochs
        self.steps = steps
        self.minutes = minutes
        self.batch = batch
        self.lr = lr
        self.optimizer = optimizer
        self.weight_decay = weight_decay
        self.validation_fraction = validation_fraction
        self.layout = layout
        self.engine = engine
        self.threads = threads
        self.verbose = verbose
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _fit(self, inputs: list[Array], targets: Array, **about_targets: Any) -> Self:
        """Train on arrays `[time, features]` and class ids `[N]` or values `[N, targets]`."""
        share = plain(self.validation_fraction)
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise UserError(f"validation_fraction must be at least 0 and less than 1, got {share!r}")
        if all(getattr(self, name) is None for name in ENDS):
            raise UserError("epochs, steps and minutes are all None; set at least one of them to end training")
        check_consistent_length(inputs, targets)
        seed, parameters = self._seed(), self._saved_parameters()
        config = TrainConfig.of(
            self._task_class,
            **{name: value for name, value in parameters.items() if name not in _OWN},
            seed=seed,
            estimator=parameters,
            columns=self.n_features_in_ if self._table else None,
            column_names=tuple(self.feature_names_in_) if hasattr(self, "feature_names_in_") else None,
            **about_targets,
        )
        task = self._task_class(config.task)
        data = task.data(inputs, targets, float(share), seed)
        with Display(bool(self.verbose)) as display:
            callbacks = [ProgressBar(display)] if self.verbose else []
            self.model_ = fit(
                task,
                data,
                config,
                callbacks,
                cell=self.cell if isinstance(self.cell, Cell) else None,
                keep="last" if data.valid is data.train else "best",
            )
        self._task, self._codecs = task, data.codecs
        return self

    def _raw(self, X: Any) -> Array:
        """Return the network's raw output for each sequence, `[N, width]`."""
        check_is_fitted(self, "model_")
        sequences = self._task.sequences(self._sequences(X, reset=False), self._codecs)
        with settings_kept(TrainingOptions(threads=self.threads)):
            found = all_raw_outputs(self.model_, sequences)
        return np.stack(found).astype(np.float64)

    def _sequences(self, X: Any, *, reset: bool) -> list[Array]:
        """Validate X and convert it to arrays `[time, features]`.

        Args:
            X: the sequences in any form that `fit` accepts.
            reset: whether to record the features (in `fit`) or to compare them with the recorded ones.
        """
        if self.layout not in _LAYOUTS:
            raise UserError(
                f"layout must be one of {', '.join(_LAYOUTS)}, got {self.layout!r}{nearest(str(self.layout), _LAYOUTS)}"
            )
        named = {"input_name": "X", "estimator": self, "dtype": _FLOATS}
        names: tuple[str, ...] | None = None
        if _is_list_of_sequences(X):
            names = _common_columns(X) if self.layout == "time_first" else None
            arrays = [
                check_array(one, ensure_2d=False, ensure_min_samples=0, ensure_min_features=0, **named) for one in X
            ]
        elif getattr(X, "ndim", 2) == 3:
            arrays = list(check_array(X, allow_nd=True, **named))
        else:
            if reset or self._table:
                table = validate_data(self, X, reset=reset, dtype=_FLOATS)
            else:
                table = check_array(X, **named)
            if reset:
                self._table = True
            arrays = [row[:, None] for row in table]
            return arrays if reset else self._with_known_features(arrays, " (a table [cases, time] has 1)")
        for k, array in enumerate(arrays):
            if array.ndim != 2:
                raise UserError(f"X must contain 2-D arrays, one per sequence; X[{k}] has shape {list(array.shape)}")
        if self.layout == "channels_first":
            arrays = [array.T for array in arrays]
        for k, array in enumerate(arrays):
            if 0 in array.shape:
                what = "time steps" if not len(array) else "features"
                raise UserError(f"X[{k}] has 0 {what}; at least 1 is required")
            if array.shape[1] != arrays[0].shape[1]:
                raise UserError(
                    f"all sequences must have the same features: X[0] has {arrays[0].shape[1]}, X[{k}] has "
                    f"{array.shape[1]}"
                )
        if not reset:
            known = tuple(getattr(self, "feature_names_in_", names or ()))
            if names is not None and names != known:
                raise UserError(
                    f"X has the columns {', '.join(names)}, but {type(self).__name__} was fitted to "
                    f"{', '.join(known)}; pass the same columns in the same order"
                )
            return self._with_known_features(arrays, f" (layout={self.layout!r})")
        self._table = False
        self.n_features_in_ = arrays[0].shape[1]
        self.__dict__.pop("feature_names_in_", None)  # left from an earlier fit
        if names is not None:
            self.feature_names_in_ = np.array(names, object)
        return arrays

    def _with_known_features(self, arrays: list[Array], hint: str) -> list[Array]:
        """Return the arrays after checking that they have as many features as in `fit`."""
        found, known = arrays[0].shape[1], 1 if self._table else self.n_features_in_
        if found != known:
            raise UserError(
                f"X has {found} features, but {type(self).__name__} is expecting {known} features as input{hint}"
            )
        return arrays

    def _restore(self, task: Any, codecs: Codecs) -> None:
        """Restore the attributes that `fit` set from the description in a file."""
        super()._restore(task, codecs)
        columns, names = task.options.columns, task.options.column_names
        self._table = columns is not None
        self.n_features_in_ = columns if self._table else len(codecs.inputs.mean)
        if names is not None:
            self.feature_names_in_ = np.array(names, object)


class SequenceClassifier(ClassifierMixin, _SequenceEstimator):  # type: ignore[misc]
    """Classify sequences with a recurrent network, as a scikit-learn classifier.

    Sequences are passed as an array `[cases, time, features]`, as a list of arrays `[time, features]` of any lengths,
    or, with one feature, as a table `[cases, time]`. Features are scaled to mean 0 and standard deviation 1.

    Args:
        cell: the name of a cell, or a `throughtime.Cell`.
        hidden_size: the number of hidden units per layer.
        num_layers: the number of recurrent layers.
        bidirectional: whether each layer reads the sequences in both directions.
        dropout: the dropout probability between layers and for the last layer's output.
        epochs, steps, minutes: the maximum number of passes through the data, weight updates and minutes of training;
            training ends at the first one reached. None sets no limit, and at least one must be set. Training with
            `minutes` depends on the machine's speed, so `random_state` doesn't reproduce it.
        batch: the batch size in sequences.
        lr: the peak learning rate; it rises during the first tenth of training, then falls to 0 along a cosine. If
            None, the optimizer's default: 0.003 for adam and adamw, 0.002 for rmsprop, 1 for sgd.
        optimizer: adamw, adam, sgd or rmsprop.
        weight_decay: decoupled weight decay. If None, 0.01 for adamw and 0 otherwise.
        validation_fraction: the fraction of sequences held out to select the best weights. If that is fewer than 2
            sequences, or fewer sequences than classes, training uses all sequences and keeps the last weights, as it
            does with 0.
        layout: "time_first" for sequences `[time, features]`, "channels_first" for `[features, time]`, as in aeon.
        engine: the engine that runs the recurrent layers; chosen by device if None.
        threads: the number of CPU threads; torch's setting if None.
        verbose: 1 shows a progress bar on a terminal.
        random_state: an integer makes training reproducible. If None, the seed is drawn from NumPy's global generator.

    Attributes:
        classes_: the class labels, sorted.
        n_features_in_: the number of features per time step; for a table, the number of columns.
        feature_names_in_: the column names, if the table was a data frame.
        model_: the network, a `throughtime.nn.sequence_model.SequenceModel`. It takes scaled inputs.
    """

    _task_class = ArrayClassification

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new network.

        Args:
            X: `[cases, time, features]`, or a list of arrays `[time, features]`, or `[cases, time]`.
            y: a class label for each case.

        Returns:
            The estimator.

        Raises:
            ValueError: if a parameter, X or y is invalid.
            TrainingError: if training diverges; it is a ValueError too.
        """
        inputs = self._sequences(X, reset=True)
        _require_targets(self, y)
        labels = column_or_1d(y, warn=True)
        check_classification_targets(labels)
        self.classes_, ids = np.unique(labels, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError(f"y must have at least 2 classes, got one class: {self.classes_.tolist()[0]!r}")
        classes = [plain(label) for label in self.classes_.tolist()]
        kind = "str" if self.classes_.dtype.kind == "U" else self.classes_.dtype.name
        if kind not in get_args(ClassType) or not all(isinstance(label, bool | int | float | str) for label in classes):
            raise UserError(f"class labels must be strings, integers, floats or booleans, got {kind}")
        return self._fit(inputs, ids.astype(np.int64), classes=classes, class_type=kind)

    def predict(self, X: Any) -> Array:
        """Return the most likely class label of each case, `[cases]`."""
        raw = self._raw(X)
        return np.asarray(self.classes_[self._task.output.predict(raw)])

    def predict_proba(self, X: Any) -> Array:
        """Return the probability of each class, `[cases, classes]`, in the order of `classes_`."""
        raw = self._raw(X)
        return np.asarray(self._task.output.probabilities(raw))

    def _restore(self, task: Any, codecs: Codecs) -> None:
        super()._restore(task, codecs)
        labels, kind = list(task.options.classes), task.options.class_type
        classes = np.array(labels, {"str": str, "object": object}.get(kind, kind))
        same = classes.tolist() == labels and [*map(type, classes.tolist())] == [*map(type, labels)]
        if not same or not np.array_equal(np.unique(classes), classes):
            raise UserError(f"the classes must be distinct, sorted and of type {kind}")
        self.classes_ = classes


class SequenceRegressor(RegressorMixin, _SequenceEstimator):  # type: ignore[misc]
    """Predict one or more values for each sequence with a recurrent network, as a scikit-learn regressor.

    Inputs and parameters are the same as for `SequenceClassifier`. The targets are scaled to mean 0 and standard
    deviation 1, and training minimizes their squared error.

    Attributes:
        n_features_in_: the number of features per time step; for a table, the number of columns.
        feature_names_in_: the column names, if the table was a data frame.
        model_: the network, a `throughtime.nn.sequence_model.SequenceModel`. It takes scaled inputs and returns scaled
            values.
    """

    _task_class = ArrayRegression

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train a new network.

        Args:
            X: `[cases, time, features]`, or a list of arrays `[time, features]`, or `[cases, time]`.
            y: a value for each case `[cases]`, or several `[cases, targets]`.

        Returns:
            The estimator.

        Raises:
            ValueError: if a parameter, X or y is invalid.
            TrainingError: if training diverges; it is a ValueError too.
        """
        inputs = self._sequences(X, reset=True)
        _require_targets(self, y)
        values = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", estimator=self)
        count = None if values.ndim == 1 else values.shape[1]
        return self._fit(inputs, values.reshape(len(values), -1), values=count)

    def predict(self, X: Any) -> Array:
        """Return the values of each case, `[cases]` or `[cases, targets]` like `y` in `fit`."""
        raw = self._raw(X)
        values: Array = self._codecs.targets.decode(self._task.output.predict(raw))
        return values if self._task.options.values is not None else values[:, 0]


def _common_columns(X: list[Any]) -> tuple[str, ...] | None:
    """Return the column names of a list of data frames; None for arrays."""
    found = list(dict.fromkeys(tuple(map(str, one.columns)) if hasattr(one, "columns") else None for one in X))
    if len(found) > 1:
        shown = " and ".join("none" if names is None else ", ".join(names) for names in found[:2])
        raise UserError(f"all sequences must have the same columns in the same order; X has sequences with {shown}")
    return found[0]


def _is_list_of_sequences(X: Any) -> bool:
    """Return whether X is a list of sequences rather than one array."""
    if not (isinstance(X, list | tuple) or (isinstance(X, np.ndarray) and X.dtype == object and X.ndim == 1)):
        return False
    axes = {np.ndim(one) for one in X}
    if axes == {1} and len({len(one) for one in X}) > 1:
        raise UserError("X has rows of different lengths; pass each sequence as an array [time, features]")
    return 2 in axes


def _require_targets(estimator: Any, y: Any) -> None:
    if y is None:
        raise UserError(f"{type(estimator).__name__} requires y to be passed, but the target y is None")
