"""When torch has to see every operation of a run, so that no opaque engine may take it.

An opaque engine reads its operands' memory and returns fresh tensors. A tracer then records the result as a constant, a
mode sees nothing, and an operand without plain memory of its own has nothing to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# By name here, as looking each up in torch takes as long as calling it.
_dispatch_keys = torch._C._dispatch_keys
_dispatch_modes = torch._C._len_torch_dispatch_stack
_is_key_included = torch._C._dispatch_tls_is_dispatch_key_included
_is_tracing = torch._C._is_tracing
_PRE_DISPATCH = torch._C.DispatchKey.PreDispatch

_PLAIN_TYPES = frozenset({Tensor, nn.Parameter})


def _plain_keys() -> frozenset[int]:
    def of_each_kind() -> list[Tensor]:
        return [torch.empty(0), torch.empty(0, dtype=torch.complex64).conj().imag, torch._efficientzerotensor(0)]

    tensors = of_each_kind()
    with torch.inference_mode():
        tensors += of_each_kind()
    return frozenset(torch._C._dispatch_keys(t).raw_repr() for t in tensors)


_PLAIN_KEYS = _plain_keys()


def needs_traceable(tensors: Sequence[Tensor], parameters: Sequence[Tensor] = ()) -> bool:
    """Whether only a traceable engine may run on these tensors; see `is_captured`, which takes the same."""
    return is_captured(tensors, parameters) or is_transformed((*tensors, *parameters))


def is_transformed(tensors: Iterable[Tensor]) -> bool:
    """Whether a transform of torch.func (vmap, grad, jvp) is active, or a tensor has a forward-mode tangent."""
    return torch._C._functorch.maybe_current_level() is not None or has_tangent(tensors)


def has_tangent(tensors: Iterable[Tensor]) -> bool:
    """Whether a tensor has a forward-mode tangent."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]


def is_captured(tensors: Iterable[Tensor], parameters: Iterable[Tensor] = ()) -> bool:
    """Whether torch records or interprets operations as they run, or a tensor is not plain memory.

    True under `torch.jit.trace` and the exporters built on it, under `make_fx` and every other dispatch mode, and for
    tensor subclasses, fake, functional, batched, nested and sparse tensors. False while `torch.compile` or
    `torch.export` capture a graph, which hold a run as one operator. Of parameters only the type is checked, which is
    quicker: nothing but a subclass can be one without plain memory.
    """
    # `map` and not a generator, which takes twice as long: every call of a layer asks.
    return is_observed() or not (all(map(is_plain, tensors)) and are_plain(parameters))


def is_graph_captured() -> bool:
    """Whether `torch.compile` or `torch.export` capture a graph that holds a run as one operator.

    Not for `torch.onnx.export`, which has to write torch's own operations.
    """
    return torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


def is_observed() -> bool:
    """Whether a tracer or a dispatch mode follows torch's operations; see `is_captured`."""
    return bool(_is_tracing() or _dispatch_modes() or _is_key_included(_PRE_DISPATCH))


def are_plain(parameters: Iterable[Tensor]) -> bool:
    """Whether parameters are plain memory, as their types tell; see `is_captured`."""
    return _PLAIN_TYPES.issuperset(map(type, parameters))


def is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is nothing but its own elements in the memory of a CPU, or their negatives, or zeros.

    A parameter's type says so: torch makes none of the others a `Parameter`.
    """
    kind = type(tensor)
    if kind is nn.Parameter:
        return True
    return kind is Tensor and _dispatch_keys(tensor).raw_repr() in _PLAIN_KEYS
