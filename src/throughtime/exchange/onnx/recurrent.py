"""Run an ONNX RNN, LSTM or GRU node on throughtime's engines, as a module."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from throughtime.engines.weight_layouts import INPUT, INPUT_BIAS, PEEPHOLE, RECURRENT, RECURRENT_BIAS, Stored
from throughtime.errors import nearest
from throughtime.exchange.building import recurrent_of
from throughtime.exchange.onnx.activations import KINDS, Activation
from throughtime.exchange.onnx.file import Node
from throughtime.exchange.onnx.layers import ONNX_LAYERS, OnnxLayer
from throughtime.nn.recurrent import Recurrent
from throughtime.program.core import Program

OPERATORS = tuple(dict.fromkeys(layer.operator for layer in ONNX_LAYERS))
STORED = {1: "W", 2: "R", 3: "B", 7: "P"}  # the inputs that are parameters
_LETTERS = {INPUT: "W", RECURRENT: "R", INPUT_BIAS: "B", RECURRENT_BIAS: "B", PEEPHOLE: "P"}
_LENGTHS, _FIRST_STATE, _PEEPHOLE = 4, 5, 7
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_USUAL = {
    "activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "layout",
    "output_sequence",
}  # fmt: skip


class OnnxRecurrent(nn.Module):
    """A recurrent ONNX operator: one layer with one or two directions.

    Args:
        node: the node.
        stored: the node's tensors W, R, B and P, if present; None if they are inputs of each call.

    Attributes:
        layers: one `Recurrent` for both directions, or one per direction if they differ in more than weights; empty if
            the weights are inputs of each call.
        takes: the names of a call's inputs: x, the lengths, the initial states, and W, R, B and P unless they are
            stored; "" for an omitted one.

    Raises:
        OnnxError: if an attribute or a shape violates the operator's specification.
    """

    def __init__(self, node: Node, stored: Mapping[str, Tensor] | None) -> None:
        super().__init__()
        self.node = node
        self.batch_first = _choice(node, "layout", (0, 1), 0) == 1
        self._reverse = _reverse(node)
        self._clip = _clip(node)
        self._activations = _activations(node, self._form, len(self._reverse))
        last = _FIRST_STATE + (2 if self._form.operator == "LSTM" else 1)
        self._count = last - _FIRST_STATE
        self.takes = [node.input(place) for place in (0, _LENGTHS, *range(_FIRST_STATE, last))]
        if stored is None:
            self.takes += [node.input(place) for place in STORED]
            self.layers = nn.ModuleList()
            return
        weights = self._weights(stored)
        self.alike, layers = weights.alike, []
        for programs, parameters, options in weights.layers():
            layers.append(recurrent_of(programs, weights.hidden, parameters, **options))
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, lengths: Tensor | None, *rest: Tensor | None) -> tuple[Tensor, ...]:
        """Run the layer.

        Args:
            x: `[T, B, input]`; this and the shapes below follow the operator's attribute `layout`.
            lengths: the number of steps of each sequence; T by default.
            *rest: the initial value of each state, `[directions, B, hidden]`, zeros by default; then W, R, B and P if
                they are not stored.

        Returns:
            Y `[T, directions, B, hidden]` and the final value of each state, shaped like the initial one.
        """
        states = rest[: self._count]
        run, width, alike = self._runs(rest[self._count :])
        directions = len(self._reverse)
        if self.batch_first:
            x, states = x.transpose(0, 1), tuple(None if s is None else s.transpose(0, 1) for s in states)
        given = [x.new_zeros(directions, x.shape[1], width) if s is None else s.to(x) for s in states]
        for state in given:
            if state.shape != (directions, x.shape[1], width):
                raise self.node.error(
                    f"an initial state must have shape {[directions, x.shape[1], width]}, got {list(state.shape)}"
                )
        outputs, ended = [], []
        for k, layer in enumerate(run):
            own = given if alike else [s[k : k + 1] for s in given]
            y, final = layer(x, own[0] if len(own) == 1 else tuple(own), lengths=lengths)
            outputs.append(y.unflatten(-1, (-1, width)))
            ended.append([final] if isinstance(final, Tensor) else list(final))
        y = torch.cat(outputs, 2)  # [T, B, directions, hidden]
        final = [torch.cat(of_state) for of_state in zip(*ended, strict=True)]
        if self.batch_first:
            return y.transpose(0, 1), *(f.transpose(0, 1) for f in final)
        return y.transpose(1, 2), *final

    @property
    def _form(self) -> OnnxLayer:
        """The operator's form, recomputed because a cell's equations can't be pickled."""
        return _form(self.node, bool(self.node.input(_PEEPHOLE)))

    def _runs(self, given: tuple[Tensor | None, ...]) -> tuple[list[Callable[..., Any]], int, bool]:
        """Return a function to run each of `layers`, the hidden size, and whether one layer runs both directions."""
        if not given:
            first = self.layers[0]
            assert isinstance(first, Recurrent)
            return list(self.layers), first.hidden_size, self.alike
        stored = {letter: t for letter, t in zip(STORED.values(), given, strict=True) if t is not None}
        weights = self._weights(stored)
        runs: list[Callable[..., Any]] = []
        for programs, parameters, options in weights.layers():
            empty = Recurrent.from_programs(programs, weights.hidden, device="meta", dtype=stored["W"].dtype, **options)
            names = [name for name, _ in empty.named_parameters()]
            flat = [tensor for of_direction in parameters for tensor in of_direction]
            runs.append(partial(_called, empty.train(self.training), dict(zip(names, flat, strict=True))))
        return runs, weights.hidden, weights.alike

    def _weights(self, stored: Mapping[str, Tensor]) -> _Weights:
        hidden, inputs = _sizes(self.node, self._form, stored, len(self._reverse))
        programs, parameters = [], []
        for direction, activations in enumerate(self._activations):
            program = self._form.program(inputs, hidden, activations, self._clip, bias="B" in stored)
            mapping = self._form.layout.mapping(program)
            parameters.append(self._form.layout.to_program(mapping, _of_direction(stored, direction)))
            programs.append(program)
        return _Weights(programs, parameters, self._reverse, hidden)

    def origins(self, names: Mapping[str, str]) -> Iterator[tuple[nn.Module, str, Hashable]]:
        """Yield each parameter's module, name, and a key that is the same for equal parameters of other layers.

        Args:
            names: the names of the tensors W, R, B and P in the file.
        """
        direction = 0
        for layer in self.layers:
            assert isinstance(layer, Recurrent)
            parameters = [name for name, _ in layer.named_parameters()]
            mapping = self._form.layout.mapping(layer.programs[0])
            for k, name in enumerate(parameters):
                number, parameter = divmod(k, len(mapping))
                pieces = mapping[parameter]
                fields = sorted({field for piece in pieces for field, _ in piece.terms})
                yield (
                    layer,
                    name,
                    (pieces, direction + number, tuple(names.get(_LETTERS[field], "") for field in fields)),
                )
            direction += len(parameters) // len(mapping)


class _Weights(NamedTuple):
    """The programs and parameters of the directions, and whether each runs in reverse."""

    programs: list[Program]
    parameters: list[list[Tensor]]
    reverse: tuple[bool, ...]
    hidden: int

    @property
    def alike(self) -> bool:
        """Whether one layer runs both directions."""
        return len(self.reverse) == 2 and self.programs[0] == self.programs[1]

    def layers(self) -> list[tuple[list[Program], list[list[Tensor]], dict[str, Any]]]:
        """Return the programs, parameters and options of each `Recurrent`."""
        if self.alike:
            return [(self.programs[:1], self.parameters, {"bidirectional": True})]
        return [
            ([program], [own], {"reverse": reverse})
            for program, own, reverse in zip(self.programs, self.parameters, self.reverse, strict=True)
        ]


def _called(module: Recurrent, parameters: dict[str, Tensor], *given: Any, **options: Any) -> Any:
    return torch.func.functional_call(module, parameters, given, options)


def _of_direction(stored: Mapping[str, Tensor], direction: int) -> Stored:
    bias: Sequence[Tensor | None] = stored["B"][direction].chunk(2) if "B" in stored else (None, None)
    peephole = stored["P"][direction] if "P" in stored else None
    return Stored(stored["W"][direction], stored["R"][direction], bias[0], bias[1], peephole)


# The attributes.


def _form(node: Node, peepholes: bool) -> OnnxLayer:
    """Return the operator's form with the node's attributes."""
    forms = [layer for layer in ONNX_LAYERS if layer.operator == node.operator]
    own = {name for layer in forms for name in layer.attributes}
    for name in node.attributes:
        if name not in own | _USUAL:
            raise node.error(f"unknown attribute {name!r}{nearest(name, own | _USUAL)}")
    given = {name: int(bool(_whole(node, name))) for name in own}
    for layer in forms:
        if layer.has_peepholes == peepholes and all(given[n] == value for n, value in layer.attributes.items()):
            return layer
    raise node.error("expected at most 7 inputs for an operator without peepholes, got 8")


def _reverse(node: Node) -> tuple[bool, ...]:
    """Return whether each direction runs in reverse."""
    return _DIRECTIONS[_choice(node, "direction", tuple(_DIRECTIONS), "forward")]


def _activations(node: Node, layer: OnnxLayer, directions: int) -> list[tuple[Activation, ...]]:
    """Return the activations f, g and h of each direction."""
    names = node.attributes.get("activations", layer.default_names * directions)
    count = len(layer.default_names)
    if not _texts(names) or len(names) != count * directions:
        raise node.error(f"expected {count * directions} activations, got {names!r}")
    for name in names:
        if name not in KINDS:
            raise node.error(f"unknown activation {name!r}{nearest(name, KINDS)}; supported: {', '.join(KINDS)}")
    left = [list(_numbers(node, f"activation_{which}")) for which in ("alpha", "beta")]
    found = []
    for name in names:
        constants: list[float] = []
        for given, default, which in zip(left, KINDS[name].constants, ("alpha", "beta"), strict=False):
            constant = given.pop(0) if given else default
            if constant is None:
                raise node.error(f"activation {name} needs an activation_{which}")
            constants.append(constant)
        found.append(Activation(name, tuple(constants)))
    for given, which in zip(left, ("alpha", "beta"), strict=True):
        if given:
            raise node.error(f"activation_{which} has more values than the activations take; {len(given)} are unused")
    return [tuple(found[k * count : (k + 1) * count]) for k in range(directions)]


def _clip(node: Node) -> float | None:
    if "clip" not in node.attributes:
        return None
    clip = node.attributes["clip"]
    if not isinstance(clip, float) or not clip > 0:
        raise node.error(f"clip must be greater than 0, got {clip!r}")
    return None if math.isinf(clip) else clip


def _sizes(node: Node, layer: OnnxLayer, stored: Mapping[str, Tensor], directions: int) -> tuple[int, int]:
    """Return the hidden and input sizes, from tensors whose shapes are checked."""
    for name in ("W", "R"):
        if name not in stored or stored[name].dim() != 3 or 0 in stored[name].shape:
            given = list(stored[name].shape) if name in stored else "none"
            raise node.error(f"{name} must have 3 nonempty dimensions, got shape {given}")
    hidden, inputs = stored["R"].shape[2], stored["W"].shape[2]
    rows = len(layer.layout.gates) * hidden
    wanted = {
        "W": [directions, rows, inputs],
        "R": [directions, rows, hidden],
        "B": [directions, 2 * rows],
        "P": [directions, len(layer.layout.peepholes) * hidden],
    }
    for name, tensor in stored.items():
        if list(tensor.shape) != wanted[name]:
            raise node.error(f"{name} must have shape {wanted[name]}, got {list(tensor.shape)}")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != stored["W"].dtype:
            raise node.error(f"parameters must all be float32 or all float64, got {tensor.dtype} for {name}")
    if node.attributes.get("hidden_size", hidden) != hidden:
        raise node.error(f"hidden_size is {node.attributes['hidden_size']!r}, but R has {hidden}")
    return hidden, inputs


def _choice(node: Node, name: str, choices: Sequence[Any], default: Any) -> Any:
    given = node.attributes.get(name, default)
    if given not in choices:
        raise node.error(f"{name} must be one of {', '.join(map(str, choices))}, got {given!r}")
    return given


def _whole(node: Node, name: str) -> int:
    given = node.attributes.get(name, 0)
    if not isinstance(given, int):
        raise node.error(f"{name} must be an integer, got {given!r}")
    return given


def _numbers(node: Node, name: str) -> tuple[float, ...]:
    given = node.attributes.get(name, ())
    if not isinstance(given, tuple) or not all(isinstance(n, int | float) and math.isfinite(n) for n in given):
        raise node.error(f"{name} must be finite numbers, got {given!r}")
    return tuple(map(float, given))


def _texts(given: Any) -> bool:
    return isinstance(given, tuple) and all(isinstance(name, str) for name in given)
