"""Measures one step at a time from Python: a stream against ONNX Runtime and torch, one thread each.

All take the same steps with the same weights, each feeding its own state back, and their last outputs must agree. They
run in turn in one process, so that a busy machine slows all alike; medians are compared. Who is not installed is left
out, by name.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from throughtime.streaming import Stream

Array = NDArray[np.float32]
LAYERS = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
STEPS = 200  # of a measurement: enough that reading the clock costs nothing
# In ONNX the gates of an LSTM are input, output, forget, candidate; those of a GRU update, reset, candidate.
OPERATORS: dict[str, tuple[str, list[int], dict[str, Any]]] = {
    "rnn": ("RNN", [0], {}),
    "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),
    "lstm": ("LSTM", [0, 3, 1, 2], {}),
}

Steps = Callable[[list[Array]], Array]  # from each step's input [batch, features] to the last output


def ours(layer: nn.RNNBase, batch: int) -> Steps:
    """A stream, which makes a new array for each result."""
    stream = Stream(layer, batch)

    def run(xs: list[Array]) -> Array:
        stream.reset()
        for x in xs:
            y = stream.step(x)
        return y

    return run


def ours_in_place(layer: nn.RNNBase, batch: int) -> Steps:
    """A stream that writes its results into one array."""
    stream = Stream(layer, batch)
    out = np.empty((batch, layer.hidden_size), np.float32)

    def run(xs: list[Array]) -> Array:
        stream.reset()
        for x in xs:
            stream.step(x, out)
        return out

    return run


def torchs(layer: nn.RNNBase, xs: list[Array]) -> Steps:
    """torch's layer, on tensors that are made before."""
    steps = [torch.from_numpy(x)[None] for x in xs]

    def run(xs: list[Array]) -> Array:
        state = None
        with torch.inference_mode():
            for x in steps:
                y, state = layer(x, state)
        result: Array = y[0].numpy()
        return result

    return run


def onnx_session(cell: str, layer: nn.RNNBase, batch: int) -> tuple[Any, list[str]]:
    """A session of ONNX Runtime that takes X and the states, and gives the new states, whose names come with it."""
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    operator, order, attributes = OPERATORS[cell]

    def gates(*names: str) -> Array:
        return np.concatenate(
            [np.concatenate([getattr(layer, name).detach().chunk(len(order))[k] for k in order]) for name in names]
        )[None]

    states = ["h", "c"] if cell == "lstm" else ["h"]
    weights = {"W": gates("weight_ih_l0"), "R": gates("weight_hh_l0"), "B": gates("bias_ih_l0", "bias_hh_l0")}
    node = helper.make_node(
        operator, ["X", *weights, "", *states], ["", *(f"Y_{s}" for s in states)],
        hidden_size=layer.hidden_size, **attributes,
    )  # fmt: skip

    def values(names: list[str], width: int) -> list[Any]:
        return [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, batch, width]) for name in names]

    graph = helper.make_graph(
        [node],
        cell,
        values(["X"], layer.input_size) + values(states, layer.hidden_size),
        values([f"Y_{s}" for s in states], layer.hidden_size),
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, ["CPUExecutionProvider"]), states


def onnx_runtime(cell: str, layer: nn.RNNBase, batch: int) -> Steps:
    """ONNX Runtime as most use it: arrays in, arrays out."""
    session, states = onnx_session(cell, layer, batch)
    outputs = [f"Y_{s}" for s in states]
    zeros = [np.zeros((1, batch, layer.hidden_size), np.float32) for _ in states]

    def run(xs: list[Array]) -> Array:
        now: list[Array] = zeros
        for x in xs:
            now = session.run(outputs, {"X": x[None], **dict(zip(states, now, strict=True))})
        last: Array = now[0][0]
        return last

    return run


def onnx_runtime_bound(cell: str, layer: nn.RNNBase, batch: int) -> Steps:
    """ONNX Runtime with its memory bound once, two sets of states by turns: the least that it can take."""
    import onnxruntime

    session, states = onnx_session(cell, layer, batch)

    def value(array: Array) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_numpy(array.copy())  # it keeps the array's memory

    zero = np.zeros((1, batch, layer.hidden_size), np.float32)
    x_value = value(np.zeros((1, batch, layer.input_size), np.float32))
    sets = [[value(zero) for _ in states] for _ in range(2)]
    bindings = []
    for before, after in (sets, sets[::-1]):
        binding = session.io_binding()
        binding.bind_ortvalue_input("X", x_value)
        for name, old, new in zip(states, before, after, strict=True):
            binding.bind_ortvalue_input(name, old)
            binding.bind_ortvalue_output(f"Y_{name}", new)
        bindings.append(binding)

    def run(xs: list[Array]) -> Array:
        for state in sets[0]:
            state.update_inplace(zero)
        for k, x in enumerate(xs):
            x_value.update_inplace(x[None])
            session.run_with_iobinding(bindings[k % 2])
        return np.asarray(sets[len(xs) % 2][0].numpy()[0])

    return run


def in_turn(calls: dict[str, Steps], xs: list[Array], seconds: float) -> dict[str, float]:
    """The median time of a step of each, in microseconds; all must end with the same output."""
    results = {name: call(xs) for name, call in calls.items()}
    wanted = next(iter(results.values()))
    for name, found in results.items():
        # The states stay within 1 and forget, so that roundings of 6e-8 don't pile up.
        if not np.allclose(found, wanted, rtol=0, atol=1e-5):
            raise SystemExit(f"{name} gives another result: off by {abs(found - wanted).max():.1e}")
    times: dict[str, list[float]] = {name: [] for name in calls}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop:
        for name, call in calls.items():
            start = time.perf_counter()
            call(xs)
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(taken) / len(xs) * 1e6 for name, taken in times.items()}


def main() -> None:
    """Measures each cell and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", nargs="+", default=list(LAYERS), choices=list(LAYERS))
    parser.add_argument("--hidden", nargs="+", type=int, default=[64])
    parser.add_argument("--batch", nargs="+", type=int, default=[1])
    parser.add_argument("--seconds", type=float, default=3.0)
    given = parser.parse_args()
    torch.set_num_threads(1)
    has_onnx = all(map(find_spec, ("onnx", "onnxruntime")))
    if not has_onnx:
        print("left out: ONNX Runtime (pip install onnx onnxruntime)")
    for cell in given.cells:
        for hidden in given.hidden:
            for batch in given.batch:
                layer = LAYERS[cell](hidden, hidden)
                xs = list(np.random.default_rng(0).normal(size=(STEPS, batch, hidden)).astype(np.float32))
                calls = {
                    "stream": ours(layer, batch),
                    "stream, out=": ours_in_place(layer, batch),
                    "torch": torchs(layer, xs),
                }
                if has_onnx:
                    calls["ONNX Runtime"] = onnx_runtime(cell, layer, batch)
                    calls["ONNX Runtime, bound"] = onnx_runtime_bound(cell, layer, batch)
                times = in_turn(calls, xs, given.seconds)
                print(f"{cell}, hidden {hidden}, batch {batch}:")
                for name, taken in times.items():
                    print(f"  {name:20} {taken:8.2f} us  {taken / times['stream']:6.1f} x")


if __name__ == "__main__":
    main()
