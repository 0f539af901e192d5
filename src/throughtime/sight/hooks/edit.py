"""Edit named values of a model's recurrent layers at each step."""

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
from throughtime.program.editing import PYTHON, Edit, OutsideLanguageError, other_values, with_edits
from throughtime.sight.hooks.selection import Chosen, Selection
from throughtime.sight.hooks.value_names import Values, require_matches, values_of
from throughtime.sight.models import hooked

New = Callable[..., Any] | Any  # a function, a number, or an array


def edit(
    model: Any, changes: Mapping[str, New], *, steps: Chosen = None, units: Chosen = None
) -> AbstractContextManager[None]:
    """Replace named values of a model's recurrent layers while the model runs.

        with throughtime.edit(model, {"layer0.forget": 1.0}, units=[3]):
            model(x)  # the third unit of the first layer forgets nothing

    Everything computed from the value, in the same step and later, uses the replacement: an edit of the state
    `layer0.cell` carries over to later steps, an edit of `layer0.cell.previous` affects only the step that reads it,
    and an edit of `layer0.forget.pre` passes through the sigmoid. Gradients are those of the edited network. Recording
    the name returns the replacement. When edits are nested, the outer ones apply first.

    Args:
        model: any torch module that contains throughtime's recurrent layers.
        changes: maps names, with wildcards as in `throughtime.record`, to their replacements. A replacement is one of:

            - a number;
            - an array or tensor that broadcasts to `[T, B, H]`, such as values recorded in another run, or to `[H]`,
              with sequences in the caller's order. Its size along steps and units is that of the selection, of the
              full axis, or 1;
            - a function in the cell language (operators and `throughtime.language`) that maps the value to its
              replacement. Further parameters receive other values of the layer by name, with `_` for a dot:
              `lambda forget, cell_previous: ...`. With the `reference` engine, it may be any Python function of
              tensors `[rows, H]`, where rows span one step or several.
        steps: the steps to edit, as a slice or a list; all by default.
        units: the elements of the value to edit, as a slice or a list; all by default.

    Returns:
        A context manager that restores the model on exit.

    Raises:
        UserError: if a name matches no value, two names match the same value, or a replacement does not fit.
    """
    values = values_of(model)
    if not isinstance(changes, Mapping) or not changes:
        raise UserError(f"changes must be a dictionary from names to replacements, got {changes!r}")
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
    """Raise an error for a replacement that can't be a value."""
    if isinstance(new, Real) and not isinstance(new, bool):
        if math.isnan(new):
            raise UserError(f"the replacement of {pattern!r} must not be NaN")
        return
    try:
        tensor = torch.as_tensor(new)
    except (TypeError, ValueError, RuntimeError):
        tensor = None
    if isinstance(new, str | bool) or tensor is None or tensor.dim() > 3 or tensor.is_complex():
        shown = f"{type(new).__name__} {new!r}" if tensor is None or tensor.dim() < 4 else f"shape {list(tensor.shape)}"
        raise UserError(
            f"the replacement of {pattern!r} must be a number, an array that fits [T, B, H], or a function in the cell "
            f"language; got {shown}"
        )


class _Editor(Hook):
    """Edit the runs of one recurrent module.

    Attributes:
        changes: for each direction of each layer, the edits and the replacements that the user passed.
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
        """Resolve the selected steps for this run."""
        if torch.compiler.is_compiling():
            self.in_graph()
        self.layout = layout
        self.chosen = self.steps.of(layout.steps, "a run")
        self.order = None if layout.restore is None else torch.argsort(layout.restore)

    def rewrite(self, direction: LayerDirection, program: Program) -> Program:
        """Insert this layer's edits into the program."""
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
        """Return the replacement arrays and the mask of the selected steps."""
        if not self.changes[direction]:
            return []
        found = [self._array(direction, edit, given, x) for edit, given in self.changes[direction] if edit.new is None]
        if self.chosen is not None:
            mask = x.new_zeros(self.layout.steps, 1, 1)
            mask[list(self.chosen)] = 1.0
            found.append(mask.expand(-1, self.layout.rows, -1))
        return found

    def engine(self, direction: LayerDirection, program: Program, chosen: Engine) -> Engine:
        """Use a reference engine that can call the Python functions among the edits."""
        calls = self._calls.get(direction)
        if not calls:
            return chosen
        before = chosen.calls if isinstance(chosen, ReferenceEngine) else {}
        return ReferenceEngine({**before, **{program.values[site]: call for site, call in calls.items()}})

    def in_graph(self) -> str:
        """Raise UserError: values can't be edited in a captured graph."""
        raise UserError(
            "values can't be edited in a graph captured by torch.compile or torch.export: run the original, "
            "uncompiled model instead"
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
                        f"{pattern!r} and {taken[id]!r} both edit the value {label!r}: keep one of them, or nest one "
                        "edit inside the other"
                    )
                taken[id] = pattern

    def _complete(self, edit: Edit, program: Program, new: New) -> Edit:
        """Add the number or function to an edit, so that an invalid one raises an error before the run."""
        if isinstance(new, Real) or callable(new):
            edit = replace(edit, new=new if callable(new) else float(new))
        try:
            with_edits(program, [edit], False)
        except OutsideLanguageError:
            if self.values.module.engine != "reference" or other_values(new):
                raise
            return replace(edit, python=True)
        return edit

    def _array(self, direction: LayerDirection, edit: Edit, given: Any, x: Tensor) -> Tensor:
        """Return an array as an input of the layer's program: `[T, B, H]`, sequences in internal order."""
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
                chosen_too = f", {len(chosen)} (the selection)" if chosen is not None else ""
                raise UserError(
                    f"the replacement of {edit.label!r} has shape {list(shape)}, which must fit [T, B, H] = "
                    f"{list(sizes)}: {'TBH'[axis]} may be {size}{chosen_too}, or 1"
                )
        if self.order is not None and tensor.shape[1] > 1:
            tensor = tensor.index_select(1, self.order)
        return tensor.expand(sizes)
