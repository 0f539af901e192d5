"""Keep recurrent modules out of the graphs that torch captures: graph breaks in torch.compile, leaves in torch.fx."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import torch
from torch.fx import Proxy
from torch.nn.utils.rnn import PackedSequence

from throughtime.nn.dynamo import constant_result
from throughtime.nn.look_up import TokenIds

_OTHERWISE = "compile the model without fullgraph=True"
_REASONS = {
    "packed": f"a PackedSequence can't be part of a graph: {_OTHERWISE}, or pass a padded input and lengths",
    "hooks": f"throughtime.record and throughtime.edit work outside of a graph: {_OTHERWISE}",
    "transform": f"a recurrent layer under a transform of torch.func runs outside of a graph: {_OTHERWISE}",
}
_callers: dict[str, Callable[..., Any]] = {}


def _eager(reason: str) -> Callable[..., Any]:
    """Return a caller that runs functions outside torch.compile's graph; under fullgraph=True, it raises `reason`."""

    def call(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
        return function(*args, **options)

    found: Callable[..., Any] = torch.compiler.disable(call, reason=reason)  # type: ignore[no-untyped-call]
    return found


@constant_result
def _create_callers() -> bool:
    """Create a caller for each reason to leave a graph, on first use, because this imports Dynamo."""
    if not _callers:
        _callers.update((name, _eager(reason)) for name, reason in _REASONS.items())
    return True


def _caller(name: str) -> Callable[..., Any]:
    _create_callers()
    return _callers[name]


def _as_leaf(
    module: Any,
    run: Callable[..., Any],
    input: Any,
    state: Any = None,
    lengths: Any = None,
    reset: Any = None,
    inputs: Mapping[str, Any] | None = None,
) -> Any:
    """Record a module's call as one node of a torch.fx graph, as torch.fx does for torch's own layers."""
    x: Any = input.ids if isinstance(input, TokenIds) else input
    table = input.table if isinstance(input, TokenIds) else None
    options = {"lengths": lengths, "reset": reset, "table": table, **(inputs or {})}
    given = {name: value for name, value in options.items() if value is not None}
    return x.tracer.create_proxy("call_module", x.tracer.path_of_module(module), (x, state), given)


def outside_graph(module: Any, input: Any) -> Callable[..., Any] | None:
    """Return a caller that runs a module outside torch.compile's graph, or None if the module can be part of it."""
    if isinstance(input, Proxy):
        return partial(_as_leaf, module)
    tracing = torch.compiler.is_dynamo_compiling()
    if isinstance(input, PackedSequence):
        # Dynamo skips the module's frame and would compile its callees, so it must not trace them either.
        return _caller("packed") if tracing or "torch._dynamo" in sys.modules else None
    if not tracing:
        return None
    if any(hook.leaves_graph for hook in module.hooks):
        return _caller("hooks")
    # As for torch's own layers: an operator has no batching or gradient rule for a transform inside the graph.
    return _caller("transform") if _is_transforming() else None


@constant_result  # Dynamo rejects a torch function that returns a number
def _is_transforming() -> bool:
    """Return whether a transform of torch.func is being traced."""
    return torch._C._functorch.maybe_current_level() is not None
