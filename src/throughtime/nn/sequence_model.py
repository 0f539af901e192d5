"""Sequence models: an encoder, recurrent layers and a head."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from throughtime.errors import UserError
from throughtime.nn.encoders import Embedding, Encoder, Numeric
from throughtime.nn.forms import State
from throughtime.nn.heads import Head
from throughtime.nn.initialization import Scheme
from throughtime.nn.masks import dropped
from throughtime.nn.recurrent import Recurrent
from throughtime.outputs import Categorical, Output

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from throughtime.task_description import TaskDescription


class SequenceModel(nn.Module):
    """A network for sequences: an encoder, recurrent layers and a head.

    Args:
        encoder: turns each element of a sequence into a vector. If the layers take inputs other than x, the vectors
            contain them after x, in the order of `recurrent.step_inputs`.
        recurrent: the layers, time-major. With `returns="last"` the network has one output per sequence, otherwise one
            per step.
        output: the network's output (see `throughtime.outputs`).
        dropout: the probability, in training, of dropping an element of a token's embedding at all of the token's
            occurrences in a batch (Gal & Ghahramani 2016, arXiv:1512.05287, who drop whole tokens) or an element of the
            layers' output (Zaremba et al. 2014, arXiv:1409.2329). Dropout between layers is an option of the layers.
        tie: whether the head shares its weight with the embedding (Press & Wolf 2017, arXiv:1608.05859).
        skip: whether to add the first features of the input to the output, so that the layers learn the difference.

    Attributes:
        task: the task that the network was built for; None if unknown.

    Raises:
        UserError: if the parts don't fit together.
    """

    task: TaskDescription | None = None

    def __init__(
        self,
        encoder: Encoder,
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
                "a sequence model needs recurrent layers that return one output per step or sequence, time-major; "
                f"remove returns='states', merge='none' and batch_first, got {options.data}"
            )
        if recurrent.step_inputs and not isinstance(encoder, Numeric):
            names = ", ".join(given.name for given in recurrent.step_inputs)
            raise UserError(
                f"a sequence model that embeds its input has no other inputs, but the recurrent layers take {names} at "
                "each step: use the layers in a module of your own"
            )
        if encoder.features != recurrent.step_size:
            more = "".join(f" + {given.width} of {given.name}" for given in recurrent.step_inputs)
            raise UserError(
                f"the encoder has {encoder.features} features, but the recurrent layers take "
                f"{recurrent.input_size}{more}"
            )
        if tie and not isinstance(encoder, Embedding):
            raise UserError("tie needs a network that reads tokens; this one reads numbers")
        if tie and recurrent.input_size != recurrent.output_size:
            raise UserError(
                f"can't tie an embedding of width {recurrent.input_size} to a softmax layer of width "
                f"{recurrent.output_size}: make the widths equal, or omit the embedding's width"
            )
        if skip and (isinstance(encoder, Embedding) or encoder.size < output.width or options.returns != "steps"):
            raise UserError(
                "skip needs a network with an output for each step that reads at least as many features as the output "
                f"has, {output.width}"
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
        """Whether the head shares its weight with the embedding."""
        return isinstance(self.encoder, Embedding) and self.head.weight is self.encoder.weight

    @property
    def reads_tokens(self) -> bool:
        """Whether the network reads token ids instead of numbers."""
        return isinstance(self.encoder, Embedding)

    @property
    def per_step(self) -> bool:
        """Whether the network has an output for each step, not one per sequence."""
        return self.recurrent.options.returns == "steps"

    @property
    def predicts_tokens(self) -> bool:
        """Whether the network is a language model: it reads tokens and scores the next token of the same vocabulary."""
        output = self.head.output
        scores_tokens = self.per_step and isinstance(output, Categorical)
        return scores_tokens and self.reads_tokens and output.width == self.vocabulary_size

    # Tracing reads every property of a module, so these two must not raise.

    @property
    def vocabulary_size(self) -> int:
        """The number of tokens in the vocabulary of the input; 0 for a network that reads numbers."""
        return self.encoder.size if self.reads_tokens else 0

    @property
    def input_size(self) -> int:
        """The number of features per step of the input; 0 for a network that reads tokens."""
        return 0 if self.reads_tokens else self.encoder.size

    def reset_parameters(
        self, scheme: Scheme = "uniform", forget_bias: float | None = None, *, chrono: float | None = None
    ) -> None:
        """Initialize all parameters.

        Args:
            scheme, forget_bias, chrono: for the recurrent layers (see `throughtime.nn.initialization.initialize`).
        """
        self.recurrent.reset_parameters(scheme, forget_bias, chrono=chrono)
        self.encoder.reset_parameters(1 / math.sqrt(self.recurrent.output_size) if self.tie else None)
        self.head.reset_parameters()

    def forward(
        self,
        inputs: Tensor | NDArray[Any],
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        branches: int = 0,
    ) -> tuple[Tensor, State]:
        """Compute the head's output.

        Args:
            inputs: ids `[T, B]` or numbers `[T, B, features]`; the layers' inputs other than x are the last features.
                A single sequence can be given without its batch axis, as a vocabulary's `encode` returns it.
            state: the recurrent layers' initial state; the cell's declared values by default.
            lengths: the number of steps of each sequence; T by default.
            branches: the number of final steps that run in parallel, each from the state before the first of them,
                instead of one after another. The final state is then that state.

        Returns:
            The head's raw values, such as the logits of tokens: `[T, B, width]`, or `[B, width]` with one output per
            sequence; and the final state. Without a batch axis in `inputs`, there is none here either.

        Raises:
            UserError: if there are branches, but no steps before them, lengths, or no output for each step.
        """
        if not isinstance(inputs, Tensor):
            inputs = torch.as_tensor(inputs, device=next(self.parameters()).device)
        features, state = self._features(inputs, state, lengths, branches)
        return self._raw(features, inputs), state

    def loss(
        self,
        inputs: Tensor,
        targets: Tensor,
        state: State | None = None,
        *,
        lengths: Tensor | None = None,
        weights: Tensor | None = None,
        branches: int = 0,
    ) -> tuple[Tensor, State]:
        """Compute the sum of the losses of all steps or sequences.

        Args:
            inputs, state, lengths, branches: see `forward`.
            targets: see `Head.loss`; for a language model, the ids `[T, B]` of the next tokens.
            weights: a factor for each loss, `[T, B]` or `[B]`; 1 by default.

        Returns:
            The sum, in nats for probabilistic heads, and the final state.
        """
        features, state = self._features(inputs, state, lengths, branches)
        if self.skip:
            return self.head.loss_of(self._raw(features, inputs), targets, weights), state
        return self.head.loss(features, targets, weights), state

    def _raw(self, features: Tensor, inputs: Tensor) -> Tensor:
        found: Tensor = self.head(features)
        return found + inputs[..., : found.shape[-1]] if self.skip else found

    def _features(
        self, inputs: Tensor, state: State | None, lengths: Tensor | None, branches: int
    ) -> tuple[Tensor, State]:
        rate = self.dropout if self.training else 0.0
        vectors, table = self.encoder.vectors(inputs, rate)
        if branches:
            options = self.recurrent.options
            if lengths is not None or not self.per_step or options.bidirectional or options.reverse:
                raise UserError("branches need a network with an output for each step, forward in time, and no lengths")
            output, state = self._branched(vectors, table, state, branches)
        else:
            output, state = self._run(vectors, state, lengths=lengths, table=table)
        return (dropped(output, rate) if rate else output), state

    def _run(self, vectors: Tensor, state: State | None, **options: Any) -> tuple[Tensor, State]:
        """Run the layers on vectors, whose last features are the layers' inputs other than x."""
        others = self.recurrent.step_inputs
        if others:
            widths = [self.recurrent.input_size, *(given.width for given in others)]
            vectors, *parts = torch.split(vectors, widths, -1)
            options |= zip((given.name for given in others), parts, strict=True)
        found: tuple[Tensor, State] = self.recurrent(vectors, state, **options)
        return found

    def _branched(
        self, vectors: Tensor, table: Tensor | None, state: State | None, branches: int
    ) -> tuple[Tensor, State]:
        """Run the layers over the first steps, then over each of the last steps as a sequence of its own."""
        steps, rows = vectors.shape[:2]
        if not 0 < branches < steps:
            raise UserError(f"branches must be at least 0 and less than the number of steps, {steps}, got {branches}")
        first, state = self._run(vectors[:-branches], state, table=table)
        starts = tuple(each.repeat(1, branches, 1) for each in ((state,) if isinstance(state, Tensor) else state))
        each_step = vectors[-branches:].flatten(0, 1)[None]
        last, _ = self._run(each_step, starts[0] if isinstance(state, Tensor) else starts, table=table)
        return torch.cat([first, last.view(branches, rows, -1)]), state


def detached(state: State) -> State:
    """Detach a state from its history, to truncate backpropagation through time."""
    return state.detach() if isinstance(state, Tensor) else tuple(tensor.detach() for tensor in state)
