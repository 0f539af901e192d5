"""The recurrent layer of any cell."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from throughtime import cells
from throughtime.engines import get
from throughtime.errors import UserError
from throughtime.nn.features import Feature
from throughtime.nn.initialise import Scheme, initialise
from throughtime.nn.stack import Layers, run_any_form, ways_of
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.stored import stored_name

State = Tensor | tuple[Tensor, ...]


class Recurrent(nn.Module):
    """A stack of recurrent layers of one cell.

    Parameters are the cell's, fused, with the layer's number: `weight_x_l0`, `weight_h_l0`, `bias_l0`, and so on, and
    `_reverse` for the backward direction.

    Args:
        cell: a named cell, or a definition under `@throughtime.cell`.
        input_size: the number of features of the input.
        hidden_size: the number of hidden units of each layer.
        num_layers: the number of layers.
        bias: whether gates have a bias.
        batch_first: whether input and output are `[B, T, features]`; states are not touched by it.
        dropout: the probability with which an element between two layers is dropped in training.
        bidirectional: whether each layer runs in both directions of time, outputs side by side.
        engine: the engine's name; chosen by device if not given.
        device, dtype: of the parameters.
        **hyper: the cell's hyper-parameters.

    Raises:
        UserError: if a size, a name or the cell is not right.
    """

    watching: tuple[Feature, ...] = ()  # what records or edits

    def __init__(
        self,
        cell: str | Cell,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **hyper: Any,
    ) -> None:
        if not isinstance(num_layers, int) or num_layers < 1:
            raise UserError(f"num_layers must be a whole number of 1 or more; given {num_layers!r}.")
        definition = cells.get(cell)
        programs, width = [], input_size
        for _ in range(num_layers):
            programs.append(definition.program(width, hidden_size, bias=bias, **hyper))
            width = output_width(programs[-1]) * (2 if bidirectional else 1)
        self._build(programs, hidden_size, batch_first, dropout, bidirectional, engine, device, dtype)

    @classmethod
    def from_programs(
        cls,
        programs: Sequence[Program],
        hidden_size: int,
        *,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        engine: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Recurrent:
        """A stack of layers from their programs (loaded from a file, say), where the cell's equations are absent.

        Args:
            programs: each layer's program.
            hidden_size: the number of hidden units, for the initialisation.
            batch_first, dropout, bidirectional, engine, device, dtype: see the class.

        Raises:
            UserError: if a layer does not take what the one below gives.
        """
        module = cls.__new__(cls)
        module._build(programs, hidden_size, batch_first, dropout, bidirectional, engine, device, dtype)
        return module

    def _build(
        self,
        programs: Sequence[Program],
        hidden_size: int,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        engine: str | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> None:
        super().__init__()
        if not 0 <= dropout <= 1:
            raise UserError(f"dropout is a probability from 0 to 1; given {dropout!r}.")
        if engine is not None:
            get(engine)
        directions = 2 if bidirectional else 1
        for below, above in pairwise(programs):
            if above.inputs[0].width != output_width(below) * directions:
                raise UserError(
                    f"a layer gives {output_width(below) * directions} features, but the next one takes "
                    f"{above.inputs[0].width}."
                )
        self.programs = tuple(programs)
        self._ways = [tuple(ways_of(program, directions)) for program in programs]
        self.hidden_size, self.num_layers = hidden_size, len(programs)
        self.batch_first, self.dropout, self.bidirectional, self.engine = batch_first, dropout, bidirectional, engine
        for name, parameter in self._declared():
            tensor = torch.empty(parameter.shape, device=device, dtype=dtype)
            self.register_parameter(name, nn.Parameter(tensor))
        self.reset_parameters()

    @property
    def input_size(self) -> int:
        """The number of features of the input."""
        return self.programs[0].inputs[0].width

    @property
    def output_size(self) -> int:
        """The number of features of the output, of both directions if there are two."""
        return output_width(self.programs[-1]) * (2 if self.bidirectional else 1)

    def reset_parameters(self, scheme: Scheme = "uniform", forget_bias: float | None = None) -> None:
        """Sets all parameters to what they start with; see `throughtime.nn.initialise.initialise`."""
        for name, parameter in self._declared():
            initialise(self.get_parameter(name), parameter, self.hidden_size, scheme, forget_bias)

    def forward(
        self,
        input: Tensor | PackedSequence,
        state: State | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        reset: Tensor | None = None,
    ) -> tuple[Tensor | PackedSequence, State]:
        """Runs the layers over all steps.

        Args:
            input: `[T, B, input_size]` (`[B, T, input_size]` if `batch_first`), `[T, input_size]`, or a packed
                sequence.
            state: the initial `[layers * directions, B, width]`, for a cell of several states a tuple of them; what
                the cell declares if not given.
            lengths: the number of steps of each row, 0 to T; outputs after a row's end are 0 and its state is the one
                at its end.
            reset: `[T, B]` (`[B, T]`, `[T]`, as the input), not 0 where a row's states start afresh, as at the first
                step of an episode.

        Returns:
            The output, of the form of the input with `output_size` features, and the final state, as `state`.

        Raises:
            UserError: if a shape does not fit.
        """
        initial = None if state is None else [state] if isinstance(state, Tensor) else list(state)
        self._check(input, initial)
        if reset is not None and isinstance(input, Tensor) and reset.shape != input.shape[:-1]:
            raise UserError(f"reset must have the shape {list(input.shape[:-1])}; given {list(reset.shape)}.")
        output, final = run_any_form(
            self.layers(),
            input,
            initial,
            batch_first=self.batch_first,
            dropout=self.dropout if self.training else 0.0,
            engine=self.engine,
            lengths=lengths,
            reset=reset,
            features=self.watching,
        )
        return output, final[0] if len(final) == 1 else tuple(final)

    def _check(self, input: Tensor | PackedSequence, states: list[Tensor] | None) -> None:
        packed = isinstance(input, PackedSequence)
        data = input.data if isinstance(input, PackedSequence) else input
        if data.dim() not in ((2,) if packed else (2, 3)) or data.shape[-1] != self.input_size:
            axes = "B, T" if self.batch_first else "T, B"
            raise UserError(
                f"the input must be [{axes}, {self.input_size}] or [T, {self.input_size}]; given {list(data.shape)}."
            )
        if states is None:
            return
        rows = []
        if isinstance(input, PackedSequence):
            rows = [int(input.batch_sizes[0])]
        elif input.dim() == 3:
            rows = [input.shape[0 if self.batch_first else 1]]
        layers = self.num_layers * (2 if self.bidirectional else 1)
        wanted = [[layers, *rows, s.width] for s in self.programs[0].states]
        given = [list(s.shape) for s in states]
        if given != wanted:
            names = ", ".join(s.name for s in self.programs[0].states)
            raise UserError(f"the state ({names}) must have the shape {wanted}; given {given}.")

    def layers(self) -> Layers:
        """Each layer's directions: a program and its parameters, as they are now."""
        return [
            [
                (way, [self.get_parameter(stored_name(p.name, suffix)) for p in way.parameters])
                for way, suffix in zip(ways, suffixes, strict=True)
            ]
            for ways, suffixes in zip(self._ways, self._suffixes(), strict=True)
        ]

    def _suffixes(self) -> list[tuple[str, ...]]:
        ends = ("", "_reverse") if self.bidirectional else ("",)
        return [tuple(f"_l{layer}{end}" for end in ends) for layer in range(self.num_layers)]

    def _declared(self) -> Iterator[tuple[str, Any]]:
        for program, suffixes in zip(self.programs, self._suffixes(), strict=True):
            for suffix in suffixes:
                for parameter in program.parameters:
                    yield stored_name(parameter.name, suffix), parameter

    def extra_repr(self) -> str:
        """What is printed of the module."""
        shown = f"{self.programs[0].name}, {self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        for name in ("batch_first", "dropout", "bidirectional", "engine"):
            if getattr(self, name):
                shown += f", {name}={getattr(self, name)!r}"
        return shown


def output_width(program: Program) -> int:
    """The number of features of a program's first output."""
    return program.body[program.outputs[0].value].width
