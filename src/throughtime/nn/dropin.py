"""`RNN`, `LSTM` and `GRU` with the arguments, shapes and stored parameters of torch's, on our engines.

Each is a subclass of torch's own class, so weights, hooks, optimisers and `isinstance` checks carry over; only what
runs is different. With the engine `torch` it is torch's own layer that runs.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines import choose, get
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.stack import Layers, run_any_form

Hidden = Tensor | tuple[Tensor, Tensor]


class _DropIn(nn.RNNBase):
    """What the three layers share: torch's parameters as the parameters of the layers' programs."""

    engine: str | None = None

    def __init__(self, *args: Any, engine: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if engine is not None:
            get(engine)
            self.engine = engine

    def forward(self, input: Any, hx: Any = None) -> Any:
        """Runs the layers over all steps.

        Args:
            input: `[T, B, input_size]` (`[B, T, input_size]` if `batch_first`), `[T, input_size]`, or a packed
                sequence.
            hx: the initial state, `[layers * directions, B, hidden_size]` (for an LSTM a pair of them); zeros if not
                given.

        Returns:
            The output and the final state, of the shapes that torch's layer returns.
        """
        data = input.data if isinstance(input, PackedSequence) else input
        layers = self._layers()
        if choose(self.engine, layers[0][0][0], data).name == "torch":
            return super().forward(input, hx)
        self._check(input, hx)
        states = None if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
        output, final = run_any_form(
            layers,
            input,
            states,
            batch_first=self.batch_first,
            dropout=self.dropout if self.training else 0.0,
            engine=self.engine,
        )
        return output, final[0] if len(final) == 1 else tuple(final)

    def _layers(self) -> Layers:
        layer = TORCH_LAYERS[self.mode]
        directions = 2 if self.bidirectional else 1
        stack, width = [], self.input_size
        for depth in range(self.num_layers):
            program = layer.program(width, self.hidden_size, self.proj_size, bias=self.bias)
            stored = [
                [getattr(self, name) for name in names]
                for names in self._all_weights[depth * directions : (depth + 1) * directions]
            ]
            stack.append(
                [
                    (way, layer.to_program(weights, bias=self.bias))
                    for way, weights in zip((program, program.flipped), stored, strict=False)
                ]
            )
            width = (self.proj_size or self.hidden_size) * directions
        return stack

    def _check(self, input: Any, hx: Any) -> None:
        """Refuses what torch refuses, in torch's words."""
        if isinstance(input, PackedSequence):
            x, sizes = input.data, input.batch_sizes
        else:
            if input.dim() not in (2, 3):
                raise ValueError(f"{type(self).__name__}: Expected input to be 2D or 3D, got {input.dim()}D instead")
            batched = input.dim() == 3
            x, sizes = (input if batched else input.unsqueeze(0 if self.batch_first else 1)), None
            for state in () if hx is None else (hx,) if isinstance(hx, Tensor) else hx:
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

    def extra_repr(self) -> str:
        """What is printed of the module."""
        return super().extra_repr() + (f", engine={self.engine!r}" if self.engine else "")


class RNN(_DropIn, nn.RNN):
    """The plain recurrent network (Elman 1990); takes what `torch.nn.RNN` takes, and `engine`."""


class LSTM(_DropIn, nn.LSTM):
    """Long short-term memory (Hochreiter & Schmidhuber 1997); takes what `torch.nn.LSTM` takes, and `engine`."""


class GRU(_DropIn, nn.GRU):
    """The gated recurrent unit (Cho et al. 2014); takes what `torch.nn.GRU` takes, and `engine`."""


class _DropInCell(nn.RNNCellBase):
    """What the three single steps share."""

    engine: str | None = None

    def __init__(self, *args: Any, engine: str | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if engine is not None:
            get(engine)
            self.engine = engine

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        """Runs one step.

        Args:
            input: `[B, input_size]` or `[input_size]`.
            hx: the state `[B, hidden_size]` or `[hidden_size]` (for an LSTM a pair of them); zeros if not given.

        Returns:
            The state after the step.
        """
        layer = TORCH_LAYERS[self._mode()]
        program = layer.program(self.input_size, self.hidden_size, bias=self.bias)
        if choose(self.engine, program, input).name == "torch":
            return super().forward(input, hx)
        states = None if hx is None else [hx] if isinstance(hx, Tensor) else list(hx)
        self._check(input, states)
        stored = [self.weight_ih, self.weight_hh, *((self.bias_ih, self.bias_hh) if self.bias else ())]
        _, final = run_any_form(
            [[(program, layer.to_program(stored, bias=self.bias))]],
            input.unsqueeze(0),
            None if states is None else [s.unsqueeze(0) for s in states],
            engine=self.engine,
        )
        ended = [s.squeeze(0) for s in final]
        return ended[0] if len(ended) == 1 else tuple(ended)

    def _mode(self) -> str:
        return "LSTM" if isinstance(self, nn.LSTMCell) else "GRU"

    def _check(self, input: Tensor, states: list[Tensor] | None) -> None:
        name = type(self).__name__
        if input.dim() not in (1, 2):
            raise ValueError(f"{name}: Expected input to be 1D or 2D, got {input.dim()}D instead")
        if input.shape[-1] != self.input_size:
            raise RuntimeError(f"input has inconsistent input_size: got {input.shape[-1]} expected {self.input_size}")
        for state in states or ():
            if state.shape != (*input.shape[:-1], self.hidden_size):
                raise RuntimeError(
                    f"{name}: Expected hidden to be {[*input.shape[:-1], self.hidden_size]}, got {list(state.shape)}"
                )


class RNNCell(_DropInCell, nn.RNNCell):
    """One step of the plain recurrent network; takes what `torch.nn.RNNCell` takes, and `engine`."""

    def _mode(self) -> str:
        return f"RNN_{self.nonlinearity.upper()}"


class LSTMCell(_DropInCell, nn.LSTMCell):
    """One step of long short-term memory; takes what `torch.nn.LSTMCell` takes, and `engine`."""


class GRUCell(_DropInCell, nn.GRUCell):
    """One step of the gated recurrent unit; takes what `torch.nn.GRUCell` takes, and `engine`."""
