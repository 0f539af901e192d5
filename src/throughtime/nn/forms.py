"""Convert between the input forms that recurrent layers accept and a time-major tensor with a layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from throughtime.engines.base import Layout, packed_positions
from throughtime.errors import UserError

Output = Tensor | PackedSequence | tuple[Tensor | PackedSequence, ...]
State = Tensor | tuple[Tensor, ...]
Lengths = Tensor | Sequence[int]


def states_of(state: State | None) -> tuple[Tensor, ...]:
    """Return a state's tensors as a tuple, empty for None."""
    return () if state is None else (state,) if isinstance(state, Tensor) else tuple(state)


class Form(NamedTuple):
    """The form of a caller's input, used to convert results back to it.

    Attributes:
        layout: the layout that the stack runs on.
        order: for each sequence of the layout, its index in the caller's batch; None if the order is unchanged.
        packed: the input, if it is a packed sequence.
        single: whether the input is one sequence without a batch axis.
        batch_first: whether the batch axis comes before time.
        unpack: the layout whose `pad` restores the caller's order of sequences, if lengths were given.
        reset: `[T, B]` in the layout's order, nonzero where a sequence's states are reset before the step.
    """

    layout: Layout
    order: Tensor | None = None
    packed: PackedSequence | None = None
    single: bool = False
    batch_first: bool = False
    unpack: Layout | None = None
    reset: Tensor | None = None

    def states(self, state: State | None) -> Sequence[Tensor] | None:
        """Return the caller's initial states as `[layers * directions, B, width]`, in the layout's order."""
        if state is None:
            return None
        states = states_of(state)
        if self.single:
            return [s.unsqueeze(1) for s in states]
        return states if self.order is None else [s[:, self.order] for s in states]

    def with_reset(self, reset: Tensor) -> Form:
        """Add a reset mask shaped like the input without its features."""
        mask = reset.unsqueeze(1) if self.single else reset.T if self.batch_first else reset
        return self._replace(reset=mask if self.order is None else mask[:, self.order])

    def laid_out(self, given: Tensor | PackedSequence) -> Tensor:
        """Convert another input in the same form to `[T, B, width]`, or `[N, width]` if packed."""
        if isinstance(given, PackedSequence):
            return given.data
        x = given.unsqueeze(1) if self.single else given.transpose(0, 1) if self.batch_first else given
        return x if self.unpack is None else self.unpack.pack(x)

    def output(self, outputs: Sequence[Tensor], returns: str) -> Output:
        """Convert a stack's outputs to the caller's form; a tuple if there are several.

        Args:
            outputs: the outputs of `Stack.run_layers`.
            returns: the steps that they contain; see `throughtime.nn.options.Options`.
        """
        axis = _BATCH_AXIS[returns]
        by_step = returns == "steps"
        found: list[Tensor | PackedSequence]
        if self.packed is not None and by_step:
            found = [self.packed._replace(data=y) for y in outputs]
        elif self.unpack is not None and by_step:
            found = [self.unpack.pad(y) for y in outputs]
        elif self.layout.restore is not None:
            found = [self.layout.restored(y, axis) for y in outputs]
        else:
            found = list(outputs)
        if self.single:
            found = [y.squeeze(axis) for y in found]  # type: ignore[union-attr]
        elif self.batch_first and axis == 1 and self.packed is None:
            found = [y.transpose(0, 1) for y in found]  # type: ignore[union-attr]
        return found[0] if len(found) == 1 else tuple(found)

    def final(self, states: Sequence[Tensor]) -> State:
        """Convert final states `[layers * directions, B, width]` to the caller's form; a tuple if there are several."""
        if self.single:
            states = [s.squeeze(1) for s in states]
        elif self.layout.restore is not None:
            states = [self.layout.restored(s, 1) for s in states]
        return states[0] if len(states) == 1 else tuple(states)


_BATCH_AXIS = {"steps": 1, "last": 0, "states": 2}


def form_of(
    input: Tensor | PackedSequence,
    *,
    batch_first: bool = False,
    lengths: Lengths | None = None,
    reset: Tensor | None = None,
    token_ids: bool = False,
) -> tuple[Tensor, Form]:
    """Convert an input to the time-major tensor that a stack runs on.

    Args:
        input: `[T, B, features]` (`[B, T, features]` if `batch_first`), `[T, features]`, or a packed sequence.
        batch_first: whether the batch axis comes first in input and output.
        lengths: the number of steps of each sequence, 0 to T; T by default.
        reset: a mask with the shape of the input without its features, nonzero where a sequence's states are reset.
        token_ids: whether the input is `[T, B]`, without features.

    Returns:
        The tensor, `[T, B, features]` or `[N, features]` if packed, and the input's form.

    Raises:
        UserError: if lengths are not B integers from 0 to T, the mask's shape is wrong, or either comes with a packed
            sequence.
    """
    if isinstance(input, PackedSequence):
        if lengths is not None or reset is not None:
            raise UserError("lengths and reset need a padded input, got a packed sequence")
        sizes: list[int] = input.batch_sizes.tolist()
        layout = Layout(len(sizes), sizes[0] if sizes else 0, sizes, True, restore=input.unsorted_indices)
        return input.data, Form(layout, input.sorted_indices, input)
    if input.dim() == 2 and not token_ids:
        x = input.unsqueeze(1)
        single, batch_first = True, False
    else:
        x = input.transpose(0, 1) if batch_first else input
        single = False
    steps, rows, *_ = x.shape
    if lengths is None:
        form = Form(Layout(steps, rows), None, None, single, batch_first)
    else:
        order, sizes = _order_and_batch_sizes(lengths, steps, rows)
        order = order.to(x.device)
        positions = packed_positions(rows, sizes).to(x.device)
        layout = Layout(steps, rows, sizes, True, positions, torch.argsort(order))
        row = positions % layout.rows
        theirs = layout._replace(positions=positions - row + order[row], restore=None)
        x, form = theirs.pack(x), Form(layout, order, None, single, batch_first, theirs)
    if reset is None:
        return x, form
    _require_reset(reset, list(input.shape if token_ids else input.shape[:-1]))
    return x, form.with_reset(reset)


def _require_reset(reset: Tensor, shape: list[int]) -> None:
    """Raise UserError unless a reset mask has the shape of the input without the features."""
    given = list(reset.shape) if isinstance(reset, Tensor) else type(reset).__name__
    if given != shape:
        raise UserError(f"reset must have shape {shape}, got {given}")


def _order_and_batch_sizes(lengths: Lengths, steps: int, rows: int) -> tuple[Tensor, list[int]]:
    """Sort sequences from long to short and count the active ones at each step.

    Raises:
        UserError: if lengths are not B integers from 0 to T.
    """
    try:
        numbers = torch.as_tensor(lengths).cpu()
    except (TypeError, ValueError):
        raise UserError(f"lengths must be {rows} integers from 0 to {steps}, got {lengths!r}") from None
    given = numbers.to(torch.int64)
    if given.shape != (rows,) or bool(((given < 0) | (given > steps) | (given != numbers)).any()):
        raise UserError(f"lengths must be {rows} integers from 0 to {steps}, got {numbers.tolist()}")
    order = torch.argsort(given, descending=True, stable=True)
    sizes: list[int] = (given[:, None] > torch.arange(steps)).sum(0).tolist()
    return order, sizes
