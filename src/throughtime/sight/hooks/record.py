"""Recording: the named values of a model's recurrent layers at each step, while the model runs as usual."""

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
from throughtime.program.recording import Stretch
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
    """Records named values of a model's recurrent layers while the model runs as usual.

        with throughtime.record(model, "layer0.forget", "*.cell") as tape:
            model(x)
        tape["layer0.forget"]  # [T, B, H]

    A value's name is the path of the recurrent module in the model (left out where there is only one), the layer, the
    direction if it is the reverse one, and the name in the cell's equations: `layer0.forget`, `layer0.cell.previous`,
    `encoder.layer1.reverse.input.pre`. Results and gradients are the same bits with and without recording.

    Args:
        model: any torch module with recurrent layers of throughtime in it.
        *patterns: names, in which `*` stands for anything, `?` for one character and `[...]` for one of several.
        steps: which steps are kept, as a slice or a list; all if not given.
        units: which elements of each value are kept, as a slice or a list; all if not given.
        gradients: whether the gradient of the loss with respect to each value at each step is kept, too.
        budget_bytes: how much memory may be taken; a run that would take more is refused before it begins.

    Returns:
        A context manager that gives the tape. What is recorded stays on the tape when the block is left; the gradients
        of its runs arrive there even then.

    Raises:
        UserError: if a pattern matches no value, the budget is no size, or the model has no recurrent layers of ours.
    """
    values = values_of(model)
    if not patterns:
        raise UserError("name what is to be recorded, such as 'layer0.*'; '*' is every named value.")
    if isinstance(budget_bytes, bool) or not isinstance(budget_bytes, int | float) or not budget_bytes > 0:
        raise UserError(f"budget_bytes is a number of bytes above 0; given {budget_bytes!r}.")
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
    """What was recorded of one run of a recurrent module: each value `[T, B, H]` by its name.

    Time comes first and the rows are in the caller's order, whatever the form of the input; where a row of a packed
    sequence has ended there are zeros. The values are detached, and may be the memory that backward reads.
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
        """The gradient of the loss with respect to a value at each step, `[T, B, H]`; see `Tape.gradient`."""
        name = self._known(name)
        if name not in self._gradients:
            raise UserError(
                f"no gradient has gone through {name!r}: record with gradients=True, run the model where gradients are "
                "on and something that the value's layer is computed from needs one, and call backward on the loss."
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
    """What was recorded.

    Attributes:
        calls: each run of a recurrent module, in order; each maps names to values and has `gradient(name)`.
        names: the names that are recorded.
    """

    def __init__(self, names: list[str], values: Sequence[Values], budget_bytes: int) -> None:
        self.calls: list[Call] = []
        self.names = names
        self._of = values
        self._budget = budget_bytes

    def __getitem__(self, name: str) -> Tensor:
        """A value at each step, `[T, B, H]`, where its layer ran once.

        Raises:
            UserError: if it was not recorded, or in several runs of its layer.
        """
        return self._only(name)[name]

    def gradient(self, name: str) -> Tensor:
        """The gradient of the loss with respect to a value at each step, `[T, B, H]`.

        It is that of the value as it is at that point of the step: of `layer0.cell` at step t by all its uses at step
        t and after, of `layer0.cell.previous` by its uses within step t alone. Several calls of backward add up, as
        they do in a parameter's `grad`; zero where the loss does not depend on the value.

        Raises:
            UserError: if there is none yet, or of several runs.
        """
        return self._only(name).gradient(name)

    def joined(self, name: str) -> Tensor:
        """A value in all runs of its layer one after the other in time, `[sum of T, B, H]`.

        Raises:
            UserError: if it was not recorded, or the runs differ in their rows.
        """
        values = [call[name] for call in self._with(name)]
        rows = sorted({value.shape[1] for value in values})
        if len(rows) > 1:
            raise UserError(f"the runs of {name!r} have {rows} rows, and cannot be joined in time: see tape.calls.")
        return torch.cat(values)

    def clear(self) -> None:
        """Forgets all calls, which gives their memory back; recording goes on."""
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
            f"{name!r} was not recorded, as no run of its layer was seen: run the model inside the `with` block. A run "
            "that torch.compile or torch.export has captured is not seen: run the model as it was before."
        )

    def _only(self, name: str) -> Call:
        found = self._with(name)
        if len(found) > 1:
            indices = [k for k, call in enumerate(self.calls) if name in call]
            shown = ", ".join(map(str, indices[:5])) + (" ..." if len(indices) > 5 else "")
            raise UserError(
                f"{name!r} was recorded in {len(found)} runs of its layer: say tape.calls[k][{name!r}] with k one of "
                f"{shown}, or tape.joined({name!r}) for all of them one after the other."
            )
        return found[0]


def _unknown(name: str, known: list[str]) -> UserError:
    return UserError(f"{name!r} was not recorded{nearest(str(name), known)} (there are: {listed(known)}).")


class _Part(NamedTuple):
    """What is recorded of one value.

    Attributes:
        name, label: what the layer's program and the user call it.
        start, width: the elements that are written, from the first to the last of those that are kept.
        units: which of these are kept; all if None.
    """

    name: str
    label: str
    start: int
    width: int
    units: Sequence[int] | None


class _Recorder(Hook):
    """Takes part in the runs of one recurrent module."""

    leaves_graph = True

    def __init__(
        self, tape: Tape, values: Values, patterns: Sequence[str], steps: Selection, units: Selection, gradients: bool
    ) -> None:
        self.tape, self.values = tape, values
        self.steps, self.units, self.gradients = steps, units, gradients
        # By the cell's own equations: rewrites may name more.
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
        """Begins a call, if there is room for it."""
        if torch.compiler.is_compiling():
            self.in_graph()
        self.layout, self.call = layout, Call(self.values)
        self.chosen = self.steps.of(layout.steps, "a run")
        self._check_budget()

    def tap(self, direction: LayerDirection, program: Program) -> Tap | None:
        """Asks for the values whose names match."""
        parts = self.parts[direction]
        if not parts:
            return None
        stretches = tuple(Stretch(program.values[p.name], p.start, p.width) for p in parts)
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

        return Tap(stretches, receive, stretches if self.gradients else (), receive_gradients)

    def in_graph(self) -> str:
        """Refuses: what a graph computes is not seen."""
        raise UserError(
            "torch.compile and torch.export capture a graph in which nothing can be recorded: run the model as it was "
            "before it was compiled."
        )

    def _part(self, direction: LayerDirection, program: Program, name: str) -> _Part:
        label, width = self.values.name(direction, name), program.body[program.values[name]].width
        units = self.units.of(width, label)
        if units is None:
            return _Part(name, label, 0, width, None)
        start = min(units)
        return _Part(name, label, start, max(units) + 1 - start, [unit - start for unit in units])

    def _check_budget(self) -> None:
        """Refuses a run that would take more memory than is allowed, before it begins."""
        assert isinstance(self.values.module, nn.Module)
        number = self.layout.rows * next(self.values.module.parameters()).element_size() * (2 if self.gradients else 1)
        steps = self.layout.steps if self.chosen is None else len(self.chosen)
        kept = written = 0
        for parts in self.parts.values():
            of_layer = steps * number * sum(p.width if p.units is None else len(p.units) for p in parts)
            kept += of_layer
            # A layer writes all steps, of which those that are not meant are left out when it has run.
            written = max(written, self.layout.steps * number * sum(p.width for p in parts) - of_layer)
        before = sum(call._size for call in self.tape.calls)
        if before + kept + written > self.tape._budget:
            held = f" beside the {_size(before)} of the {len(self.tape.calls)} calls on the tape" if before else ""
            raise UserError(
                f"recording this run would take {_size(kept + written)}{held}, and the budget is "
                f"{_size(self.tape._budget)}: name fewer values, choose units or steps, "
                f"{'call tape.clear() between runs, ' if before else ''}or give a larger budget_bytes."
            )


def _chosen(value: Tensor, layout: Layout, steps: Sequence[int] | None, units: Sequence[int] | None) -> Tensor:
    """A value of a run as it is kept: rows in the caller's order, the chosen steps and units."""
    if layout.restore is not None:
        value = value.index_select(1, layout.restore)
    for axis, chosen in ((0, steps), (2, units)):
        if chosen is not None and list(chosen) != list(range(value.shape[axis])):
            value = value.index_select(axis, torch.tensor(chosen, device=value.device))
    # A part of a larger tensor would keep the whole of it.
    whole = value.untyped_storage().nbytes() <= value.numel() * value.element_size()
    return value if whole else value.clone()


def _size(count: int) -> str:
    """A number of bytes, for a person."""
    for unit in ("bytes", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count = count / 1024  # type: ignore[assignment]
    return f"{count:.3g} GiB"
