"""Match network sizes: count a configuration's parameters, and find the width closest to a target."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from throughtime.errors import UserError
from throughtime.program.cell import Cell
from throughtime.spelling import setting
from throughtime.tasks.base import Interface
from throughtime.training.config import NetworkOptions

_WIDEST = 1 << 16


def parameter_count(network: NetworkOptions, cell: Cell, interface: Interface) -> int:
    """Count the parameters of the whole network without allocating them."""
    import torch

    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.training.building import build_encoder, programs_of

    programs = programs_of(network, cell, interface)
    with torch.device("meta"):
        returns = "steps" if interface.per_step else "last"
        recurrent = Recurrent.from_programs(programs, network.hidden_size, returns=returns, **network.layer_options())
        encoder = build_encoder(network, interface, recurrent.step_size)
        model = SequenceModel(encoder, recurrent, interface.output, dropout=network.dropout, tie=network.tie)
    return sum(parameter.numel() for parameter in model.parameters())


def equal_widths(
    networks: Mapping[str, NetworkOptions], cells: Mapping[str, Cell], interface: Interface, parameters: int
) -> dict[str, NetworkOptions]:
    """Choose hidden sizes so that the numbers of parameters come closest to a target.

    Args:
        networks: the options of each cell's network.
        cells: the cells, under the same names.
        interface: the networks' inputs and outputs.
        parameters: the target number of parameters.

    Raises:
        UserError: if the smallest networks of some cells exceed the target; one message lists them all.
    """
    found: dict[str, NetworkOptions] = {}
    too_large: list[str] = []
    for name, network in networks.items():

        def count(width: int, network: NetworkOptions = network, cell: Cell = cells[name]) -> int:
            return parameter_count(network.model_copy(update={"hidden_size": width}), cell, interface)

        if (least := count(1)) > parameters:
            too_large.append(f"{name} has {least:,} with one hidden unit")
            continue
        found[name] = network.model_copy(update={"hidden_size": _closest(count, parameters)})
    if too_large:
        raise UserError(
            f"{setting('params', f'{parameters:,}')} is too few for {len(too_large)} of {len(networks)} cells: "
            f"{'; '.join(too_large)}. Allow more parameters"
        )
    return found


def _closest(count: Any, parameters: int) -> int:
    """Return the width whose count is closest, by bisection; the count increases with the width."""
    low, high = 1, 2
    while high < _WIDEST and count(high) <= parameters:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) <= parameters else (low, middle)
    return low if parameters - count(low) <= count(high) - parameters else high
