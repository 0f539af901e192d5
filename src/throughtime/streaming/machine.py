"""Create the native engine's stream, for networks with fixed weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from throughtime.errors import UserError
from throughtime.streaming.network import Array, Network


def machine(network: Network, rows: int, instruction_set: str) -> Any:
    """Create the native engine's stream that runs a network for `rows` sequences at a time."""
    try:
        from throughtime import _native
        from throughtime.engines.native.plan import lower
    except ImportError:
        raise UserError("a stream needs the native engine, whose extension module is not built; install it") from None
    layers: list[tuple[Any, Sequence[Array]]] = [(lower(program), parameters) for program, parameters in network.layers]
    if network.head is not None:
        layers.append((_head_plan(*network.head[0].shape), network.head))
    kind = {"float32": _native.Stream32, "float64": _native.Stream64}[str(network.dtype)]
    try:
        return kind(layers, rows, network.embedding, instruction_set, network.skip)
    except ValueError as error:
        raise UserError(f"{error}") from None


def _head_plan(outputs: int, width: int) -> Any:
    """Build the plan of a head: a matrix product plus the bias."""
    from throughtime import _native

    plan = _native.Plan([width], [outputs], [], [(outputs, width), (outputs, 0)], [], False, [], [])
    x = plan.add_buffer("input", 0, width, 0.0)
    y = plan.add_buffer("output", 0, outputs, 0.0)
    bias = plan.add_buffer("parameter", 1, outputs, 0.0)
    plan.add_stage("step")
    plan.add_gemm(0, False, (y, 0), (x, 0), (bias, 0))
    return plan
