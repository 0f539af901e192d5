"""Write a stack of recurrent layers as ONNX nodes, equivalent to `throughtime.nn.stack`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from throughtime.engines.weight_layouts import Stored
from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import Array, Graph
from throughtime.exchange.onnx.matching import Found, onnx_layer_of
from throughtime.exchange.onnx.scan import add_program
from throughtime.nn.options import Options, output_width
from throughtime.program.core import Program

Layer = Sequence[tuple[Program, Sequence[Tensor]]]  # each direction's program and parameters


class Stack(NamedTuple):
    """A stack of recurrent layers and its options."""

    layers: Sequence[Layer]
    options: Options

    @property
    def dtype(self) -> Any:
        """The dtype of all numbers.

        Raises:
            UserError: if ONNX Runtime has no operators for the dtype.
        """
        given = self.layers[0][0][1][0].dtype
        if given not in (torch.float32, torch.float64):
            raise UserError(
                f"the dtype must be float32 or float64, got {given}: convert the module with module.float()"
            )
        return np.float32 if given == torch.float32 else np.float64

    @property
    def program(self) -> Program:
        """The first layer's program; all layers have the same states."""
        return self.layers[0][0][0]

    @property
    def output_width(self) -> int:
        """The number of output features, per direction if the directions stay separate."""
        width, taken = 0, self.program.inputs[0].width
        for layer in self.layers:
            width = self.options.merged_width(output_width(layer[0][0]))
            taken = self.options.next_width(taken, output_width(layer[0][0]))
        return width


def add_stack(graph: Graph, stack: Stack, x: str, step_inputs: Sequence[str] = ()) -> tuple[list[str], list[str]]:
    """Add the layers to a graph one after another, and the initial states to its inputs.

    Args:
        graph: the graph.
        stack: the layers.
        x: the value `[T, B, input]`.
        step_inputs: the inputs other than x of every layer, `[T, B, width]` each.

    Returns:
        The last layer's outputs, `[T, B, features]`, one per direction if they stay separate, or `[B, features]` for
        the last steps; and the final value of each state, `[layers * directions, B, width]`.
    """
    layers, options = stack.layers, stack.options
    states, count = stack.program.states, len(layers) * len(layers[0])
    initial = [graph.input(f"initial_{plain(s.name)}", stack.dtype, (count, "B", s.width)) for s in states]
    ended: list[list[str]] = [[] for _ in states]
    below = [x]
    width = stack.program.inputs[0].width  # a layer's input width
    for depth, layer in enumerate(layers):
        first = depth * len(layer)
        own = [_rows_of(graph, s, first, len(layer), count) for s in initial]
        outputs, final = _layer(graph, layer, below, own, stack.dtype, step_inputs)
        for of_state, last in zip(ended, final, strict=True):
            of_state.append(last)
        if depth == len(layers) - 1 and options.returns == "last":
            outputs = [_last_step(graph, y, d[0].reverse) for y, d in zip(outputs, layer, strict=True)]
            below = [_last_step(graph, y, d[0].reverse) for y, d in zip(below, layer, strict=False)]
        outputs = _merged(graph, outputs, options.merge, stack.dtype)
        if options.skip is not None:
            same = width == options.merged_width(output_width(layer[0][0]))
            outputs = _passed_by(graph, below, outputs, options.skip, same, depth == len(layers) - 1)
        width = options.next_width(width, output_width(layer[0][0]))
        below = outputs
    return below, [last[0] if len(last) == 1 else graph.add("Concat", *last, axis=0) for last in ended]


def declare_final_states(graph: Graph, stack: Stack, final: Sequence[str]) -> None:
    """Declare the final states as outputs of the graph."""
    count = len(stack.layers) * len(stack.layers[0])
    for state, last in zip(stack.program.states, final, strict=True):
        graph.output(f"final_{plain(state.name)}", last, stack.dtype, (count, "B", state.width))


def _rows_of(graph: Graph, state: str, first: int, number: int, of: int) -> str:
    """Select the states of some directions, `[number, B, width]`."""
    if number == of:
        return state
    return graph.add("Slice", state, graph.whole(first), graph.whole(first + number), graph.whole(0))


def _merged(graph: Graph, outputs: list[str], merge: str, dtype: Any) -> list[str]:
    if len(outputs) == 1 or merge == "none":
        return outputs
    if merge == "concat":
        return [graph.add("Concat", *outputs, axis=-1)]
    if merge == "product":
        return [graph.add("Mul", *outputs)]
    both = graph.add("Add", *outputs)
    return [both if merge == "sum" else graph.add("Mul", both, graph.constant(np.array([0.5], dtype)))]


def _passed_by(graph: Graph, below: list[str], outputs: list[str], skip: str, same_width: bool, top: bool) -> list[str]:
    pairs = [(below[direction % len(below)], y) for direction, y in enumerate(outputs)]
    if skip == "residual":
        return [graph.add("Add", *pair) for pair in pairs] if same_width else outputs
    return outputs if top else [graph.add("Concat", *pair, axis=-1) for pair in pairs]


def _last_step(graph: Graph, y: str, reverse: bool) -> str:
    return graph.add("Gather", y, graph.constant(np.array(0 if reverse else -1, np.int64)), axis=0)


def _layer(
    graph: Graph, layer: Layer, below: list[str], initial: list[str], dtype: Any, step_inputs: Sequence[str]
) -> tuple[list[str], list[str]]:
    """Add a layer; return its outputs by direction and its final states `[directions, B, width]`."""
    found = [_operator_of(program, dtype) for program, _ in layer]
    both = len(layer) == 2 and len(below) == 1 and _can_be_one(found)
    outputs: list[str] = []
    ended: list[list[str]] = [[] for _ in initial]
    for first, number in [(0, 2)] if both else [(k, 1) for k in range(len(layer))]:
        part, x = layer[first : first + number], below[first % len(below)]
        own = [_rows_of(graph, s, first, number, len(layer)) for s in initial]
        operators = [f for f in found[first : first + number] if f is not None]
        if operators:
            given, final = _operator(graph, part, operators, x, own)
        else:
            given, final = _scan(graph, *part[0], [x, *step_inputs], own, dtype)
        outputs += given
        for of_state, last in zip(ended, final, strict=True):
            of_state.append(last)
    return outputs, [last[0] if len(last) == 1 else graph.add("Concat", *last, axis=0) for last in ended]


def _operator_of(program: Program, dtype: Any) -> Found | None:
    # ONNX Runtime supports the three operators only for float32.
    return onnx_layer_of(program.flipped if program.reverse else program) if dtype == np.float32 else None


def _can_be_one(found: Sequence[Found | None]) -> bool:
    forward, backward = found
    if forward is None or backward is None:
        return False
    return forward.layer == backward.layer and forward.clip == backward.clip


def _scan(
    graph: Graph, program: Program, parameters: Sequence[Tensor], inputs: list[str], initial: list[str], dtype: Any
) -> tuple[list[str], list[str]]:
    first = graph.whole(0)
    own = [graph.add("Squeeze", s, first) for s in initial]
    outputs, final = add_program(graph, program, inputs, own, list(map(array, parameters)), dtype)
    return outputs[:1], [graph.add("Unsqueeze", last, first) for last in final]


def _operator(
    graph: Graph, layer: Layer, found: Sequence[Found], x: str, initial: list[str]
) -> tuple[list[str], list[str]]:
    """Add an RNN, GRU or LSTM node for the directions."""
    form, clip = found[0].layer, found[0].clip
    hidden = found[0].program.states[-1].width
    stored = [
        form.layout.to_stored(form.layout.mapping(f.program), parameters, hidden)
        for f, (_, parameters) in zip(found, layer, strict=True)
    ]
    inputs = [x, *_tensors(graph, form.operator, stored), "", *initial]
    if form.has_peepholes:
        inputs.append(graph.constant(np.stack([array(s.peephole) for s in stored]), f"{form.operator}_P"))
    attributes: dict[str, Any] = dict(form.attributes) | ({} if clip is None else {"clip": clip})
    if any(f.activations != form.default_activations for f in found):
        activations = [activation for f in found for activation in f.activations]
        attributes["activations"] = [a.name for a in activations]
        for which, name in enumerate(("activation_alpha", "activation_beta")):
            values = [a.constants[which] for a in activations if len(a.constants) > which]
            attributes |= {name: values} if values else {}
    attributes["direction"] = "bidirectional" if len(layer) == 2 else "reverse" if layer[0][0].reverse else "forward"
    attributes["hidden_size"] = hidden
    y, *final = graph.node(form.operator, inputs, 1 + len(initial), **attributes)
    if len(layer) == 1:
        return [graph.add("Squeeze", y, graph.whole(1))], final
    return [graph.add("Gather", y, graph.constant(np.array(k, np.int64)), axis=1) for k in range(2)], final


def _tensors(graph: Graph, operator: str, stored: Sequence[Stored]) -> list[str]:
    arrays = {
        "W": [array(s.input) for s in stored],
        "R": [array(s.recurrent) for s in stored],
        "B": [
            np.concatenate([array(s.input_bias), array(s.recurrent_bias)]) for s in stored if s.input_bias is not None
        ],
    }
    return [graph.constant(np.stack(a), f"{operator}_{name}") if a else "" for name, a in arrays.items()]


def array(tensor: Tensor | None) -> Array:
    """Convert a tensor to an array."""
    assert tensor is not None
    numbers: Array = tensor.detach().cpu().numpy()
    return numbers


def plain(name: str) -> str:
    """Convert a state's name for use in the names of a graph."""
    return name.replace(".", "_")
