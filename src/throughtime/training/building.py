"""From a configuration to a model: one way for training and for loading."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from throughtime.errors import TrainingError
from throughtime.nn.initialization import forgets, keeping
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.options import output_width
from throughtime.nn.recurrent import Recurrent
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.spelling import option, setting
from throughtime.stored import layer_options
from throughtime.training.config import DEFAULT_EMBED, TrainConfig


def programs_of(config: TrainConfig, cell: Cell) -> list[Program]:
    """Each layer's program.

    Raises:
        TrainingError: the embedding can't be tied to the softmax layer, or the cell has no forget gate whose bias
            could start as it is told.
        CellError: the cell's equations are wrong.
    """
    output = output_width(cell.program(config.hidden_size, config.hidden_size))
    embed = config.embed or (output if config.tie else min(output, DEFAULT_EMBED))
    if config.tie and embed != output:
        raise TrainingError(
            f"{setting('embed', embed)}: an embedding tied to the softmax layer "
            f"must be as wide as the recurrent output, "
            f"{output}; leave {option('embed')} out, or make {option('hidden_size')} fit"
        )
    programs = [cell.program(width, config.hidden_size) for width in (embed, *[output] * (config.num_layers - 1))]
    if config.forget_bias is not None and not forgets(programs[0]):
        raise TrainingError(
            f"{setting('forget_bias', f'{config.forget_bias:g}')}: cell {cell.name!r} "
            "has no gate named forget with a bias; "
            f"leave {option('forget_bias')} out"
        )
    return programs


def build_model(config: TrainConfig, programs: Sequence[Program], vocabulary_size: int) -> LanguageModel:
    """The model with new weights, drawn from torch's generator.

    Args:
        config: what it is to be like.
        programs: each layer's program (see `programs_of`).
        vocabulary_size: the number of symbols.
    """
    options = layer_options(config.model_dump())
    recurrent = Recurrent.from_programs(programs, config.hidden_size, engine=config.engine, **options)
    model = LanguageModel(vocabulary_size, recurrent, dropout=config.dropout, tie=config.tie)
    bias = None
    if forgets(programs[0]):
        bias = keeping(programs[0]).get("forget", 1.0) if config.forget_bias is None else config.forget_bias
    model.reset_parameters("uniform" if config.init is None else config.init, bias)
    return model


def device_for(config: TrainConfig) -> torch.device:
    """Where a model of this configuration runs: on a CUDA device if there is one, unless it says cpu."""
    return torch.device("cuda" if config.device_kind != "cpu" and torch.cuda.is_available() else "cpu")
