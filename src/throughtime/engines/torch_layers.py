"""Torch's recurrent layers, with the equivalent program and the parameter layout of each.

Only this module knows torch's layout: two biases per gate, `weight_ih`, `weight_hh` and `weight_hr`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from throughtime import cells
from throughtime.engines.weight_layouts import (
    ParameterRows,
    Stored,
    WeightLayout,
    WeightMapping,
    joined_gradients,
    sources_of_gradients,
)
from throughtime.program.cell import Cell
from throughtime.program.core import Program

if TYPE_CHECKING:
    from torch import Tensor

_Rows = Sequence[ParameterRows]


@dataclass(frozen=True)
class TorchLayer:
    """One of torch's recurrent layers.

    Attributes:
        mode: torch's name of the layer.
        cell: the equivalent cell.
        layout: the position of the cell's parameters in the layer's tensors.
    """

    mode: str
    cell: Cell
    layout: WeightLayout
    # With and without biases and a projection; created once, because a cell can't be traced during graph capture.
    _mappings: Mapping[tuple[bool, bool], WeightMapping] = field(init=False, repr=False, compare=False)
    _sources: Mapping[tuple[bool, bool], Sequence[_Rows]] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        projections = (0, 1) if "projection" in self.cell.hyper else (0,)
        mappings = {
            (bias, p > 0): self.layout.mapping(self.program(1, 1, p, bias=bias))
            for bias in (True, False)
            for p in projections
        }
        object.__setattr__(self, "_mappings", mappings)
        object.__setattr__(self, "_sources", {key: sources_of_gradients(of) for key, of in mappings.items()})

    def program(self, input_size: int, hidden_size: int, projection: int = 0, *, bias: bool = True) -> Program:
        """Return the program of a layer with the given sizes."""
        hyper: dict[str, Any] = {"projection": projection} if projection else {}
        return self.cell.program(input_size, hidden_size, bias=bias, **hyper)

    @staticmethod
    def names(suffix: str, *, bias: bool, projected: bool) -> list[str]:
        """Return torch's names for the tensors of one direction of a layer, in torch's order.

        Args:
            suffix: the suffix of the layer and direction, such as `_l0_reverse`.
            bias: whether there are biases.
            projected: whether there is a projection.
        """
        kinds = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if bias else []), *(["weight_hr"] * projected)]
        return [kind + suffix for kind in kinds]

    def to_program(self, stored: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        """Convert stored tensors, in torch's order (ih, hh, [both biases], [hr]), to the program's parameters."""
        return self.layout.to_program(*self._named(stored, bias))

    def in_pieces(self, stored: Sequence[Tensor], *, bias: bool) -> list[Any]:
        """Convert stored tensors as `to_program` does, but describe each vector as pieces of the stored tensors."""
        return self.layout.in_pieces(*self._named(stored, bias))

    def parameters_of(self, needed: Sequence[bool], *, bias: bool) -> tuple[int, ...]:
        """Return the indices of the program's parameters that contain any of the needed stored tensors."""
        of_each = zip(self._sources_of(len(needed), bias), needed, strict=True)
        return tuple(sorted({rows.parameter for sources, needs in of_each if needs for rows in sources}))

    def stored_gradients(
        self, gradients: Mapping[int, Tensor], needed: Sequence[bool], hidden: int, *, bias: bool
    ) -> list[Tensor | None]:
        """Convert gradients of the program's parameters to gradients of the stored tensors.

        Args:
            gradients: the gradients by the parameters' indices.
            needed: for each stored tensor, in torch's order, whether its gradient is needed.
            hidden: the number of hidden units.
            bias: whether the layer has biases.

        Returns:
            The gradients in torch's order, each with its own memory; None where not needed.
        """
        taken: set[int] = set()
        found: list[Tensor | None] = []
        for sources, needs in zip(self._sources_of(len(needed), bias), needed, strict=True):
            found.append(joined_gradients(sources, gradients, hidden, taken) if needs else None)
        return found

    def _sources_of(self, stored: int, bias: bool) -> Sequence[_Rows]:
        return self._sources[bias, stored > (4 if bias else 2)]

    def _named(self, stored: Sequence[Tensor], bias: bool) -> tuple[WeightMapping, Stored]:
        biases, rest = (stored[2:4], stored[4:]) if bias else ((None, None), stored[2:])
        projection = rest[0] if rest else None
        named = Stored(stored[0], stored[1], biases[0], biases[1], None, projection)
        return self._mappings[bias, projection is not None], named

    def to_stored(self, parameters: Sequence[Tensor], *, bias: bool) -> list[Tensor]:
        """Convert the program's parameters to stored tensors."""
        projected = len(parameters) > (3 if bias else 2)
        hidden = parameters[0].shape[0] // len(self.layout.gates)
        stored = self.layout.to_stored(self._mappings[bias, projected], parameters, hidden)
        return [tensor for tensor in stored if tensor is not None]


TORCH_LAYERS = {
    layer.mode: layer
    for layer in (
        TorchLayer("RNN_TANH", cells.rnn, WeightLayout(("hidden",))),
        TorchLayer("RNN_RELU", cells.rnn_relu, WeightLayout(("hidden",))),
        TorchLayer("LSTM", cells.lstm, WeightLayout(("input", "forget", "candidate", "output"))),
        TorchLayer("GRU", cells.gru, WeightLayout(("reset", "update", "candidate"))),
    )
}


@lru_cache(maxsize=256)
def torch_layer_of(program: Program) -> TorchLayer | None:
    """Return the torch layer that is equivalent to a program; None if there is none."""
    if not program.states or len(program.inputs) != 1:
        return None
    input_size, hidden, out = program.inputs[0].width, program.states[-1].width, program.states[0].width
    bias = any(len(p.shape) == 1 for p in program.parameters)
    for layer in TORCH_LAYERS.values():
        if len(layer.cell.states) != len(program.states):
            continue
        if program.equivalent(layer.program(input_size, hidden, out if out != hidden else 0, bias=bias)):
            return layer
    return None
