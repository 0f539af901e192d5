"""A whole network for sequences: an encoder, recurrent layers and a head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from torch import Tensor, nn

from throughtime.errors import UserError
from throughtime.nn.encoders import Embedding, Numeric
from throughtime.nn.forms import State
from throughtime.nn.heads import Head
from throughtime.nn.initialization import Scheme
from throughtime.nn.masks import dropped
from throughtime.nn.recurrent import Recurrent
from throughtime.outputs import Categorical, Output

if TYPE_CHECKING:
    from throughtime.task_description import TaskDescription


class SequenceModel(nn.Module):
    """An encoder, recurrent layers and a head, which says what the network's output means.

    Args:
        encoder: turns each element of a sequence into a vector.
        recurrent: the layers, time-major. With `returns="last"` the network gives one output for each sequence,
            otherwise one for each step.
        output: what the output means (see `throughtime.outputs`).
        dropout: the probability of dropping, in training, an element of a symbol's embedding, wherever the symbol
            stands in a batch (Gal & Ghahramani 2016, arXiv:1512.05287, there of whole symbols), or an element of the
            layers' output (Zaremba et al. 2014, arXiv:1409.2329). Dropout between layers belongs to the layers.
        tie: whether the head's matrix is the embedding (Press & Wolf 2017, arXiv:1608.05859).
        skip: whether the first numbers of the input are added to the output, so that the layers learn the difference.

    Attributes:
        task: what the network was made for; None if that isn't known.

    Raises:
        UserError: if the parts don't fit together.
    """

    task: TaskDescription | None = None

    def __init__(
        self,
        encoder: Embedding | Numeric,
        recurrent: Recurrent,
        output: Output,
        *,
        dropout: float = 0.0,
        tie: bool = False,
        skip: bool = False,
    ) -> None:
        super().__init__()
        options = recurrent.options
        if options.returns == "states" or options.merge == "none" or options.batch_first:
            raise UserError(
                "the recurrent layers of a sequence model give one output for each step or sequence, time first: leave "
                f"out returns='states', merge='none' and batch_first, got {options.data}."
            )
        if recurrent.step_inputs:
            names = ", ".join(given.name for given in recurrent.step_inputs)
            raise UserError(
                f"a sequence model reads x alone, but the recurrent layers take {names} at each step too: declare that "
                "optional in the cell, inputs(optional=True), or concatenate it with x and slice it off in the cell."
            )
        if encoder.features != recurrent.input_size:
            raise UserError(
                f"the encoder gives {encoder.features} features, but the recurrent layers take {recurrent.input_size}."
            )
        if tie and not isinstance(encoder, Embedding):
            raise UserError("tie is for networks that read symbols; this one reads numbers.")
        if tie and recurrent.input_size != recurrent.output_size:
            raise UserError(
                f"an embedding of width {recurrent.input_size} can't be tied to a softmax layer of width "
                f"{recurrent.output_size}: make both as wide, or leave out the embedding's width."
            )
        if skip and (isinstance(encoder, Embedding) or encoder.features < output.width or options.returns != "steps"):
            raise UserError(
                "a skip connection is for networks with an output for each step that read at least as many numbers as "
                f"the output has, {output.width}."
            )
        self.dropout = dropout
        self.skip = skip
        self.encoder = encoder
        self.recurrent = recurrent
        tied = encoder.get_parameter("weight") if tie else None
        self.head = Head.of(output, recurrent.output_size, tied=tied, drawn=False)
        self.reset_parameters()

    @property
    def tie(self) -> bool:
        """Whether the head's matrix is the embedding."""
        return isinstance(self.encoder, Embedding) and self.head.weight is self.encoder.weight

    @property
    def reads_symbols(self) -> bool:
        """Whether its inputs are ids of symbols, not numbers."""
        return isinstance(self.encoder, Embedding)

    @property
    def per_step(self) -> bool:
        """Whether there is an output for each step, not only for each sequence."""
        return self.recurrent.options.returns == "steps"

    @property
    def predicts_symbols(self) -> bool:
        """Whether the network is a language model: it reads symbols and scores the next of the same symbols."""
        output = self.head.output
        scores_symbols = self.per_step and isinstance(output, Categorical)
        return scores_symbols and self.reads_symbols and output.width == self.vocabulary_size

    @property
    def vocabulary_size(self) -> int:
        """The number of symbols that the network reads.

        Raises:
            UserError: if it reads numbers.
        """
        if not isinstance(self.encoder, Embedding):
            raise UserError("this network reads numbers, not symbols.")
        return self.encoder.num_embeddings

    def reset_parameters(
        self, scheme: Scheme = "uniform", forget_bias: float | None = None, *, chrono: float | None = None
    ) -> None:
        """Sets all parameters to their initial values.

        Args:
            scheme, forget_bias, chrono: for the recurrent layers (see `throughtime.nn.initialization.initialise`).
        """
        self.recurrent.reset_parameters(scheme, forget_bias, chrono=chrono)
        self.encoder.reset_parameters(1 / math.sqrt(self.recurrent.output_size) if self.tie else None)
        self.head.reset_parameters()

    def forward(
        self, inputs: Tensor, state: State | None = None, *, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        """Computes the head's output.

        Args:
            inputs: ids `[T, B]` or numbers `[T, B, features]`.
            state: the recurrent layers' state before the first step; the cell's own if not given.
            lengths: the number of steps of each sequence; T if not given.

        Returns:
            The head's numbers, `[T, B, width]` or, with one output for each sequence, `[B, width]`: the scores of the
            symbols, say. And the state after the last step.
        """
        features, state = self._features(inputs, state, lengths)
        return self._raw(features, inputs), state

    def loss(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> tuple[Tensor, State]:
        """Computes the sum of the losses of all steps or sequences.

        Args:
            inputs, state, lengths: see `forward`.
            targets: see `Head.loss`; for a language model the ids `[T, B]` that came next.
            weights: what each loss counts, `[T, B]` or `[B]`; 1 if not given.

        Returns:
            The sum, in nats where the head gives probabilities, and the state after the last step.
        """
        features, state = self._features(inputs, state, lengths)
        if self.skip:
            return self.head.loss_of(self._raw(features, inputs), targets, weights), state
        return self.head.loss(features, targets, weights), state

    def _raw(self, features: Tensor, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(features)
        return found + inputs[..., : found.shape[-1]] if self.skip else found

    def _features(self, inputs: Tensor, state: State | None, lengths: Tensor | None) -> tuple[Tensor, State]:
        rate = self.dropout if self.training else 0.0
        vectors, table = self.encoder.vectors(inputs, rate)
        output, state = self.recurrent(vectors, state, lengths=lengths, table=table)
        return (dropped(output, rate) if rate else output), state


def detached(state: State) -> State:
    """A state without its history: where truncated backpropagation through time cuts."""
    return state.detach() if isinstance(state, Tensor) else tuple(tensor.detach() for tensor in state)
