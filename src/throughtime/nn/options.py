"""Options of a stack of recurrent layers, beyond its cells' equations, as plain data."""

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
    """Options for joining and regularizing layers; with the layers' programs, they fully describe a stack.

    Attributes:
        batch_first: whether input and output are `[B, T, features]`; the shape of states is not affected.
        bidirectional: whether each layer runs in both directions of time.
        merge: how the two directions' outputs are combined: `concat` concatenates them; `sum`, `mean` and `product`
            work elementwise; `none` keeps them separate: each direction is a stack of its own, and the output is a
            pair.
        reverse: whether unidirectional layers run from the last step to the first.
        skip: the skip connections. `residual` adds a layer's input to its output where their widths are equal (He et
            al. 2016; Wu et al. 2016, arXiv:1609.08144); `dense` feeds each layer the concatenation of the input and the
            outputs of all layers below (Ding et al. 2018, arXiv:1802.00889).
        dropout: the probability of dropping an element of a layer's input in training, except for the first layer's.
            Skip connections bypass the dropout.
        variational: whether `dropout` uses one mask for all steps (Gal & Ghahramani 2016, arXiv:1512.05287).
        recurrent_dropout: the probability of dropping a state's unit where a matrix multiplies it, with one mask for
            all steps and gates (same paper).
        zoneout: the probability that a state's unit keeps its old value in training; evaluation uses the expected
            state (Krueger et al. 2017, arXiv:1606.01305). A number for all states, or a mapping from state names to
            numbers.
        weight_drop: the probability of dropping an element of a recurrent matrix, drawn once per call (Merity et al.
            2018, arXiv:1708.02182).
        learn_initial: whether the initial states are parameters, for each layer and direction.
        returns: the output: `steps` for all steps, `last` for each sequence's last step (in the reverse direction its
            first step, which is processed last; 0 for an empty sequence), or `states` for the states at all steps of
            all layers and directions.
        checkpoint_every: the number of steps between stored states in training; the steps in between are recomputed
            in the backward pass, which saves memory on long sequences (Gruslys et al. 2016, arXiv:1606.03401). By
            default, all steps are stored.

    Raises:
        UserError: if a value is invalid or conflicts with another.
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
                raise UserError(f"{name} must be one of {known}, got {given!r}{nearest(str(given), choices)}")
        for name in ("dropout", "recurrent_dropout", "weight_drop"):
            _require_probability(name, getattr(self, name))
        rates = self.zoneout if isinstance(self.zoneout, Mapping) else {"": self.zoneout}
        for state, rate in rates.items():
            _require_probability(f"zoneout of {state}" if state else "zoneout", rate)
        for field in fields(self):
            if field.type == "bool" and not isinstance(getattr(self, field.name), bool):
                raise UserError(f"{field.name} must be True or False, got {getattr(self, field.name)!r}")
        every = self.checkpoint_every
        if every is not None and (isinstance(every, bool) or not isinstance(every, int) or every < 1):
            raise UserError(f"checkpoint_every must be a positive number of steps, got {every!r}")
        self._require_together()

    def _require_together(self) -> None:
        if self.merge != "concat" and not self.bidirectional:
            raise UserError(f"merge={self.merge!r} combines two directions: pass bidirectional=True too")
        if self.reverse and self.bidirectional:
            raise UserError("bidirectional layers already run in reverse; pass bidirectional or reverse, not both")
        if self.variational and self.dropout == 0:
            raise UserError("variational shares a dropout mask among all steps: pass a dropout above 0 too")
        if self.skip == "residual" and self.returns == "last" and self.bidirectional and self.merge != "none":
            raise UserError(
                "a residual skip can't be added to the last output of merged directions, which end at different steps; "
                "use returns='steps' or merge='none'"
            )

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Create options from their names and values.

        Raises:
            UserError: if a name is unknown (the nearest one is suggested) or a value is invalid.
        """
        known = [field.name for field in fields(cls)]
        for name in options:
            if name not in known:
                raise UserError(f"no option named {name!r}{nearest(name, known)}; known options: {', '.join(known)}")
        return cls(**options)

    @property
    def data(self) -> dict[str, Any]:
        """The options that differ from their defaults, as plain data for `Options.of`."""
        found = {f.name: v for f in fields(self) if (v := getattr(self, f.name)) != f.default}
        return found | ({"zoneout": dict(self.zoneout)} if isinstance(self.zoneout, Mapping) else {})

    @property
    def directions(self) -> int:
        """The number of directions that each layer runs in."""
        return 2 if self.bidirectional else 1

    def merged_width(self, width: int) -> int:
        """Return a layer's output width (each direction's, if they stay separate), from a direction's width."""
        return 2 * width if self.bidirectional and self.merge == "concat" else width

    def next_width(self, taken: int, width: int) -> int:
        """Return the next layer's input width, from a layer's input width and a direction's output width."""
        return self.merged_width(width) + (taken if self.skip == "dense" else 0)

    def zoneout_rates(self, program: Program) -> tuple[float, ...]:
        """Return the zoneout rate of each state of a layer.

        Raises:
            UserError: if a state is unknown.
        """
        names = [state.name for state in program.states]
        if not isinstance(self.zoneout, Mapping):
            return (float(self.zoneout),) * len(names)
        for name in self.zoneout:
            if name not in names:
                raise UserError(
                    f"zoneout names the state {name!r}, but cell {program.name!r} has no such state"
                    f"{nearest(name, names)}; its states: {', '.join(names)}"
                )
        return tuple(float(self.zoneout.get(name, 0.0)) for name in names)

    def evaluated(self, program: Program) -> Program:
        """Return a layer's program for evaluation."""
        rates = self.zoneout_rates(program)
        return with_mean_zoneout(program, rates) if any(rates) else program

    def chain(self, programs: Sequence[Program]) -> list[Program]:
        """Return programs that, run one after another, return the results of the layers in evaluation.

        Raises:
            UserError: if the layers depend on later steps.
        """
        if self.bidirectional:
            raise UserError(
                "a bidirectional layer needs the whole sequence and can't run one step at a time; "
                "train a unidirectional one for that"
            )
        if self.reverse:
            raise UserError("a layer that runs from the last step to the first can't run one step at a time")
        found = [self.evaluated(program) for program in programs]
        passed = found[:-1] if self.skip == "dense" else found  # a dense skip doesn't bypass the top layer
        if self.skip is not None:
            found[: len(passed)] = [with_skip(program, self.skip) for program in passed]
        return found

    def require_fit(self, programs: Sequence[Program]) -> None:
        """Check the options against the layers.

        Raises:
            UserError: if a program can't be a layer, a layer's input width doesn't match the layer below, or an option
                doesn't apply to the layers.
        """
        if not programs:
            raise UserError("a stack needs at least one program, got none")
        for depth, program in enumerate(programs):
            if not program.inputs or not program.outputs:
                raise UserError(
                    f"the program of layer {depth} has {len(program.inputs)} inputs and {len(program.outputs)} "
                    "outputs; a layer needs at least one of each"
                )
            further, first = (", ".join(f"{i.name} [{i.width}]" for i in p.inputs[1:]) for p in (program, programs[0]))
            if further != first or any(i.one_hot for i in program.inputs[1:]):
                raise UserError(
                    f"layer {depth} takes the step inputs {further or '(none)'}, but the first layer takes "
                    f"{first or '(none)'}; all layers must take the same"
                )
            if [s.width for s in program.states] != [s.width for s in programs[0].states]:
                raise UserError(f"the states of layer {depth} differ in width from those of the first layer")
        taken = programs[0].inputs[0].width
        passed = 0
        for depth, program in enumerate(programs):
            if program.inputs[0].width != taken:
                raise UserError(
                    f"layer {depth} takes {program.inputs[0].width} features, but the layer below outputs {taken}"
                )
            width = output_width(program)
            passed += taken == self.merged_width(width)
            taken = self.next_width(taken, width)
            self.zoneout_rates(program)
            for name in ("recurrent_dropout", "weight_drop"):
                if getattr(self, name) and not recurrent_weights(program):
                    raise UserError(
                        f"{name} drops elements of recurrent matrices, and cell {program.name!r} has none; zoneout and "
                        "dropout between layers work with every cell"
                    )
        if self.skip == "residual" and not passed:
            raise UserError("a residual skip needs a layer whose input and output have the same width")
        if self.skip == "dense" and len(programs) < 2:
            raise UserError("a dense skip needs at least 2 layers")


# Options of torch's layers that are hyper-parameters of cells here.
_TORCH_NAMES = {"proj_size": "projection", "nonlinearity": "activation"}


def require_hyper(names: Iterable[str], cell: Cell, options: Iterable[str]) -> None:
    """Raise UserError for hyper-parameters that a cell doesn't have.

    Args:
        names: the hyper-parameters.
        cell: the cell.
        options: the option names to suggest from.

    Raises:
        UserError: if a cell lacks one; the nearest name is suggested.
    """
    has = f"cell {cell.name!r} has {', '.join(cell.hyper) or 'no hyper-parameters'}"
    for name in names:
        if name in cell.hyper:
            continue
        ours = _TORCH_NAMES.get(name)
        if ours in cell.hyper:
            raise UserError(f"{name} is called {ours} here: Recurrent(..., {ours}=...)")
        if ours is not None:
            raise UserError(f"{name} is the hyper-parameter {ours} of some cells, but {has}")
        raise UserError(f"no option or hyper-parameter named {name!r}{nearest(name, [*options, *cell.hyper])}; {has}")


def output_width(program: Program) -> int:
    """Return the number of features of a program's first output."""
    return program.body[program.outputs[0].value].width


def _require_probability(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise UserError(f"{name} must be a probability from 0 to 1, got {value!r}")
