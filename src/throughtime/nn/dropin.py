"""Drop-in replacements for torch's `RNN`, `LSTM` and `GRU`, with the same arguments, shapes and state dicts.

Each class inherits from torch's base class, which owns and names the parameters; only the computation differs. With
`engine="torch"`, torch's own layer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

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
from throughtime.nn.torch_rules import check_states, promotions, runs_on_onednn, runs_torchs_forward, torch_programs
from throughtime.program.core import Program


class _DropIn(Substitute, Hookable, Freezable, nn.RNNBase):
    """Base class of the three layers, which maps torch's parameters to the parameters of the layers' programs."""

    def forward(self, input: Any, hx: Any = None, *, reset: Tensor | None = None) -> Any:
        """Run the layers over all steps.

        Args:
            input: `[T, B, input_size]` (`[B, T, input_size]` if `batch_first`), `[T, input_size]`, or a packed
                sequence.
            hx: the initial state, `[layers * directions, B, hidden_size]` (for an LSTM, a pair); zeros by default.
            reset: `[T, B]` (`[B, T]` or `[T]`, matching the input); where nonzero, a sequence's states are set to zero
                before the step, as at the start of an episode. torch's layers have no such argument.

        Returns:
            The output and the final state, with the shapes that torch's layer returns.

        Raises:
            UserError: if the shape of `reset` is not the input's shape without the features.
        """
        outside = outside_graph(self, input)
        if outside is not None:
            return outside(self._run, input, hx, reset=reset)
        return self._run(input, hx, reset)

    def _run(self, input: Any, hx: Any, reset: Tensor | None = None) -> Any:
        tensors = (input.data if isinstance(input, PackedSequence) else input, *states_of(hx))
        # A captured graph contains torch's layers one by one, as it does for every engine.
        plain = is_graph_captured() or not needs_traceable(tensors)
        if not self.hooks and reset is None and runs_torchs_forward(self, tensors, plain):
            return self.original.forward(self, input, hx)
        self._check(input, hx)
        if reset is None and plain and not self.hooks:
            found = run_directly(self, input, tensors[1:], batch_first=self.batch_first)
            if found is not None:
                y, final = found
                return y, final[0] if len(final) == 1 else tuple(final)
        layers = self.lasting_layers()
        dropout = self.dropout if self.training else 0.0
        stack = Stack(
            layers, dropout=dropout, engine=self.engine, hooks=self.hooks, plain=plain, promotes=self._promotes
        )
        return stack.run(*form_of(input, batch_first=self.batch_first, reset=reset), hx)

    def _program(self) -> Program:
        return torch_programs(self)[0][0]

    def direct_layer(self) -> SingleLayer | None:
        """See `throughtime.nn.direct.DirectLayer`."""
        if self.num_layers > 1 or self.bidirectional:
            return None
        return single_layer(self, self.mode, self._all_weights[0])

    def layers(self) -> Layers:
        """Return each layer's directions, as pairs of a program and its current parameters."""
        layer, programs = TORCH_LAYERS[self.mode], torch_programs(self)
        directions = len(programs[0])
        # Read `_parameters` first: torch's attribute lookup is slow. Parametrized tensors are not in it.
        own: Mapping[str, Any] = self._parameters
        tensors = [[own[n] if n in own else getattr(self, n) for n in names] for names in self._all_weights]
        stored = [layer.to_program(of, bias=bool(self.bias)) for of in tensors]
        return [list(zip(layer, stored[depth * directions :], strict=False)) for depth, layer in enumerate(programs)]

    def _promotes(self, x: Tensor, layout: Layout) -> Sequence[bool]:
        """See `throughtime.nn.stack.Stack`."""
        if self.mode != "LSTM":
            return promotions(self.mode)
        fused = not layout.packed and x.numel() > 0 and runs_on_onednn(x.dtype)
        return promotions("LSTM", projected=self.proj_size > 0, fused=fused)

    def _check(self, input: Any, hx: Any) -> None:
        """Raise the errors that torch raises for invalid arguments, with torch's messages."""
        if self._is_common_case(input, states_of(hx)):
            return
        if isinstance(input, PackedSequence):
            x, sizes = input.data, input.batch_sizes
        else:
            if input.dim() not in (2, 3):
                raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
            batched = input.dim() == 3
            x, sizes = (input if batched else input.unsqueeze(0 if self.batch_first else 1)), None
            for state in states_of(hx):
                if state.dim() != input.dim():
                    shown = "batched 3-D" if batched else "unbatched 2-D"
                    raise RuntimeError(
                        f"For {shown} input, hx should also be {input.dim()}-D but got {state.dim()}-D tensor"
                    )
            if hx is not None and not batched:
                hx = hx.unsqueeze(1) if isinstance(hx, Tensor) else tuple(s.unsqueeze(1) for s in hx)
        if hx is None:
            self.check_input(x, sizes)
        else:
            self.check_forward_args(x, hx, sizes)
            check_states(states_of(hx), x)

    def _is_common_case(self, input: Any, states: tuple[Tensor, ...]) -> bool:
        """Return whether input and states are valid in the common case; fast, because it runs on every call."""
        if not isinstance(input, Tensor) or input.dim() != 3 or input.shape[2] != self.input_size:
            return False
        dtype = self._flat_weights[0].dtype  # type: ignore[union-attr]
        if input.dtype != dtype:
            return False
        if not states:
            return True
        count = self.num_layers * (2 if self.bidirectional else 1)
        rows, hidden = input.shape[0 if self.batch_first else 1], self.hidden_size
        shapes = [(count, rows, self.proj_size or hidden), (count, rows, hidden)][: 2 if self.mode == "LSTM" else 1]
        return [tuple(s.shape) for s in states] == shapes and all(s.dtype == dtype for s in states)

    def extra_repr(self) -> str:
        """Return the part of the module's repr inside the parentheses."""
        return super().extra_repr() + (f", engine={self.engine!r}" if self.engine else "")


class RNN(_DropIn):
    """The Elman RNN (Elman 1990), with the arguments of `torch.nn.RNN` and `engine`."""

    original = nn.RNN

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str | None = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'")
        super().__init__(
            f"RNN_{nonlinearity.upper()}",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.nonlinearity = nonlinearity
        self._set_engine(engine)


class LSTM(_DropIn):
    """Long short-term memory (Hochreiter & Schmidhuber 1997), with the arguments of `torch.nn.LSTM` and `engine`."""

    original = nn.LSTM
    # torch overrides these in its LSTM, which has two states.
    check_forward_args = nn.LSTM.check_forward_args  # type: ignore[assignment]
    get_expected_cell_size = nn.LSTM.get_expected_cell_size
    permute_hidden = nn.LSTM.permute_hidden  # type: ignore[assignment]

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str | None = None,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )
        self._set_engine(engine)


class GRU(_DropIn):
    """The gated recurrent unit (Cho et al. 2014), with the arguments of `torch.nn.GRU` and `engine`."""

    original = nn.GRU

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        engine: str | None = None,
    ) -> None:
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )
        self._set_engine(engine)


# Allow torch.load with weights_only=True to unpickle these classes, as it does torch's own.
torch.serialization.add_safe_globals([RNN, LSTM, GRU])
