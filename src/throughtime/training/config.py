"""What a training run is asked to do: the options of `throughtime train`, as one checked model.

Imports neither torch nor Lightning, so that the command line answers quickly.
"""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from throughtime.errors import TrainingError, nearest
from throughtime.spelling import option

DEFAULT_STEPS = 4000
DEFAULT_LEARNING_RATES = {"sgd": 1.0, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 2e-3}
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01}
DEFAULT_EMBED = 128
DEFAULT_DECAY = {"step": 0.97, "plateau": 0.5}

Count = Annotated[int, Field(ge=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


def _device(value: Any) -> str:
    kind, _, count = (str(value) if ":" in str(value) else f":{value}").partition(":")
    if count in ("cpu", "cuda"):
        kind, count = count, "1"
    if kind not in ("", "cpu", "cuda") or not count.isdecimal() or int(count) < 1:
        raise ValueError("expected a number of devices, or cpu, cuda, cpu:N, cuda:N")
    return f"{kind}:{int(count)}" if kind else str(int(count))


def _initial(value: float | str | None) -> float | str | None:
    if value is None or value == "orthogonal":
        return value
    try:
        bound = float(value)
    except (TypeError, ValueError):
        bound = 0.0
    if not 0 < bound < float("inf"):
        raise ValueError("expected a range above 0, or orthogonal")
    return bound


def _path(value: Any) -> str | None:
    if value is None or isinstance(value, str | os.PathLike):
        if value is not None and not os.fspath(value):
            raise ValueError("the path is empty")
        return value if value is None else os.fspath(value)
    raise ValueError("expected a path")


def _paths(value: Any) -> tuple[str | None, ...] | None:
    if value is None:
        return None
    paths = tuple(map(_path, value)) if isinstance(value, list | tuple) else (_path(value),)
    if not paths:
        raise ValueError("the list is empty; leave it out to train on Python's own documentation")
    return paths


PathText = Annotated[str | None, BeforeValidator(_path)]


class TrainConfig(BaseModel):
    """The options of a training run; a field is the command's option with `_` for `-`.

    Attributes:
        data: files and directories of text; Python's own documentation if not given.
        level: what a symbol is.
        vocab_size: the most symbols that the vocabulary may have; the most frequent ones are kept.
        min_count: how often a symbol must occur to be in the vocabulary.
        valid: a text to validate on; the last tenth of the data is held out if not given.
        test: a text to measure the trained network on.
        encoding_errors: what to do with bytes that are not UTF-8.
        cell: the recurrent cell's name.
        hidden_size: hidden units of each layer.
        num_layers: recurrent layers.
        embed: width of the embedding; if not given the recurrent output's, but 128 at most where they are not tied.
        dropout: probability of dropping an element of what a symbol is embedded as, wherever it stands in a window,
            between layers, and of the output.
        recurrent_dropout: probability of dropping a unit of a state where a matrix multiplies it, one mask a window
            (Gal & Ghahramani 2016).
        zoneout: probability with which a unit of a state keeps its old value (Krueger et al. 2017).
        weight_drop: probability of dropping an element of a matrix over a state (Merity et al. 2018).
        tie: whether the softmax layer's matrix is the embedding.
        window: steps of truncated backpropagation through time.
        batch: parallel streams of text, in all processes together; fewer where the text is too short for them.
        optimizer: the update rule.
        lr: the learning rate, its largest value where the schedule varies it; chosen by optimizer if not given.
        schedule: how the learning rate goes. constant; cosine: up in the first tenth, then down to near 0 along half a
            cosine; plateau: times `decay` where validation no longer improves; step: times `decay` each epoch after
            `decay_after` epochs.
        decay: what `plateau` and `step` multiply by.
        decay_after: epochs without decay, for `step`; validations without improvement, for `plateau`.
        clip: the largest norm of the gradient, of all weights together; 0 leaves it as it is.
        weight_decay: decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101), with any optimizer: each
            step multiplies every matrix, the embedding included, by 1 - lr * weight_decay; vectors, such as biases and
            gains, do not decay. 0.01 for adamw and 0 otherwise if not given.
        init: what recurrent weights are drawn from: the range of a uniform distribution around 0, or orthogonal;
            1/sqrt(hidden size) if not given.
        forget_bias: what a forget gate's bias starts with; if not given 1, or -1 where that is what keeps the state.
        init_from: a run whose weights to start from. Its vocabulary, cell and sizes are used as well.
        epochs: times to go through the data; of `epochs`, `steps` and `minutes` the first that is reached ends.
        steps: updates of the weights; 4000 if no end is given.
        minutes: time to train.
        seed: what weights and dropout are drawn from.
        out: the run's directory; `runs/DATE-TIME-CELL-DATA` if not given.
        engine: what runs the recurrent layers; chosen by device if not given.
        threads: threads of the CPU; torch's choice if not given.
        devices: how many devices, of which kind; one if not given, a CUDA device if there is one.
        nodes: how many machines.
        precision: precision of the arithmetic.
        log: where figures go besides the screen: csv alone, or tensorboard as well.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Annotated[tuple[str, ...] | None, BeforeValidator(_paths)] = None
    level: Literal["char", "word", "bpe"] = "char"
    vocab_size: Count | None = None
    min_count: Count | None = None
    valid: PathText = None
    test: PathText = None
    encoding_errors: Literal["strict", "replace"] = "strict"

    cell: str = "lstm"
    hidden_size: Count = 512
    num_layers: Count = 1
    embed: Count | None = None
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.3
    recurrent_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    zoneout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weight_drop: Annotated[float, Field(ge=0, lt=1)] = 0.0
    tie: bool = False

    window: Count = 50
    batch: Count = 50
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "plateau", "step"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    decay_after: Annotated[int, Field(ge=0)] | None = None
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    weight_decay: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    init: Annotated[float | str | None, BeforeValidator(_initial)] = None
    forget_bias: Annotated[float | None, Field(allow_inf_nan=False)] = None

    init_from: PathText = None

    epochs: Positive | None = None
    steps: Count | None = None
    minutes: Positive | None = None

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    out: PathText = None
    engine: str | None = None
    threads: Count | None = None
    devices: Annotated[str, BeforeValidator(_device)] = "1"
    nodes: Count = 1
    precision: Literal["32", "64", "bf16", "bf16-mixed", "16-mixed"] = "32"
    log: Literal["csv", "tensorboard"] = "csv"

    @classmethod
    def of(cls, **fields: Any) -> Self:
        """The configuration with the given fields, the defaults elsewhere; a field of None is one not given.

        Raises:
            TrainingError: a field that is not known or whose value means nothing, with all of them in one message.
        """
        try:
            return cls(**{name: value for name, value in fields.items() if value is not None})
        except ValidationError as error:
            raise TrainingError("\n".join(_told(dict(e)) for e in error.errors())) from None

    def anywhere(self) -> Self:
        """The same with absolute paths of the data, good for any working directory."""
        paths = {
            "data": self.data and tuple(path if path == "-" else os.path.abspath(path) for path in self.data),
            "valid": self.valid and os.path.abspath(self.valid),
            "test": self.test and os.path.abspath(self.test),
            "init_from": self.init_from and os.path.abspath(self.init_from),
        }
        return self.model_copy(update=paths)

    @model_validator(mode="after")
    def _fits(self) -> TrainConfig:
        if self.epochs is self.steps is self.minutes is None:
            object.__setattr__(self, "steps", DEFAULT_STEPS)
        return self

    @property
    def device_kind(self) -> Literal["auto", "cpu", "cuda"]:
        """The kind of device asked for."""
        kind, _, _ = self.devices.rpartition(":")
        return "cpu" if kind == "cpu" else "cuda" if kind == "cuda" else "auto"

    @property
    def device_count(self) -> int:
        """Devices on each machine."""
        return int(self.devices.rpartition(":")[2])

    @property
    def processes(self) -> int:
        """How many processes train together."""
        return self.device_count * self.nodes

    @property
    def learning_rate(self) -> float:
        """The learning rate, the optimizer's usual one if none was given."""
        return self.lr if self.lr is not None else DEFAULT_LEARNING_RATES[self.optimizer]

    @property
    def decoupled_decay(self) -> float:
        """The weight decay, the optimizer's usual one if none was given."""
        return self.weight_decay if self.weight_decay is not None else DEFAULT_WEIGHT_DECAY.get(self.optimizer, 0.0)

    @property
    def decay_factor(self) -> float:
        """What the schedule multiplies by."""
        return self.decay if self.decay is not None else DEFAULT_DECAY.get(self.schedule, 1.0)

    @property
    def decay_patience(self) -> int:
        """Epochs (`step`) or validations (`plateau`) before the first decay."""
        return self.decay_after if self.decay_after is not None else 10 if self.schedule == "step" else 2


def _told(error: dict[str, Any]) -> str:
    """A sentence for one of pydantic's errors."""
    name = str(error["loc"][0]) if error["loc"] else ""
    spelled = option(name)
    given, limits = error["input"], error.get("ctx", {})
    wanted: str
    match error["type"]:
        case "extra_forbidden":
            return f"there is no option {name!r}{nearest(name, TrainConfig.model_fields)}"
        case "literal_error":
            names = str(limits["expected"]).replace("'", "").replace(" or ", ", ")
            return f"{spelled} must be one of {names}, got {given!r}{nearest(str(given), names.split(', '))}"
        case "value_error":
            wanted = str(limits["error"])
        case "greater_than_equal":
            return f"{spelled} must be at least {limits['ge']}, got {given}"
        case "greater_than":
            return f"{spelled} must be greater than {limits['gt']}, got {given}"
        case "less_than":
            return f"{spelled} must be less than {limits['lt']}, got {given}"
        case "less_than_equal":
            return f"{spelled} must be at most {limits['le']}, got {given}"
        case "finite_number":
            return f"{spelled} must be a finite number, got {given}"
        case _:
            wanted = str(error["msg"])
    return f"{spelled} {given!r}: {wanted}"
