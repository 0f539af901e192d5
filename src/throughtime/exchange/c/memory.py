"""Assign memory to the values of a layer's step in C: a state, the output, or a buffer, reused where possible."""

from __future__ import annotations

from dataclasses import dataclass

from throughtime.exchange.c.schedule import ALIASES, Schedule
from throughtime.program.core import LEAVES, PREVIOUS, Program
from throughtime.program.operations import PRODUCTS


@dataclass(frozen=True)
class Address:
    """The location of a value.

    Attributes:
        base: the name of an array, or a number.
        first: the index of the value's first element in the array.
        step: 1 for consecutive elements, 0 for one repeated element; None for a number.
    """

    base: str
    first: int = 0
    step: int | None = 1

    @property
    def element(self) -> str:
        """The C expression of the value's element i."""
        if self.step is None:
            return self.base
        index = "i" if self.step else ""
        return f"{self.base}[{' + '.join(filter(None, [index, str(self.first) if self.first or not index else '']))}]"

    @property
    def pointer(self) -> str:
        """The C expression of a pointer to the value's first element."""
        return f"{self.base} + {self.first}" if self.first else self.base


class Memory:
    """The memory of a layer's step.

    Args:
        program: the layer's program.
        schedule: the order of the program's operations.
        states: the names of the states' arrays.

    Attributes:
        homes: the array of each value that owns memory.
        buffers: the sizes of the buffers, by name.
        updated: the states whose next value is written in place, without a copy.
    """

    def __init__(self, program: Program, schedule: Schedule, states: list[str]) -> None:
        self.program, self.schedule, self.states = program, schedule, states
        self.output = program.outputs[0].value
        self.homes: dict[int, str] = {}
        self.buffers: dict[str, int] = {}
        self.updated: dict[int, int] = {}
        self.written = {id: n for n, item in enumerate(schedule.items) for id in item.values}
        self.read = self._last_reads()
        self._held = self._find_held()
        self._find_updated()
        self._choose()

    def stored(self, id: int) -> bool:
        """Return whether a computed value is needed outside its loop."""
        return id in self.read or id in self._held

    def held(self, id: int) -> tuple[int, int]:
        """Return the value whose memory stores the given value, and the offset within it."""
        first = 0
        while id in self._held:
            id, start = self._held[id]
            first += start
        return id, first

    def _last_reads(self) -> dict[int, int]:
        """Map each computed value to the last item that reads it; to the number of items if it is read at the end."""
        last: dict[int, int] = {}
        for n, item in enumerate(self.schedule.items):
            last.update({self.schedule.root(id): n for id in self.schedule.reads(item)})
        for id in (self.output, *(state.next for state in self.program.states)):
            last[self.schedule.root(id)] = len(self.schedule.items)
        return last

    def _find_held(self) -> dict[int, tuple[int, int]]:
        """Find values computed in another value's memory: a product's initial sums or part of a concatenation."""
        body = self.schedule.body
        uses = [arg for instruction in body.values() for arg in instruction.args]
        uses += [self.output, *(state.next for state in self.program.states)]
        held: dict[int, tuple[int, int]] = {}
        for id, instruction in body.items():
            if instruction.op in PRODUCTS and len(instruction.args) == 2:
                begin = instruction.args[1]
                if body[begin].op not in (*LEAVES, *ALIASES) and uses.count(begin) == 1:
                    held[begin] = (id, 0)
            elif instruction.op == "concat":
                first = 0
                for arg in instruction.args:
                    if body[arg].op not in (*LEAVES, *ALIASES) and arg not in held:
                        held[arg] = (id, first)
                    first += body[arg].width
        return held

    def _find_updated(self) -> None:
        """Find states to update in place: only the loop that computes the new value, or earlier items, read them."""
        items, body = self.schedule.items, self.schedule.body
        holders = {holder for holder, _ in self._held.values()}
        for k, state in enumerate(self.program.states):
            id = state.next
            n = self.written.get(id)
            if n is None or not items[n].loop or id in self._held or id in holders or id in self.updated.values():
                continue
            old = [p for p, i in body.items() if i.op == PREVIOUS and i["index"] == k]
            last = max((self.read.get(p, -1) for p in old), default=-1)
            parts = any(arg not in old and self.schedule.root(arg) in old for arg in self.schedule.reads(items[n]))
            if last < n or (last == n and not parts):
                self.updated[k] = id

    def _choose(self) -> None:
        members: dict[int, list[int]] = {}
        for id in self.written:
            if self.stored(id):
                members.setdefault(self.held(id)[0], []).append(id)
        self.homes = {id: self.states[k] for k, id in self.updated.items()}
        if self.output in members and self.output not in self.homes:
            self.homes[self.output] = "y"
        free: list[str] = []
        busy: list[tuple[int, str]] = []  # the last item that uses the buffer
        lives = sorted((min(self.written[m] for m in of), id) for id, of in members.items() if id not in self.homes)
        for start, id in lives:
            free += [name for end, name in busy if end < start]
            busy = [(end, name) for end, name in busy if end >= start]
            width = self.schedule.body[id].width
            fitting = sorted(free, key=lambda name: (abs(self.buffers[name] - width), name))
            if fitting:
                name = fitting[0]
                free.remove(name)
            else:
                name = f"a{len(self.buffers)}"
            self.buffers[name] = max(width, self.buffers.get(name, 0))
            ends = [self.read.get(m, self.written[m]) for m in members[id]] + [self.written[m] for m in members[id]]
            busy.append((max(ends), name))
            self.homes[id] = name
