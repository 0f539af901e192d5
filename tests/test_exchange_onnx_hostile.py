"""Damaged and malicious ONNX files: they raise a clear error or load as a usable model."""

from __future__ import annotations

import contextlib
import io
import os
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from outcomes import COLLECTING, Outcomes

import throughtime
from throughtime.errors import UserError
from throughtime.nn.recurrent import Recurrent

GIVEN = (torch.ones(4, 2, 3), torch.ones(4, 2, 4))


@cache
def healthy() -> bytes:
    """Return a model with two layers, clip, other activations and shape operators around them."""
    module = Recurrent("gru", 3, 4, 2, bidirectional=True, clip=0.5, activations={"candidate": "softplus"})
    return throughtime.to_onnx(module).SerializeToString()


def run(content: bytes) -> Any:
    model = throughtime.from_onnx(content)
    return model(*GIVEN[: len(model.inputs)])


def refused(content: bytes, *words: str) -> None:
    with pytest.raises(UserError) as told:
        run(content)
    for word in words:
        assert word in str(told.value)


def test_the_valid_model_runs() -> None:
    assert len(throughtime.from_onnx(healthy())(*GIVEN)) == 2


@settings(max_examples=60)
@given(st.floats(0, 1, exclude_max=True))
def test_truncated_files_are_rejected(share: float) -> None:
    model = onnx.ModelProto.FromString(healthy())
    del model.metadata_props[:]  # these come last, and a file without them is valid
    content = model.SerializeToString()
    refused(content[: int(share * len(content))], "damaged")


@settings(COLLECTING, max_examples=100)
@given(changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=4))
def test_changed_bytes_raise_only_user_errors(outcomes: Outcomes, changes: list[tuple[float, int]]) -> None:
    content = bytearray(healthy())
    for place, byte in changes:
        content[int(place * len(content))] = byte
    outcomes.of(run, bytes(content))


NUMBERS = [0, 1, -1, 2, 3, 5, 10**6, 2**31 - 1, 2**31, -(2**31), 2**63 - 1, -(2**63)]
TEXTS = ["", "X", "RNN", "LSTM", "Expand", "ConstantOfShape", "Concat", "Gather", "Loop", "input", "gru", "/etc/passwd"]


def fields(message: Any) -> list[tuple[Any, Any, int | None]]:
    """List all fields of a message and its submessages, with the first three entries of each repeated field."""
    found = []
    for field, value in message.ListFields():
        entries = value if field.is_repeated else [value]
        if field.message_type is not None:
            found += [f for entry in entries for f in fields(entry)]
        found += [(message, field, k) for k in range(min(len(entries), 3))] if field.is_repeated else []
        found.append((message, field, None))
    return found


@settings(COLLECTING, max_examples=150)
@given(data=st.data())
def test_changed_fields_raise_only_user_errors(outcomes: Outcomes, data: st.DataObject) -> None:
    """Random bytes rarely result in a well-formed file with invalid content; changed fields do."""
    model = onnx.load_from_string(data.draw(st.sampled_from([healthy, branching]))())
    for _ in range(data.draw(st.integers(1, 3))):
        places = fields(model)
        message, field, k = places[data.draw(st.integers(0, len(places) - 1))]
        change(message, field, k, data)
    outcomes.of(run, model.SerializeToString())


def change(message: Any, field: Any, k: int | None, data: st.DataObject) -> None:
    value = getattr(message, field.name)
    if field.is_repeated and k is None:
        if data.draw(st.booleans()):
            del value[data.draw(st.integers(0, len(value) - 1))]
        elif field.message_type is not None:
            value.add().CopyFrom(value[0])
        else:
            value.append(value[0])
        return
    if field.message_type is not None:
        message.ClearField(field.name)
        return
    old = value if k is None else value[k]
    choices = {int: NUMBERS, float: [0.0, -1.0, float("nan"), 1e38], str: TEXTS, bytes: [b"", b"Tanh", b"\xff"]}
    new = data.draw(st.sampled_from(choices[type(old)]))
    with contextlib.suppress(ValueError):  # some numbers don't fit the field
        if k is None:
            setattr(message, field.name, new)
        else:
            value[k] = new


# Handcrafted attacks.


def model_of(nodes: list[Any], constants: dict[str, np.ndarray] | None = None) -> onnx.ModelProto:
    """Return a model that ends in a layer with one unit."""
    weights = {name: np.ones((1, 1, 1), np.float32) for name in "WR"} | (constants or {})
    layer = helper.make_node("RNN", ["x", "W", "R"], ["y"], "the layer", hidden_size=1)
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, None)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    stored = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    graph = helper.make_graph([*nodes, layer], "graph", inputs, outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def node(operator: str, takes: str, gives: str, **attributes: Any) -> Any:
    return helper.make_node(operator, takes.split(), gives.split(), **attributes)


WHOLE = {
    "size": np.array([2**20, 2**20], np.int64),
    "shape": np.array([2**40, 1, 1, 1], np.int64),
    "repeats": np.array([2**20, 2**20, 1], np.int64),
    "pads": np.array([0, 0, 0, 2**40, 0, 0], np.int64),
    "huge": np.array(2**40),
    "zero": np.array(0),
    "one": np.array(1),
    "some": np.array([1, 2]),
    "two": np.array([0.0, 1.0], np.float32),
    "K": np.ones((1, 4, 1, 1), np.float32),
    "across": np.ones((1, 1000), np.float32),
    "down": np.ones((1000, 1), np.bool_),
}


@cache
def branching() -> bytes:
    """Return a model with branches selected by the input's size, one of which has a layer."""
    sizes = {"V": 3, "U": 1}
    weights = [numpy_helper.from_array(np.ones((1, 1, n), np.float32), name) for name, n in sizes.items()]
    layer = helper.make_node("RNN", ["input", "V", "U"], ["a", "b"], hidden_size=1)
    result = [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    branches = {
        "then_branch": helper.make_graph([layer], "then", [], result, weights),
        "else_branch": helper.make_graph([node("Neg", "input", "b")], "else", [], result),
    }
    nodes = [node("Size", "input", "size"), node("Equal", "size elements", "is"), node("If", "is", "x", **branches)]
    return model_of(nodes, {"elements": np.array(24)}).SerializeToString()


def test_the_branching_model_runs() -> None:
    run(branching())


def doubled(name: str) -> list[Any]:
    """Concatenate a value with itself 50 times, doubling it each time."""
    first, last = node("Identity", name, "v0"), node("Identity", "v50", "x")
    return [first, *(node("Concat", f"v{k} v{k}", f"v{k + 1}", axis=0) for k in range(50)), last]


SQUARED = [
    node("Flatten", "input", "row", axis=0),
    node("Transpose", "row", "column"),
    node("Concat", "column " * 64, "long", axis=0),
    node("Transpose", "long", "wide"),
    node("Mul", "long wide", "x"),
]


@pytest.mark.parametrize(
    "nodes",
    [
        [node("ConstantOfShape", "size", "x")],
        [node("Expand", "input shape", "x")],
        [node("Tile", "input repeats", "x")],
        [node("Pad", "input pads", "x")],
        [node("OneHot", "some huge two", "x")],
        [node("Range", "zero huge one", "x")],
        [node("Unsqueeze", "input", "wide", axes=[0]), node("Conv", "wide K", "x", pads=[2**20, 2**20, 2**20, 2**20])],
        [node("MaxPool", "input", "x", kernel_shape=[1], pads=[2**30, 2**30])],
        [node("Where", "down across across", "x")],
        doubled("input"),
        doubled("W"),
        SQUARED,
    ],
    ids=[
        "filled",
        "repeated",
        "tiled",
        "padded",
        "one hot",
        "counted",
        "padded for a convolution",
        "padded for a pool",
        "selected",
        "doubled",
        "doubled constant",
        "squared",
    ],
)
def test_results_that_would_exhaust_memory_are_rejected(nodes: list[Any]) -> None:
    refused(model_of(nodes, WHOLE).SerializeToString(), "too large")


def test_an_array_with_a_huge_claimed_size_is_rejected() -> None:
    model = model_of([node("Identity", "input", "x")])
    model.graph.initializer[0].dims[:] = [1, 2**40, 1]
    refused(model.SerializeToString(), "damaged", "1099511627776")


def test_an_array_in_another_file_is_rejected() -> None:
    model = model_of([node("Identity", "input", "x")])
    entry = model.graph.initializer[0].external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"
    refused(model.SerializeToString(), "'W'", "another file")
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    refused(model.SerializeToString(), "'W'", "another file")


def test_string_and_sparse_arrays_are_rejected() -> None:
    model = model_of([node("Identity", "input", "x")], {"texts": np.array(["a"], object)})
    refused(model.SerializeToString(), "'texts'")
    model = model_of([node("Identity", "input", "x")])
    model.graph.sparse_initializer.add().values.name = "W"
    refused(model.SerializeToString(), "sparse")


def test_a_cyclic_graph_is_rejected() -> None:
    refused(model_of([node("Identity", "x", "z"), node("Identity", "z", "x")]).SerializeToString(), "'x'")


def test_an_if_with_invalid_branches_is_rejected() -> None:
    inner = helper.make_graph([node("Identity", "a", "b")], "inner", [], [])
    refused(model_of([node("If", "input", "x", then_branch=inner, else_branch=inner)]).SerializeToString(), "If")


def test_unsupported_operator_versions_are_rejected() -> None:
    model = model_of([node("Identity", "input", "x")])
    model.opset_import[0].version = 6
    refused(model.SerializeToString(), "6", "7")


def test_missing_empty_and_unrelated_files_are_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        throughtime.from_onnx(tmp_path / "none.onnx")
    file = io.BytesIO()
    np.save(file, np.zeros(100))
    for content in (b"", file.getvalue(), b"<html></html>", b"\n" * 50):
        (tmp_path / "some.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"some\.onnx is damaged or is not an ONNX file"):
            throughtime.from_onnx(str(tmp_path / "some.onnx"))


def test_other_types_are_rejected() -> None:
    with pytest.raises(UserError, match="got int"):
        throughtime.from_onnx(3)  # type: ignore[arg-type]


def test_any_path_like_object_is_accepted(tmp_path: Path) -> None:
    class Elsewhere(os.PathLike[str]):
        def __fspath__(self) -> str:
            return str(tmp_path / "some.onnx")

    (tmp_path / "some.onnx").write_bytes(healthy())
    assert throughtime.from_onnx(Elsewhere()).inputs == throughtime.from_onnx(healthy()).inputs
