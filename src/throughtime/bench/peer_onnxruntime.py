"""ONNX Runtime's RNN, LSTM and GRU operators on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from throughtime.bench.arguments import Arguments
from throughtime.bench.cases import FORWARD, STREAMING, Case
from throughtime.bench.contestant import Ready
from throughtime.exchange.onnx.graph import IR_VERSION, OPSET
from throughtime.exchange.onnx.matching import onnx_layer_of

_Shapes = dict[str, tuple[int | None, ...]]


class OnnxRuntime:
    """An inference session for a model with one operator."""

    name = "ONNX Runtime"
    packages = ("onnxruntime", "onnx")
    is_ours = False

    def takes(self, case: Case) -> bool:
        """Return True only for built-in cells without gradients."""
        return case.is_built_in and case.mode in (FORWARD, STREAMING)

    def prepare(self, case: Case, arguments: Arguments, threads: int) -> Ready:
        """Run whole sequences, or one step with states as inputs and outputs."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Otherwise the session's threads keep spinning after a call and take processor time from the next contestant.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        session = onnxruntime.InferenceSession(_model(case, arguments), options, providers=["CPUExecutionProvider"])
        x = arguments.x.numpy()
        if case.mode == FORWARD:
            return Ready(lambda: session.run(["y"], {"x": x}), lambda given: {"output": given[0][:, 0]})
        names = [state.name for state in case.program.states]
        steps = [{"x": step} for step in np.split(x, case.steps)]
        first = dict.fromkeys(names, np.zeros((1, case.batch, case.hidden), np.float32))
        finals = [f"{name}.next" for name in names]

        def run() -> Any:
            state = first
            for step in steps:
                given = session.run(finals, step | state)
                state = dict(zip(names, given, strict=True))
            return given[0]

        return Ready(run, lambda h: {"output": h[0]})


def _model(case: Case, arguments: Arguments) -> bytes:
    from onnx import TensorProto, helper, numpy_helper

    found = onnx_layer_of(case.program)
    assert found is not None  # every cell that other libraries have built in is an operator
    layout = found.layer.layout
    stored = layout.to_stored(layout.mapping(found.program), list(arguments.parameters.values()), case.hidden)
    biases = [tensor for tensor in (stored.input_bias, stored.recurrent_bias) if tensor is not None]
    arrays = {"w": stored.input.numpy(), "r": stored.recurrent.numpy(), "b": torch.cat(biases).numpy()}
    states = [state.name for state in case.program.states]
    takes = ["x", "w", "r", "b"]
    inputs: _Shapes = {"x": (None, case.batch, case.input_size)}
    if case.mode == STREAMING:
        takes += ["", *states]
        inputs |= dict.fromkeys(states, (1, case.batch, case.hidden))
    outputs: _Shapes = {"y": (None, 1, case.batch, case.hidden)}
    outputs |= dict.fromkeys((f"{name}.next" for name in states), (1, case.batch, case.hidden))
    node = helper.make_node(
        found.layer.operator,
        takes,
        list(outputs),
        hidden_size=case.hidden,
        direction="forward",
        **found.layer.attributes,
    )

    def declared(of: _Shapes) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in of.items()]

    stored_arrays = [numpy_helper.from_array(array[None], name) for name, array in arrays.items()]
    graph = helper.make_graph([node], case.cell, declared(inputs), declared(outputs), stored_arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    return bytes(model.SerializeToString())
