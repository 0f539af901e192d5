"""Drop-in replacements for torch's `RNNCell`, `LSTMCell` and `GRUCell`, with the same arguments and state dicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.engines.base import Layout
from throughtime.engines.capture import is_graph_captured, needs_traceable
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.direct import SingleLayer, run_directly, single_layer
from throughtime.nn.forms import form_of, states_of
from throughtime.nn.freezing import Freezable
from throughtime.nn.graph_breaks import outside_graph
from throughtime.nn.hooks import Hookable
from throughtime.nn.stack import Layers, Stack
from throughtime.nn.substitute import Substitute
from throughtime.nn.torch_rules import check_states, constant_programs, promotions, runs_torchs_forward
from throughtime.program.core import Program


class _DropInCell(Substitute, Hookable, Freezable, nn.RNNCellBase):
    """Base class of the three single-step cells."""

    def __init__(self, *args: Any, engine: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._set_engine(engine)

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Run one step.

        Args:
            input: `[B, input_size]` or `[input_size]`.
            hx: the state `[B, hidden_size]` or `[hidden_size]` (for an LSTM, a pair); zeros by default.

        Returns:
            The state after the step.
        """
        outside = outside_graph(self, input)
        return self._run(input, hx) if outside is None else outside(self._run, input, hx)

    def _run(self, input: Tensor, hx: Any) -> Any:
        tensors = (input, *states_of(hx))
        plain = is_graph_captured() or not needs_traceable(tensors)
        if not self.hooks and runs_torchs_forward(self, tensors, plain):
            return super().forward(input, hx)
        self._check(input, tensors[1:])
        x, initial = input.unsqueeze(0), tuple(s.unsqueeze(0) for s in tensors[1:])
        if plain and not self.hooks:
            found = run_directly(self, x, initial)
            if found is not None:
                states = [s.squeeze(0) for s in found[1]]
                return states[0] if len(states) == 1 else tuple(states)
        layers = self.lasting_layers()
        stack = Stack(layers, engine=self.engine, hooks=self.hooks, plain=plain, promotes=self._promotes)
        _, final = stack.run(*form_of(x), initial or None)
        return final.squeeze(0) if isinstance(final, Tensor) else tuple(s.squeeze(0) for s in final)

    def layers(self) -> Layers:
        """Return the layer's program and its current parameters."""
        stored = [self.weight_ih, self.weight_hh, *((self.bias_ih, self.bias_hh) if self.bias else ())]
        return [[(self._program(), TORCH_LAYERS[self._mode()].to_program(stored, bias=bool(self.bias)))]]

    def direct_layer(self) -> SingleLayer | None:
        """See `throughtime.nn.direct.DirectLayer`."""
        return single_layer(self, self._mode(), TORCH_LAYERS["GRU"].names("", bias=bool(self.bias), projected=False))

    def _program(self) -> Program:
        return constant_programs(self._mode(), self.input_size, self.hidden_size, 0, 1, 1, bool(self.bias))[0][0]

    def _mode(self) -> str:
        return "LSTM" if isinstance(self, nn.LSTMCell) else "GRU"

    def _promotes(self, x: Tensor, layout: Layout) -> Sequence[bool]:
        """See `throughtime.nn.stack.Stack`."""
        return promotions(self._mode())

    def _check(self, input: Tensor, states: Sequence[Tensor]) -> None:
        """Raise the errors that torch raises for invalid arguments, with torch's messages."""
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        for k, state in enumerate(states):
            if state.dim() not in (1, 2):
                what = f"hx[{k}]" if len(states) > 1 else "hidden"
                raise ValueError(f"{name}: Expected {what} to be 1D or 2D, got {state.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        for k, state in enumerate(states):
            if input.dim() != state.dim():
                raise RuntimeError(f"{name}: input is {input.dim()}D but hidden{k} is {state.dim()}D; they must match")
            if input.shape[0] != state.shape[0] and input.dim() == 2:
                raise RuntimeError(
                    f"Input batch size {input.shape[0]} doesn't match hidden{k} batch size {state.shape[0]}"
                )
            if state.shape[-1] != self.hidden_size:
                raise RuntimeError(
                    f"hidden{k} has inconsistent hidden_size: got {state.shape[-1]}, expected {self.hidden_size}"
                )
        check_states(states, self.weight_ih)


class RNNCell(_DropInCell, nn.RNNCell):
    """One step of the Elman RNN, with the arguments of `torch.nn.RNNCell` and `engine`."""

    original = nn.RNNCell

    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"


class LSTMCell(_DropInCell, nn.LSTMCell):
    """One step of long short-term memory, with the arguments of `torch.nn.LSTMCell` and `engine`."""

    original = nn.LSTMCell


class GRUCell(_DropInCell, nn.GRUCell):
    """One step of the gated recurrent unit, with the arguments of `torch.nn.GRUCell` and `engine`."""

    original = nn.GRUCell


# Allow torch.load with weights_only=True to unpickle these classes, as it does torch's own.
torch.serialization.add_safe_globals([RNNCell, LSTMCell, GRUCell])
