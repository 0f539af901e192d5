"""What turns the elements of a sequence into vectors for the recurrent layers.

An encoder is a module with:

- `features`: the width of its vectors;
- `vectors(inputs, dropout)`: from a batch, time first, vectors `[T, B, features]` and None, or ids `[T, B]` and the
  table `[n, features]` that they index; `dropout` is 0 outside of training;
- `reset_parameters(bound)`: draws new parameters, uniformly in ±`bound` if it is given;
- `data`: the encoder as plain data, without its weights.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from throughtime.errors import UserError
from throughtime.nn.masks import dropped


class Embedding(nn.Embedding):
    """A learned vector for each symbol.

    Args:
        symbols: the number of symbols.
        features: the width of a vector.
    """

    def __init__(self, symbols: int, features: int) -> None:
        super().__init__(symbols, features)
        self.features = features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draws the vectors from a standard normal distribution, or uniformly in ±`bound`."""
        if bound is None:
            nn.init.normal_(self.weight)
        else:
            nn.init.uniform_(self.weight, -bound, bound)

    def vectors(self, inputs: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        """Ids and their table in training, else vectors; dropout drops an element of a symbol at all its steps."""
        if not self.training:
            return self(inputs), None
        table: Tensor = self.weight
        # Most symbols are absent from a batch. A graph or a GPU would have to wait to learn how many are present.
        waits = torch.compiler.is_compiling() or inputs.device.type != "cpu"
        if len(table) > inputs.numel() and not waits:
            present, inputs = inputs.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            table = functional.embedding(present, table)
        return inputs, dropped(table, dropout)

    @property
    def data(self) -> dict[str, Any]:
        """The encoder as plain data."""
        return {"kind": "embedding", "size": self.num_embeddings}


class Numeric(nn.Module):
    """Passes numbers through as they are; their scaling belongs to the data's codec.

    Args:
        features: the numbers per time step.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Does nothing: there are no parameters."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Returns the input."""
        return inputs

    def vectors(self, inputs: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        """The vectors; numbers aren't dropped."""
        return inputs, None

    @property
    def data(self) -> dict[str, Any]:
        """The encoder as plain data."""
        return {"kind": "numeric", "size": self.features}


def encoder_from(data: Any, features: int) -> Embedding | Numeric:
    """Builds an encoder from its plain data.

    Args:
        data: the encoder as plain data.
        features: the features that the recurrent layers take.

    Raises:
        UserError: if the data don't describe an encoder.
    """
    if not isinstance(data, dict) or data.keys() != {"kind", "size"}:
        raise UserError(f"an encoder is described by its kind and size, got {data!r:.200}.")
    kind, size = data["kind"], data["size"]
    if type(size) is not int or size < 1:
        raise UserError(f"the size of an encoder must be a positive integer, got {size!r:.200}.")
    if kind == "embedding":
        return Embedding(size, features)
    if kind == "numeric":
        if size != features:
            raise UserError(f"the encoder gives {size} features, but the recurrent layers take {features}.")
        return Numeric(size)
    raise UserError(f"the kind of an encoder must be embedding or numeric, got {kind!r:.200}.")
