"""Rules of torch's recurrent layers: their programs, dtypes under autocast, and when torch's own forward runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from throughtime.engines import choose
from throughtime.engines.capture import is_graph_captured, is_transformed
from throughtime.engines.torch_layers import TORCH_LAYERS
from throughtime.nn.dynamo import constant_result
from throughtime.nn.stack import directions_of, in_autocast
from throughtime.program.core import Program


class DropIn(Protocol):
    """A layer or a cell that replaces one of torch's."""

    engine: str | None

    def _program(self) -> Program: ...


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
def constant_programs(*of: Any) -> tuple[tuple[Program, ...], ...]:
    """Return the programs of each layer's directions."""
    return _cached_programs(*of)


def promotions(mode: str, *, projected: bool = False, fused: bool = False) -> Sequence[bool]:
    """Return, for torch's output and then each final state, whether it keeps the last state's precision under autocast.

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
def runs_on_onednn(dtype: torch.dtype) -> bool:
    """Return whether torch runs an LSTM without projection on oneDNN for a padded input of this dtype."""
    supported: bool = (
        dtype == torch.float32
        or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        or (dtype == torch.float16 and torch.ops.mkldnn._is_mkldnn_fp16_supported() and not torch.is_grad_enabled())
    )
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return supported and available and torch._C._get_mkldnn_enabled()


def check_states(states: Sequence[Tensor], like: Tensor) -> None:
    """Raise RuntimeError if a state's dtype differs from the input's, as torch does."""
    for state in states:
        if state.dtype != like.dtype and not in_autocast(like):
            raise RuntimeError(
                f"the state hx must be {like.dtype}, got {state.dtype}: convert it with hx.to({like.dtype})"
            )


def torch_programs(module: nn.RNNBase) -> tuple[tuple[Program, ...], ...]:
    """Return the programs of each layer's directions, for torch's own layers and for ours."""
    m, directions = module, 2 if module.bidirectional else 1
    return constant_programs(m.mode, m.input_size, m.hidden_size, m.proj_size, m.num_layers, directions, bool(m.bias))


def runs_torchs_forward(module: DropIn, tensors: Sequence[Tensor], plain: bool) -> bool:
    """Return whether to run torch's own forward, because it is fastest or because torch must see the operations."""
    engine, x = module.engine, tensors[0]
    undecided = engine is not None or not x.is_cpu
    if undecided and not is_graph_captured() and choose(engine, module._program(), x).name == "torch":
        return True
    return not plain and engine in (None, "native") and not is_transformed(tensors)
