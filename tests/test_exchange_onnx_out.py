"""Export to ONNX: results match in ONNX Runtime for every cell, option and kind of module."""

from __future__ import annotations

import copy
import inspect
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from helpers import random_arguments, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_helpers import assert_alike, by_onnx_runtime
from random_programs import programs
from torch import Tensor, nn
from torch.nn.utils import prune

import throughtime
from throughtime import cells
from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import IR_VERSION, OPSET, Graph
from throughtime.exchange.onnx.scan import EMIT, add_program
from throughtime.language import ACTIVATIONS, affine, layer_norm, linear, sigmoid, tanh
from throughtime.nn.encoders import Projection
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.options import Options
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Point
from throughtime.program.operations import OPERATIONS

INPUT, HIDDEN, STEPS, ROWS = 3, 4, 6, 2


def randomized(module: nn.Module) -> Any:
    """Randomize a module's parameters and set it to evaluation mode."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.add_(0.2 * noise.to(parameter.dtype))
    return module.eval()


def initial_states(layers: Any, rows: int = ROWS) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    count, dtype = len(layers) * len(layers[0]), layers[0][0][1][0].dtype
    widths = [s.width for s in layers[0][0][0].states]
    return [torch.randn(count, rows, w, generator=generator, dtype=torch.float64).to(dtype) * 0.5 for w in widths]


def ours(module: Any, x: Tensor, states: list[Tensor]) -> list[np.ndarray]:
    """Return all outputs and states of a module as a list."""
    with torch.no_grad():
        y, final = module(x, states[0] if len(states) == 1 else tuple(states))
    outputs = list(y) if isinstance(y, tuple) else [y]
    return [t.numpy() for t in (*outputs, *([final] if isinstance(final, Tensor) else final))]


def checked(module: Any) -> onnx.ModelProto:
    """Export a module and check the model, including shapes, with ONNX's checker."""
    model = throughtime.to_onnx(module)
    onnx.checker.check_model(model, full_check=True)
    return model


def compare(module: Any, **tolerance: float) -> list[str]:
    """Compare a module with its exported model; return the model's recurrent operators."""
    module = randomized(module)
    model, states = checked(module), initial_states(module.layers())
    x = torch.randn(STEPS, ROWS, INPUT, generator=torch.Generator().manual_seed(3), dtype=states[0].dtype)
    x = x.transpose(0, 1).contiguous() if module.batch_first else x
    takes = {v.name: t.numpy() for v, t in zip(model.graph.input, [x, *states], strict=True)}
    assert_alike(by_onnx_runtime(model, takes), ours(module, x, states), **tolerance)
    return operators(model)


def operators(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM", "Scan")]


OPERATORS = {
    "rnn": "RNN", "rnn_relu": "RNN", "gru": "GRU", "gru_reset_before": "GRU",
    "lstm": "LSTM", "lstm_np": "LSTM", "lstm_peephole": "LSTM", "lstm_coupled": "LSTM",
    "lstm_niaf": "LSTM", "lstm_noaf": "LSTM",
}  # fmt: skip


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_matches_onnx_runtime(name: str) -> None:
    """Cells with an equivalent ONNX operator are exported as that operator, the others as Scans."""
    assert compare(Recurrent(name, INPUT, HIDDEN)) == [OPERATORS.get(name, "Scan")]


@throughtime.cell
def like_an_lstm(x, out, memory, *, extra=False):
    """The LSTM's equations with different names, or with an extra product after a gate and a norm."""
    enter = sigmoid(affine("enter", x, out))
    keep = sigmoid(affine("keep", x, out))
    content = tanh(affine("content", x, out))
    show = sigmoid(affine("show", x, out))
    memory = keep * memory + enter * content
    if extra:
        memory = tanh(linear("again", layer_norm("norm", memory) * enter))
    out = show * tanh(memory)
    return out, memory


def test_a_custom_cell_becomes_an_operator_if_its_equations_match() -> None:
    """Names don't matter, only the computation."""
    assert compare(Recurrent(like_an_lstm, INPUT, HIDDEN, 2)) == ["LSTM", "LSTM"]
    assert compare(Recurrent(like_an_lstm, INPUT, HIDDEN, extra=True)) == ["Scan"]


@pytest.mark.parametrize("name", [*sorted(OPERATORS), "mgu", "lstm_layer_norm"])
def test_bidirectional_layers_without_biases_match_onnx_runtime(name: str) -> None:
    found = compare(Recurrent(name, INPUT, HIDDEN, bidirectional=True, bias=False))
    assert found == ([OPERATORS[name]] if name in OPERATORS else ["Scan", "Scan"])


@pytest.mark.parametrize("name", ["lstm", "gru_layer_norm", "slstm"])
def test_float64_is_exported_as_scans(name: str) -> None:
    """ONNX Runtime doesn't support the operators in float64, so all layers are Scans, accurate to float64."""
    assert compare(Recurrent(name, INPUT, HIDDEN, dtype=torch.float64), rtol=0, atol=1e-14) == ["Scan"]


# Every way to join layers, and cells changed by options of the layer.
WORDS: dict[str, dict[str, Any]] = {
    "batch_first": {"batch_first": True},
    "bidirectional": {"bidirectional": True},
    "sum": {"bidirectional": True, "merge": "sum"},
    "mean": {"bidirectional": True, "merge": "mean"},
    "product": {"bidirectional": True, "merge": "product"},
    "none": {"bidirectional": True, "merge": "none"},
    "reverse": {"reverse": True},
    "residual": {"skip": "residual", "bidirectional": True, "merge": "mean"},
    "dense": {"skip": "dense"},
    "dense, apart": {"skip": "dense", "bidirectional": True, "merge": "none"},
    "last": {"returns": "last", "bidirectional": True},
    "last, apart": {"returns": "last", "bidirectional": True, "merge": "none", "skip": "residual", "batch_first": True},
    "dropout": {"dropout": 0.5, "variational": True},
    "recurrent_dropout": {"recurrent_dropout": 0.5, "weight_drop": 0.5},
    "zoneout": {"zoneout": 0.3},
    "learn_initial": {"learn_initial": True},
    "checkpoint_every": {"checkpoint_every": 2},
    "heads": {"heads": 2},
    "clip": {"clip": 0.4},
    "activations": {"activations": {"candidate": "relu"}},
    "bias": {"bias": False},
}
AS_OPERATOR = WORDS.keys() - {"zoneout", "heads"}


@pytest.mark.parametrize("words", WORDS)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_every_option_matches_onnx_runtime(name: str, words: str) -> None:
    layers = 3 if "skip" in WORDS[words] else 2
    found = set(compare(Recurrent(name, INPUT, HIDDEN, layers, **WORDS[words])))
    assert found == {OPERATORS[name] if words in AS_OPERATOR else "Scan"}


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation_matches_onnx_runtime(function: str) -> None:
    """Functions with an ONNX equivalent become activations of the operator."""
    found = compare(Recurrent("gru", INPUT, HIDDEN, activations={"candidate": function}))
    assert found == ["Scan" if function in ("silu", "gelu", "hard_tanh") else "GRU"]


def test_every_option_is_tested() -> None:
    """New options must be exported and tested here, or rejected."""
    tested = {word for words in WORDS.values() for word in words}
    known = {f.name for f in fields(Options)} | set(inspect.signature(Recurrent.__init__).parameters)
    others = {"self", "cell", "input_size", "hidden_size", "num_layers", "engine", "device", "dtype", "hyper"}
    others |= {"inputs"}  # tests/test_step_inputs.py exports it
    assert known == tested | others


@pytest.mark.parametrize("kind", [throughtime.RNN, throughtime.GRU, throughtime.LSTM])
def test_drop_in_layers_match_onnx_runtime(kind: type) -> None:
    """Drop-in layers have two biases per gate, as in ONNX."""
    name = kind.__name__
    assert compare(kind(INPUT, HIDDEN, 2, bidirectional=True, batch_first=True)) == [name, name]
    assert compare(kind(INPUT, HIDDEN, bias=False)) == [name]


def test_an_lstm_with_a_projection_is_exported_as_a_scan() -> None:
    """ONNX has no projection."""
    assert compare(throughtime.LSTM(INPUT, HIDDEN, 2, proj_size=2)) == ["Scan", "Scan"]


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("name", ["lstm", "mgu"])
def test_a_language_model_matches_onnx_runtime(name: str, tie: bool) -> None:
    module = randomized(LanguageModel(7, Recurrent(name, HIDDEN, HIDDEN, 2), tie=tie))
    states = initial_states(module.recurrent.layers())
    tokens = torch.randint(7, (STEPS, ROWS), generator=torch.Generator().manual_seed(3))
    model = checked(module)
    takes = {v.name: t.numpy() for v, t in zip(model.graph.input, [tokens, *states], strict=True)}
    assert takes.keys() == {"token_ids", *(f"initial_{s.name}" for s in module.recurrent.programs[0].states)}
    assert_alike(by_onnx_runtime(model, takes), ours(module, tokens, states))


def test_embedded_numbers_match_onnx_runtime() -> None:
    recurrent = Recurrent("gru", INPUT + 1, HIDDEN, 2)
    module = randomized(SequenceModel(Projection(INPUT, INPUT + 1), recurrent, Point(2, "mae"), skip=True))
    states = initial_states(recurrent.layers())
    x = torch.randn(STEPS, ROWS, INPUT, generator=torch.Generator().manual_seed(3))
    model = checked(module)
    takes = {v.name: t.numpy() for v, t in zip(model.graph.input, [x, *states], strict=True)}
    assert_alike(by_onnx_runtime(model, takes), ours(module, x, states))
    assert operators(model) == ["GRU", "GRU"]


@pytest.mark.parametrize("name", ["gru", "slstm"])
def test_single_steps_match_the_whole_sequence(name: str) -> None:
    """Final states are passed as initial states; the numbers of steps and sequences are dynamic."""
    module = randomized(Recurrent(name, INPUT, HIDDEN, 2))
    model, states = throughtime.to_onnx(module), initial_states(module.layers(), rows=5)
    x = torch.randn(4, 5, INPUT)
    wanted = ours(module, x, states)
    carried, outputs = [s.numpy() for s in states], []
    for step in x.numpy():
        takes = dict(zip([v.name for v in model.graph.input], [step[None], *carried], strict=True))
        y, *carried = by_onnx_runtime(model, takes)
        outputs.append(y)
    assert_alike([np.concatenate(outputs), *carried], wanted)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_export_and_import_are_bit_identical(name: str) -> None:
    """An exported model that is imported again runs the same program."""
    module = randomized(Recurrent(name, INPUT, HIDDEN, 2, bidirectional=True, batch_first=True))
    states = initial_states(module.layers())
    x = torch.randn(ROWS, STEPS, INPUT)
    back = throughtime.from_onnx(throughtime.to_onnx(module).SerializeToString())
    with torch.no_grad():
        found = [t.numpy() for t in back(x, *states)]
    for one, other in zip(found, ours(module, x, states), strict=True):
        np.testing.assert_array_equal(one, other)


# The operations.


def test_every_operation_is_supported() -> None:
    assert EMIT.keys() == OPERATIONS.keys()


@settings(max_examples=40)
@given(programs(reductions=False, operations=8), st.integers(0, 9))
def test_random_programs_match_onnx_runtime(program: Any, seed: int) -> None:
    """Drawn programs include vectors of one element, constant states, and outputs that use no state."""
    arguments = random_arguments(program, 3, 2, seed=seed)
    graph, dtype = Graph("drawn"), np.float64
    inputs = [graph.input(i.name, dtype, ("T", "B", i.width)) for i in program.inputs]
    states = [graph.input(s.name, dtype, ("B", s.width)) for s in program.states]
    outputs, final = add_program(graph, program, inputs, states, [p.numpy() for p in arguments.parameters], dtype)
    for value in (*outputs, *final):
        graph.output("given", value, dtype, ("T", "B", "width")[-3 if value in outputs else -2 :])
    model = onnx.helper.make_model(
        graph.proto(), opset_imports=[onnx.helper.make_opsetid("", OPSET)], ir_version=IR_VERSION
    )
    takes = zip([*inputs, *states], [*arguments.inputs, *arguments.states], strict=True)
    wanted = run(program, arguments, 3)
    assert_alike(
        by_onnx_runtime(model, {name: t.numpy() for name, t in takes}),
        [t.numpy() for t in (*wanted.outputs, *wanted.states)],
        atol=1e-10,
        rtol=1e-10,  # values up to thousands, in float64
    )


# Metadata and errors.


def test_the_model_has_metadata() -> None:
    module = Recurrent("lstm", INPUT, HIDDEN, 2, learn_initial=True)
    model = throughtime.to_onnx(module, metadata={"author": "me"})
    said = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(said["throughtime.cells"]) == ["lstm", "lstm"]
    assert said["author"] == "me"
    learned = json.loads(said["throughtime.initial"])
    wanted = [module.get_parameter(f"initial_cell_l{k}").tolist() for k in range(2)]
    assert learned["cell"] == wanted
    assert model.producer_name == "throughtime"


def test_a_file_is_written(tmp_path: Any) -> None:
    module = Recurrent("gru", INPUT, HIDDEN)
    made = throughtime.to_onnx(module, tmp_path / "model.onnx")
    assert onnx.load(tmp_path / "model.onnx") == made


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.LSTM(INPUT, HIDDEN), ["LSTM", "throughtime.accelerate"]),
        (nn.Linear(2, 2), ["Linear", "Recurrent"]),
        (Recurrent("gru", INPUT, HIDDEN, dtype=torch.float16), ["float16", "float32"]),
        (Recurrent("gru", INPUT, HIDDEN, returns="states"), ["steps"]),
    ],
)
def test_unsupported_modules_are_rejected(module: nn.Module, words: list[str]) -> None:
    with pytest.raises(UserError) as told:
        throughtime.to_onnx(module)
    for word in words:
        assert word in str(told.value)


def test_a_module_that_is_being_edited_is_rejected() -> None:
    module = copy.copy(Recurrent("gru", INPUT, HIDDEN))
    module.hooks = (object(),)
    with pytest.raises(UserError, match="edited"):
        throughtime.to_onnx(module)


def test_a_missing_package_is_reported_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughtime.packages.find_spec", lambda name: None)
    for call in (lambda: throughtime.to_onnx(Recurrent("gru", 2, 2)), lambda: throughtime.from_onnx(b"")):
        with pytest.raises(UserError, match=r"pip install '\.\[onnx\]'"):
            call()


def test_an_unwritable_path_is_reported() -> None:
    with pytest.raises(UserError, match=r"/proc/nowhere/model.onnx can't be written"):
        throughtime.to_onnx(throughtime.Recurrent("gru", 2, 3), "/proc/nowhere/model.onnx")


# Models that contain layers.


class Tagger(nn.Module):
    """A layer of each kind, a cell and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.tanh, self.lstm = nn.RNN(INPUT, HIDDEN), nn.LSTM(HIDDEN, HIDDEN, 2, bidirectional=True)
        self.gru, self.cell = throughtime.Recurrent("gru", 2 * HIDDEN, HIDDEN), nn.LSTMCell(HIDDEN, HIDDEN)
        self.head = nn.Linear(HIDDEN, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y, _ = self.gru(self.lstm(self.tanh(x)[0])[0])
        return self.head(self.cell(y.mean(0))[0])


@pytest.mark.filterwarnings("ignore")  # tracing warns about torch's shape checks
def test_a_module_that_contains_layers_is_exported_by_torch(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Tagger()
    throughtime.accelerate(module)
    kinds = [type(m) for m in module.modules()]
    example = torch.zeros(2, 1, INPUT)
    words = {"input_names": ["x"], "dynamic_axes": {"x": {0: "T", 1: "B"}}}
    model = throughtime.to_onnx(module, tmp_path / "model.onnx", example=example, metadata={"from": "a test"}, **words)
    assert [type(m) for m in module.modules()] == kinds
    assert module.training
    assert {p.key: p.value for p in model.metadata_props} == {"from": "a test"}
    assert {"RNN", "LSTM", "GRU"} <= {n.op_type for n in model.graph.node}
    x = torch.randn(STEPS, ROWS, INPUT)
    wanted = [module.eval()(x).detach().numpy()]
    assert_alike(by_onnx_runtime((tmp_path / "model.onnx").read_bytes(), {"x": x.numpy()}), wanted)
    assert_alike([throughtime.from_onnx(tmp_path / "model.onnx")(x).detach().numpy()], wanted)


def test_modules_that_cannot_be_exported_are_reported() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = throughtime.GRU(INPUT, HIDDEN)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ArithmeticError("no way")

    x, layer = torch.zeros(2, 1, INPUT), throughtime.Recurrent("mgu", INPUT, HIDDEN)
    for module, words, told in [
        (nn.Sequential(throughtime.GRU(INPUT, HIDDEN)), {}, r"Sequential that contains layers \(0\).*pass example=x"),
        (nn.Sequential(throughtime.GRU(INPUT, HIDDEN)), {"example": 3}, "example must be a tensor.*got int"),
        (nn.Sequential(layer), {"example": x}, "layer '0': torch has no layer for the cell 'mgu'"),
        (Failing(), {"example": x}, "can't export this Failing: ArithmeticError: no way"),
        (layer, {"example": x}, "a Recurrent is exported without an example"),
    ]:
        with pytest.raises(UserError, match=told):
            throughtime.to_onnx(module, **words)


@pytest.mark.filterwarnings("ignore")  # of tracing, and of the older weight norm
@pytest.mark.parametrize(
    "altered",
    [
        lambda layer: nn.utils.parametrizations.weight_norm(layer, "weight_hh_l0"),
        lambda layer: nn.utils.weight_norm(layer, "weight_hh_l0"),
        lambda layer: prune.l1_unstructured(layer, "weight_hh_l0", 0.5),
    ],
    ids=["weight norm", "weight norm by a hook", "pruned"],
)
@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_normalized_and_pruned_layers_are_exported_with_their_effective_weights(
    kind: Any, altered: Any, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    layer, x = altered(throughtime.accelerate(kind(INPUT, HIDDEN))), torch.randn(STEPS, ROWS, INPUT)
    with torch.no_grad():  # like an optimizer step without a forward pass after it
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    alone = throughtime.to_onnx(layer)
    zeros = {i.name: np.zeros((1, ROWS, HIDDEN), np.float32) for i in alone.graph.input[1:]}
    found = by_onnx_runtime(alone.SerializeToString(), {"input": x.numpy(), **zeros})
    module = Head(layer)
    throughtime.to_onnx(module, tmp_path / "model.onnx", example=x)
    inside = by_onnx_runtime((tmp_path / "model.onnx").read_bytes(), {"input": x.numpy()})
    assert_alike(found[:1], [layer(x)[0].detach().numpy()])
    assert_alike(inside, [module.eval()(x).detach().numpy()])


class Head(nn.Module):
    """A layer and a head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer, self.linear = layer, nn.Linear(HIDDEN, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.layer(x)[0])
