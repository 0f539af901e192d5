"""Find the ONNX operator that is equivalent to a program."""

from __future__ import annotations

from functools import cache, lru_cache
from itertools import product
from typing import NamedTuple

from throughtime.exchange.building import is_function
from throughtime.exchange.onnx.activations import KINDS, Activation
from throughtime.exchange.onnx.layers import ONNX_LAYERS, OnnxLayer
from throughtime.program.builder import Builder
from throughtime.program.core import CONSTANT, INPUT, Instruction, Program

# Placeholders for arbitrary numbers in patterns; no cell uses these values by chance.
_ANY_ALPHA, _ANY_BETA, _ANY_CLIP = 0.7182818284590452, 0.5772156649015329, 0.9159655941772190


class Found(NamedTuple):
    """An ONNX operator with its attributes.

    Attributes:
        layer: the form of the operator.
        activations: the activations f, g and h.
        clip: the bound of the gates' sums, if any.
        program: an equivalent of the matched program, with the operator's value names.
    """

    layer: OnnxLayer
    activations: tuple[Activation, ...]
    clip: float | None
    program: Program


@lru_cache(maxsize=256)
def onnx_layer_of(program: Program) -> Found | None:
    """Find the ONNX operator that is equivalent to a forward program; None if there is none."""
    if len(program.inputs) != 1 or len(program.outputs) != 1 or program.reductions:
        return None
    sizes = program.inputs[0].width, program.states[-1].width
    for layer, bias, clip in product(ONNX_LAYERS, (True, False), (None, _ANY_CLIP)):
        base = layer.base(*sizes, clip, bias=bias)
        if len(base.states) != len(program.states) or len(base.parameters) != len(program.parameters):
            continue
        match = _Match(layer, base, program)
        if match.found():
            activations = tuple(match.activations[k] for k in range(len(layer.functions)))
            made = layer.program(*sizes, activations, match.clip, bias=bias)
            if made.equivalent(program):
                return Found(layer, activations, match.clip, made)
    return None


class _Match:
    """Compare two programs backward from their outputs, and find the activations in which they differ."""

    def __init__(self, layer: OnnxLayer, base: Program, program: Program) -> None:
        self.base, self.program = base, program
        self.activation_indices = layer.activation_indices(base)
        self.same: dict[int, int] = {}  # maps values of the base to equal values of the program
        self.activations: dict[int, Activation] = {}
        self.any: dict[float, float] = {}

    @property
    def clip(self) -> float | None:
        """The bound of the gates' sums, if any."""
        return self.any.get(_ANY_CLIP)

    def found(self) -> bool:
        """Return whether all results of the programs match."""
        ends = zip(self.base.states, self.program.states, strict=True)
        return all(self._same(b.next, p.next) for b, p in ends) and self._same(
            self.base.outputs[0].value, self.program.outputs[0].value
        )

    def _same(self, base: int, other: int) -> bool:
        if base in self.same:
            return self.same[base] == other
        self.same[base] = other
        ours, theirs = self.base.body[base], self.program.body[other]
        if is_function(ours) and ours.args[0] in self.activation_indices:
            return self._function(self.activation_indices[ours.args[0]], ours.args[0], other)
        if ours.op == CONSTANT == theirs.op:
            return _binds(self.any, ours, theirs)
        return (
            (ours.op, ours.width, ours.attributes) == (theirs.op, theirs.width, theirs.attributes)
            and len(ours.args) == len(theirs.args)
            and all(map(self._same, ours.args, theirs.args))
        )

    def _function(self, number: int, base: int, other: int) -> bool:
        for pattern in _patterns():
            bound = pattern.bind(self.program, other)
            if bound is not None:
                activation, source = bound
                return self.activations.setdefault(number, activation) == activation and self._same(base, source)
        return False


def _binds(known: dict[float, float], ours: Instruction, theirs: Instruction) -> bool:
    """Return whether a constant matches another; a placeholder matches any number and is bound to it."""
    pattern_value, other = ours["value"], theirs["value"]
    if abs(pattern_value) not in (_ANY_ALPHA, _ANY_BETA, _ANY_CLIP):
        return bool(pattern_value == other)
    meant = other if pattern_value > 0 else -other
    return bool(known.setdefault(abs(pattern_value), meant) == meant)


class _Pattern(NamedTuple):
    """A function as a program, to match against other programs.

    Attributes:
        activation: the function; its constants may be placeholders.
        body: the instructions that apply the function to a vector.
        root: the value of the result.
    """

    activation: Activation
    body: tuple[Instruction, ...]
    root: int

    def bind(self, program: Program, value: int) -> tuple[Activation, int] | None:
        """Match a value of a program; return the function and its argument, or None if it doesn't match."""
        known: dict[float, float] = {}
        source: list[int] = []

        def same(ours: int, theirs: int) -> bool:
            a, b = self.body[ours], program.body[theirs]
            if a.op == INPUT:
                source.append(theirs)
                return source[0] == theirs
            if a.op == CONSTANT == b.op:
                return _binds(known, a, b)
            return a.op == b.op and len(a.args) == len(b.args) and all(map(same, a.args, b.args))

        if not same(self.root, value):
            return None
        name, constants = self.activation.name, self.activation.constants
        return Activation(name, tuple(known.get(c, c) for c in constants)), source[0]


@cache
def _patterns() -> tuple[_Pattern, ...]:
    # A factor of 1 leaves no trace in a program, so it needs a separate pattern.
    choices = [(_ANY_ALPHA, 1.0), (_ANY_BETA, 1.0)]
    found = [
        _pattern(Activation(name, constants))
        for name, kind in KINDS.items()
        for constants in product(*choices[: len(kind.constants)])
    ]
    return tuple(sorted(found, key=lambda pattern: -pattern.root))  # the identity, which matches anything, comes last


def _pattern(activation: Activation) -> _Pattern:
    builder = Builder(activation.name)
    result = activation(builder.input("x", 2))
    return _Pattern(activation, tuple(builder.body), result.id)
