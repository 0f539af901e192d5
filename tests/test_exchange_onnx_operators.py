"""Supported operators around recurrent layers: results match ONNX's own test cases and ONNX Runtime."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_helpers import assert_alike, by_onnx_runtime, by_us

import throughtime
from throughtime.errors import UserError
from throughtime.exchange.onnx.bounds import size_limit
from throughtime.exchange.onnx.file import read_onnx
from throughtime.exchange.onnx.operators import MEANINGS
from throughtime.exchange.onnx.recurrent import OPERATORS

READ = {np.dtype(kind) for kind in (np.float32, np.float64, np.int32, np.int64, np.bool_)}
# Cases with these words in their names are unsupported and raise an error.
REFUSED = (
    "2d_ceil",
    "ceil_mode",
    "_with_argmax",
    "_dilations_large",
    "training",
    "averagepool_2d_dilations",
    "dilations_small",
)
REFUSED += ("dilations_use_ref_impl_large", "reduce_max_empty_set", "reduce_min_empty_set")


@cache
def onnxs_cases() -> dict[str, list[Any]]:
    """Return ONNX's own test cases of single operators, by operator."""
    from onnx.backend.test.case.node import collect_testcases

    found: dict[str, list[Any]] = {}
    for case in collect_testcases(None):
        nodes = case.model.graph.node
        if len(nodes) == 1 and nodes[0].domain in ("", "ai.onnx") and case.model.opset_import[0].version >= 7:
            found.setdefault(nodes[0].op_type, []).append(case)
    return found


def has_read_types(case: Any) -> bool:
    arrays = [array for pair in case.data_sets for arrays in pair for array in arrays]
    return all(isinstance(array, np.ndarray) and array.dtype in READ for array in map(as_array, arrays))


def as_array(value: Any) -> Any:
    return np.asarray(value) if isinstance(value, np.generic) else value


@pytest.mark.slow
@pytest.mark.parametrize("operator", sorted(MEANINGS.keys() - {"CastLike", "Not"}))
@pytest.mark.filterwarnings("ignore")
def test_results_match_onnxs_own_cases(operator: str) -> None:
    cases = [case for case in onnxs_cases()[operator] if has_read_types(case)]
    assert cases or operator == "Cast"  # its cases use float16 and smaller types
    token = size_limit.set(10**7)
    try:
        for case in cases:
            run_case(operator, case)
    finally:
        size_limit.reset(token)


def run_case(operator: str, case: Any) -> None:
    (node,) = read_onnx(case.model).graph.nodes
    names = [value.name for value in case.model.graph.input]
    for inputs, wanted in case.data_sets:
        given = {name: torch.from_numpy(np.array(array)) for name, array in zip(names, inputs, strict=True)}
        arguments = [given[name] if name else None for name in node.inputs]
        if any(word in case.name for word in REFUSED):
            with pytest.raises((ValueError, IndexError)):
                MEANINGS[operator](node, *arguments)
            continue
        found = MEANINGS[operator](node, *arguments)
        by_name = dict(zip(node.outputs, found if isinstance(found, tuple) else (found,), strict=False))
        for value, array in zip(case.model.graph.output, wanted, strict=True):
            result = by_name[value.name].numpy()
            assert (result.shape, result.dtype) == (array.shape, array.dtype), case.name
            # The tolerance of the cases, whose float32 results were rounded in a different order.
            np.testing.assert_allclose(result, array, rtol=case.rtol, atol=1e-6, err_msg=case.name)


# Heads after a layer, compared with ONNX Runtime.

STEPS, ROWS, HIDDEN = 5, 3, 4
RNG = np.random.default_rng(3)


def array(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def model_of(
    nodes: list[Any], stored: dict[str, np.ndarray], opset: int, inputs: dict[str, int] | None = None
) -> bytes:
    """Create a model: a GRU with output `y` `[T, 1, B, hidden]`, and further nodes, the last with output `found`."""
    weights = {"W": array(1, 3 * HIDDEN, 2), "R": array(1, 3 * HIDDEN, HIDDEN), "B": array(1, 6 * HIDDEN)}
    layer = helper.make_node("GRU", ["x", "W", "R", "B"], ["y", "h"], "layer", hidden_size=HIDDEN)
    given = {"x": TensorProto.FLOAT} | (inputs or {})
    graph = helper.make_graph(
        [layer, *nodes],
        "graph",
        [helper.make_tensor_value_info(name, kind, None) for name, kind in given.items()],
        [helper.make_tensor_value_info("found", TensorProto.UNDEFINED, None)],
        [numpy_helper.from_array(value, name) for name, value in (weights | stored).items()],
    )
    graph.output[0].ClearField("type")
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 23 else 11
    ).SerializeToString()


def node(operator: str, takes: str, gives: str = "found", **attributes: Any) -> Any:
    return helper.make_node(operator, takes.split(" "), gives.split(), **attributes)


CHANNELS = [node("Squeeze", "y one", "z"), node("Transpose", "z", "c", perm=[1, 2, 0])]  # [B, hidden, T]
STATE = [node("Squeeze", "h zero", "s")]  # [B, hidden]
AXES = {"zero": whole(0), "one": whole(1), "two": whole(2)}

HEADS: dict[str, tuple[int, list[Any], dict[str, np.ndarray]]] = {
    "mean over time": (13, [node("ReduceMean", "y", axes=[0], keepdims=0)], {}),
    "mean over time, axes given": (18, [node("ReduceMean", "y zero", keepdims=0)], {}),
    "max over time": (11, [node("ReduceMax", "y", axes=[0, 1])], {}),
    "max over time, axes given": (18, [node("ReduceMax", "y zero")], {}),
    "sum over time": (11, [node("ReduceSum", "y", axes=[-1])], {}),
    "sum over time, axes given": (13, [node("ReduceSum", "y zero", keepdims=0)], {}),
    "sum of all": (13, [node("ReduceSum", "y")], {}),
    "log-sum-exp": (18, [node("ReduceLogSumExp", "y two")], {}),
    "layer normalization": (17, [node("LayerNormalization", "y scale shift", epsilon=1e-3)], {}),
    "layer normalization, its mean": (17, [node("LayerNormalization", "y scale", "a found")], {}),
    "layer normalization of two axes": (17, [node("LayerNormalization", "y big", axis=-2)], {"big": array(ROWS, 4)}),
    "batch normalization": (15, [*STATE, node("BatchNormalization", "s scale shift mean variance", epsilon=1e-2)], {}),
    "batch normalization over time": (13, [*CHANNELS, node("BatchNormalization", "c scale shift mean variance")], {}),
    "instance normalization": (13, [*CHANNELS, node("InstanceNormalization", "c scale shift")], {}),
    "gelu": (20, [node("Gelu", "y")], {}),
    "gelu, approximate": (20, [node("Gelu", "y", approximate="tanh")], {}),
    "leaky relu": (16, [node("LeakyRelu", "y", alpha=0.3)], {}),
    "prelu": (16, [node("PRelu", "y scale")], {}),
    "elu and selu": (13, [node("Elu", "y", "e", alpha=0.4), node("Selu", "e")], {}),
    "hard sigmoid": (13, [node("HardSigmoid", "y", alpha=0.3)], {}),
    "class": (13, [node("ArgMax", "y", axis=-1, keepdims=0)], {}),
    "softmax and its logarithm": (13, [node("Softmax", "y", "p", axis=2), node("LogSoftmax", "p")], {}),
    "softmax over all axes from one on": (11, [node("Softmax", "y", axis=2)], {}),
    "quotient": (14, [node("Div", "y scale")], {}),
    "norm": (13, [node("ReduceL2", "y", "n", axes=[-1]), node("Div", "y n")], {}),
    "power": (15, [node("Pow", "y exponent")], {"exponent": np.float32(3.0)}),
    "convolution over time": (13, [*CHANNELS, node("Conv", "c kernel shift6", pads=[1, 2])], {}),
    "dilated, with strides": (13, [*CHANNELS, node("Conv", "c kernel", dilations=[2], strides=[2])], {}),
    "in groups": (13, [*CHANNELS, node("Conv", "c grouped", group=2, pads=[0, 1])], {}),
    "of the same size": (13, [*CHANNELS, node("Conv", "c kernel", auto_pad="SAME_LOWER", strides=[2])], {}),
    "padded": (13, [node("Pad", "y pads value")], {"pads": whole(0, 0, 1, 2, 1, 0, 0, -1), "value": np.float32(2)}),
    "padded, some axes": (18, [node("Pad", "y pads  axes", mode="edge")], {"pads": whole(2, 1), "axes": whole(0)}),
    "reflected": (13, [*CHANNELS, node("Pad", "c pads", mode="reflect")], {"pads": whole(0, 0, 2, 0, 0, 1)}),
    "pooled over time": (13, [*CHANNELS, node("MaxPool", "c", kernel_shape=[2], strides=[2], pads=[1, 0])], {}),
    "averaged over time": (13, [*CHANNELS, node("AveragePool", "c", kernel_shape=[3], pads=[1, 1])], {}),
    "averaged globally": (13, [*CHANNELS, node("GlobalAveragePool", "c")], {}),
    "one of each sequence": (13, [*CHANNELS, node("GatherND", "c of", batch_dims=1)], {"of": whole(0, 3, 1)[:, None]}),
    "best two": (13, [node("TopK", "y two", "found indices")], {}),
    "bounded": (13, [node("Clip", "y  most")], {"most": np.float32(0.1)}),
    "bounded by attributes": (7, [node("Clip", "y", min=-0.2, max=0.1)], {}),
    "where positive": (16, [node("Greater", "y scale", "m"), node("Where", "m y shift")], {}),
    "turned around": (13, [node("Slice", "y minus far zero minus")], {"minus": whole(-1), "far": whole(-100)}),
    "running sum": (14, [node("CumSum", "y zero0", exclusive=1, reverse=1)], {"zero0": np.int64(0)}),
    "shared out": (13, [node("Split", "y", "a found", axis=3)], {}),
    "tiled": (13, [node("Tile", "y times")], {"times": whole(1, 2, 1, 3)}),
    "cast": (13, [node("Cast", "y", "i", to=TensorProto.INT32), node("Cast", "i", to=TensorProto.DOUBLE)], {}),
    "dropout of no effect": (13, [node("Dropout", "y")], {}),
}  # fmt: skip


@pytest.mark.parametrize("head", HEADS)
def test_heads_match_onnx_runtime(head: str) -> None:
    opset, nodes, own = HEADS[head]
    stored = AXES | own | {"scale": array(HIDDEN), "shift": array(HIDDEN), "mean": array(HIDDEN), "shift6": array(6)}
    stored |= {"variance": array(HIDDEN) ** 2, "kernel": array(6, HIDDEN, 2), "grouped": array(6, HIDDEN // 2, 3)}
    taken = {name for n in nodes for name in n.input}
    model = model_of(nodes, {name: value for name, value in stored.items() if name in taken}, opset)
    given = {"x": array(STEPS, ROWS, 2)}
    found, wanted = by_us(model, given), by_onnx_runtime(model, given)
    assert [a.dtype for a in found] == [a.dtype for a in wanted]
    assert_alike(found, wanted)


@pytest.mark.parametrize("operator", sorted({"CastLike", "Not"}))
def test_operators_without_an_onnx_case_match_onnx_runtime(operator: str) -> None:
    nodes = {
        "CastLike": [node("CastLike", "y two")],
        "Not": [node("Less", "y scale", "m"), node("Not", "m")],
    }[operator]
    stored = {"two": whole(2)} if operator == "CastLike" else {"scale": array(HIDDEN)}
    model, given = model_of(nodes, stored, 19), {"x": array(STEPS, ROWS, 2)}
    assert_alike(by_us(model, given), by_onnx_runtime(model, given))


def test_lengths_can_be_computed_from_a_mask() -> None:
    """The model has the form that tf2onnx writes."""
    nodes = [
        node("Cast", "mask", "numbers", to=TensorProto.INT32),
        node("ReduceSum", "numbers one", "lengths", keepdims=0),
        helper.make_node("GRU", ["x", "W", "R", "B", "lengths"], ["masked", "found"], hidden_size=HIDDEN),
    ]
    model = model_of(nodes, {"one": whole(1)}, 13, {"mask": TensorProto.BOOL})
    mask = np.arange(STEPS) < np.array([[5], [2], [1]])
    given = {"x": array(STEPS, ROWS, 2), "mask": mask}
    assert_alike(by_us(model, given), by_onnx_runtime(model, given))


# Branches.


def branch(name: str, operator: str, kept: np.ndarray) -> Any:
    """Return a branch with a layer over x and a pointwise operator; all branches use the same value names."""
    nodes = [
        helper.make_node("GRU", ["x", "inner", "R"], ["states"], "the layer", hidden_size=HIDDEN),
        helper.make_node(operator, ["states"], ["result"]),
    ]
    result = helper.make_tensor_value_info("result", TensorProto.FLOAT, None)
    return helper.make_graph(nodes, name, [], [result], [numpy_helper.from_array(kept, "inner")])


def chosen(condition: list[Any], stored: dict[str, np.ndarray]) -> bytes:
    branches = {
        "then_branch": branch("a", "Tanh", array(1, 3 * HIDDEN, 2)),
        "else_branch": branch("b", "Neg", array(1, 3 * HIDDEN, 2)),
    }
    inputs = {"rate": TensorProto.INT64} if condition else {}
    return model_of([*condition, helper.make_node("If", ["is"], ["found"], **branches)], stored, 16, inputs)


@pytest.mark.parametrize("rate", [8000, 16000])
def test_an_input_can_select_a_branch(rate: int) -> None:
    model = chosen([node("Equal", "rate usual", "is")], {"usual": np.array(16000)})
    given = {"x": array(STEPS, ROWS, 2), "rate": np.array(rate)}
    assert_alike(by_us(model, given), by_onnx_runtime(model, given))
    assert len(throughtime.from_onnx(model).layers) == 3  # of both branches


@pytest.mark.parametrize("which", [False, True])
def test_only_the_taken_branch_of_a_constant_condition_is_kept(which: bool) -> None:
    model, given = chosen([], {"is": np.array(which)}), {"x": array(STEPS, ROWS, 2)}
    assert_alike(by_us(model, given), by_onnx_runtime(model, given))
    assert len(throughtime.from_onnx(model).layers) == 2  # the other branch is dropped


def test_branches_cannot_use_each_others_values() -> None:
    model = onnx.load_from_string(chosen([], {"is": np.array(True)}))
    model.graph.node.append(node("Neg", "result", "more"))
    with pytest.raises(UserError, match="'result'"):
        throughtime.from_onnx(model)


def test_a_condition_with_several_values_is_rejected() -> None:
    model = throughtime.from_onnx(chosen([node("Equal", "rate usual", "is")], {"usual": np.array(16000)}))
    with pytest.raises(UserError, match=r"a single boolean, got shape \[2\]"):
        model(torch.zeros(STEPS, ROWS, 2), torch.tensor([8000, 16000]))


# Training.


def test_statistics_and_scalars_are_not_trained() -> None:
    nodes = [*STATE, node("Pow", "s exponent", "p"), node("BatchNormalization", "p scale shift mean variance")]
    own = {"zero": whole(0), "exponent": np.float32(3), "scale": array(HIDDEN), "shift": array(HIDDEN)}
    model = throughtime.from_onnx(model_of(nodes, own | {"mean": array(HIDDEN), "variance": array(HIDDEN) ** 2}, 15))
    assert set(model.weights) == {"scale", "shift"}
    assert {name for name, _ in model.fixed.named_buffers()} == {"exponent", "mean", "variance"}
    model(torch.randn(STEPS, ROWS, 2)).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_dropout_in_training_mode_is_rejected() -> None:
    stored = {"ratio": np.float32(0.5), "yes": np.array(True)}
    model = throughtime.from_onnx(model_of([node("Dropout", "y ratio yes")], stored, 13))
    with pytest.raises(UserError, match=r"training mode; export the model after model\.eval\(\)"):
        model(torch.zeros(STEPS, ROWS, 2))


@pytest.mark.parametrize(
    ("operator", "domain", "words"),
    [
        ("DynamicQuantizeLSTM", "com.microsoft", ["quantized", "quantize_dynamic"]),
        ("DynamicQuantizeLinear", "", ["quantized", "quantize_dynamic"]),
        ("Scan", "", ["throughtime.save"]),
        ("SplitToSequence", "", ["dynamo=False", "from_torch"]),
    ],
)
def test_errors_about_operators_suggest_a_solution(operator: str, domain: str, words: list[str]) -> None:
    model = model_of([helper.make_node(operator, ["y"], ["found"], domain=domain)], {}, 17)
    with pytest.raises(UserError) as told:
        throughtime.from_onnx(model)
    for word in [operator, *words]:
        assert word in str(told.value)


def test_the_documentation_lists_all_operators() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[1] / "docs" / "exchange.md").read_text()
    for operator in [*MEANINGS, *OPERATORS, "If"]:
        assert f"`{operator}`" in page, f"docs/exchange.md does not mention {operator}"
