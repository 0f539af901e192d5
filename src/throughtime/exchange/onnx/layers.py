"""ONNX's recurrent operators: the equivalent cell, parameter layout and activations of each form."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from throughtime import cells
from throughtime.engines.weight_layouts import WeightLayout
from throughtime.exchange.building import with_functions
from throughtime.exchange.onnx.activations import Activation
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.rewrite import with_clip


@dataclass(frozen=True)
class OnnxLayer:
    """One form of a recurrent ONNX operator, such as GRU with `linear_before_reset`.

    Attributes:
        operator: the operator's name.
        cell: the equivalent cell with the default activations.
        layout: the position of the cell's parameters in ONNX's tensors.
        functions: for each of the operator's activations (f, g, h), the values of the cell that it is applied to. The
            attribute `clip` bounds the values that are sums of gates. The specification says that it bounds "the input
            of activations", but ONNX Runtime doesn't clip the LSTM's cell state, and neither does throughtime.
        default_names: the names of the default activations.
        attributes: the values of the operator's attributes in this form.
    """

    operator: str
    cell: Cell
    layout: WeightLayout
    functions: tuple[tuple[str, ...], ...]
    default_names: tuple[str, ...]
    attributes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def has_peepholes(self) -> bool:
        """Whether the operator takes the tensor P."""
        return bool(self.layout.peepholes)

    @property
    def default_activations(self) -> tuple[Activation, ...]:
        """The default activations."""
        return tuple(map(Activation, self.default_names))

    def base(self, input_size: int, hidden_size: int, clip: float | None = None, *, bias: bool = True) -> Program:
        """Return the operator's program for one direction, with the default activations.

        Args:
            input_size, hidden_size: the input and hidden sizes.
            clip: the bound of the gates' sums; none by default.
            bias: whether the operator has the tensor B.
        """
        program = self.cell.program(input_size, hidden_size, bias=bias)
        return program if clip is None else with_clip(program, clip)

    def program(
        self,
        input_size: int,
        hidden_size: int,
        activations: tuple[Activation, ...] | None = None,
        clip: float | None = None,
        *,
        bias: bool = True,
    ) -> Program:
        """Return the operator's program for one direction.

        Args:
            input_size, hidden_size, clip, bias: see `base`.
            activations: the operator's activations, f, g and h; the defaults if None.
        """
        chosen = self.default_activations if activations is None else activations
        functions = tuple((name, chosen[k]) for k, names in enumerate(self.functions) for name in names)
        return with_functions(self.base(input_size, hidden_size, clip, bias=bias), functions)

    def activation_indices(self, program: Program) -> dict[int, int]:
        """Map each value of the program that is the input of an activation to the index of that activation."""
        return {program.values[name]: k for k, names in enumerate(self.functions) for name in names}


def _lstm(cell: Cell, *peepholes: str, coupled: bool) -> OnnxLayer:
    gates = ("input.pre", "output.pre") if coupled else ("input.pre", "output.pre", "forget.pre")
    layout = WeightLayout(("input", "output", "forget", "candidate"), peepholes)
    default_names = ("Sigmoid", "Tanh", "Tanh")
    return OnnxLayer(
        "LSTM", cell, layout, (gates, ("candidate.pre",), ("cell",)), default_names, {"input_forget": int(coupled)}
    )


def _gru(cell: Cell, *, after: bool) -> OnnxLayer:
    layout, functions = (
        WeightLayout(("update", "reset", "candidate")),
        (("update.pre", "reset.pre"), ("candidate.pre",)),
    )
    return OnnxLayer("GRU", cell, layout, functions, ("Sigmoid", "Tanh"), {"linear_before_reset": int(after)})


_PEEPHOLES = ("peephole.input", "peephole.output", "peephole.forget")
_COUPLED = cells.lstm_coupled.variant("lstm_coupled", "CIFG without peepholes.", peephole=False)

ONNX_LAYERS = (
    OnnxLayer("RNN", cells.rnn, WeightLayout(("hidden",)), (("hidden.pre",),), ("Tanh",)),
    _gru(cells.gru, after=True),
    _gru(cells.gru_reset_before, after=False),
    _lstm(cells.lstm, coupled=False),
    _lstm(_COUPLED, coupled=True),
    _lstm(cells.lstm_peephole, *_PEEPHOLES, coupled=False),
    _lstm(cells.lstm_coupled, *_PEEPHOLES, coupled=True),
)
