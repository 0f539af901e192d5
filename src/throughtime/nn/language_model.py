"""The recurrent language model: which symbol comes next."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from throughtime.errors import UserError
from throughtime.nn.initialization import Scheme
from throughtime.nn.masks import dropped
from throughtime.nn.recurrent import Recurrent, State
from throughtime.nn.softmax_loss import softmax_loss

if TYPE_CHECKING:
    from throughtime.data.vocabulary import Vocabulary


class LanguageModel(nn.Module):
    """Embedding, recurrent layers and a softmax over the symbols (Mikolov et al. 2010).

    Args:
        vocabulary_size: the number of symbols.
        recurrent: the recurrent layers, time-major; their input is the embedding.
        dropout: the probability with which an element of a symbol's embedding, wherever the symbol stands in a window
            (Gal & Ghahramani 2016, arXiv:1512.05287, there of whole symbols), or an element of the layers' output is
            dropped in training (Zaremba et al. 2014, arXiv:1409.2329); between layers it is the layers' own affair.
        tie: whether the softmax layer's matrix is the embedding (Press & Wolf 2017, arXiv:1608.05859).

    Attributes:
        vocabulary: the symbols, where they are known: of a model that was loaded.

    Raises:
        UserError: if the matrices to be tied differ in width, or the layers do not give one output for each step.
    """

    vocabulary: Vocabulary | None = None

    def __init__(self, vocabulary_size: int, recurrent: Recurrent, *, dropout: float = 0.0, tie: bool = False) -> None:
        super().__init__()
        options = recurrent.options
        if options.returns != "steps" or options.merge == "none" or options.batch_first:
            raise UserError(
                "a language model's layers give one output for each step, time first: leave out returns, "
                f"merge='none' and batch_first; given {', '.join(f'{k}={v!r}' for k, v in options.data.items())}."
            )
        if tie and recurrent.input_size != recurrent.output_size:
            raise UserError(
                f"an embedding of width {recurrent.input_size} can't be tied to a softmax layer of width "
                f"{recurrent.output_size}: give both the same width, or leave the embedding's out."
            )
        self.dropout = dropout
        self.embedding = nn.Embedding(vocabulary_size, recurrent.input_size)
        self.recurrent = recurrent
        self.softmax_weight = None if tie else nn.Parameter(torch.empty(vocabulary_size, recurrent.output_size))
        self.softmax_bias = nn.Parameter(torch.empty(vocabulary_size))
        self.reset_parameters()

    @property
    def vocabulary_size(self) -> int:
        """The number of symbols."""
        return self.embedding.num_embeddings

    def reset_parameters(
        self, scheme: Scheme = "uniform", forget_bias: float | None = None, *, chrono: float | None = None
    ) -> None:
        """Sets all parameters to what they start with.

        Args:
            scheme, forget_bias, chrono: for the recurrent layers (see `throughtime.nn.initialization.initialise`).
        """
        self.recurrent.reset_parameters(scheme, forget_bias, chrono=chrono)
        bound = 1 / math.sqrt(self.recurrent.output_size)
        if self.softmax_weight is None:
            nn.init.uniform_(self.embedding.weight, -bound, bound)
        else:
            nn.init.normal_(self.embedding.weight)
            nn.init.uniform_(self.softmax_weight, -bound, bound)
        nn.init.uniform_(self.softmax_bias, -bound, bound)

    def forward(self, symbols: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """The scores of the next symbol (logits) after each step.

        Args:
            symbols: ids `[T, B]`.
            state: the recurrent layers' state before the first step; the cell's own if not given.

        Returns:
            Scores `[T, B, vocabulary_size]` and the state after the last step.
        """
        output, state = self._features(symbols, state)
        return functional.linear(output, self._softmax_matrix, self.softmax_bias), state

    def loss(self, symbols: Tensor, targets: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """How badly the targets were predicted: the sum of the steps' losses.

        Args:
            symbols: ids `[T, B]`.
            targets: the ids that came next, `[T, B]`.
            state: the recurrent layers' state before the first step; the cell's own if not given.

        Returns:
            The cross-entropy in nats, summed over steps and streams, and the state after the last step.
        """
        output, state = self._features(symbols, state)
        rows, next_symbols = output.flatten(0, 1), targets.flatten()
        return softmax_loss(rows, self._softmax_matrix, self.softmax_bias, next_symbols), state

    @property
    def _softmax_matrix(self) -> Tensor:
        return self.embedding.weight if self.softmax_weight is None else self.softmax_weight

    def _features(self, symbols: Tensor, state: State | None) -> tuple[Tensor, State]:
        if not self.training:
            measured: tuple[Tensor, State] = self.recurrent(self.embedding(symbols), state)
            return measured
        table = self.embedding.weight
        # Of most symbols there are none; a graph, or a GPU, would have to wait to learn how many there are.
        waits = torch.compiler.is_compiling() or symbols.device.type != "cpu"
        if len(table) > symbols.numel() and not waits:
            present, symbols = symbols.unique(return_inverse=True)  # type: ignore[no-untyped-call]
            table = functional.embedding(present, table)
        output, state = self.recurrent(symbols, state, table=dropped(table, self.dropout))
        return dropped(output, self.dropout), state


def detached(state: State) -> State:
    """A state without its history: where truncated backpropagation through time cuts."""
    return state.detach() if isinstance(state, Tensor) else tuple(tensor.detach() for tensor in state)
