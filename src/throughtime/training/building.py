"""From options to a network with new weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from throughtime.errors import TrainingError
from throughtime.nn.encoders import encoder_from
from throughtime.nn.initialization import forgets, keeping
from throughtime.nn.options import Options, output_width
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.spelling import option, setting
from throughtime.tasks.base import Interface
from throughtime.training.config import DEFAULT_EMBED, NetworkOptions, TrainingOptions


def programs_of(network: NetworkOptions, cell: Cell, interface: Interface) -> list[Program]:
    """Each layer's program.

    Args:
        network: the options.
        cell: the cell.
        interface: what the network takes and gives.

    Raises:
        TrainingError: the embedding can't be tied to the softmax layer, or the cell has no forget gate whose bias
            could start as it is told, or an option isn't for networks that read numbers.
        CellError: the cell's equations are wrong.
    """
    if network.bidirectional and interface.causal:
        raise TrainingError(
            f"{option('bidirectional')}: this network predicts what comes next, and must not read it; leave it out"
        )
    options = Options(bidirectional=network.bidirectional)
    output = options.merged_width(output_width(cell.program(network.hidden_size, network.hidden_size)))
    if interface.kind == "numeric":
        if network.embed is not None or network.tie:
            name = "embed" if network.embed is not None else "tie"
            raise TrainingError(
                f"{setting(name, getattr(network, name))}: this network reads numbers, which have no embedding; leave "
                f"{option(name)} out"
            )
        width = interface.size
    else:
        width = network.embed or (output if network.tie else min(output, DEFAULT_EMBED))
    if network.tie and width != output:
        raise TrainingError(
            f"{setting('embed', width)}: an embedding tied to the softmax layer "
            f"must be as wide as the recurrent output, "
            f"{output}; leave {option('embed')} out, or make {option('hidden_size')} fit"
        )
    if network.tie and not (interface.per_step and interface.output.width == interface.size):
        raise TrainingError(f"{option('tie')} is for networks that predict the symbols that they read; leave it out")
    widths = (width, *[output] * (network.num_layers - 1))
    programs = [cell.program(each, network.hidden_size) for each in widths]
    if network.forget_bias is not None and not forgets(programs[0]):
        raise TrainingError(
            f"{setting('forget_bias', f'{network.forget_bias:g}')}: cell {cell.name!r} "
            "has no gate named forget with a bias; "
            f"leave {option('forget_bias')} out"
        )
    if network.chrono is not None:
        if network.forget_bias is not None:
            raise TrainingError(
                f"{option('forget_bias')} and {option('chrono')} both set the biases of the gates that keep a state; "
                "leave one of them out"
            )
        if not keeping(programs[0]):
            raise TrainingError(
                f"{setting('chrono', f'{network.chrono:g}')}: cell {cell.name!r} has no gate with a bias that keeps a "
                f"state; leave {option('chrono')} out"
            )
    return programs


def build_model(
    network: NetworkOptions, programs: Sequence[Program], interface: Interface, engine: str | None = None
) -> SequenceModel:
    """The network with new weights, drawn from torch's generator.

    Args:
        network: what it is to be like.
        programs: each layer's program (see `programs_of`).
        interface: what it takes and gives.
        engine: what runs its recurrent layers; chosen by device if not given.
    """
    returns = "steps" if interface.per_step else "last"
    recurrent = Recurrent.from_programs(
        programs, network.hidden_size, engine=engine, returns=returns, **network.layer_options()
    )
    encoder = encoder_from({"kind": interface.kind, "size": interface.size}, recurrent.input_size)
    model = SequenceModel(
        encoder, recurrent, interface.output, dropout=network.dropout, tie=network.tie, skip=interface.skip
    )
    bias = None
    if forgets(programs[0]) and network.chrono is None:
        bias = keeping(programs[0]).get("forget", 1.0) if network.forget_bias is None else network.forget_bias
    model.reset_parameters("uniform" if network.init is None else network.init, bias, chrono=network.chrono)
    return model


def device_for(training: TrainingOptions) -> torch.device:
    """Where a network runs: on a CUDA device if there is one, unless the options say cpu."""
    return torch.device("cuda" if training.device_kind != "cpu" and torch.cuda.is_available() else "cpu")
