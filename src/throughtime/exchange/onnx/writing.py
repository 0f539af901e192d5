"""Export a module as an ONNX model."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import throughtime
from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import IR_VERSION, OPSET, Graph
from throughtime.exchange.onnx.module_export import exported
from throughtime.exchange.onnx.stack import Stack, add_stack, array, declare_final_states
from throughtime.files import write
from throughtime.nn.dropin import GRU, LSTM, RNN
from throughtime.nn.effective import refresh_weights
from throughtime.nn.encoders import Embedding, Projection
from throughtime.nn.options import Options
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Bernoulli, Categorical
from throughtime.packages import require

_MAX_BYTES = 2**31 - 1  # the maximum size of an ONNX file

_Layers = Recurrent | RNN | LSTM | GRU


def to_onnx(
    module: nn.Module,
    path: str | Path | None = None,
    *,
    metadata: Mapping[str, str] | None = None,
    example: Any = None,
    **export: Any,
) -> Any:
    """Export a module to an ONNX model with the same results as in evaluation mode.

    A layer whose program equals an ONNX operator becomes that operator (RNN, GRU or LSTM); other layers become a Scan.
    ONNX Runtime supports the operators only for float32, so float64 layers always become a Scan. The numbers of steps T
    and sequences B are dynamic.

    The model's inputs are `input` `[T, B, input_size]` (`[B, T, input_size]` with `batch_first`; for a language model,
    `token_ids` `[T, B]` instead), the cell's inputs other than x by name, and `initial_STATE`
    `[layers * directions, B, width]` for each state of the cell. Its outputs are `output` (and `output_reverse` if the
    directions stay separate; `logits` for a language model) and `final_STATE`, to pass as `initial_STATE` with the next
    steps. The metadata contains the initial states of a new sequence.

    Args:
        module: a `Recurrent`, a throughtime `RNN`, `LSTM` or `GRU`, a `SequenceModel`, or a module that contains such
            layers. torch exports such a module, after the layers are replaced with their torch equivalents.
        path: the file to write; none by default.
        metadata: further metadata, by name.
        example: for a module that contains layers, an example input, or a tuple of inputs.
        **export: for a module that contains layers, arguments of `torch.onnx.export`, such as `input_names` and
            `dynamic_axes`; sizes that `dynamic_axes` doesn't name are fixed to the example's.

    Returns:
        The model, an `onnx.ModelProto`.

    Raises:
        UserError: if the module or its dtype is unsupported, or the onnx package is not installed.
    """
    require("onnx")
    if isinstance(module, _Layers | SequenceModel):
        if example is not None or export:
            raise UserError(
                f"a {type(module).__name__} is exported without an example, with dynamic T and B; got "
                f"{', '.join([*(['example'] if example is not None else []), *export])}"
            )
        refresh_weights(module)
        model = _own(module, metadata or {})
    else:
        model = exported(module, example, metadata or {}, export)
    if model.ByteSize() > _MAX_BYTES:
        raise UserError(f"the model has {model.ByteSize():,} bytes, but an ONNX file can hold at most {_MAX_BYTES:,}")
    if path is not None:
        write(path, model.SerializeToString())
    return model


def _own(module: _Layers | SequenceModel, metadata: Mapping[str, str]) -> Any:
    """Export layers alone or a sequence model."""
    graph = Graph(type(module).__name__)
    stack = _sequence_model(graph, module) if isinstance(module, SequenceModel) else _recurrent(graph, module)
    return _model(graph, _about(module, stack) | dict(metadata))


def _model(graph: Graph, metadata: Mapping[str, str]) -> Any:
    from onnx import helper

    model = helper.make_model(
        graph.proto(),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="throughtime",
        producer_version=throughtime.__version__,
    )
    helper.set_model_props(model, dict(metadata))
    return model


def _about(module: nn.Module, stack: Stack) -> dict[str, str]:
    """Describe the cells and the initial states: a number for all units, or one per unit if they are learned."""
    recurrent = module.recurrent if isinstance(module, SequenceModel) else module
    states: dict[str, Any] = {state.name: state.initial for state in stack.program.states}
    if stack.options.learn_initial and isinstance(recurrent, Recurrent):
        directions = [direction for layer in recurrent.starts() for direction in layer]
        learned = [[start.tolist() for start in of_state] for of_state in zip(*directions, strict=True)]
        states = dict(zip(states, learned, strict=True))
    cells = [layer[0][0].name for layer in stack.layers]
    return {"throughtime.cells": json.dumps(cells), "throughtime.initial": json.dumps(states)}


def _recurrent(graph: Graph, module: _Layers) -> Stack:
    stack = _stack_of(module)
    rows_first = stack.options.batch_first
    axes = ("B", "T") if rows_first else ("T", "B")
    x = graph.input("input", stack.dtype, (*axes, stack.program.inputs[0].width))
    given = [x, *(graph.input(i.name, stack.dtype, (*axes, i.width)) for i in stack.program.inputs[1:])]
    x, *step_inputs = [graph.add("Transpose", value, perm=[1, 0, 2]) for value in given] if rows_first else given
    outputs, final = add_stack(graph, stack, x, step_inputs)
    for name, y in zip(("output", "output_reverse"), outputs, strict=False):
        if stack.options.returns == "last":
            graph.output(name, y, stack.dtype, ("B", stack.output_width))
        else:
            y = graph.add("Transpose", y, perm=[1, 0, 2]) if rows_first else y
            graph.output(name, y, stack.dtype, (*axes, stack.output_width))
    declare_final_states(graph, stack, final)
    return stack


def _sequence_model(graph: Graph, module: SequenceModel) -> Stack:
    stack = _stack_of(module.recurrent)
    embedding: str | None = None
    if isinstance(module.encoder, Embedding):
        token_ids = graph.input("token_ids", np.int64, ("T", "B"))
        embedding = graph.constant(array(module.encoder.weight), "embedding")
        x = graph.add("Gather", embedding, token_ids)
    else:
        given = x = graph.input("input", stack.dtype, ("T", "B", module.input_size))
    if isinstance(module.encoder, Projection):
        weight = graph.constant(array(module.encoder.weight).T, "projection_weight")
        bias = graph.constant(array(module.encoder.bias), "projection_bias")
        x = graph.add("Relu", graph.add("Add", graph.add("MatMul", x, weight), bias))
    of_layers = _parts(graph, x, [each.width for each in stack.program.inputs])
    (y,), final = add_stack(graph, stack, of_layers[0], of_layers[1:])
    if module.tie and embedding is not None:
        matrix = graph.add("Transpose", embedding, perm=[1, 0])
    else:
        matrix = graph.constant(array(module.head.weight).T, "head_weight")
    raw = graph.add("Add", graph.add("MatMul", y, matrix), graph.constant(array(module.head.bias), "head_bias"))
    if module.skip:
        first = graph.add(
            "Slice", given, *(graph.constant(np.array([k]), f"skip_{k}") for k in (0, module.head.output.width, 2))
        )
        raw = graph.add("Add", raw, first)
    axes = ("T", "B") if module.per_step else ("B",)
    name = "logits" if isinstance(module.head.output, Categorical | Bernoulli) else "output"
    graph.output(name, raw, stack.dtype, (*axes, module.head.output.width))
    declare_final_states(graph, stack, final)
    return stack


def _parts(graph: Graph, x: str, widths: Sequence[int]) -> list[str]:
    """Split the features of x `[T, B, features]` into parts of these widths."""
    if len(widths) == 1:
        return [x]
    ends = np.cumsum([0, *widths])
    axis = graph.constant(np.array([2]), "features_axis")
    bounds = [graph.constant(np.array([end]), f"features_{end}") for end in ends]
    return [graph.add("Slice", x, start, stop, axis) for start, stop in itertools.pairwise(bounds)]


def _stack_of(module: _Layers) -> Stack:
    if module.hooks:
        raise UserError("the module is being recorded or edited: export it afterwards")
    if isinstance(module, Recurrent):
        options = module.options
    else:
        options = Options(batch_first=module.batch_first, bidirectional=module.bidirectional)
    if options.returns == "states":
        raise UserError("layers with returns='states' can't be exported; use returns='steps'")
    with torch.no_grad():
        return Stack(module.layers(), options)
