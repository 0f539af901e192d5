"""The gradient of a program, derived as another program: backpropagation through time for all engines.

A run takes inputs x, initial states s and parameters p, and returns outputs y, final states and reductions r. The
gradient program takes the residuals that the forward run saved and the gradients of y, of the final states and of r. It
runs in the opposite direction of time and returns the gradients of x (as outputs), s (as final states) and p (as
reductions):

    forward program (its outputs hold the residuals)       gradient program
    inputs      x                                          outputs     x.gradient
    states      s, from the initial to the final           states      s.gradient, from the final to the initial
    parameters  p                                          reductions  p.gradient
    outputs     y                                          inputs      y.gradient (and residuals, and x where it's read)
    reductions  r                                          parameters  r.gradient (and p where it is read)

Because the result is a program, the same function derives higher-order gradients.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from throughtime.program.core import INPUT, LEAVES, PARAMETER, PREVIOUS, Output, Parameter, Program
from throughtime.program.derivation import Derivation, Slots, distinct
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS, SliceGradient
from throughtime.program.symbols import Symbol

__all__ = ["RESIDUAL", "Gradient", "Slots", "everything_given", "everything_wanted", "gradient", "with_residuals"]

RESIDUAL = "residual."


@dataclass(frozen=True)
class Gradient:
    """A gradient program and the sources of its arguments.

    Attributes:
        program: the gradient program. Its inputs are the forward program's inputs that it reads, then the outputs
            that it reads (the residuals), then the gradients of outputs; its parameters are the forward program's
            parameters that it reads, then the gradients of reductions.
        inputs, residuals, parameters: the indices of the forward program's inputs, outputs and parameters that it
            reads.
        given: the outputs, final states and reductions whose gradients are given. Every state of the forward program
            has a gradient state here; it starts at zero unless the gradient is given.
        wanted: the inputs and parameters whose gradients are the program's outputs and reductions.
        seen: for each requested value of the forward program, the value of this program that is its gradient.
    """

    program: Program
    inputs: tuple[int, ...]
    residuals: tuple[int, ...]
    parameters: tuple[int, ...]
    given: Slots
    wanted: Slots
    seen: tuple[int, ...] = ()


def everything_given(program: Program) -> Slots:
    """Return all results of a run."""
    return Slots(*(tuple(range(len(of))) for of in (program.outputs, program.states, program.reductions)))


def everything_wanted(program: Program) -> Slots:
    """Return all operands of a run except one-hot inputs, which have no gradient."""
    vectors = tuple(k for k, given in enumerate(program.inputs) if not given.one_hot)
    return Slots(vectors, *(tuple(range(len(of))) for of in (program.states, program.parameters)))


@lru_cache(maxsize=512)
def with_residuals(
    program: Program, wanted: Slots, seen: tuple[int, ...] = (), *, single_step: bool = False
) -> Program:
    """Add to a program's outputs the residuals that its gradient reads.

    Args:
        program: a legal program.
        wanted: the gradients that will be requested.
        seen: values of the body whose gradients will be requested too.
        single_step: whether the run will have only one step; see `gradient`.

    Returns:
        The program with additional outputs named `residual.` plus the value's name or number. Values that are cheap to
        recompute from other residuals aren't saved.
    """
    given = everything_given(program)
    demanded = _Adjoint(program, given, wanted, seen, recompute=False, single_step=single_step).demanded()
    body = program.body
    free = {output.value for output in program.outputs}
    free |= {id for id, i in enumerate(body) if i.op in LEAVES and i.op != PREVIOUS}
    new: list[int] = []
    known: set[int] = set()  # saved, or cheap to recompute from saved values
    for id, instruction in enumerate(body):
        cheap = instruction.op in OPERATIONS and OPERATIONS[instruction.op].cheap
        if id in free or (cheap and known.issuperset(instruction.args)):
            known.add(id)
        elif id in demanded:
            new.append(id)
            known.add(id)
    labels = {id: name for name, id in reversed(program.names)}
    names = distinct([o.name for o in program.outputs] + [RESIDUAL + labels.get(id, str(id)) for id in new])
    residuals = tuple(Output(name, id) for name, id in zip(names[len(program.outputs) :], new, strict=True))
    augmented = require_legal(replace(program, outputs=program.outputs + residuals))
    # Second derivatives also have gradients of the residuals, which may need further residuals.
    return with_residuals(augmented, wanted, seen, single_step=single_step) if residuals else program


@lru_cache(maxsize=512)
def gradient(
    program: Program, given: Slots, wanted: Slots, seen: tuple[int, ...] = (), *, single_step: bool = False
) -> Gradient:
    """Derive the gradient of a program.

    Args:
        program: a legal program, as `with_residuals` returns it.
        given: the outputs, final states and reductions whose gradients are given.
        wanted: the inputs, initial states and parameters whose gradients are requested.
        seen: values of the body whose gradients the gradient program's body keeps even if nothing reads them.
        single_step: whether the run has only one step, so that only the requested initial states need a gradient.

    Returns:
        The gradient program, which is legal, and the sources of its arguments.
    """
    return _Adjoint(program, given, wanted, seen, single_step=single_step).derive()


class _Adjoint(Derivation):
    """Derives one gradient, visiting the body in reverse and reading forward values as the rules need them."""

    def __init__(
        self,
        program: Program,
        given: Slots,
        wanted: Slots,
        seen: tuple[int, ...],
        *,
        recompute: bool = True,
        single_step: bool = False,
    ) -> None:
        super().__init__(program, f"{program.name}.gradient", recompute=recompute)
        self.given, self.wanted, self.seen = given, wanted, seen
        self.active = _active(program, wanted, seen, single_step)
        self.pieces: dict[int, list[SliceGradient]] = {}
        self.adjoints: dict[int, Symbol] = {}
        self.terms: dict[int, list[tuple[Symbol, ...]]] = {k: [] for k in wanted.arrays}

    def derive(self) -> Gradient:
        program, builder = self.program, self.builder
        next_states, inputs = self._backward()
        found = [(f"{program.inputs[k].name}.gradient", inputs[k]) for k in self.wanted.vectors]
        result = builder.finish(
            next_states,
            found + [(f"seen.{id}", self._adjoint(id)) for id in self.seen],
            [
                (f"{program.parameters[k].name}.gradient", program.parameters[k].shape, self.terms[k])
                for k in self.wanted.arrays
            ],
            names={f"{name}.gradient": self.adjoints[id] for name, id in program.names if id in self.adjoints},
            reverse=not program.reverse,
        )
        seen = tuple(output.value for output in result.outputs[len(found) :])
        settled, reads = self.settled(replace(result, outputs=result.outputs[: len(found)]))
        return Gradient(settled, reads.inputs, reads.residuals, reads.parameters, self.given, self.wanted, seen)

    def _adjoint(self, id: int) -> Symbol:
        """Return a value's gradient; zero if no given result depends on it."""
        if id in self.adjoints:
            return self.adjoints[id]
        return self.builder.constant(0.0, self.program.body[id].width)

    def demanded(self) -> set[int]:
        """Return the forward values that the gradient reads."""
        next_states, inputs = self._backward()
        roots = [*next_states, *inputs.values(), *(s for terms in self.terms.values() for term in terms for s in term)]
        roots += map(self._adjoint, self.seen)
        needed = {symbol.id for symbol in roots}
        for id in reversed(range(len(self.builder.body))):
            if id in needed:
                needed.update(self.builder.body[id].args)
        return {id for id, symbol in self.forward.items() if symbol.id in needed}

    def _backward(self) -> tuple[list[Symbol], dict[int, Symbol]]:
        """Build the body; return the next value of each state's gradient, and the inputs' gradients."""
        program, builder = self.program, self.builder
        for state in program.states:
            self._add(state.next, SliceGradient(builder.state(f"{state.name}.gradient", state.width), 0))
        for k in self.given.vectors:
            output = program.outputs[k]
            g = self.input("given", k, f"{output.name}.gradient", program.body[output.value].width)
            self._add(output.value, SliceGradient(g, 0))
        for k in self.given.arrays:
            self._reduction(k)
        inputs = {k: builder.constant(0.0, program.inputs[k].width) for k in self.wanted.vectors}
        states = [builder.constant(0.0, state.width) for state in program.states]
        for id in reversed(range(len(program.body))):
            if id not in self.active or id not in self.pieces:
                continue
            g = self.adjoints[id] = self._total(id)
            instruction = program.body[id]
            if instruction.op == PREVIOUS:
                states[instruction["index"]] = g
            elif instruction.op == INPUT and instruction["index"] in inputs:
                inputs[instruction["index"]] = g
            elif instruction.op == PARAMETER and instruction["index"] in self.terms:
                self.terms[instruction["index"]].append((g,))
            elif instruction.op in OPERATIONS:
                self._rule(id, g)
        return states, inputs

    def _rule(self, id: int, g: Symbol) -> None:
        instruction = self.program.body[id]
        row = OPERATIONS[instruction.op]
        attributes = dict(instruction.attributes)
        values = [self.value(arg) for arg in instruction.args]
        if row.weight_gradient is not None:
            if instruction["weight"] in self.wanted.arrays:
                self.terms[instruction["weight"]].append(row.weight_gradient(g, values[0]))
            attributes["weight"] = self.weight(instruction["weight"])
        for arg, piece in zip(
            instruction.args, row.gradient(self.builder, g, self.value(id), *values, **attributes), strict=True
        ):
            if piece is not None:
                self._add(arg, piece if isinstance(piece, SliceGradient) else SliceGradient(piece, 0))

    def _reduction(self, k: int) -> None:
        # r = sum of u outer v, so the gradient of u is r.gradient @ v, and that of v is r.gradient.T @ u.
        reduction = self.program.reductions[k]
        self.parameter_sources.append(("given", k))
        cotangent = self.builder.parameter(Parameter(f"{reduction.name}.gradient", reduction.shape))
        for term in reduction.terms:
            if len(term) == 1:
                self._add(term[0], SliceGradient(self.builder.vector(cotangent), 0))
            else:
                u, v = term
                self._add(u, SliceGradient(self.builder.linear(self.value(v), cotangent), 0))
                self._add(v, SliceGradient(self.builder.linear_transposed(self.value(u), cotangent), 0))

    def _add(self, id: int, piece: SliceGradient) -> None:
        if id in self.active:
            self.pieces.setdefault(id, []).append(piece)

    def _total(self, id: int) -> Symbol:
        """Sum a value's gradients, some of which cover only a slice of it."""
        pieces, width = self.pieces[id], self.program.body[id].width
        edges = sorted({0, width, *(e for p in pieces for e in (p.start, p.start + p.symbol.width))})
        slices = []
        for start, stop in pairwise(edges):
            covering = [p for p in pieces if p.start <= start and stop <= p.start + p.symbol.width]
            total: Symbol | None = None
            for piece in covering:
                part = self.builder.slice(piece.symbol, start - piece.start, stop - start)
                total = part if total is None else total + part
            slices.append(self.builder.constant(0.0, stop - start) if total is None else total)
        return self.builder.concat(*slices)


def _active(program: Program, wanted: Slots, seen: tuple[int, ...], single_step: bool) -> set[int]:
    """Return the values that depend on an operand whose gradient is requested, within a step or through a state."""
    active: set[int] = set(seen)
    moving = set(wanted.states)
    while True:
        for id, instruction in enumerate(program.body):
            attributes = dict(instruction.attributes)
            if (
                any(arg in active for arg in instruction.args)
                or (instruction.op == INPUT and attributes["index"] in wanted.vectors)
                or (instruction.op == PREVIOUS and attributes["index"] in moving)
                or (instruction.op == PARAMETER and attributes["index"] in wanted.arrays)
                or attributes.get("weight") in wanted.arrays
            ):
                active.add(id)
        more = {k for k, state in enumerate(program.states) if state.next in active}
        if single_step or more <= moving:
            return active
        moving |= more
