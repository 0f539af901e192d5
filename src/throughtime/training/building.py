"""Build a network with new weights from options."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from throughtime.errors import TrainingError
from throughtime.nn.encoders import Encoder, encoder_from
from throughtime.nn.initialization import forgets, gates_that_keep
from throughtime.nn.options import Options, output_width
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.spelling import option, setting
from throughtime.tasks.base import Interface
from throughtime.training.config import DEFAULT_EMBED, NetworkOptions, TrainingOptions


def programs_of(network: NetworkOptions, cell: Cell, interface: Interface) -> list[Program]:
    """Return each layer's program.

    Args:
        network: the network options.
        cell: the cell.
        interface: the network's inputs and outputs.

    Raises:
        TrainingError: if the embedding can't be tied to the softmax layer, the cell has no forget gate for the given
            bias, an option doesn't apply to networks that read numbers, or the data and the cell differ in inputs.
        CellError: if the cell's equations are invalid.
    """
    if network.bidirectional and interface.causal:
        raise TrainingError(
            f"{option('bidirectional')} is not allowed: this network predicts later steps, so it must not read them"
        )
    options = Options(bidirectional=network.bidirectional)
    others = interface.step_inputs
    _require_step_inputs(cell, others)
    output = options.merged_width(output_width(cell.program(network.hidden_size, network.hidden_size, inputs=others)))
    if interface.kind == "numeric":
        if network.tie:
            raise TrainingError(
                f"{setting('tie', network.tie)}: this network reads numbers, not tokens; remove {option('tie')}"
            )
        if network.embed and others:
            raise TrainingError(
                f"{setting('embed', network.embed)}: the numbers can't be embedded, since the cell also reads "
                f"{', '.join(others)}; remove {option('embed')}"
            )
        width = network.embed or interface.size - len(others)
    else:
        width = network.embed or (output if network.tie else min(output, DEFAULT_EMBED))
    if network.tie and width != output:
        raise TrainingError(
            f"{setting('embed', width)}: an embedding tied to the softmax layer "
            f"must have the width of the recurrent output, "
            f"{output}; remove {option('embed')} or change {option('hidden_size')}"
        )
    if network.tie and not (interface.per_step and interface.output.width == interface.size):
        raise TrainingError(f"{option('tie')} only works for networks that predict the tokens they read; remove it")
    widths = (width, *[output] * (network.num_layers - 1))
    programs = [cell.program(each, network.hidden_size, inputs=others) for each in widths]
    if any(given.width != 1 for given in programs[0].inputs[1:]):
        wide = ", ".join(f"{given.name} of width {given.width}" for given in programs[0].inputs[1:])
        raise TrainingError(f"the data provide one number per step for each input, but {cell.name!r} takes {wide}")
    if network.forget_bias is not None and not forgets(programs[0]):
        raise TrainingError(
            f"{setting('forget_bias', f'{network.forget_bias:g}')}: cell {cell.name!r} "
            "has no gate named forget with a bias; "
            f"remove {option('forget_bias')}"
        )
    if network.chrono is not None:
        if network.forget_bias is not None:
            raise TrainingError(
                f"{option('forget_bias')} and {option('chrono')} both set the biases of the gates that keep a state; "
                "remove one of them"
            )
        if not gates_that_keep(programs[0]):
            raise TrainingError(
                f"{setting('chrono', f'{network.chrono:g}')}: cell {cell.name!r} has no gate that keeps a state and "
                f"has a bias; remove {option('chrono')}"
            )
    return programs


def build_encoder(network: NetworkOptions, interface: Interface, features: int) -> Encoder:
    """Build an encoder with new weights.

    Args:
        network: the network options.
        interface: the network's inputs and outputs.
        features: the total width of the recurrent layers' inputs.
    """
    kind = "projection" if interface.kind == "numeric" and network.embed else interface.kind
    return encoder_from({"kind": kind, "size": interface.size}, features)


def _require_step_inputs(cell: Cell, provided: Sequence[str]) -> None:
    """Raise TrainingError unless a cell takes the inputs other than x that the data provide, and needs no others."""
    declared = {declaration.name: declaration for _, declaration in cell.inputs}
    for name in provided:
        if name not in declared:
            raise TrainingError(
                f"the data provide {name} at each step, but cell {cell.name!r} takes x alone: choose a cell with that "
                f"input, such as cfc, or remove {option('gaps')}"
            )
    missing = [name for name, each in declared.items() if not each.optional and name not in provided]
    if missing:
        raise TrainingError(
            f"cell {cell.name!r} takes {', '.join(missing)} at each step, but the data provide "
            f"{'x alone' if not provided else ', '.join(('x', *provided))}. To pass the times between the "
            f"rows of a table as the input dt, use --task classify with --time and {option('gaps')}. In Python, the "
            "last features of a throughtime.nn.sequence_model.SequenceModel's input are the cell's other inputs"
        )


def build_model(
    network: NetworkOptions, programs: Sequence[Program], interface: Interface, engine: str | None = None
) -> SequenceModel:
    """Build a network with new weights, drawn from torch's generator.

    Args:
        network: the network options.
        programs: each layer's program (see `programs_of`).
        interface: the network's inputs and outputs.
        engine: the engine that runs the recurrent layers; chosen by device if None.
    """
    returns = "steps" if interface.per_step else "last"
    recurrent = Recurrent.from_programs(
        programs, network.hidden_size, engine=engine, returns=returns, **network.layer_options()
    )
    encoder = build_encoder(network, interface, recurrent.step_size)
    model = SequenceModel(
        encoder, recurrent, interface.output, dropout=network.dropout, tie=network.tie, skip=interface.skip
    )
    bias = None
    if forgets(programs[0]) and network.chrono is None:
        bias = gates_that_keep(programs[0]).get("forget", 1.0) if network.forget_bias is None else network.forget_bias
    model.reset_parameters("uniform" if network.init is None else network.init, bias, chrono=network.chrono)
    return model


def device_for(training: TrainingOptions) -> torch.device:
    """Return the device to train on: a CUDA device if there is one, unless the options say cpu."""
    return torch.device("cuda" if training.device_kind != "cpu" and torch.cuda.is_available() else "cpu")
