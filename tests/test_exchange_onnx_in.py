"""Import of ONNX models: results match ONNX Runtime for every attribute of the recurrent operators."""

from __future__ import annotations

import io
import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx_helpers import assert_alike, by_onnx_runtime, by_us

import throughtime
from throughtime.errors import UserError
from throughtime.exchange.onnx.activations import KINDS

GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
FUNCTIONS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
OPSET, FORMAT = 17, 8
INPUT, HIDDEN, STEPS, ROWS = 3, 4, 5, 3


@dataclass(frozen=True)
class Case:
    """A recurrent node with its inputs."""

    operator: str
    attributes: tuple[tuple[str, Any], ...] = ()
    directions: int = 1
    bias: bool = True
    peephole: bool = False
    lengths: tuple[int, ...] | None = None
    states: bool = True
    layout: int = 0
    dtype: Any = np.float32
    seed: int = 0

    def arrays(self) -> dict[str, np.ndarray]:
        """Return weights that differ for all gates."""
        n, rng = GATES[self.operator], np.random.default_rng(self.seed)
        found = {
            "W": rng.normal(size=(self.directions, n * HIDDEN, INPUT)) * 0.4,
            "R": rng.normal(size=(self.directions, n * HIDDEN, HIDDEN)) * 0.3,
        }
        if self.bias:
            found["B"] = rng.normal(size=(self.directions, 2 * n * HIDDEN)) * 0.5
        if self.peephole:
            found["P"] = rng.normal(size=(self.directions, 3 * HIDDEN)) * 0.5
        return {name: array.astype(self.dtype) for name, array in found.items()}

    def given(self) -> dict[str, np.ndarray]:
        """Return the inputs of the model."""
        rng = np.random.default_rng(self.seed + 1)
        found = {"X": rng.normal(size=(STEPS, ROWS, INPUT))}
        for name in self.state_names:
            found[name] = rng.normal(size=(self.directions, ROWS, HIDDEN)) * 0.5
        if self.layout:
            found = {name: array.swapaxes(0, 1) for name, array in found.items()}
        found = {name: np.ascontiguousarray(array.astype(self.dtype)) for name, array in found.items()}
        return found | ({"lengths": np.array(self.lengths, np.int32)} if self.lengths else {})

    @property
    def state_names(self) -> tuple[str, ...]:
        return (("h", "c") if self.operator == "LSTM" else ("h",)) if self.states else ()

    def model(self) -> bytes:
        """Return a model with only this node."""
        states = list(self.state_names) or [""] * (2 if self.operator == "LSTM" else 1)
        stored = self.arrays()
        takes = ["X", "W", "R", "B" if self.bias else "", "lengths" if self.lengths else "", *states]
        takes += ["P"] if self.peephole else []
        gives = ["Y", "Y_h", *(["Y_c"] if self.operator == "LSTM" else [])]
        words = dict(self.attributes) | ({"layout": 1} if self.layout else {})
        node = helper.make_node(self.operator, takes, gives, "the node", hidden_size=HIDDEN, **words)
        return graph_of([node], list(self.given()), gives, stored, self.dtype)


def graph_of(
    nodes: list[Any], takes: list[str], gives: list[str], stored: dict[str, np.ndarray], dtype: Any = np.float32
) -> bytes:
    """Create a model; its inputs `lengths` and `tokens` are integers."""
    kinds = {"lengths": TensorProto.INT32, "tokens": TensorProto.INT64}
    usual = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    inputs = [helper.make_tensor_value_info(name, kinds.get(name, usual), None) for name in takes]
    outputs = [helper.make_tensor_value_info(name, usual, None) for name in gives]
    constants = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=FORMAT)
    return model.SerializeToString()


# Constants that make all functions differ; ONNX Runtime's defaults differ from the specification for some.
CONSTANTS = st.floats(0.25, 1.5).map(lambda n: float(np.float32(n)))


@st.composite
def cases(draw: Any) -> Case:
    operator = draw(st.sampled_from(sorted(GATES)))
    direction = draw(st.sampled_from(["forward", "reverse", "bidirectional"]))
    directions = 2 if direction == "bidirectional" else 1
    words: dict[str, Any] = {"direction": direction}
    if draw(st.booleans()):
        names = [draw(st.sampled_from(sorted(KINDS))) for _ in range(directions * len(FUNCTIONS[operator]))]
        words["activations"] = names
        for which, word in enumerate(("activation_alpha", "activation_beta")):
            values = [draw(CONSTANTS) for name in names if len(KINDS[name].constants) > which]
            words |= {word: values} if values else {}
    if draw(st.booleans()):
        words["clip"] = draw(CONSTANTS)
    # At the threshold, where clipped sums often are, ONNX Runtime's x > alpha differs from the
    # specification's x >= alpha.
    assume("ThresholdedRelu" not in words.get("activations", ()) or words.get("clip") not in words["activation_alpha"])
    if operator == "LSTM":
        words["input_forget"] = draw(st.sampled_from([0, 1]))
    if operator == "GRU":
        words["linear_before_reset"] = draw(st.sampled_from([0, 1]))
    # ONNX Runtime returns 0 as the final state of an empty sequence; throughtime keeps the initial state.
    lengths = draw(st.none() | st.tuples(*[st.integers(1, STEPS)] * ROWS))
    return Case(
        operator,
        tuple(words.items()),
        directions,
        bias=draw(st.booleans()),
        peephole=operator == "LSTM" and draw(st.booleans()),
        lengths=lengths,
        states=draw(st.booleans()),
        seed=draw(st.integers(0, 100)),
    )


@settings(max_examples=40)
@given(cases())
def test_results_match_onnx_runtime(case: Case) -> None:
    wanted = by_onnx_runtime(case.model(), case.given())
    # Unbounded functions can return numbers of any size, so their error has no useful bound.
    if max(float(np.abs(w).max()) for w in wanted) < 10:
        assert_alike(by_us(case.model(), case.given()), wanted)


@pytest.mark.parametrize("name", sorted(KINDS))
def test_each_activation_matches_onnx_runtime(name: str) -> None:
    """Each function as every activation of the LSTM, with constants if the function has any."""
    count = len(KINDS[name].constants)
    words: dict[str, Any] = {"activations": [name] * 3}
    for k, word in enumerate(("activation_alpha", "activation_beta")):
        words |= {word: [0.7, 0.6, 0.5]} if count > k else {}
    case = Case("LSTM", tuple(words.items()))
    assert_alike(by_us(case.model(), case.given()), by_onnx_runtime(case.model(), case.given()))


@pytest.mark.parametrize(
    ("name", "usual"), [("Affine", (1.0, 0.0)), ("LeakyRelu", (0.01,)), ("ThresholdedRelu", (1.0,)),
                        ("HardSigmoid", (0.2, 0.5)), ("Elu", (1.0,))],
)  # fmt: skip
def test_omitted_constants_default_to_those_of_the_operator(name: str, usual: tuple) -> None:
    """ONNX Runtime uses 0 for Affine and ThresholdedRelu; the specification says 1."""
    said = [("activation_alpha", [usual[0]]), *([("activation_beta", [usual[1]])] if len(usual) == 2 else [])]
    short, long = (Case("RNN", (("activations", [name]), *words)) for words in ([], said))
    for one, other in zip(by_us(short.model(), short.given()), by_us(long.model(), long.given()), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("operator", GATES)
def test_layout_1_equals_layout_0_with_batch_first(operator: str) -> None:
    """ONNX Runtime doesn't support layout 1, so compare with the same node in layout 0."""
    words = {"directions": 2, "attributes": (("direction", "bidirectional"),)}
    rows_first, steps_first = Case(operator, layout=1, **words), Case(operator, **words)
    found = by_us(rows_first.model(), rows_first.given())
    wanted = by_onnx_runtime(steps_first.model(), steps_first.given())
    assert_alike([found[0].transpose(1, 2, 0, 3), *(f.swapaxes(0, 1) for f in found[1:])], wanted)


@pytest.mark.parametrize("operator", GATES)
def test_an_empty_sequence_keeps_its_state(operator: str) -> None:
    """The other sequences match ONNX Runtime, which returns 0 for the empty one's final state."""
    case = Case(operator, lengths=(2, 0, 5))
    found, wanted = by_us(case.model(), case.given()), by_onnx_runtime(case.model(), case.given())
    assert_alike(found[:1], wanted[:1])
    for name, one, other in zip(case.state_names, found[1:], wanted[1:], strict=True):
        np.testing.assert_array_equal(one[:, 1], case.given()[name][:, 1])
        assert_alike([one[:, [0, 2]]], [other[:, [0, 2]]])


def test_float64_matches_float32() -> None:
    """ONNX Runtime doesn't support the operators in float64, so compare with the same weights in float32."""
    double, single = Case("GRU", dtype=np.float64), Case("GRU")
    found = by_us(double.model(), double.given())
    assert found[0].dtype == np.float64
    assert_alike(found, by_onnx_runtime(single.model(), single.given()))


def test_directions_can_have_different_activations() -> None:
    words = (("direction", "bidirectional"), ("activations", ["Tanh", "Elu"]), ("activation_alpha", [0.5]))
    case = Case("RNN", words, directions=2, lengths=(2, 5, 3))
    assert_alike(by_us(case.model(), case.given()), by_onnx_runtime(case.model(), case.given()))


def test_weights_can_be_trained() -> None:
    case = Case("LSTM", directions=2, attributes=(("direction", "bidirectional"),))
    model = throughtime.from_onnx(case.model())
    y, *_ = model(*(torch.from_numpy(array) for array in case.given().values()))
    y.square().sum().backward()
    gradients = [p.grad for p in model.parameters()]
    assert len(gradients) == 6
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)


# Graphs written by torch's exporter.


class Tagger(torch.nn.Module):
    """Embedding, two bidirectional batch-first layers, and a head on every step or the last one."""

    def __init__(self, kind: type[torch.nn.RNNBase], last: bool) -> None:
        super().__init__()
        self.embedding, self.last = torch.nn.Embedding(7, INPUT), last
        self.recurrent = kind(INPUT, HIDDEN, 2, batch_first=True, bidirectional=True)
        self.head = torch.nn.Linear(2 * HIDDEN, 5)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        y, _ = self.recurrent(self.embedding(tokens))
        return torch.log_softmax(self.head(y[:, -1] if self.last else y), -1)


class Packed(torch.nn.Module):
    """A layer that runs on packed sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.recurrent = torch.nn.GRU(INPUT, HIDDEN, batch_first=True)

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rnn = torch.nn.utils.rnn
        y, h = self.recurrent(rnn.pack_padded_sequence(x, lengths, batch_first=True))
        return rnn.pad_packed_sequence(y, batch_first=True)[0], h


def by_torchs_exporter(module: torch.nn.Module, given: tuple, opset: int = 17, **axes: dict[int, str]) -> bytes:
    """Export a module with torch's exporter, ignoring its warnings."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module, given, file, dynamo=False, opset_version=opset, input_names=list(axes), dynamic_axes=axes
        )
    return file.getvalue()


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("kind", [torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM])
def test_layers_exported_by_torch_match_onnx_runtime(kind: type[torch.nn.RNNBase], last: bool) -> None:
    torch.manual_seed(0)
    module = Tagger(kind, last).eval()
    model = by_torchs_exporter(module, (torch.zeros(2, 3, dtype=torch.long),), tokens={0: "B", 1: "T"})
    tokens = torch.randint(7, (4, 6))
    assert_alike(by_us(model, {"tokens": tokens.numpy()}), [module(tokens).detach().numpy()])


@pytest.mark.parametrize("opset", [9, 11, 13, 20])
def test_every_operator_version_is_supported(opset: int) -> None:
    """In older versions, axes, bounds and sizes are attributes, and softmax covers all axes from `axis` on."""
    torch.manual_seed(0)
    module = Tagger(torch.nn.LSTM, False).eval()
    model = by_torchs_exporter(module, (torch.zeros(2, 3, dtype=torch.long),), opset, tokens={0: "B", 1: "T"})
    tokens = torch.randint(7, (4, 6))
    assert_alike(by_us(model, {"tokens": tokens.numpy()}), by_onnx_runtime(model, {"tokens": tokens.numpy()}))


def test_imported_layers_can_be_recorded() -> None:
    case = Case("LSTM")
    model = throughtime.from_onnx(case.model())
    with throughtime.record(model, "layer0.hidden") as tape:
        y, *_ = model(*(torch.from_numpy(array) for array in case.given().values()))
    assert torch.equal(tape["layer0.hidden"], y[:, 0])


@pytest.mark.filterwarnings("ignore")
def test_packed_sequences_exported_by_torch_match_onnx_runtime() -> None:
    torch.manual_seed(0)
    module = Packed().eval()
    example = torch.zeros(2, 5, INPUT), torch.tensor([5, 3])
    model = by_torchs_exporter(module, example, x={0: "B", 1: "T"}, lengths={0: "B"})
    x, lengths = torch.randn(3, 6, INPUT), torch.tensor([6, 4, 1])
    wanted = [t.detach().numpy() for t in module(x, lengths)]
    assert_alike(by_us(model, {"x": x.numpy(), "lengths": lengths.numpy()}), wanted)


# Errors.


def refused(model: bytes, *words: str) -> None:
    with pytest.raises(UserError) as told:
        throughtime.from_onnx(model)
    for word in words:
        assert word in str(told.value)


def changed(case: Case, **attributes: Any) -> bytes:
    """Return the case's model with changed attributes."""
    return replace(case, attributes=(*case.attributes, *attributes.items())).model()


def test_an_unsupported_operator_is_rejected() -> None:
    node = helper.make_node("Convv", ["X"], ["Y"], "odd one")
    refused(graph_of([node], ["X"], ["Y"], {}), "Convv", "odd one")


def test_an_operator_of_another_domain_is_rejected() -> None:
    node = helper.make_node("LSTM", ["X"], ["Y"], domain="com.example")
    refused(graph_of([node], ["X"], ["Y"], {}), "LSTM", "com.example")


@pytest.mark.parametrize(
    ("operator", "attributes", "words"),
    [
        ("RNN", {"directon": "reverse"}, ["directon", "did you mean direction?"]),
        ("RNN", {"direction": "backward"}, ["direction", "forward, reverse, bidirectional", "backward"]),
        ("RNN", {"activations": ["tahn"]}, ["tahn", "Tanh"]),
        ("GRU", {"activations": ["Tanh"]}, ["2 activations", "Tanh"]),
        ("RNN", {"activations": ["ScaledTanh"]}, ["ScaledTanh", "activation_alpha"]),
        ("RNN", {"activation_alpha": [0.5]}, ["activation_alpha", "1 are unused"]),
        ("RNN", {"clip": -1.0}, ["clip", "-1.0"]),
        ("RNN", {"layout": 2}, ["layout", "2"]),
        ("GRU", {"input_forget": 1}, ["GRU", "input_forget"]),
        ("LSTM", {"linear_before_reset": 1}, ["LSTM", "linear_before_reset"]),
        ("RNN", {"direction": "bidirectional"}, ["W", "[2, 4, 3]", "[1, 4, 3]"]),
    ],
)
def test_invalid_attributes_are_rejected(operator: str, attributes: dict[str, Any], words: list[str]) -> None:
    refused(changed(Case(operator), **attributes), "the node", *words)


def test_weights_of_the_wrong_shape_are_rejected() -> None:
    model = onnx.load_from_string(Case("GRU").model())
    for tensor in model.graph.initializer:
        if tensor.name == "B":
            tensor.CopyFrom(numpy_helper.from_array(np.zeros((1, 12), np.float32), "B"))
    refused(model.SerializeToString(), "GRU", "B", "[1, 24]", "[1, 12]")


def test_a_model_without_recurrent_layers_is_rejected() -> None:
    refused(graph_of([helper.make_node("Relu", ["X"], ["Y"])], ["X"], ["Y"], {}), "RNN, GRU, LSTM")


def test_missing_and_extra_inputs_are_reported() -> None:
    case = Case("LSTM")
    model, given = throughtime.from_onnx(case.model()), {k: torch.from_numpy(v) for k, v in case.given().items()}
    for wrong, word in [
        (given | {"z": given["X"]}, "'z'"),
        ({"X": given["X"]}, "X, h, c"),
        (given | {"h": given["h"][:, :2]}, "[1, 3, 4]"),
        (given | {"X": given["X"][..., :2]}, "[T, B, 3]"),
    ]:
        with pytest.raises(UserError, match=re.escape(word)):
            model(**wrong)
