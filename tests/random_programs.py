"""A hypothesis strategy for random legal programs."""

from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import strategies as st

from throughtime.program.core import (
    Attribute,
    Input,
    Instruction,
    Output,
    Parameter,
    Program,
    Reduction,
    State,
)
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS

# Operations whose derivative jumps. Finite differences are wrong near the jump.
KINKED = ("greater", "max", "relu")
# Values with a larger bound are squashed, so that rounding errors stay far below the tolerances.
_LARGEST = 100.0


@dataclass
class _Body:
    """Instructions, each with an upper bound on the magnitude of its elements."""

    parameters: list[Parameter] = field(default_factory=list)
    instructions: list[Instruction] = field(default_factory=list)
    bounds: list[float] = field(default_factory=list)

    def emit(self, op: str, args: tuple[int, ...], width: int, bound: float, **attributes: Attribute) -> int:
        self.instructions.append(Instruction(op, args, width, tuple(attributes.items())))
        self.bounds.append(bound)
        return len(self.instructions) - 1

    def width(self, id: int) -> int:
        return self.instructions[id].width

    def squashed(self, id: int) -> int:
        return self.emit("tanh", (id,), self.width(id), 1.0)

    def positive(self, id: int) -> int:
        width = self.width(id)
        soft = self.emit("softplus", (self.squashed(id),), width, 1.4)
        half = self.emit("constant", (), width, 0.5, value=0.5)
        return self.emit("add", (soft, half), width, 1.9)


@st.composite
def programs(draw: st.DrawFn, *, smooth: bool = False, operations: int = 10, reductions: bool = True) -> Program:
    """Draw legal programs that use all operations of the table and keep their values at a moderate size.

    Args:
        draw: the function that draws from a strategy, passed by hypothesis.
        smooth: whether to leave out operations with a kink.
        operations: the maximum number of operations (some need two or three instructions).
        reductions: whether programs may contain sums over steps and rows, as gradient programs do.
    """
    widths = st.integers(1, 4)
    inputs = [Input(f"x{k}", draw(widths)) for k in range(draw(st.integers(1, 2)))]
    states = [State(f"s{k}", draw(widths), 0.0, -1) for k in range(draw(st.integers(1, 3)))]
    body = _Body([Parameter(f"p{k}", (draw(widths),)) for k in range(draw(st.integers(0, 2)))])
    for k, i in enumerate(inputs):
        body.emit("input", (), i.width, 4.0, index=k)
    for k, s in enumerate(states):
        body.emit("previous", (), s.width, 4.0, index=k)
    for k, p in enumerate(body.parameters):
        body.emit("parameter", (), p.shape[0], 4.0, index=k)
    body.emit("constant", (), draw(widths), 1.5, value=draw(st.sampled_from([0.0, 1.0, -1.5])))

    rows = [name for name in OPERATIONS if not (smooth and name in KINKED)]
    for _ in range(draw(st.integers(0, operations))):
        name = draw(st.sampled_from(rows))
        _operation(draw, body, name)

    def value(width: int | None = None) -> int:
        fitting = [id for id, i in enumerate(body.instructions) if width in (None, i.width)]
        return draw(st.sampled_from(fitting))

    following = []
    for s in states:
        chosen = value(s.width)
        leaf = body.instructions[chosen].op not in OPERATIONS
        following.append(chosen if leaf else body.squashed(chosen))
    # Values that no instruction uses become outputs, so that every computation matters.
    taken = {arg for i in body.instructions for arg in i.args} | set(following)
    seen = [id for id, i in enumerate(body.instructions) if id not in taken and i.op in OPERATIONS]
    outputs = [Output(f"y{k}", id) for k, id in enumerate([*seen, *(value() for _ in range(draw(st.integers(0, 2))))])]
    sums = []
    if reductions and draw(st.booleans()):
        first = (value(),) if draw(st.booleans()) else (value(), value())
        shape = tuple(body.width(v) for v in first)
        terms = [first, *([tuple(value(w) for w in shape)] if draw(st.booleans()) else [])]
        sums.append(Reduction("r", shape, tuple(terms)))
    return require_legal(
        Program(
            name="drawn",
            inputs=tuple(inputs),
            states=tuple(State(s.name, s.width, s.initial, n) for s, n in zip(states, following, strict=True)),
            parameters=tuple(body.parameters),
            body=tuple(body.instructions),
            outputs=tuple(outputs),
            reductions=tuple(sums),
            reverse=draw(st.booleans()),
        )
    )


def _operation(draw: st.DrawFn, body: _Body, name: str) -> None:
    a = draw(st.integers(0, len(body.instructions) - 1))
    if body.bounds[a] > _LARGEST:
        a = body.squashed(a)
    width, bound = body.width(a), body.bounds[a]

    def beside() -> int:
        """Draw a value of the same width."""
        return draw(st.sampled_from([id for id in range(len(body.instructions)) if body.width(id) == width]))

    match name:
        case "linear" | "linear_transposed":
            out = draw(st.integers(1, 4))
            shape = (out, width) if name == "linear" else (width, out)
            known = [k for k, p in enumerate(body.parameters) if p.shape == shape]
            if known and draw(st.booleans()):
                weight = draw(st.sampled_from(known))
            else:
                weight = len(body.parameters)
                body.parameters.append(Parameter(f"p{weight}", shape))
            body.emit(name, (a,), out, 8 * bound, weight=weight)
        case "slice":
            start = draw(st.integers(0, width - 1))
            body.emit(name, (a,), draw(st.integers(1, width - start)), bound, start=start)
        case "concat":
            parts = [a, *draw(st.lists(st.integers(0, len(body.instructions) - 1), max_size=2))]
            body.emit(name, tuple(parts), sum(map(body.width, parts)), max(body.bounds[p] for p in parts))
        case "row_sum":
            body.emit(name, (a,), 1, bound * width)
        case "row_max":
            body.emit(name, (a,), 1, bound)
        case "expand":
            one = a if width == 1 else body.emit("row_sum", (a,), 1, bound * width)
            body.emit(name, (one,), draw(st.integers(1, 4)), body.bounds[one])
        case "div":
            body.emit(name, (a, body.positive(beside())), width, 2 * bound)
        case "log" | "sqrt":
            body.emit(name, (body.positive(a),), width, 1.4)
        case "exp":
            body.emit(name, (body.squashed(a),), width, 2.8)
        case "mul":
            b = beside()
            b = body.squashed(b) if bound * body.bounds[b] > _LARGEST else b
            body.emit(name, (a, b), width, bound * body.bounds[b])
        case "add" | "sub" | "max" | "greater" | "select":
            others = [beside() for _ in range(2 if name == "select" else 1)]
            body.emit(name, (a, *others), width, bound + sum(body.bounds[o] for o in others))
        case _:
            body.emit(name, (a,), width, bound + 1)
