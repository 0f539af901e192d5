"""What a training run is asked to do: the options of its task, its network and its training.

Imports neither torch nor Lightning, so that the command line answers quickly.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, Literal, Self

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
from throughtime.tasks.options import TaskOptions

DEFAULT_STEPS = 4000
DEFAULT_LEARNING_RATES = {"sgd": 1.0, "adam": 3e-3, "adamw": 3e-3, "rmsprop": 2e-3}
DEFAULT_WEIGHT_DECAY = {"adamw": 0.01}
DEFAULT_EMBED = 128
DEFAULT_DECAY = {"step": 0.97, "plateau": 0.5}
ENDS = ("steps", "epochs", "minutes")


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


def _cell_options(value: Any) -> dict[str, Any] | None:
    """A cell's hyper-parameters: a mapping, or texts of the form NAME=VALUE as the command line has them."""
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
    """The value that a text stands for."""
    named = {"true": True, "false": False, "none": None}
    if text.lower() in named:
        return named[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return text


class NetworkOptions(Options):
    """The network.

    Attributes:
        cell: the recurrent cell's name.
        cell_options: values of the cell's hyper-parameters, as NAME=VALUE; `throughtime cells NAME` shows which it has.
        hidden_size: hidden units of each layer; with `minutes`, if not given, a size that suits the time, the data and
            the machine (see `throughtime.training.sizing`), with less dropout where it is smaller.
        num_layers: recurrent layers.
        bidirectional: whether each layer reads the sequence in both directions.
        embed: width of the embedding; if not given the recurrent output's, but 128 at most where they are not tied.
        dropout: probability of dropping an element of what a symbol is embedded as, wherever it stands in a batch,
            between layers, and of the output.
        recurrent_dropout: probability of dropping a unit of a state where a matrix multiplies it, one mask a window
            (Gal & Ghahramani 2016).
        zoneout: probability with which a unit of a state keeps its old value (Krueger et al. 2017).
        weight_drop: probability of dropping an element of a matrix over a state (Merity et al. 2018).
        tie: whether the softmax layer's matrix is the embedding, where a network predicts the symbols that it reads.
        init: what recurrent weights are drawn from: the range of a uniform distribution around 0, or orthogonal;
            1/sqrt(hidden size) if not given.
        forget_bias: what a forget gate's bias starts with; if not given 1, or -1 where that is what keeps the state.
        chrono: the number of steps that memory should span: gates that keep a state start with biases drawn for it
            (Tallec & Ollivier 2018, arXiv:1804.11188).
        init_from: a run whose weights to start from. Its vocabulary, cell and sizes are used as well.
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

    def layer_options(self) -> dict[str, Any]:
        """The options of the recurrent layers (see `throughtime.nn.options`)."""
        names = ("bidirectional", "dropout", "recurrent_dropout", "zoneout", "weight_drop")
        return {name: getattr(self, name) for name in names}


class TrainingOptions(Options):
    """How to train.

    Attributes:
        batch: sequences, or parallel streams of text, in a batch, in all processes together; fewer where the data are
            too short for them.
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
        epochs: times to go through the data; of `epochs`, `steps` and `minutes` the first that is reached ends.
        steps: updates of the weights; the task's usual number if no end is given.
        minutes: time to train, from start to report. The learning rate follows the time spent, not the steps.
        seed: what weights, dropout and the order of the data are drawn from.
        out: the run's directory; `runs/DATE-TIME-CELL-DATA` if not given.
        engine: what runs the recurrent layers; chosen by device if not given.
        threads: threads of the CPU; if not given torch's choice or, with `minutes`, one thread where that is faster.
        devices: how many devices, of which kind; one if not given, a CUDA device if there is one.
        nodes: how many machines.
        precision: precision of the arithmetic.
        log: where figures go besides the screen: csv alone, or tensorboard as well.
    """

    batch: Count = 50
    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "adamw"
    lr: Positive | None = None
    schedule: Literal["constant", "cosine", "plateau", "step"] = "cosine"
    decay: Annotated[float, Field(gt=0, le=1)] | None = None
    decay_after: Annotated[int, Field(ge=0)] | None = None
    clip: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    weight_decay: Annotated[float | None, Field(ge=0, allow_inf_nan=False)] = None

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


def _groups(task: type[tasks.Task[Any]]) -> dict[str, type[Options]]:
    """The classes of a configuration's three groups of options."""
    return {"task": task.Options, "network": NetworkOptions, "training": TrainingOptions}


class TrainConfig(BaseModel):
    """The options of a training run; as plain data one flat dictionary, which `of` takes as well.

    Attributes:
        task: the options of the task; as plain data the option `task` names their class.
        network: the options of the network.
        training: how to train.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: TaskOptions
    network: NetworkOptions
    training: TrainingOptions

    @model_validator(mode="before")
    @classmethod
    def _grouped(cls, value: Any) -> Any:
        """Each option in the group that has it; one of no group stays, and is refused."""
        if not isinstance(value, Mapping) or isinstance(value.get("network"), NetworkOptions):
            return value
        rest, groups = dict(value), _groups(tasks.get(str(value.get("task"))))
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
    def of(cls, task: str | type[tasks.Task[Any]] = "text", **fields: Any) -> Self:
        """The configuration with the given options, and elsewhere the task's defaults or the general ones.

        Args:
            task: the task's name, or its class.
            **fields: options by name, of whatever group; an option of None is one not given.

        Raises:
            TrainingError: an option is unknown, or its value means nothing, with all of them in one message.
        """
        chosen = tasks.get(task) if isinstance(task, str) else task
        given = {name: value for name, value in fields.items() if value is not None}
        usual = {name: value for name, value in chosen.defaults.items() if name not in given}
        if any(name in given for name in ENDS):
            usual = {name: value for name, value in usual.items() if name not in ENDS}
        groups = _groups(chosen)
        wrong = [
            {"type": "extra_forbidden", "loc": (name,), "input": given[name]}
            for name in given
            if not any(name in group.model_fields for group in groups.values())
        ]
        values = {"task": chosen.name, **usual, **given}
        made: dict[str, Any] = {}
        for name, group in groups.items():
            try:
                made[name] = group(**{field: values[field] for field in group.model_fields if field in values})
            except ValidationError as error:
                wrong += map(dict, error.errors())
        if wrong:
            raise TrainingError("\n".join(_explained(error, chosen, groups.values()) for error in wrong))
        return cls(**made)

    def anywhere(self) -> Self:
        """The same with absolute paths of the data, good for any working directory."""
        init_from = self.network.init_from
        network = self.network.model_copy(update={"init_from": init_from and os.path.abspath(run_path(init_from))})
        return self.model_copy(update={"task": self.task.anywhere(), "network": network})

    @property
    def given(self) -> dict[str, Any]:
        """All options in one dictionary, for `of`."""
        return self.model_dump()


def _explained(error: Mapping[str, Any], chosen: type[tasks.Task[Any]], groups: Iterable[type[Options]]) -> str:
    """A sentence for a wrong option; one that belongs to another task says so."""
    name = str(error["loc"][-1]) if error["loc"] else ""
    if error["type"] == "extra_forbidden":
        owners = [other for other in tasks.names() if name in tasks.get(other).Options.model_fields]
        if owners:
            from throughtime.spelling import option

            return f"{option(name)} is an option of {' and '.join(owners)}; this task is {chosen.name}"
    return explained(error, [field for group in groups for field in group.model_fields])
