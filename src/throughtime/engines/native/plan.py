"""Lower a program to a plan for the native engine: the schedule of operations and the buffer of each value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

from throughtime import _native
from throughtime.engines.native.fusion import join
from throughtime.program.core import CONSTANT, INPUT, LEAVES, PARAMETER, PREVIOUS, Instruction, Program
from throughtime.program.legality import require_legal
from throughtime.program.operations import PRODUCTS
from throughtime.program.phases import Phase, phases

BEFORE, STEP, AFTER = "before", "step", "after"

Place = tuple[int, int]  # a buffer and the first element in it


@lru_cache(maxsize=512)
def lower(program: Program) -> _native.Plan:
    """Lower a program to a plan.

    Raises:
        ProgramError: if the program is not legal.
    """
    return _Lowering(require_legal(program)).plan


@dataclass(frozen=True)
class _Moment:
    """A time in the schedule: a stage of a phase. In a stage, products come before pointwise operations."""

    phase: str
    stage: int


@dataclass(frozen=True)
class _Copy:
    """A copy of a value, either to a place or into another value."""

    moment: _Moment
    value: int
    width: int  # including adjacent values that are copied along with it
    place: Place | None = None
    into: int = -1
    start: int = 0

    @property
    def order(self) -> tuple[int, bool]:
        """The sort key that puts the copy after its source and before the readers of its target."""
        return (self.value, True) if self.place is not None else (self.into, False)


class _Lowering:
    """The lowering of a program to a plan. Values are identified by their index in the program's body."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.body = join(program)
        self.plan = _native.Plan(
            [i.width for i in program.inputs],
            [program.body[o.value].width for o in program.outputs],
            [s.width for s in program.states],
            [_rows_and_columns(p.shape) for p in program.parameters],
            [_rows_and_columns(r.shape) for r in program.reductions],
            program.reverse,
            [k for k, i in enumerate(program.inputs) if i.one_hot],
            [s.initial for s in program.states],
        )
        self.moments = self._schedule()
        self.held = self._find_held()
        self.readers = self._find_readers()
        self.outputs = [self._buffer("output", program.body[o.value].width, k) for k, o in enumerate(program.outputs)]
        self.nexts = [self._buffer("next", s.width, k) for k, s in enumerate(program.states)]
        self.homes: dict[int, Place] = {}  # of each value with memory of its own, except scratch
        self.durable: dict[int, Place] = {}  # the place of an old state after its step
        self._choose_homes()
        self._emit()

    # The schedule.

    def _schedule(self) -> dict[int, _Moment]:
        """Schedule each value as early as its phase allows."""
        phase_of = self._phases()
        moments: dict[int, _Moment] = {}
        for id, instruction in sorted(self.body.items()):
            stage = 0
            for position, arg in enumerate(instruction.args):
                if not self._is_given(arg) and phase_of[arg] == phase_of[id]:
                    # Products of a stage run in order, so one can accumulate into another's result.
                    beginning = position == 1 and self.body[arg].op in PRODUCTS
                    behind = instruction.op in PRODUCTS and not beginning
                    stage = max(stage, moments[arg].stage + behind)
            moments[id] = _Moment(phase_of[id], stage)
        return moments

    def _is_given(self, id: int) -> bool:
        """Return whether a value is a leaf or a slice of one."""
        instruction = self.body[id]
        return instruction.op in LEAVES or (instruction.op == "slice" and self.body[instruction.args[0]].op in LEAVES)

    def _phases(self) -> dict[int, str]:
        """Assign phases; products run outside the loop if possible, other operations only if a product there needs it.

        Inside the loop, pointwise operations cost no additional memory traffic, as each row is in cache anyway.
        """
        possible = phases(self.program)
        result: dict[int, str] = {}
        for id, instruction in sorted(self.body.items()):
            late = possible[id] is Phase.AFTER and instruction.op in PRODUCTS
            result[id] = AFTER if late or any(result[arg] == AFTER for arg in instruction.args) else STEP
        needed: set[int] = set()
        for id, instruction in sorted(self.body.items(), reverse=True):
            early = possible[id] in (Phase.BEFORE, Phase.STATIC)
            if id in needed or (early and instruction.op in PRODUCTS):
                result[id] = BEFORE
                needed.update(instruction.args)
        return result

    def _arrival(self, id: int) -> _Moment:
        """Return the time at which a value can be copied: its own, or the step if it is available before the loop."""
        known = self.body[id].op in LEAVES or self.moments[id].phase == BEFORE
        return _Moment(STEP, 0) if known else self.moments[id]

    # The buffers.

    def _find_held(self) -> dict[int, tuple[int, int]]:
        """Find values that share another value's memory (slices and parts of a concatenation), and the start of each.

        A concatenation of values that are adjacent in a wider concatenation is a slice of the wider one.
        """
        held = {id: (i.args[0], i["start"]) for id, i in self.body.items() if i.op == "slice"}
        concatenations = sorted((id for id, i in self.body.items() if i.op == "concat"), key=self._narrowness)
        for id in concatenations:
            phase = self.moments[id].phase
            places = [held.get(arg) for arg, _ in self._parts(id)]
            wider, first = places[0] or (id, 0)
            neighbors = [(wider, first + start) for _, start in self._parts(id)]
            if places == neighbors and wider in concatenations and self.moments[wider].phase == phase:
                held[id] = (wider, first)
                continue
            for arg, start in self._parts(id):
                own = self.body[arg].op not in (*LEAVES, "slice") and arg not in held
                if own and self.moments[arg].phase == phase:
                    held[arg] = (id, start)
        return held

    def _narrowness(self, id: int) -> tuple[int, int]:
        return -self.body[id].width, id

    def _parts(self, id: int) -> Iterable[tuple[int, int]]:
        """Return the parts of a concatenation, each with its start."""
        start = 0
        for arg in self.body[id].args if self.body[id].op == "concat" else ():
            yield arg, start
            start += self.body[arg].width

    def _holder(self, id: int) -> tuple[int, int]:
        """Return the value whose memory holds a value, and the start within it."""
        offset = 0
        while id in self.held:
            id, start = self.held[id]
            offset += start
        return id, offset

    def _find_readers(self) -> dict[int, set[tuple[_Moment, bool]]]:
        """Find when each value is read, and whether a product reads it."""
        readers: dict[int, set[tuple[_Moment, bool]]] = {id: set() for id in self.body}
        for id, instruction in self.body.items():
            for arg in instruction.args:
                if instruction.op != "slice" and self.held.get(arg, (None, 0))[0] != id:
                    readers[arg].add((self.moments[id], instruction.op in PRODUCTS))
        for given in (*(o.value for o in self.program.outputs), *(s.next for s in self.program.states)):
            readers[given].add((self._arrival(given), False))
        for reduction in self.program.reductions:
            for value in (value for term in reduction.terms for value in term):
                readers[value].add((_Moment(AFTER, 0), True))
        return readers

    def _choose_homes(self) -> None:
        """Assign each value with memory of its own the cheapest kind of buffer with a sufficient lifetime."""
        members: dict[int, list[int]] = {}
        for id in self.body:
            members.setdefault(self._holder(id)[0], []).append(id)
        output_of = {o.value: self.outputs[k] for k, o in reversed(list(enumerate(self.program.outputs)))}
        next_of = {s.next: self.nexts[k] for k, s in enumerate(self.program.states)}
        for id, sharing in members.items():
            instruction = self.body[id]
            lasting = self._lasting(sharing)
            if instruction.op in LEAVES:
                self.homes[id] = (self._leaf(instruction), 0)
                if instruction.op == PREVIOUS and lasting == "per_chunk":
                    buffer = output_of[id] if id in output_of else self._buffer("per_chunk", instruction.width)
                    self.durable[id] = (buffer, 0)
            elif id in next_of and lasting != "per_chunk" and self.moments[id].phase == STEP:
                self.homes[id] = (next_of[id], 0)
            elif id in output_of:
                self.homes[id] = (output_of[id], 0)
            elif lasting != "scratch":
                self.homes[id] = (self._buffer(lasting, instruction.width), 0)

    def _lasting(self, sharing: Iterable[int]) -> str:
        """Return the kind of buffer whose lifetime suffices for the memory that these values share."""
        written = {(self.moments[id], self.body[id].op in PRODUCTS) for id in sharing if self.body[id].op not in LEAVES}
        written |= {(_Moment(STEP, 0), False) for id in sharing if self.body[id].op == PREVIOUS}
        touched = {*written, *(reader for id in sharing for reader in self.readers[id])}
        moments = {moment for moment, _ in touched}
        if len(moments) == 1 and not any(product for _, product in touched):
            return "scratch"
        return "per_step" if {moment.phase for moment in moments} == {STEP} else "per_chunk"

    def _leaf(self, instruction: Instruction) -> int:
        if instruction.op == CONSTANT:
            return self._buffer("constant", instruction.width, 0, instruction["value"])
        home = {INPUT: "input", PREVIOUS: "previous", PARAMETER: "parameter"}[instruction.op]
        if instruction.op == INPUT and self.program.inputs[instruction["index"]].one_hot:
            home = "token_ids"
        return self._buffer(home, instruction.width, instruction["index"])

    def _buffer(self, home: str, width: int, index: int = 0, value: float = 0.0) -> int:
        return self.plan.add_buffer(home, index, width, value)

    # The plan.

    def _copies(self) -> Iterable[_Copy]:
        """Return the copies that the plan needs."""
        targets = [(o.value, (self.outputs[k], 0)) for k, o in enumerate(self.program.outputs)]
        targets += [(s.next, (self.nexts[k], 0)) for k, s in enumerate(self.program.states)]
        targets += [item for item in self.durable.items() if item not in targets]
        for id, place in targets:
            if self.homes.get(id) != place:
                yield _Copy(self._arrival(id), id, self.body[id].width, place)
        for id in self.body:
            holder, first = self._holder(id)
            copies: list[_Copy] = []
            for arg, start in self._parts(id):
                at, width = self._holder(arg), self.body[arg].width
                if at == (holder, first + start):
                    continue
                if copies and self._follows(copies[-1], at, start):
                    copies[-1] = replace(copies[-1], width=copies[-1].width + width)
                else:
                    copies.append(_Copy(self.moments[id], arg, width, None, id, start))
            yield from copies

    def _follows(self, copy: _Copy, at: tuple[int, int], start: int) -> bool:
        """Return whether the value at `at` directly follows the copied one both in the source and in the target."""
        holder, first = self._holder(copy.value)
        return at == (holder, first + copy.width) and start == copy.start + copy.width

    def _emit(self) -> None:
        actions: list[tuple[_Moment, tuple[int, bool], int | _Copy]] = [
            (self.moments[id], (id, False), id)
            for id, instruction in self.body.items()
            if instruction.op not in (*LEAVES, "slice", "concat")
        ]
        actions += [(copy.moment, copy.order, copy) for copy in self._copies()]
        order = (BEFORE, STEP, AFTER)
        actions.sort(key=lambda a: (order.index(a[0].phase), a[0].stage, not self._is_product(a[2]), a[1]))
        for moment, group in groupby(actions, key=lambda a: a[0]):
            self.plan.add_stage(moment.phase)
            self._emit_stage(moment.phase, [action for _, _, action in group])
        for k, reduction in enumerate(self.program.reductions):
            for term in reduction.terms:
                self.plan.add_term(k, [self._place(value, AFTER, {}) for value in term])

    def _is_product(self, action: int | _Copy) -> bool:
        return isinstance(action, int) and self.body[action].op in PRODUCTS

    def _emit_stage(self, phase: str, actions: list[int | _Copy]) -> None:
        touches = [self._touched(action) for action in actions]
        last = {holder: n for n, touched in enumerate(touches) for holder in touched}
        scratch: dict[int, int] = {}  # the scratch buffer of each live value
        free: dict[int, list[int]] = {}
        for n, action in enumerate(actions):
            for holder in touches[n] - scratch.keys():
                width = self.body[holder].width
                scratch[holder] = free[width].pop() if free.get(width) else self._buffer("scratch", width)
            self._emit_action(phase, action, scratch)
            for holder in touches[n]:
                if last[holder] == n:
                    free.setdefault(self.body[holder].width, []).append(scratch.pop(holder))

    def _touched(self, action: int | _Copy) -> set[int]:
        """Return the scratch values that an action reads or writes."""
        if isinstance(action, int):
            values = [action, *self.body[action].args]
        else:
            values = [action.value, *([action.into] if action.place is None else [])]
        return {holder for holder, _ in map(self._holder, values) if holder not in self.homes}

    def _emit_action(self, phase: str, action: int | _Copy, scratch: dict[int, int]) -> None:
        if isinstance(action, _Copy):
            to = action.place
            if to is None:
                buffer, start = self._place(action.into, phase, scratch)
                to = (buffer, start + action.start)
            source = self._place(action.value, phase, scratch)
            self.plan.add_operation("copy", action.width, to, [source])
            return
        instruction = self.body[action]
        to = self._place(action, phase, scratch)
        sources = [self._place(arg, phase, scratch) for arg in instruction.args]
        if instruction.op in PRODUCTS:
            begin = sources[1] if len(sources) == 2 else None
            attributes: dict[str, Any] = dict(instruction.attributes)
            rows = (attributes["first"], instruction.width) if "first" in attributes else None
            self.plan.add_gemm(attributes["weight"], instruction.op == "linear_transposed", to, sources[0], begin, rows)
        else:
            # Arguments and result have equal width, or one of them has width 1.
            width = max(instruction.width, *(self.body[arg].width for arg in instruction.args))
            self.plan.add_operation(instruction.op, width, to, sources)

    def _place(self, id: int, phase: str, scratch: dict[int, int]) -> Place:
        """Return the place of a value in a phase."""
        holder, offset = self._holder(id)
        if holder in scratch:
            return scratch[holder], offset
        home = self.durable[holder] if phase == AFTER and holder in self.durable else self.homes[holder]
        return home[0], home[1] + offset


def _rows_and_columns(shape: tuple[int, ...]) -> tuple[int, int]:
    return (shape[0], shape[1] if len(shape) == 2 else 0)
