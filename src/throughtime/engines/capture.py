"""Detect when torch must see every operation of a run, so that an opaque engine can't run it.

An opaque engine reads its operands' memory and returns new tensors. A tracer would record the result as a constant, a
dispatch mode would see nothing, and an operand without plain memory has nothing to read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

# Bound to names here, because looking each one up in torch takes as long as calling it.
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
    """Return whether only a traceable engine can run on these tensors; takes the same arguments as `is_captured`."""
    return is_captured(tensors, parameters) or is_transformed((*tensors, *parameters))


def is_transformed(tensors: Iterable[Tensor]) -> bool:
    """Return whether a transform of torch.func (vmap, grad, jvp) is active, or a tensor has a forward-mode tangent."""
    return torch._C._functorch.maybe_current_level() is not None or has_tangent(tensors)


def has_tangent(tensors: Iterable[Tensor]) -> bool:
    """Return whether a tensor has a forward-mode tangent."""
    if forward_ad._current_level < 0:
        return False
    return any(forward_ad.unpack_dual(t).tangent is not None for t in tensors)  # type: ignore[no-untyped-call]


def is_captured(tensors: Iterable[Tensor], parameters: Iterable[Tensor] = ()) -> bool:
    """Return whether torch records or interprets operations, or a tensor is not plain memory (see `is_plain`).

    True under `torch.jit.trace` and the exporters built on it, under `make_fx` and every other dispatch mode, and for
    tensor subclasses and fake, functional, batched, nested and sparse tensors. False while `torch.compile` or
    `torch.export` captures a graph, in which a run is one operator. For parameters only the type is checked, which is
    faster and sufficient, because only subclasses of `Parameter` lack plain memory.
    """
    # `map` instead of a generator, which takes twice as long; this runs on every call of a layer.
    return is_observed() or not (all(map(is_plain, tensors)) and are_plain(parameters))


def is_graph_captured() -> bool:
    """Return whether `torch.compile` or `torch.export` is capturing a graph, in which a run is a single operator.

    False during `torch.onnx.export`, which can only write torch's own operations.
    """
    return torch.compiler.is_compiling() and not torch.onnx.is_in_onnx_export()


def is_observed() -> bool:
    """Return whether a tracer or a dispatch mode is active; see `is_captured`."""
    return bool(_is_tracing() or _dispatch_modes() or _is_key_included(_PRE_DISPATCH))


def are_plain(parameters: Iterable[Tensor]) -> bool:
    """Return whether parameters are plain memory, judged by their types; see `is_captured`."""
    return _PLAIN_TYPES.issuperset(map(type, parameters))


def is_plain(tensor: Tensor) -> bool:
    """Return whether a tensor is a dense CPU tensor, including negative views and zero tensors.

    A tensor whose type is exactly `Parameter` always is, because torch doesn't use that type for other tensors.
    """
    kind = type(tensor)
    if kind is nn.Parameter:
        return True
    return kind is Tensor and _dispatch_keys(tensor).raw_repr() in _PLAIN_KEYS
