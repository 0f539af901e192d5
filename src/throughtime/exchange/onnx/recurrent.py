"""A node RNN, LSTM or GRU of a model of ONNX as a module on our engines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.engines.layouts import Stored
from throughtime.errors import nearest
from throughtime.exchange.building import recurrent_of
from throughtime.exchange.onnx.activations import KINDS, Activation
from throughtime.exchange.onnx.file import Node
from throughtime.exchange.onnx.layers import ONNX_LAYERS, OnnxLayer

OPERATORS = tuple(dict.fromkeys(layer.operator for layer in ONNX_LAYERS))
STORED = {1: "W", 2: "R", 3: "B", 7: "P"}  # the inputs that are parameters
_LENGTHS, _FIRST_STATE = 4, 5
_DIRECTIONS = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
_USUAL = {
    "activations", "activation_alpha", "activation_beta", "clip", "direction", "hidden_size", "layout",
    "output_sequence",
}  # fmt: skip


class OnnxRecurrent(nn.Module):
    """A recurrent operator of ONNX: one layer, in one direction of time or both.

    Args:
        node: the node.
        stored: its tensors W, R, B and P, those that there are.

    Attributes:
        layers: one `Recurrent` of both directions, or where they differ in more than weights one for each.
        takes: the names of the values that it is given when it is run: x, the lengths and the initial states; "" for
            one that is left out.

    Raises:
        OnnxError: if an attribute or a shape is not what the operator's specification has.
    """

    def __init__(self, node: Node, stored: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.node = node
        ways = _ways(node)
        self.batch_first = _choice(node, "layout", (0, 1), 0) == 1
        layer = _form(node, "P" in stored)
        hidden, inputs = _sizes(node, layer, stored, len(ways))
        self.hidden_size = hidden
        clip = _clip(node)
        programs, parameters = [], []
        for way, activations in enumerate(_activations(node, layer, len(ways))):
            program = layer.program(inputs, hidden, activations, clip, bias="B" in stored)
            places = layer.layout.places(program)
            parameters.append(layer.layout.to_program(places, _of_way(stored, way)))
            programs.append(program)
        last = _FIRST_STATE + len(programs[0].states)
        self.takes = [node.input(place) for place in (0, _LENGTHS, *range(_FIRST_STATE, last))]
        self.alike = len(ways) == 2 and programs[0] == programs[1]
        if self.alike:
            self.layers = nn.ModuleList([recurrent_of(programs[:1], hidden, parameters, bidirectional=True)])
        else:
            self.layers = nn.ModuleList(
                recurrent_of([program], hidden, [own], reverse=reverse)
                for program, own, reverse in zip(programs, parameters, ways, strict=True)
            )

    def forward(self, x: Tensor, lengths: Tensor | None, *states: Tensor | None) -> tuple[Tensor, ...]:
        """Runs the layer.

        Args:
            x: `[T, B, input]`; here and below as the operator's attribute `layout` says.
            lengths: the number of steps of each row; all if not given.
            states: for each state the initial `[directions, B, hidden]`; zeros where not given.

        Returns:
            Y `[T, directions, B, hidden]` and each state's last value, of the shape of the initial one.
        """
        if self.batch_first:
            x, states = x.transpose(0, 1), tuple(None if s is None else s.transpose(0, 1) for s in states)
        directions = 2 if self.alike else len(self.layers)
        width = self.hidden_size
        given = [x.new_zeros(directions, x.shape[1], width) if s is None else s.to(x) for s in states]
        for state in given:
            if state.shape != (directions, x.shape[1], width):
                raise self.node.error(
                    f"an initial state of the shape {[directions, x.shape[1], width]} is wanted; given "
                    f"{list(state.shape)}."
                )
        outputs, ended = [], []
        for k, layer in enumerate(self.layers):
            own = given if self.alike else [s[k : k + 1] for s in given]
            y, final = layer(x, own[0] if len(own) == 1 else tuple(own), lengths=lengths)
            outputs.append(y.unflatten(-1, (-1, width)))
            ended.append([final] if isinstance(final, Tensor) else list(final))
        y = torch.cat(outputs, 2)  # [T, B, directions, hidden]
        final = [torch.cat(of_state) for of_state in zip(*ended, strict=True)]
        if self.batch_first:
            return y.transpose(0, 1), *(f.transpose(0, 1) for f in final)
        return y.transpose(1, 2), *final


def _of_way(stored: Mapping[str, Tensor], way: int) -> Stored:
    bias: Sequence[Tensor | None] = stored["B"][way].chunk(2) if "B" in stored else (None, None)
    peephole = stored["P"][way] if "P" in stored else None
    return Stored(stored["W"][way], stored["R"][way], bias[0], bias[1], peephole)


# The attributes.


def _form(node: Node, peepholes: bool) -> OnnxLayer:
    """The row of the table that has the node's attributes."""
    forms = [layer for layer in ONNX_LAYERS if layer.operator == node.operator]
    own = {name for layer in forms for name in layer.attributes}
    for name in node.attributes:
        if name not in own | _USUAL:
            raise node.error(f"it has no attribute {name!r}{nearest(name, own | _USUAL)}.")
    given = {name: int(bool(_whole(node, name))) for name in own}
    for layer in forms:
        if layer.has_peepholes == peepholes and all(given[n] == value for n, value in layer.attributes.items()):
            return layer
    raise node.error("it has no peepholes, but eight inputs.")


def _ways(node: Node) -> tuple[bool, ...]:
    """For each direction whether it is the reverse one."""
    return _DIRECTIONS[_choice(node, "direction", tuple(_DIRECTIONS), "forward")]


def _activations(node: Node, layer: OnnxLayer, directions: int) -> list[tuple[Activation, ...]]:
    """Each direction's f, g and h."""
    names = node.attributes.get("activations", layer.usual * directions)
    count = len(layer.usual)
    if not _texts(names) or len(names) != count * directions:
        raise node.error(f"{count * directions} activations are wanted; given {names!r}.")
    for name in names:
        if name not in KINDS:
            raise node.error(f"no activation is called {name!r}{nearest(name, KINDS)} ({', '.join(KINDS)}).")
    left = [list(_numbers(node, f"activation_{which}")) for which in ("alpha", "beta")]
    found = []
    for name in names:
        constants: list[float] = []
        for given, usual, which in zip(left, KINDS[name].constants, ("alpha", "beta"), strict=False):
            constant = given.pop(0) if given else usual
            if constant is None:
                raise node.error(f"its activation {name} needs an activation_{which}.")
            constants.append(constant)
        found.append(Activation(name, tuple(constants)))
    for given, which in zip(left, ("alpha", "beta"), strict=True):
        if given:
            raise node.error(f"activation_{which} has {len(given)} numbers more than its activations take.")
    return [tuple(found[k * count : (k + 1) * count]) for k in range(directions)]


def _clip(node: Node) -> float | None:
    if "clip" not in node.attributes:
        return None
    clip = node.attributes["clip"]
    if not isinstance(clip, float) or not clip > 0:
        raise node.error(f"clip is a number above 0; given {clip!r}.")
    return None if math.isinf(clip) else clip


def _sizes(node: Node, layer: OnnxLayer, stored: Mapping[str, Tensor], directions: int) -> tuple[int, int]:
    """The hidden and the input size, from tensors whose shapes have been checked."""
    for name in ("W", "R"):
        if name not in stored or stored[name].dim() != 3 or 0 in stored[name].shape:
            given = list(stored[name].shape) if name in stored else "none"
            raise node.error(f"its {name} must have three axes, none of them empty; given {given}.")
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
            raise node.error(f"its {name} must have the shape {wanted[name]}; given {list(tensor.shape)}.")
        if tensor.dtype not in (torch.float32, torch.float64) or tensor.dtype != stored["W"].dtype:
            raise node.error(f"its parameters must all be float32 or all float64; {name} is {tensor.dtype}.")
    if node.attributes.get("hidden_size", hidden) != hidden:
        raise node.error(f"its hidden_size is {node.attributes['hidden_size']!r}, but its R has {hidden}.")
    return hidden, inputs


def _choice(node: Node, name: str, choices: Sequence[Any], usual: Any) -> Any:
    given = node.attributes.get(name, usual)
    if given not in choices:
        raise node.error(f"its {name} must be one of {', '.join(map(str, choices))}; given {given!r}.")
    return given


def _whole(node: Node, name: str) -> int:
    given = node.attributes.get(name, 0)
    if not isinstance(given, int):
        raise node.error(f"its {name} must be a whole number; given {given!r}.")
    return given


def _numbers(node: Node, name: str) -> tuple[float, ...]:
    given = node.attributes.get(name, ())
    if not isinstance(given, tuple) or not all(isinstance(n, int | float) and math.isfinite(n) for n in given):
        raise node.error(f"its {name} must be finite numbers; given {given!r}.")
    return tuple(map(float, given))


def _texts(given: Any) -> bool:
    return isinstance(given, tuple) and all(isinstance(name, str) for name in given)
