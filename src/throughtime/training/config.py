"""The configuration of a training run: the options of its task, its network and its training.

This module imports neither torch nor Lightning, so that the command line responds quickly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializationInfo,
    ValidationError,
    model_serializer,
    model_validator,
)

from throughtime import tasks
from throughtime.errors import TrainingError
from throughtime.options import Count, Options, PathText, Positive, Share, explained
from throughtime.paths import run_path
from throughtime.spelling import option
from throughtime.tasks.options import TaskOptions

if TYPE_CHECKING:
    from throughtime.tasks.base import Task

DEFAULT_STEPS = 4000
DEFAULT_LEARNING_RATES = {"sgd": 1.0, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 2e-3}
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01}
DEFAULT_EMBED = 128
DEFAULT_DECAY = {"step": 0.97, "plateau": 0.5}
ENDS = ("steps", "epochs", "minutes")


def _device(value: Any) -> str:
    text = str(value)
    if text in ("cpu", "cuda"):
        return text
    kind, _, count = text.rpartition(":")
    if kind not in ("", "cpu", "cuda") or not count.isdecimal() or int(count) < 1:
        raise ValueError("expected a number of devices, or cpu, cuda, cpu:N or cuda:N")
    return f"{kind}:{int(count)}" if kind else str(int(count))


def _initial(value: float | str | None) -> float | str | None:
    if value is None or value == "orthogonal":
        return value
    try:
        bound = float(value)
    except (TypeError, ValueError):
        bound = 0.0
    if not 0 < bound < float("inf"):
        raise ValueError("expected a positive range, or orthogonal")
    return bound


def _cell_options(value: Any) -> dict[str, Any] | None:
    """Parse a cell's hyper-parameters from a mapping, or from command-line texts of the form NAME=VALUE."""
    if value is None or isinstance(value, Mapping):
        return None if not value else dict(value)
    found: dict[str, Any] = {}
    for text in [value] if isinstance(value, str) else value if isinstance(value, list | tuple) else [None]:
        name, sign, given = str(text).partition("=")
        if not (sign and name.strip() and given.strip()):
            raise ValueError("expected NAME=VALUE, such as leak=0.3")
        found[name.strip()] = _plain(given.strip())
    return found or None


def _plain(text: str) -> bool | int | float | str | None:
    """Convert a text to the number, boolean, None or string that it represents."""
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


class NetworkOptions(Options):
    """Options of the network.

    Attributes:
        cell: the name of the recurrent cell.
        cell_options: the cell's hyper-parameters as NAME=VALUE; `throughtime cells NAME` lists them.
        hidden_size: the number of hidden units per layer; with `minutes`, the default is a size that suits the time,
            the data and the machine, with less dropout for smaller sizes.
        num_layers: the number of recurrent layers.
        bidirectional: whether each layer reads the sequence in both directions.
        embed: the width of the embedding. Tokens have one by default, as wide as the recurrent output, but at most 128
            unless tied. Numbers have none by default; theirs is an affine map followed by a ReLU.
        dropout: the dropout probability for elements of the embedding, between layers and of the output.
        recurrent_dropout: the dropout probability for units of a state where it is multiplied by a matrix, with one
            mask per window (Gal & Ghahramani 2016).
        zoneout: the probability that a unit of a state keeps its previous value (Krueger et al. 2017).
        weight_drop: the dropout probability for elements of recurrent weight matrices (Merity et al. 2018).
        tie: whether to share the softmax layer's matrix with the embedding, for networks that predict the tokens they
            read.
        init: the initialization of recurrent weights: the range of a uniform distribution around 0, or orthogonal; the
            default range is 1/sqrt(hidden size).
        forget_bias: the initial bias of the forget gate; by default 1, or -1 if a negative bias keeps the state.
        chrono: the number of steps that memory should span, which sets the initial biases of gates that keep a state
            (Tallec & Ollivier 2018, arXiv:1804.11188).
        init_from: a run to take initial weights from. Its vocabulary, cell and sizes are used as well.
    """

    cell: str = "lstm"
    cell_options: Annotated[dict[str, bool | int | float | str | None] | None, BeforeValidator(_cell_options)] = None
    hidden_size: Count = 512
    num_layers: Count = 1
    bidirectional: bool = False
    embed: Count | None = None
    dropout: Share = 0.3
    recurrent_dropout: Share = 0.0
    zoneout: Share = 0.0
    weight_drop: Share = 0.0
    tie: bool = False
    init: Annotated[float | str | None, BeforeValidator(_initial)] = None
    forget_bias: Annotated[float | None, Field(allow_inf_nan=False)] = None
    chrono: Annotated[float | None, Field(gt=2, allow_inf_nan=False)] = None
    init_from: PathText = None

    @property
    def layers_in_words(self) -> str:
        """The recurrent layers in words, such as "2 x lstm, 512 units each"."""
        kind = f"bidirectional {self.cell}" if self.bidirectional else self.cell
        return f"{self.num_layers} x {kind}, {self.hidden_size:,} units{' each' * (self.num_layers > 1)}"

    def layer_options(self) -> dict[str, Any]:
        """Return the options of the recurrent layers (see `throughtime.nn.options`)."""
        names = ("bidirectional", "dropout", "recurrent_dropout", "zoneout", "weight_drop")
        return {name: getattr(self, name) for name in names}


class TrainingOptions(Options):
    """Options of training.

    Attributes:
        batch: the batch size in sequences, or in parallel streams of text, in total over all processes; reduced if
            there is too little data.
        optimizer: the optimizer.
        lr: the learning rate, or its maximum if the schedule varies it; by default the task's own, or else 0.003 for
            adam and adamw, 0.002 for rmsprop and 1 for sgd.
        schedule: the learning rate schedule: constant; cosine, which warms up over the first tenth and then follows
            half a cosine down to nearly 0; plateau, which multiplies by `decay` when validation stops improving; or
            step, which multiplies by `decay` every epoch after `decay_after` epochs.
        decay: the factor of the `plateau` and `step` schedules.
        decay_after: for `step`, the number of epochs before the first decay; for `plateau`, the number of validations
            without improvement.
        clip: the maximum norm of the whole gradient; 0 turns clipping off.
        weight_decay: decoupled weight decay (Loshchilov & Hutter 2019, arXiv:1711.05101) for any optimizer. Each step
            multiplies every matrix, including the embedding, by 1 - lr * weight_decay; vectors such as biases and gains
            don't decay. The default is 0.01 for adamw and 0 otherwise.
        ema: the decay of an exponential moving average of the weights, such as 0.999, with a warm-up. The average is
            validated, saved and reported instead of the last weights (Polyak & Juditsky 1992; Tarvainen & Valpola 2017,
            arXiv:1703.01780); 0 turns averaging off.
        epochs: the number of passes through the training data; training ends at the first of `epochs`, `steps` and
            `minutes` to be reached.
        steps: the number of weight updates; the task's default if no end is given.
        minutes: the total time in minutes, from start to report. The learning rate follows the clock, not the steps.
        seed: the random seed for weights, dropout and the order of the data.
        out: the directory to save the run in; `runs/DATE-TIME-CELL-DATA` by default.
        engine: the engine that runs the recurrent layers; by default, chosen for the device.
        threads: the number of CPU threads; by default torch's choice or, with `minutes`, one thread if that is faster.
        devices: the number and kind of devices; by default one, a CUDA device if available.
        nodes: the number of machines.
        precision: the floating-point precision.
        log: the format of metric logs; tensorboard is written in addition to csv.
    """

    batch: Count = 50
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "plateau", "step"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    decay_after: Annotated[int, Field(ge=0)] | None = None
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    weight_decay: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None
    ema: Share = 0.0

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

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainingOptions:
        if all(getattr(self, name) is None for name in ENDS):
            object.__setattr__(self, "steps", DEFAULT_STEPS)
        return self

    @property
    def device_kind(self) -> Literal["auto", "cpu", "cuda"]:
        """The requested kind of device."""
        kind, _, _ = self.devices.partition(":")
        return "cpu" if kind == "cpu" else "cuda" if kind == "cuda" else "auto"

    @property
    def device_count(self) -> int:
        """The number of devices on each machine."""
        _, _, count = self.devices.rpartition(":")
        return int(count) if count.isdecimal() else 1

    @property
    def processes(self) -> int:
        """The total number of processes."""
        return self.device_count * self.nodes

    @property
    def learning_rate(self) -> float:
        """The learning rate, or the optimizer's default."""
        return self.lr if self.lr is not None else DEFAULT_LEARNING_RATES[self.optimizer]

    @property
    def decoupled_decay(self) -> float:
        """The weight decay, or the optimizer's default."""
        return self.weight_decay if self.weight_decay is not None else DEFAULT_WEIGHT_DECAY.get(self.optimizer, 0.0)

    @property
    def decay_factor(self) -> float:
        """The decay factor of the schedule."""
        return self.decay if self.decay is not None else DEFAULT_DECAY.get(self.schedule, 1.0)

    @property
    def decay_patience(self) -> int:
        """The number of epochs (`step`) or validations (`plateau`) before the first decay."""
        return self.decay_after if self.decay_after is not None else 10 if self.schedule == "step" else 2


def _groups(task: str | type[Task[Any]]) -> dict[str, type[Options]]:
    """Return the classes of a configuration's three groups of options."""
    return {"task": tasks.options_of(task), "network": NetworkOptions, "training": TrainingOptions}


class TrainConfig(BaseModel):
    """The options of a training run. `of` creates one from flat options, and `given` converts it back.

    Attributes:
        task: the options of the task; in a flat dictionary the entry `task` names their class.
        network: the options of the network.
        training: the options of training.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskOptions
    network: NetworkOptions
    training: TrainingOptions

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, value: Any) -> Any:
        """Sort options into groups; options of no group remain and are rejected."""
        if not isinstance(value, Mapping) or isinstance(value.get("network"), NetworkOptions):
            return value
        rest, groups = dict(value), _groups(str(value.get("task")))
        made: dict[str, Any] = {
            name: {field: rest.pop(field) for field in group.model_fields if field in rest}
            for name, group in groups.items()
        }
        return {**rest, **made, "task": groups["task"].model_validate(made["task"])}

    @model_serializer
    def _flat(self, info: SerializationInfo) -> dict[str, Any]:
        groups = (self.task, self.network, self.training)
        return {name: value for of in groups for name, value in of.model_dump(mode=info.mode).items()}

    @classmethod
    def of(cls, task: str | type[Task[Any]] = "text", *, why: str = "", **fields: Any) -> Self:
        """Create a configuration from options, with the task's or the general defaults for the rest.

        Args:
            task: the task's name or class.
            why: the reason why the task was inferred, for messages; "" if the user named it.
            **fields: options by name, of any group; None means the default.

        Raises:
            TrainingError: if options are unknown or invalid; the message lists all of them.
        """
        name = task if isinstance(task, str) else task.name
        given = {name: value for name, value in fields.items() if value is not None}
        defaults = {name: value for name, value in tasks.options_of(task).defaults.items() if name not in given}
        if any(name in given for name in ENDS):
            defaults = {name: value for name, value in defaults.items() if name not in ENDS}
        groups = _groups(task)
        wrong = [
            {"type": "extra_forbidden", "loc": (name,), "input": given[name]}
            for name in given
            if not any(name in group.model_fields for group in groups.values())
        ]
        values = {"task": name, **defaults, **given}
        made: dict[str, Any] = {}
        for key, group in groups.items():
            try:
                made[key] = group(**{field: values[field] for field in group.model_fields if field in values})
            except ValidationError as error:
                wrong += map(dict, error.errors())
        if wrong:
            chosen = f"{name} ({why}); {option('task')} chooses another" if why else name
            raise TrainingError("\n".join(_explained(error, chosen, groups.values()) for error in wrong))
        cls._require_decaying(made["training"])
        return cls(**made)

    @staticmethod
    def _require_decaying(training: TrainingOptions) -> None:
        for name in ("decay", "decay_after"):
            if getattr(training, name) is not None and training.schedule not in DEFAULT_DECAY:
                raise TrainingError(
                    f"{option(name)} is for the schedules {' and '.join(DEFAULT_DECAY)}; the schedule is "
                    f"{training.schedule}: remove {option(name)}, or set {option('schedule')}"
                )

    def anywhere(self) -> Self:
        """Return a copy with absolute data paths, valid in any working directory."""
        init_from = self.network.init_from
        network = self.network.model_copy(update={"init_from": init_from and os.path.abspath(run_path(init_from))})
        return self.model_copy(update={"task": self.task.anywhere(), "network": network})

    @property
    def given(self) -> dict[str, Any]:
        """All options in one dictionary, as accepted by `of`."""
        return self.model_dump()


def _explained(error: Mapping[str, Any], task: str, groups: Iterable[type[Options]]) -> str:
    """Describe an invalid option, or name the task it belongs to."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden" and (owners := tasks.owners(name)):
        return f"{option(name)} is an option of {' and '.join(owners)}; this task is {task}"
    return explained(error, [field for group in groups for field in group.model_fields])
