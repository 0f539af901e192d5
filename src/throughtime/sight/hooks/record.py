"""Record named values of a model's recurrent layers at each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.engines.base import Layout
from throughtime.engines.taps import Tap
from throughtime.errors import UserError, nearest
from throughtime.nn.hooks import Hook, LayerDirection
from throughtime.program.core import INPUT, Program
from throughtime.program.recording import ValueSlice
from throughtime.sight.hooks.selection import Chosen, Selection
from throughtime.sight.hooks.value_names import Values, listed, require_matches, values_of
from throughtime.sight.models import hooked
from throughtime.tables import html_table

BUDGET_BYTES = 2 << 30


def record(
    model: Any,
    *patterns: str,
    steps: Chosen = None,
    units: Chosen = None,
    gradients: bool = False,
    budget_bytes: int = BUDGET_BYTES,
) -> AbstractContextManager[Tape]:
    """Record named values of a model's recurrent layers while the model runs.

        with throughtime.record(model, "layer0.forget", "*.cell") as tape:
            model(x)
        tape["layer0.forget"]  # [T, B, H]

    A value's name consists of the recurrent module's path in the model (omitted if there is only one), the layer,
    `reverse` for the reverse direction, and the name in the cell's equations: `layer0.forget`, `layer0.cell.previous`,
    `encoder.layer1.reverse.input.pre`. Recording leaves results and gradients bit-identical.

    Args:
        model: any torch module that contains throughtime's recurrent layers.
        *patterns: names, in which `*` matches any text, `?` one character and `[...]` one of several characters.
        steps: the steps to keep, as a slice or a list; all by default.
        units: the elements of each value to keep, as a slice or a list; all by default.
        gradients: whether to also keep the gradient of the loss with respect to each value at each step.
        budget_bytes: the memory limit; a run that would exceed it raises an error before it starts.

    Returns:
        A context manager that yields the tape. The tape keeps the recorded values after the block ends, and still
        receives the gradients of its runs.

    Raises:
        UserError: if a pattern matches no value, the budget is not a positive number, or the model has no throughtime
            layers.
    """
    values = values_of(model)
    if not patterns:
        raise UserError("pass the names of values to record, such as 'layer0.*'; '*' records every named value")
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | float) or not budget_bytes > 0:
        raise UserError(f"budget_bytes must be a positive number of bytes, got {budget_bytes!r}")
    found = require_matches(values, patterns)
    tape = Tape(list(dict.fromkeys(name for names in found.values() for name in names)), values, budget_bytes)
    recorders = [
        (each.module, _Recorder(tape, each, patterns, Selection("steps", steps), Selection("units", units), gradients))
        for each in values
    ]
    return _recording(tape, recorders)


@contextmanager
def _recording(tape: Tape, recorders: Sequence[tuple[Any, Hook]]) -> Iterator[Tape]:
    with ExitStack() as stack:
        for module, recorder in recorders:
            stack.enter_context(hooked(module, recorder))
        yield tape


class Call(Mapping[str, Tensor]):
    """The recorded values of one run of a recurrent module: a mapping from names to `[T, B, H]`.

    Time is the first axis and sequences are in the caller's order, whatever the form of the input. Packed sequences are
    padded with zeros. The values are detached, and may share memory with tensors that backward reads.
    """

    def __init__(self, values: Values) -> None:
        self._of = values
        self._values: dict[str, Tensor] = {}
        self._gradients: dict[str, Tensor] = {}
        self._size = 0  # bytes

    def __getitem__(self, name: str) -> Tensor:
        return self._values[self._known(name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._short(name) in self._values

    def __repr__(self) -> str:
        return f"<call: {', '.join(f'{name} {list(value.shape)}' for name, value in self.items())}>"

    def gradient(self, name: str) -> Tensor:
        """Return the gradient of the loss with respect to a value at each step, `[T, B, H]`; see `Tape.gradient`."""
        name = self._known(name)
        if name not in self._gradients:
            raise UserError(
                f"no gradient has reached {name!r}: record with gradients=True, run the model with gradients enabled "
                "and parameters or inputs that require them, and call backward on the loss"
            )
        return self._gradients[name]

    def _short(self, name: str) -> str:
        full = self._of.full_path
        return self._of.path + name[len(full) :] if full and name.startswith(full) else name

    def _known(self, name: str) -> str:
        short = self._short(name)
        if short not in self._values:
            raise _unknown(name, list(self._values))
        return short

    def _keep(self, where: dict[str, Tensor], name: str, value: Tensor) -> None:
        self._size += 0 if name in where else value.numel() * value.element_size()
        where[name] = value


class Tape:
    """Recorded values.

    Attributes:
        calls: the runs of recurrent modules, in order; each maps names to values and has `gradient(name)`.
        names: the recorded names.
    """

    def __init__(self, names: list[str], values: Sequence[Values], budget_bytes: int) -> None:
        self.calls: list[Call] = []
        self.names = names
        self._of = values
        self._budget = budget_bytes

    def __getitem__(self, name: str) -> Tensor:
        """Return a value at each step, `[T, B, H]`, if its layer ran once.

        Raises:
            UserError: if it was not recorded, or its layer ran several times.
        """
        return self._only(name)[name]

    def gradient(self, name: str) -> Tensor:
        """Return the gradient of the loss with respect to a value at each step, `[T, B, H]`.

        The gradient includes all uses of the value after it is computed: that of `layer0.cell` at step t covers its
        uses at step t and later, that of `layer0.cell.previous` its uses within step t only. It accumulates over calls
        of backward, as a parameter's `grad` does, and is zero where the loss does not depend on the value.

        Raises:
            UserError: if no gradient has arrived yet, or the layer ran several times.
        """
        return self._only(name).gradient(name)

    def joined(self, name: str) -> Tensor:
        """Concatenate a value over all runs of its layer along time, `[sum of T, B, H]`.

        Raises:
            UserError: if it was not recorded, or the runs differ in batch size.
        """
        values = [call[name] for call in self._with(name)]
        rows = sorted({value.shape[1] for value in values})
        if len(rows) > 1:
            raise UserError(
                f"cannot join the runs of {name!r} along time: their batch sizes are {rows}; use tape.calls instead"
            )
        return torch.cat(values)

    def clear(self) -> None:
        """Discard all calls to free their memory; recording continues."""
        self.calls.clear()

    def __repr__(self) -> str:
        return f"<tape of {len(self.calls)} call{'s' * (len(self.calls) != 1)}: {listed(self.names)}>"

    def _repr_html_(self) -> str:
        rows = [
            (name, k, list(value.shape), value.dtype)
            for k, call in enumerate(self.calls)
            for name, value in call.items()
        ]
        return html_table(("value", "call", "[T, B, H]", "type"), rows, repr(self).strip("<>"))

    def _with(self, name: str) -> list[Call]:
        found = [call for call in self.calls if name in call]
        if found:
            return found
        if not any(name in (n, *(v.full_path + n.removeprefix(v.path) for v in self._of)) for n in self.names):
            raise _unknown(name, self.names)
        raise UserError(
            f"{name!r} was not recorded because its layer has not run: run the model inside the `with` block. A model "
            "captured by torch.compile or torch.export can't be recorded; run the original model instead"
        )

    def _only(self, name: str) -> Call:
        found = self._with(name)
        if len(found) > 1:
            indices = [k for k, call in enumerate(self.calls) if name in call]
            shown = ", ".join(map(str, indices[:5])) + (" ..." if len(indices) > 5 else "")
            raise UserError(
                f"{name!r} was recorded in {len(found)} runs of its layer: use tape.calls[k][{name!r}] with k one of "
                f"{shown}, or tape.joined({name!r}) to concatenate them"
            )
        return found[0]


def _unknown(name: str, known: list[str]) -> UserError:
    return UserError(f"{name!r} was not recorded{nearest(str(name), known)}; recorded: {listed(known)}")


class _Part(NamedTuple):
    """The elements of a value to record.

    Attributes:
        name, label: its names in the layer's program and in the model.
        start, width: the range of elements to write, from the first to the last one kept.
        units: the elements of this range to keep; all if None.
    """

    name: str
    label: str
    start: int
    width: int
    units: Sequence[int] | None


class _Recorder(Hook):
    """Record the runs of one recurrent module."""

    leaves_graph = True

    def __init__(
        self, tape: Tape, values: Values, patterns: Sequence[str], steps: Selection, units: Selection, gradients: bool
    ) -> None:
        self.tape, self.values = tape, values
        self.steps, self.units, self.gradients = steps, units, gradients
        # Resolve names in the cell's own equations: hooks that rewrite the program may add more.
        self.parts = {
            direction: [
                self._part(direction, program, name) for name in values.all_matching(patterns, direction, program)
            ]
            for direction, program in values.programs()
        }
        recorded = [
            program.body[program.values[p.name]]
            for direction, program in values.programs()
            for p in self.parts[direction]
        ]
        self.takes_token_ids = all(instruction.op != INPUT for instruction in recorded)

    def begin(self, layout: Layout) -> None:
        """Start a call if it fits the budget."""
        if torch.compiler.is_compiling():
            self.in_graph()
        self.layout, self.call = layout, Call(self.values)
        self.chosen = self.steps.of(layout.steps, "a run")
        self._check_budget()

    def tap(self, direction: LayerDirection, program: Program) -> Tap | None:
        """Request the values whose names match."""
        parts = self.parts[direction]
        if not parts:
            return None
        slices = tuple(ValueSlice(program.values[p.name], p.start, p.width) for p in parts)
        call, layout, steps = self.call, self.layout, self.chosen

        def receive(values: list[Tensor]) -> None:
            if not call._values:
                self.tape.calls.append(call)
            for part, value in zip(parts, values, strict=True):
                call._keep(call._values, part.label, _chosen(value, layout, steps, part.units))

        def receive_gradients(gradients: list[Tensor]) -> None:
            for part, value in zip(parts, gradients, strict=True):
                new, old = _chosen(value, layout, steps, part.units), call._gradients.get(part.label)
                call._keep(call._gradients, part.label, new if old is None else old + new)

        return Tap(slices, receive, slices if self.gradients else (), receive_gradients)

    def in_graph(self) -> str:
        """Raise UserError: values can't be recorded in a captured graph."""
        raise UserError(
            "values can't be recorded in a graph captured by torch.compile or torch.export: run the original, "
            "uncompiled model instead"
        )

    def _part(self, direction: LayerDirection, program: Program, name: str) -> _Part:
        label, width = self.values.name(direction, name), program.body[program.values[name]].width
        units = self.units.of(width, label)
        if units is None:
            return _Part(name, label, 0, width, None)
        start = min(units)
        return _Part(name, label, start, max(units) + 1 - start, [unit - start for unit in units])

    def _check_budget(self) -> None:
        """Raise an error before a run that would exceed the memory budget."""
        assert isinstance(self.values.module, nn.Module)
        number = self.layout.rows * next(self.values.module.parameters()).element_size() * (2 if self.gradients else 1)
        steps = self.layout.steps if self.chosen is None else len(self.chosen)
        kept = written = 0
        for parts in self.parts.values():
            of_layer = steps * number * sum(p.width if p.units is None else len(p.units) for p in parts)
            kept += of_layer
            # A layer writes all steps; the unwanted ones are dropped after it has run.
            written = max(written, self.layout.steps * number * sum(p.width for p in parts) - of_layer)
        before = sum(call._size for call in self.tape.calls)
        if before + kept + written > self.tape._budget:
            held = f" in addition to {_size(before)} in the {len(self.tape.calls)} recorded calls" if before else ""
            raise UserError(
                f"recording this run would take {_size(kept + written)}{held}, but the budget is "
                f"{_size(self.tape._budget)}: record fewer values, units or steps, "
                f"{'call tape.clear() between runs, ' if before else ''}or pass a larger budget_bytes"
            )


def _chosen(value: Tensor, layout: Layout, steps: Sequence[int] | None, units: Sequence[int] | None) -> Tensor:
    """Return the chosen steps and units of a value, with sequences in the caller's order."""
    if layout.restore is not None:
        value = value.index_select(1, layout.restore)
    for axis, chosen in ((0, steps), (2, units)):
        if chosen is not None and list(chosen) != list(range(value.shape[axis])):
            value = value.index_select(axis, torch.tensor(chosen, device=value.device))
    # A view would keep the whole tensor alive.
    whole = value.untyped_storage().nbytes() <= value.numel() * value.element_size()
    return value if whole else value.clone()


def _size(count: int) -> str:
    """Format a number of bytes."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count = count / 1024  # type: ignore[assignment]
    return f"{count:.3g} GiB"
