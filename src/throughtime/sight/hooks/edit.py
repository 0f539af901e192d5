"""Editing: named values of a model's recurrent layers are replaced at each step, while the model runs as usual."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from throughtime.engines.base import Engine, Layout
from throughtime.engines.reference import ReferenceEngine
from throughtime.errors import UserError
from throughtime.nn.hooks import Hook, LayerDirection
from throughtime.program.core import Program
from throughtime.program.editing import PYTHON, Edit, NotOfTheLanguage, other_values, with_edits
from throughtime.sight.hooks.selection import Chosen, Selection
from throughtime.sight.hooks.value_names import Values, require_matches, values_of
from throughtime.sight.models import hooked

New = Callable[..., Any] | Any  # a function, a number, or an array


def edit(
    model: Any, changes: Mapping[str, New], *, steps: Chosen = None, units: Chosen = None
) -> AbstractContextManager[None]:
    """Replaces named values of a model's recurrent layers while the model runs as usual.

        with throughtime.edit(model, {"layer0.forget": 1.0}, units=[3]):
            model(x)  # the third unit of the first layer forgets nothing

    All that is computed from the value, in the same step and in later ones, is computed from what takes its place: an
    edit of the state `layer0.cell` is carried on, one of `layer0.cell.previous` is what the step alone sees, one of
    `layer0.forget.pre` goes through the sigmoid. Gradients are those of the edited network. What is recorded under the
    name is what took the value's place. Of edits inside one another the outer ones come first.

    Args:
        model: any torch module with recurrent layers of throughtime in it.
        changes: for each name, in which wildcards stand for others as in `throughtime.record`, what takes its place:

            - a number;
            - an array or tensor that fits `[T, B, H]`, as another run's recorded values do, or `[H]`, in the caller's
              order of rows. Along steps and units it has the size of what is chosen, or of all, or 1;
            - a function in the cell language (operators and `throughtime.language`) from the value to what takes its
              direction. Further arguments are other values of the layer by their names, with `_` for a dot:
              `lambda forget, cell_previous: ...`. On the engine `reference` it may be any function of Python on
              tensors `[rows, H]`, which are those of one step or of several.
        steps: at which steps, as a slice or a list; all if not given.
        units: which elements of the value, as a slice or a list; all if not given.

    Returns:
        A context manager; when its block is left the model is as it was.

    Raises:
        UserError: if a name matches no value, two match one, or what takes its place does not fit.
    """
    values = values_of(model)
    if not isinstance(changes, Mapping) or not changes:
        raise UserError(f"changes are a dictionary from names to what takes their values' place; given {changes!r}.")
    require_matches(values, list(changes))
    for pattern, new in changes.items():
        if not callable(new):
            _check(pattern, new)
    editors = [_Editor(each, changes, Selection("steps", steps), Selection("units", units)) for each in values]
    return _editing([(editor.values.module, editor) for editor in editors if any(editor.changes.values())])


@contextmanager
def _editing(editors: Sequence[tuple[Any, Hook]]) -> Iterator[None]:
    with ExitStack() as stack:
        for module, editor in editors:
            stack.enter_context(hooked(module, editor))
        yield


def _check(pattern: str, new: Any) -> None:
    """Refuses what can be no value."""
    if isinstance(new, Real) and not isinstance(new, bool):
        if math.isnan(new):
            raise UserError(f"the new value of {pattern!r} is NaN, which nothing can be computed from.")
        return
    try:
        tensor = torch.as_tensor(new)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if isinstance(new, str | bool) or tensor is None or tensor.dim() > 3 or tensor.is_complex():
        shown = f"{type(new).__name__} {new!r}" if tensor is None or tensor.dim() < 4 else f"shape {list(tensor.shape)}"
        raise UserError(
            f"what takes the place of {pattern!r} is a number, an array that fits [T, B, H], or a function in the cell "
            f"language; given {shown}."
        )


class _Editor(Hook):
    """Takes part in the runs of one recurrent module.

    Attributes:
        changes: for each direction of each layer what becomes of its values, and what the user gave for it.
    """

    leaves_graph = True

    def __init__(self, values: Values, changes: Mapping[str, New], steps: Selection, units: Selection) -> None:
        self.values, self.steps, self.units = values, steps, units
        self.changes: dict[LayerDirection, list[tuple[Edit, Any]]] = {}
        self._widths: dict[tuple[LayerDirection, str], int] = {}
        self._rewritten: dict[tuple[LayerDirection, Program], Program] = {}
        self._calls: dict[LayerDirection, dict[str, Callable[..., Any]]] = {}
        for direction, program in values.programs():
            self.changes[direction] = list(self._edits(direction, program, changes))

    def begin(self, layout: Layout) -> None:
        """Learns which steps are meant."""
        if torch.compiler.is_compiling():
            self.in_graph()
        self.layout = layout
        self.chosen = self.steps.of(layout.steps, "a run")
        self.order = None if layout.restore is None else torch.argsort(layout.restore)

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """The program with the edits of this layer in it."""
        edits = [edit for edit, _ in self.changes[direction]]
        if not edits:
            return program
        if (direction, program) not in self._rewritten:
            self._rewritten[direction, program] = with_edits(program, edits, not self.steps.all)
        edited = self._rewritten[direction, program]
        sites = [name for name in edited.values if name.startswith(PYTHON) and name not in program.values]
        function_of = {edit.name: edit.new for edit in edits if callable(edit.new)}
        self._calls[direction] = {site: function_of[site.removeprefix(PYTHON).split(".", 1)[1]] for site in sites}
        return edited

    def inputs(self, direction: LayerDirection, x: Tensor) -> list[Tensor]:
        """The arrays that take values' places, and the mask of the steps."""
        if not self.changes[direction]:
            return []
        found = [self._array(direction, edit, given, x) for edit, given in self.changes[direction] if edit.new is None]
        if self.chosen is not None:
            mask = x.new_zeros(self.layout.steps, 1, 1)
            mask[list(self.chosen)] = 1.0
            found.append(mask.expand(-1, self.layout.rows, -1))
        return found

    def engine(self, direction: LayerDirection, program: Program, chosen: Engine) -> Engine:
        """The reference engine, made to call the functions of Python among the edits."""
        calls = self._calls.get(direction)
        if not calls:
            return chosen
        before = chosen.calls if isinstance(chosen, ReferenceEngine) else {}
        return ReferenceEngine({**before, **{program.values[site]: call for site, call in calls.items()}})

    def in_graph(self) -> str:
        """Refuses: a graph is as it was captured."""
        raise UserError(
            "torch.compile and torch.export capture a graph in which nothing can be edited: run the model as it was "
            "before it was compiled."
        )

    def _edits(
        self, direction: LayerDirection, program: Program, changes: Mapping[str, New]
    ) -> Iterator[tuple[Edit, Any]]:
        taken: dict[int, str] = {}
        for pattern, new in changes.items():
            for name in self.values.matching(pattern, direction, program):
                id, label = program.values[name], self.values.name(direction, name)
                if id not in taken:
                    width = self._widths[direction, name] = program.body[id].width
                    units = self.units.of(width, label)
                    edit = Edit(name, None, None if units is None else tuple(units), label)
                    yield self._complete(edit, program, new), new
                elif taken[id] != pattern:
                    raise UserError(
                        f"{pattern!r} and {taken[id]!r} are two edits of one value, {label!r}: give one of them, or "
                        "put one edit inside the other."
                    )
                taken[id] = pattern

    def _complete(self, edit: Edit, program: Program, new: New) -> Edit:
        """The edit with its number or function; that the program cannot have it is told now, before a run."""
        if isinstance(new, Real) or callable(new):
            edit = replace(edit, new=new if callable(new) else float(new))
        try:
            with_edits(program, [edit], False)
        except NotOfTheLanguage:
            if self.values.module.engine != "reference" or other_values(new):
                raise
            return replace(edit, python=True)
        return edit

    def _array(self, direction: LayerDirection, edit: Edit, given: Any, x: Tensor) -> Tensor:
        """An array as an input of the layer's program: `[T, B, H]`, rows in the order in which they lie inside."""
        tensor = torch.as_tensor(given).to(x.device, x.dtype)
        shape = tuple(tensor.shape)
        tensor = tensor.reshape((1,) * (3 - tensor.dim()) + shape)
        sizes = (self.layout.steps, self.layout.rows, self._widths[direction, edit.name])
        for axis, (size, chosen) in enumerate(zip(sizes, (self.chosen, None, edit.units), strict=True)):
            length = tensor.shape[axis]
            if chosen is not None and length == len(chosen) > 1:
                index = torch.zeros(size, dtype=torch.long)
                index[list(chosen)] = torch.arange(length)
                tensor = tensor.index_select(axis, index.to(x.device))
            elif length not in (1, size):
                chosen_too = f", or {len(chosen)} for what is chosen" if chosen is not None else ""
                raise UserError(
                    f"the new value of {edit.label!r} has the shape {list(shape)}; it must fit [T, B, H] = "
                    f"{list(sizes)}: {'TBH'[axis]} may be {size}{chosen_too}, or 1."
                )
        if self.order is not None and tensor.shape[1] > 1:
            tensor = tensor.index_select(1, self.order)
        return tensor.expand(sizes)
