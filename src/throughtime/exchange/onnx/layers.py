"""ONNX's recurrent operators: for each form of one the cell that it runs, where it has the parameters, and which of the
cell's functions are its activations.
"""

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
    """A form of a recurrent operator of ONNX.

    Attributes:
        operator: the operator's name.
        cell: the cell that it runs when its activations are the usual ones.
        layout: where its tensors have the cell's parameters.
        functions: for each activation of the operator (f, g, h) the values of the cell that it is applied to. Its
            attribute `clip` is about those that are sums of gates: the specification says "the input of activations",
            but ONNX Runtime leaves the LSTM's cell state as it is, and so does this.
        usual: the names of its activations where its attributes do not say.
        attributes: the operator's attributes of this form.
    """

    operator: str
    cell: Cell
    layout: WeightLayout
    functions: tuple[tuple[str, ...], ...]
    usual: tuple[str, ...]
    attributes: Mapping[str, int] = field(default_factory=dict, hash=False)

    @property
    def has_peepholes(self) -> bool:
        """Whether it takes the tensor P."""
        return bool(self.layout.peepholes)

    @property
    def usual_activations(self) -> tuple[Activation, ...]:
        """Its activations where its attributes do not say."""
        return tuple(map(Activation, self.usual))

    def base(self, input_size: int, hidden_size: int, clip: float | None = None, *, bias: bool = True) -> Program:
        """What the operator computes with the usual activations, in one direction.

        Args:
            input_size, hidden_size: its sizes.
            clip: the bound of the gates' sums; none if not given.
            bias: whether it takes the tensor B.
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
        """What the operator computes in one direction.

        Args:
            input_size, hidden_size, clip, bias: see `base`.
            activations: f, g and h, as many as it has; the usual ones if not given.
        """
        chosen = self.usual_activations if activations is None else activations
        functions = tuple((name, chosen[k]) for k, names in enumerate(self.functions) for name in names)
        return with_functions(self.base(input_size, hidden_size, clip, bias=bias), functions)

    def places(self, program: Program) -> dict[int, int]:
        """The values of its program to which an activation is applied, and the number of the activation."""
        return {program.values[name]: k for k, names in enumerate(self.functions) for name in names}


def _lstm(cell: Cell, *peepholes: str, coupled: bool) -> OnnxLayer:
    gates = ("input.pre", "output.pre") if coupled else ("input.pre", "output.pre", "forget.pre")
    layout = WeightLayout(("input", "output", "forget", "candidate"), peepholes)
    usual = ("Sigmoid", "Tanh", "Tanh")
    return OnnxLayer(
        "LSTM", cell, layout, (gates, ("candidate.pre",), ("cell",)), usual, {"input_forget": int(coupled)}
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
