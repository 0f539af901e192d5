"""A case's inputs: the same arrays for all contestants."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from throughtime.bench.cases import PACKED, Case
from throughtime.nn.options import output_width
from throughtime.stored import stored_name


@dataclass(frozen=True)
class Arguments:
    """A case's arrays, seeded by its name.

    Attributes:
        x: the input `[T, B, input_size]`.
        parameters: the program's parameters, by their names in a layer.
        cotangent: the gradient of the output `[T, B, width]`; 0 after a sequence's end.
    """

    x: Tensor
    parameters: dict[str, Tensor]
    cotangent: Tensor
    _lengths: list[int]

    @classmethod
    def of(cls, case: Case) -> Arguments:
        """Draw a case's arrays: parameters as torch initializes its layers, all others from a normal distribution."""
        generator = torch.Generator().manual_seed(zlib.crc32(case.name.encode()))
        x = torch.randn(case.steps, case.batch, case.input_size, generator=generator)
        cotangent = torch.randn(case.steps, case.batch, output_width(case.program), generator=generator)
        bound = case.hidden**-0.5
        parameters = {
            stored_name(p.name, "_l0"): torch.empty(p.shape).uniform_(-bound, bound, generator=generator)
            for p in case.program.parameters
        }
        if case.mode == PACKED:
            cotangent *= (torch.arange(case.steps)[:, None] < torch.tensor(case.lengths))[..., None]
        return cls(x, parameters, cotangent, case.lengths)

    def packed(self, padded: Tensor) -> PackedSequence:
        """Pack the valid steps of a padded `[T, B, width]`."""
        return pack_padded_sequence(padded, torch.tensor(self._lengths))
