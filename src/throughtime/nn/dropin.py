"""Drop-in replacements for torch's `RNN`, `LSTM`, `GRU` and their cells, with equal arguments, shapes and state dicts.

Each class inherits from torch's base class, which owns and names the parameters; only the computation differs. With
`engine="torch"`, torch's own layer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose, get
from throughtime.engines.base import Layout
from throughtime.engines.capture import is_graph_captured, is_transformed, needs_traceable
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.direct import SingleLayer, run_directly, single_layer
from throughtime.nn.dynamo import constant_result
from throughtime.nn.forms import form_of, states_of
from throughtime.nn.freezing import Freezable
from throughtime.nn.graph_breaks import outside_graph
from throughtime.nn.hooks import Hookable
from throughtime.nn.stack import Layers, Stack, directions_of, in_autocast
from throughtime.nn.substitute import Substitute
from throughtime.program.core import Program

Hidden = Tensor | tuple[Tensor, Tensor]


class _DropIn(Substitute, Hookable, Freezable, nn.RNNBase):
    """Base class of the three layers: maps torch's parameters to the parameters of the layers' programs."""

    engine: str | None = None

    def _set_engine(self, engine: str | None) -> None:
        if engine is not None:
            get(engine)
            self.engine = engine

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
        if not self.hooks and reset is None and _is_torchs(self, tensors, plain):
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
            return _promotions(self.mode)
        fused = not layout.packed and x.numel() > 0 and _runs_on_onednn(x.dtype)
        return _promotions("LSTM", projected=self.proj_size > 0, fused=fused)

    def _check(self, input: Any, hx: Any) -> None:
        """Raise the errors that torch raises for invalid arguments, in torch's words."""
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
            _check_states(states_of(hx), x)

    def _is_common_case(self, input: Any, states: tuple[Tensor, ...]) -> bool:
        """Check quickly whether input and states are valid in the common case; runs on every call."""
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


@lru_cache(maxsize=256)
def _cached_programs(
    mode: str, input_size: int, hidden_size: int, projection: int, layers: int, directions: int, bias: bool
) -> tuple[tuple[Program, ...], ...]:
    layer = TORCH_LAYERS[mode]
    widths = [input_size] + [(projection or hidden_size) * directions] * (layers - 1)
    return tuple(
        tuple(directions_of(layer.program(width, hidden_size, projection, bias=bias), directions)) for width in widths
    )


@constant_result  # Dynamo would trace into an lru_cache
def _constant_programs(*of: Any) -> tuple[tuple[Program, ...], ...]:
    """Return the programs of each layer's directions."""
    return _cached_programs(*of)


def _promotions(mode: str, *, projected: bool = False, fused: bool = False) -> Sequence[bool]:
    """Whether torch's output, then each of its final states, keeps the precision of the last state under autocast.

    Torch's matrix products round to autocast's dtype. Multiplying the result by a state, or adding one, promotes it.

    Args:
        mode: torch's name for the layer.
        projected: whether an LSTM ends with a matrix product.
        fused: whether an LSTM runs on oneDNN, which rounds everything.
    """
    if mode == "LSTM":
        return (False, False, True) if projected else (not fused,) * 3
    return (mode == "GRU",) * 2


@constant_result  # Dynamo doesn't know these functions
def _runs_on_onednn(dtype: torch.dtype) -> bool:
    """Whether torch runs an LSTM without projection on oneDNN for a padded input of this dtype."""
    supported: bool = (
        dtype == torch.float32
        or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        or (dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported() and not torch.is_grad_enabled())
    )
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return supported and available and torch._C._get_mkldnn_enabled()


def _check_states(states: Sequence[Tensor], like: Tensor) -> None:
    """Raise ValueError if a state's dtype differs from the input's."""
    for state in states:
        if state.dtype != like.dtype and not in_autocast(like):
            raise RuntimeError(
                f"the state hx must be {like.dtype}, got {state.dtype}: convert it with hx.to({like.dtype})."
            )


def torch_programs(module: nn.RNNBase) -> tuple[tuple[Program, ...], ...]:
    """Return the programs of each layer's directions, for torch's own layers and for ours."""
    m, directions = module, 2 if module.bidirectional else 1
    return _constant_programs(m.mode, m.input_size, m.hidden_size, m.proj_size, m.num_layers, directions, bool(m.bias))


def _is_torchs(module: _DropIn | _DropInCell, tensors: Sequence[Tensor], plain: bool) -> bool:
    """Check whether torch's own forward runs: where it is fastest, or where torch must see its operations."""
    engine, x = module.engine, tensors[0]
    undecided = engine is not None or not x.is_cpu
    if undecided and not is_graph_captured() and choose(engine, module._program(), x).name == "torch":
        return True
    return not plain and engine in (None, "native") and not is_transformed(tensors)


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
            raise ValueError(f"Unknown nonlinearity '{nonlinearity}'. Select from 'tanh' or 'relu'.")
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


class _DropInCell(Substitute, Hookable, Freezable, nn.RNNCellBase):
    """Base class of the three single-step cells."""

    engine: str | None = None

    def __init__(self, *args: Any, engine: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if engine is not None:
            get(engine)
            self.engine = engine

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
        if not self.hooks and _is_torchs(self, tensors, plain):
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
        return _constant_programs(self._mode(), self.input_size, self.hidden_size, 0, 1, 1, bool(self.bias))[0][0]

    def _mode(self) -> str:
        return "LSTM" if isinstance(self, nn.LSTMCell) else "GRU"

    def _promotes(self, x: Tensor, layout: Layout) -> Sequence[bool]:
        """See `throughtime.nn.stack.Stack`."""
        return _promotions(self._mode())

    def _check(self, input: Tensor, states: Sequence[Tensor]) -> None:
        """Raise the errors that torch raises for invalid arguments, in torch's words."""
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
        _check_states(states, self.weight_ih)


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
torch.serialization.add_safe_globals([RNN, LSTM, GRU, RNNCell, LSTMCell, GRUCell])
