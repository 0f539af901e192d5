"""Encoders: turn the elements of a sequence into vectors for the recurrent layers.

An encoder is a module with:

- `features`: the width of the vectors;
- `size`: the vocabulary size, or the number of features of each element;
- `vectors(inputs, dropout)`: for a time-major batch, returns either vectors `[T, B, features]` and None, or ids
  `[T, B]` and the table `[n, features]` that they index; `dropout` is 0 in evaluation;
- `reset_parameters(bound)`: draws new parameters, uniform between -`bound` and `bound` if it is given;
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
    """A learned vector for each token.

    Args:
        vocabulary_size: the vocabulary size.
        features: the width of the vectors.
    """

    def __init__(self, vocabulary_size: int, features: int) -> None:
        super().__init__(vocabulary_size, features)
        self.size, self.features = vocabulary_size, features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draw the vectors from a standard normal distribution, or uniformly between -`bound` and `bound`."""
        if bound is None:
            if not self.weight.is_meta:  # no values to draw, and torch would import Dynamo for it
                nn.init.normal_(self.weight)
        else:
            nn.init.uniform_(self.weight, -bound, bound)

    def vectors(self, inputs: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        """Return ids and their table in training, vectors otherwise.

        Dropout drops an element of a token's vector at all of the token's occurrences.
        """
        if not self.training:
            return self(inputs), None
        table: Tensor = self.weight
        # Most tokens are absent from a batch. In a graph or on a GPU, counting those present would force a sync.
        waits = torch.compiler.is_compiling() or inputs.device.type != "cpu"
        if len(table) > inputs.numel() and not waits:
            present, inputs = inputs.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            table = functional.embedding(present, table)
        return inputs, dropped(table, dropout)

    @property
    def data(self) -> dict[str, Any]:
        """The encoder as plain data."""
        return {"kind": "embedding", "size": self.size}


class Numeric(nn.Module):
    """An encoder that passes numbers through unchanged; the data's codec scales them.

    Args:
        features: the number of values per time step.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.size = self.features = features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Do nothing; the encoder has no parameters."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the input."""
        return inputs

    def vectors(self, inputs: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        """Return the inputs; dropout doesn't apply to numbers."""
        return inputs, None

    @property
    def data(self) -> dict[str, Any]:
        """The encoder as plain data."""
        return {"kind": "numeric", "size": self.size}


class Projection(nn.Linear):
    """A learned embedding of numbers: an affine map followed by a ReLU, as for SegRNN's segments (arXiv:2308.11200).

    Args:
        size: the number of values per time step.
        features: the width of the vectors.
    """

    def __init__(self, size: int, features: int) -> None:
        super().__init__(size, features)
        self.size, self.features = size, features

    def reset_parameters(self, bound: float | None = None) -> None:
        """Draw the parameters as `torch.nn.Linear` does, or uniformly between -`bound` and `bound`."""
        if bound is None:
            super().reset_parameters()
        else:
            nn.init.uniform_(self.weight, -bound, bound)
            nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the vectors of numbers `[..., size]`."""
        return functional.relu(super().forward(inputs))

    def vectors(self, inputs: Tensor, dropout: float) -> tuple[Tensor, Tensor | None]:
        """Return the vectors; dropout doesn't apply to embeddings of numbers."""
        return self(inputs), None

    @property
    def data(self) -> dict[str, Any]:
        """The encoder as plain data."""
        return {"kind": "projection", "size": self.size}


Encoder = Embedding | Numeric | Projection


def encoder_from(data: Any, features: int) -> Encoder:
    """Build an encoder from its plain data.

    Args:
        data: the encoder as plain data.
        features: the input width of the recurrent layers.

    Raises:
        UserError: if the data don't describe an encoder.
    """
    if not isinstance(data, dict) or data.keys() != {"kind", "size"}:
        raise UserError(f"an encoder must be a dict with the keys kind and size, got {data!r:.200}")
    kind, size = data["kind"], data["size"]
    if type(size) is not int or size < 1:
        raise UserError(f"an encoder's size must be a positive integer, got {size!r:.200}")
    if kind == "embedding":
        return Embedding(size, features)
    if kind == "numeric":
        if size != features:
            raise UserError(f"the encoder has {size} features, but the recurrent layers take {features}")
        return Numeric(size)
    if kind == "projection":
        return Projection(size, features)
    raise UserError(f"an encoder's kind must be 'embedding', 'numeric' or 'projection', got {kind!r:.200}")
