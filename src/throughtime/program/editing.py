"""Edits: program rewrites that replace named values."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from numbers import Real
from typing import Any

from throughtime.errors import UserError, nearest
from throughtime.program.core import Input, Instruction, Program
from throughtime.program.rewriting import Rewriting
from throughtime.program.symbols import Symbol

# Prefix of the names of values that a Python function computes; a number and the value's name follow.
PYTHON = "edit.python"


@dataclass(frozen=True)
class Edit:
    """An edit of one named value.

    Attributes:
        name: the value's name.
        new: the replacement: a number; a function that returns a symbol from the value's symbol and those of other
            named values; or None for an input at each step.
        units: the indices of the elements to replace; all if None.
        label: the user's name for the value.
        python: whether `new` is an arbitrary Python function, which the engine calls.
    """

    name: str
    new: float | Callable[..., Any] | None
    units: tuple[int, ...] | None
    label: str
    python: bool = False


class OutsideLanguageError(UserError):
    """Raised for an edit function that can't be part of a program."""

    def __init__(self, label: str, what: str) -> None:
        super().__init__(
            f"the edit of {label!r} can't be part of the layer's program. {what.rstrip('.')}. The function must use "
            "only the cell language (operators and throughtime.language) and return one of its vectors. For "
            "arbitrary Python on tensors use the reference engine: module.engine = 'reference'"
        )


def with_edits(program: Program, edits: Sequence[Edit], filtered: bool) -> Program:
    """Replace named values, both under their names and wherever they are used.

    Args:
        program: a legal program.
        edits: the edits, each of a different value.
        filtered: whether a mask selects the steps at which the edits apply.

    Returns:
        The program with an additional input of the value's width for each edit whose `new` is None and, if `filtered`,
        a last input of width 1 that is 0 where nothing is replaced. Named values keep their names even if they are no
        longer used.

    Raises:
        UserError: if a function isn't in the cell language, returns another width or needs a later value, or if a value
            can't be distinguished from its parts.
    """
    at: dict[int, list[tuple[int, Edit]]] = {}  # value -> the edits of parts of it, each with its start
    for edit in edits:
        id, start = _place(program, edit)
        at.setdefault(id, []).append((start, edit))
    return _Editing(program, edits, at, filtered).result()


class _Editing(Rewriting):
    def __init__(
        self, program: Program, edits: Sequence[Edit], at: dict[int, list[tuple[int, Edit]]], filtered: bool
    ) -> None:
        self._edits, self._at, self._filtered = edits, at, filtered
        self._depth = len({name.split(".")[1] for name in program.values if name.startswith(PYTHON)})
        super().__init__(program)

    def adds(self) -> Sequence[Input]:
        taken = {given.name for given in self.program.inputs}
        widths = [self._width(edit) for edit in self._edits if edit.new is None] + [1] * self._filtered
        names = (name for k in range(len(taken) + len(widths)) if (name := f"edit.{k}") not in taken)
        return [Input(name, width) for name, width in zip(names, widths, strict=False)]

    def value(self, id: int, given: Symbol) -> Symbol:
        for start, edit in self._at.get(id, ()):
            given = self._with_part(given, start, edit)
        return given

    def _output_symbol(self, id: int, became: dict[int, Symbol]) -> Symbol:
        return self.values[id]  # a state's outputs are its edited value

    def _width(self, edit: Edit) -> int:
        return self.program.body[self.program.values[edit.name]].width

    def _with_part(self, whole: Symbol, start: int, edit: Edit) -> Symbol:
        build, width = self.builder, self._width(edit)
        old = build.slice(whole, start, width)
        mask, new = self._mask(edit), self._new(edit, old)
        part = new if mask is None else build.select(mask, new, old)
        before = [build.slice(whole, 0, start)] if start else []
        after = start + width
        rest = [build.slice(whole, after, whole.width - after)] if after < whole.width else []
        return build.concat(*before, part, *rest)

    def _mask(self, edit: Edit) -> Symbol | None:
        build, width = self.builder, self._width(edit)
        units = None
        if edit.units is not None:
            runs = groupby(range(width), key=set(edit.units).__contains__)
            units = build.concat(*(build.constant(float(meant), len(list(run))) for meant, run in runs))
        if not self._filtered:
            return units
        steps = build.expand(self.added[-1], width)
        return steps if units is None else build.mul(steps, units)

    def _new(self, edit: Edit, old: Symbol) -> Symbol:
        if edit.new is None:
            return self.added[[e.name for e in self._edits if e.new is None].index(edit.name)]
        if not callable(edit.new):
            return self.builder.constant(edit.new, old.width)
        if edit.python:
            site = self.builder.add(old, 0.0)  # a placeholder: the engine calls the function instead
            self.builder.name_value(f"{PYTHON}{self._depth}.{edit.name}", site)
            return site
        return self._called(edit, edit.new, old)

    def _called(self, edit: Edit, function: Callable[..., Any], old: Symbol) -> Symbol:
        others = [self._other(edit, argument) for argument in other_values(function)]
        try:
            new = function(old, *others)
        except Exception as error:
            raise OutsideLanguageError(edit.label, f"{type(error).__name__}: {error}") from error
        if isinstance(new, Real) and not isinstance(new, bool) and not math.isnan(new):
            return self.builder.constant(float(new), old.width)
        if not isinstance(new, Symbol) or new.builder is not self.builder:
            raise OutsideLanguageError(edit.label, f"It returned {type(new).__name__} {new!r}")
        if new.width not in (1, old.width):
            raise UserError(f"the edit of {edit.label!r} must have width {old.width}, got {new.width}")
        return self.builder.expand(new, old.width)

    def _other(self, edit: Edit, argument: str) -> Symbol:
        named = {name.replace(".", "_"): id for name, id in self.program.names}
        if argument not in named:
            raise UserError(
                f"the edit of {edit.label!r} takes {argument!r}, but its layer has no value of that name"
                f"{nearest(argument, named)}; it has {', '.join(named)}. After the value itself, a function takes "
                "other values by name, with _ for a dot"
            )
        if named[argument] >= len(self.values):
            raise UserError(
                f"the edit of {edit.label!r} takes {argument!r}, which is computed after it; a function can take only "
                "values computed before"
            )
        return self.values[named[argument]]


def other_values(function: Callable[..., Any]) -> list[str]:
    """Return the names of the further values that an edit's function takes, with _ instead of a dot."""
    try:
        arguments = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # builtins may have no signature
        return []
    positional = [a for a in arguments if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)]
    return [a.name for a in positional[1:] if a.default is a.empty]


def _place(program: Program, edit: Edit) -> tuple[int, int]:
    """Find where to replace a value so that every use of its elements sees the replacement.

    In a cell's equations a slice is a value of its own, but the program may read the same elements from the whole.

    Returns:
        The value itself and 0, or the value of which it is a slice and the slice's start.

    Raises:
        UserError: if the value is a concatenation of vectors that the cell also uses separately.
    """
    body, given, id = program.body, _given(program), program.values[edit.name]
    whole, start, width = id, 0, body[id].width
    if body[id].op == "slice":
        whole, start = body[id].args[0], body[id]["start"]

        def apart(other: Instruction) -> bool:
            return other.op == "slice" and (other["start"] + other.width <= start or start + width <= other["start"])

        others = [body[k] for k in _users(program, whole) if k != id]
        if whole not in given and all(map(apart, others)):
            return id, 0
    if body[whole].op == "concat":
        for part in body[whole].args:
            if part in given or set(_users(program, part)) != {whole}:
                raise UserError(
                    f"{edit.label!r} is a concatenation of vectors that cell {program.name!r} also uses separately, so "
                    "editing it would miss those uses; edit the vectors instead, or name them in the cell"
                )
    return whole, start


def _users(program: Program, id: int) -> list[int]:
    return [k for k, instruction in enumerate(program.body) if id in instruction.args]


def _given(program: Program) -> set[int]:
    """Return the values that a program returns, as outputs, states or terms of reductions."""
    given = {state.next for state in program.states} | {output.value for output in program.outputs}
    return given | {value for reduction in program.reductions for term in reduction.terms for value in term}
