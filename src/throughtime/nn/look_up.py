"""Pass token ids to layers that take vectors.

Either each id's vector is looked up, or the table of vectors is multiplied by the layer's weights once and the
products are looked up.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import PackedSequence

from throughtime.errors import UserError
from throughtime.nn.stack import Layers
from throughtime.program.rewrite import input_weights, with_one_hot_input


class TokenIds(NamedTuple):
    """Token ids and the vectors of the tokens.

    Attributes:
        ids: integers in any layout of a layer's input, without the feature axis.
        table: the tokens' vectors, `[n, input]`.
    """

    ids: Tensor | PackedSequence
    table: Tensor

    def checked(self) -> TokenIds:
        """Check the ids and the table, and convert the ids to int64.

        Raises:
            UserError: if the ids are not integers, or the table is not a matrix.
        """
        ids, table = self
        data = ids.data if isinstance(ids, PackedSequence) else ids
        if not isinstance(data, Tensor) or data.dtype not in (torch.int64, torch.int32):
            kind = data.dtype if isinstance(data, Tensor) else type(data).__name__
            raise UserError(f"with a table, the input must be int64 or int32 token ids, got {kind}")
        if not isinstance(table, Tensor) or table.dim() != 2:
            shown = list(table.shape) if isinstance(table, Tensor) else type(table).__name__
            raise UserError(f"the table must be a tensor [n, input_size], got {shown}")
        return TokenIds(ids._replace(data=data.long()) if isinstance(ids, PackedSequence) else data.long(), table)

    @property
    def placeholder(self) -> Tensor | PackedSequence:
        """An uninitialized tensor in the form of the vectors, which takes no memory."""
        ids, table = self
        data = ids.data if isinstance(ids, PackedSequence) else ids
        vectors = table.new_empty(()).expand(*data.shape, table.shape[1])
        return ids._replace(data=vectors) if isinstance(ids, PackedSequence) else vectors

    def vectors(self) -> Tensor | PackedSequence:
        """Look up the vectors.

        Raises:
            UserError: if an id has no row in the table.
        """
        ids, table = self
        data = ids.data if isinstance(ids, PackedSequence) else ids
        try:
            vectors = functional.embedding(data, table)
        except IndexError:
            lowest, highest = (int(end) for end in data.aminmax())
            raise UserError(
                f"token ids must be from 0 to {len(table) - 1} for a table of {len(table)} rows, got {lowest} to "
                f"{highest}"
            ) from None
        return ids._replace(data=vectors) if isinstance(ids, PackedSequence) else vectors


def layers_over_ids(layers: Layers, table: Tensor) -> Layers | None:
    """Convert layers that take vectors to layers that take token ids.

    Args:
        layers: the layers that take vectors.
        table: the tokens' vectors, `[n, input]`.

    Returns:
        Layers with a one-hot input of n elements; None unless the first layer's cell only multiplies its input by
        matrices that it uses for nothing else.
    """
    first, *rest = layers
    found = []
    for program, parameters in first:
        changed = with_one_hot_input(program, len(table))
        if changed is None:
            return None
        weights = input_weights(program)
        found.append((changed, [p @ table.T if k in weights else p for k, p in enumerate(parameters)]))
    return [found, *rest]
