"""What a stack of recurrent layers does besides its cells' equations, as plain data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

from throughtime.errors import UserError, nearest
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.rewrite import recurrent_weights, with_mean_zoneout, with_skip

MERGES = ("concat", "sum", "mean", "product", "none")
SKIPS = ("residual", "dense")
RETURNS = ("steps", "last", "states")


@dataclass(frozen=True)
class Options:
    """How layers are joined and regularised; with their programs, all that a stack of layers is.

    Attributes:
        batch_first: whether input and output are `[B, T, features]`; states are not touched by it.
        bidirectional: whether each layer runs in both directions of time.
        merge: what becomes of the two directions' outputs: `concat` puts them side by side, `sum`, `mean` and `product`
            are element by element, `none` leaves them apart: each direction is a stack of its own, and the output is a
            pair.
        reverse: whether layers of one direction run from the last step to the first.
        skip: how layers are passed by. `residual` adds a layer's input to its output where their widths are equal (He
            et al. 2016; Wu et al. 2016, arXiv:1609.08144); `dense` gives each layer the input and the outputs of all
            layers below, side by side (Ding et al. 2018, arXiv:1802.00889).
        dropout: the probability with which an element of a layer's input, but for the first layer's, is dropped in
            training. A skip goes by what is not dropped.
        variational: whether that dropout has one mask for all steps (Gal & Ghahramani 2016, arXiv:1512.05287).
        recurrent_dropout: the probability with which a unit of a state is dropped where a matrix multiplies it, one
            mask for all steps and gates (the same paper).
        zoneout: the probability with which a unit of a state keeps its old value in training; in evaluation the state
            is the mean (Krueger et al. 2017, arXiv:1606.01305). A number for all states, or states' names and numbers.
        weight_drop: the probability with which an element of a matrix over a state is dropped, once a call (Merity et
            al. 2018, arXiv:1708.02182).
        learn_initial: whether the states' initial values are parameters, of each layer and direction.
        returns: what the output is: that of all `steps`, that of the `last` step of each row (for the reverse direction
            the first, the last that it takes; 0 for a row without steps), or the `states` at all steps, of all layers
            and directions.
        checkpoint_every: the number of steps after which training keeps the states; what lies between is computed a
            second time for the gradient, which takes less memory for long sequences (Gruslys et al. 2016,
            arXiv:1606.03401). All is kept if not given.

    Raises:
        UserError: if a value means nothing, or not beside the others.
    """

    batch_first: bool = False
    bidirectional: bool = False
    merge: str = "concat"
    reverse: bool = False
    skip: str | None = None
    dropout: float = 0.0
    variational: bool = False
    recurrent_dropout: float = 0.0
    zoneout: float | Mapping[str, float] = 0.0
    weight_drop: float = 0.0
    learn_initial: bool = False
    returns: str = "steps"
    checkpoint_every: int | None = None

    def __post_init__(self) -> None:
        for name, choices in (("merge", MERGES), ("skip", SKIPS), ("returns", RETURNS)):
            given = getattr(self, name)
            if given not in choices and not (name == "skip" and given is None):
                known = ", ".join(choices)
                raise UserError(f"{name} is one of {known}; given {given!r}{nearest(str(given), choices)}.")
        for name in ("dropout", "recurrent_dropout", "weight_drop"):
            _require_probability(name, getattr(self, name))
        rates = self.zoneout if isinstance(self.zoneout, Mapping) else {"": self.zoneout}
        for state, rate in rates.items():
            _require_probability(f"zoneout of {state}" if state else "zoneout", rate)
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise UserError(f"{field.name} is True or False; given {getattr(self, field.name)!r}.")
        every = self.checkpoint_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise UserError(f"checkpoint_every is a number of steps of 1 or more; given {every!r}.")
        self._require_together()

    def _require_together(self) -> None:
        if self.merge != "concat" and not self.bidirectional:
            raise UserError(f"merge={self.merge!r} is of two directions of time: give bidirectional=True with it.")
        if self.reverse and self.bidirectional:
            raise UserError("bidirectional layers run in reverse too: give one of bidirectional and reverse.")
        if self.variational and self.dropout == 0:
            raise UserError("variational says that a dropout has one mask for all steps: give a dropout with it.")
        if self.skip == "residual" and self.returns == "last" and self.bidirectional and self.merge != "none":
            raise UserError(
                "the directions end at different steps, so there is no last input that a residual skip could add: "
                "take returns='steps', or merge='none'."
            )

    @classmethod
    def of(cls, words: Mapping[str, Any]) -> Options:
        """The options of these words.

        Raises:
            UserError: if one is not known, with the nearest one, or means nothing.
        """
        known = [field.name for field in fields(cls)]
        for name in words:
            if name not in known:
                raise UserError(f"no option is called {name!r}{nearest(name, known)} (there are: {', '.join(known)}).")
        return cls(**words)

    @property
    def data(self) -> dict[str, Any]:
        """The options that are not at their defaults, as plain data: what `Options.of` takes."""
        found = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        return found | ({"zoneout": dict(self.zoneout)} if isinstance(self.zoneout, Mapping) else {})

    @property
    def directions(self) -> int:
        """In how many directions of time each layer runs."""
        return 2 if self.bidirectional else 1

    def merged_width(self, width: int) -> int:
        """The features that a layer gives (each direction, if they stay apart), from what a direction gives."""
        return 2 * width if self.bidirectional and self.merge == "concat" else width

    def next_width(self, taken: int, width: int) -> int:
        """The features that a layer takes, from what the one below takes and what a direction of it gives."""
        return self.merged_width(width) + (taken if self.skip == "dense" else 0)

    def zoneout_rates(self, program: Program) -> tuple[float, ...]:
        """The zoneout of each state of a layer.

        Raises:
            UserError: if a state is not known.
        """
        names = [state.name for state in program.states]
        if not isinstance(self.zoneout, Mapping):
            return (float(self.zoneout),) * len(names)
        for name in self.zoneout:
            if name not in names:
                raise UserError(
                    f"zoneout is given for {name!r}, but cell {program.name!r} has no such state"
                    f"{nearest(name, names)} (it has {', '.join(names)})."
                )
        return tuple(float(self.zoneout.get(name, 0.0)) for name in names)

    def evaluated(self, program: Program) -> Program:
        """A layer's program as it runs in evaluation."""
        rates = self.zoneout_rates(program)
        return with_mean_zoneout(program, rates) if any(rates) else program

    def chain(self, programs: Sequence[Program]) -> list[Program]:
        """Programs that do, each run on what the one before gives, what the layers do in evaluation.

        Raises:
            UserError: if the layers see later steps before earlier ones.
        """
        if self.bidirectional:
            raise UserError(
                "a layer of both directions of time needs the whole sequence, and can't be run a step at a time; "
                "train one of one direction for that."
            )
        if self.reverse:
            raise UserError("a layer that runs from the last step to the first can't be run a step at a time.")
        found = [self.evaluated(program) for program in programs]
        passed = found[:-1] if self.skip == "dense" else found  # what a dense skip takes along ends below the top
        if self.skip is not None:
            found[: len(passed)] = [with_skip(program, self.skip) for program in passed]
        return found

    def require_fit(self, programs: Sequence[Program]) -> None:
        """Checks the options against the layers.

        Raises:
            UserError: if a program is none of a layer, a layer does not take what the one below gives, or has nothing
                that an option is about.
        """
        if not programs:
            raise UserError("layers are made of a program each; given none.")
        for depth, program in enumerate(programs):
            if not program.inputs or not program.outputs:
                raise UserError(
                    f"the program of layer {depth} has {len(program.inputs)} inputs and {len(program.outputs)} "
                    "outputs: a layer takes one or more, and gives one or more."
                )
            further, first = (", ".join(f"{i.name} [{i.width}]" for i in p.inputs[1:]) for p in (program, programs[0]))
            if further != first or any(i.one_hot for i in program.inputs[1:]):
                raise UserError(
                    f"layer {depth} takes {further or 'nothing'} at each step beside the layer below, but the first "
                    f"one takes {first or 'nothing'}: every layer takes the same vectors."
                )
            if [s.width for s in program.states] != [s.width for s in programs[0].states]:
                raise UserError(f"layer {depth} has states of other widths than the first one.")
        taken = programs[0].inputs[0].width
        passed = 0
        for depth, program in enumerate(programs):
            if program.inputs[0].width != taken:
                raise UserError(
                    f"layer {depth} takes {program.inputs[0].width} features, but the one below it gives {taken}."
                )
            width = output_width(program)
            passed += taken == self.merged_width(width)
            taken = self.next_width(taken, width)
            self.zoneout_rates(program)
            for name in ("recurrent_dropout", "weight_drop"):
                if getattr(self, name) and not recurrent_weights(program):
                    raise UserError(
                        f"{name} is of matrices over a state, and cell {program.name!r} has none: zoneout, or dropout "
                        "between layers, is for every cell."
                    )
        if self.skip == "residual" and not passed:
            raise UserError("a residual skip adds a layer's input to its output, and no layer's are of one width.")
        if self.skip == "dense" and len(programs) < 2:
            raise UserError("a dense skip gives a layer what those below it give: give two layers or more.")


# What torch's layers call options that here are hyper-parameters of cells.
_TORCH_NAMES = {"proj_size": "projection", "nonlinearity": "activation"}


def require_hyper(names: Iterable[str], cell: Cell, options: Iterable[str]) -> None:
    """Refuse hyper-parameters that a cell doesn't have.

    Args:
        names: the hyper-parameters.
        cell: the cell.
        options: the names that the user may have meant instead.

    Raises:
        UserError: with the nearest name.
    """
    has = f"cell {cell.name!r} has {', '.join(cell.hyper) or 'no hyper-parameters'}"
    for name in names:
        if name in cell.hyper:
            continue
        ours = _TORCH_NAMES.get(name)
        if ours in cell.hyper:
            raise UserError(f"{name} is {ours} here: Recurrent(..., {ours}=...).")
        if ours is not None:
            raise UserError(f"{name} is the hyper-parameter {ours} of some cells here, but {has}.")
        raise UserError(f"no option or hyper-parameter named {name!r}{nearest(name, [*options, *cell.hyper])} ({has}).")


def output_width(program: Program) -> int:
    """The number of features of a program's first output."""
    return program.body[program.outputs[0].value].width


def _require_probability(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{name} is a probability from 0 to 1; given {value!r}.")
