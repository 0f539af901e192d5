"""Weights of imported ONNX models: in a data file, as inputs of the graph, and shared by several nodes."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import pickle
import warnings
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.external_data_helper import convert_model_to_external_data
from onnx_helpers import assert_alike, by_onnx_runtime

import throughtime
from throughtime.errors import UserError

HIDDEN, INPUT, STEPS, ROWS = 4, 3, 5, 2
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def arrays(operator: str, seed: int = 0, directions: int = 1) -> dict[str, np.ndarray]:
    """Return weights that differ for all gates."""
    rng, rows = np.random.default_rng(seed), GATES[operator] * HIDDEN
    shapes = {"W": (rows, INPUT), "R": (rows, HIDDEN), "B": (2 * rows,)}
    return {name: rng.normal(size=(directions, *shape)).astype(np.float32) * 0.5 for name, shape in shapes.items()}


def model_of(nodes: list[Any], inputs: dict[str, list[int]], outputs: list[str], stored: dict[str, np.ndarray]) -> Any:
    """Create a model."""
    takes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    gives = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    constants = [numpy_helper.from_array(array, name) for name, array in stored.items()]
    graph = helper.make_graph(nodes, "graph", takes, gives, constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def layer(operator: str, takes: str, gives: str, **attributes: Any) -> Any:
    return helper.make_node(operator, takes.split(), gives.split(), hidden_size=HIDDEN, **attributes)


def numbers(*shape: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


# A data file.


class Tagger(torch.nn.Module):
    """A recurrent layer and a head."""

    def __init__(self, kind: type[torch.nn.RNNBase], **options: Any) -> None:
        super().__init__()
        self.recurrent = kind(INPUT, HIDDEN, **options)
        self.head = torch.nn.Linear(HIDDEN * (2 if options.get("bidirectional") else 1), 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.recurrent(x)[0])


def by_torchs_exporter(module: torch.nn.Module, given: tuple[Any, ...], path: Path, **words: Any) -> None:
    """Write a file with torch's default exporter."""
    pytest.importorskip("onnxscript")
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            torch.onnx.export(module.eval(), given, path, dynamo=True, **words)
    finally:
        logging.disable(logging.NOTSET)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "options", "opset"),
    [
        (torch.nn.LSTM, {}, None),
        (torch.nn.LSTM, {"num_layers": 2, "bidirectional": True, "batch_first": True}, 18),
        (torch.nn.GRU, {"num_layers": 2, "batch_first": True}, 20),
        (torch.nn.GRU, {"bidirectional": True}, 23),
    ],
)
def test_models_of_torchs_default_exporter_match_onnx_runtime(
    tmp_path: Path, kind: Any, options: dict[str, Any], opset: int | None
) -> None:
    torch.manual_seed(0)
    module, path, x = Tagger(kind, **options), tmp_path / "model.onnx", torch.randn(STEPS, ROWS, INPUT)
    by_torchs_exporter(module, (x,), path, opset_version=opset)
    assert (tmp_path / "model.onnx.data").exists()
    other = torch.randn(STEPS, ROWS, INPUT)
    found = throughtime.from_onnx(path)(other)
    assert_alike([found.detach().numpy()], [module(other).detach().numpy()])


@pytest.mark.slow
def test_an_unrolled_recurrence_is_rejected_with_a_solution(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    by_torchs_exporter(Tagger(torch.nn.RNN), (torch.randn(STEPS, ROWS, INPUT),), path)
    with pytest.raises(UserError, match=r"dynamo=False.*from_torch"):
        throughtime.from_onnx(path)


@cache
def external() -> Any:
    """Create a model whose weights go to a data file."""
    return model_of([layer("GRU", "x W R B", "y")], {"x": [STEPS, ROWS, INPUT]}, ["y"], arrays("GRU"))


def written(path: Path) -> Any:
    """Write the model with a data file; the result can be changed and written again."""
    model = onnx.ModelProto()
    model.CopyFrom(external())
    convert_model_to_external_data(model, location=f"{path.name}.data", size_threshold=0)
    onnx.save(model, path)
    return onnx.load(path, load_external_data=False)


def test_weights_are_read_from_a_data_file(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", numbers(STEPS, ROWS, INPUT)
    written(path)
    wanted = by_onnx_runtime(external(), {"x": x})
    for source in (path, str(path), onnx.load(path), external(), external().SerializeToString()):
        assert_alike([throughtime.from_onnx(source)(x).detach().numpy()], wanted)


def refused(source: Any, *words: str) -> None:
    with pytest.raises(UserError) as told:
        throughtime.from_onnx(source)
    for word in words:
        assert word in str(told.value)


def test_bytes_without_their_data_file_are_rejected(tmp_path: Path) -> None:
    model = written(tmp_path / "model.onnx")
    refused(model.SerializeToString(), "'W'", "'model.onnx.data'", "pass the path", "onnx.load(path)")


def test_a_missing_or_truncated_data_file_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    written(path)
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    refused(path, "'B'", str(data), "truncated")
    data.unlink()
    refused(path, str(data), "No such file", "next to the model")


def changed(path: Path, **entries: str) -> Path:
    """Change the entries that locate W."""
    model = written(path)
    (tensor,) = (t for t in model.graph.initializer if t.name == "W")
    known = {entry.key: entry.value for entry in tensor.external_data} | entries
    del tensor.external_data[:]
    for key, value in known.items():
        tensor.external_data.add(key=key, value=value)
    path.write_bytes(model.SerializeToString())
    return path


def test_only_files_in_the_models_directory_are_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10_000))
    home = tmp_path / "home"
    home.mkdir()
    (home / "link").symlink_to(secret)
    (home / "inside").mkdir()
    for location in (str(secret), "../secret", "inside/../../secret", "link", "", ".", "a\0b"):
        refused(changed(home / "model.onnx", location=location), "'W'", "outside the model's directory")
    refused(changed(home / "model.onnx", location="inside"), "not a regular file")
    os.mkfifo(home / "pipe")
    refused(changed(home / "model.onnx", location="pipe"), "not a regular file")


@pytest.mark.parametrize(
    "entries",
    [{"offset": "-4"}, {"length": "4"}, {"offset": str(2**70)}, {"offset": str(10**9)}],
)
def test_an_invalid_position_in_the_data_file_is_rejected(tmp_path: Path, entries: dict[str, str]) -> None:
    refused(changed(tmp_path / "model.onnx", **entries), "W")


# Inputs.


@cache
def onnxs_cases() -> list[Any]:
    from onnx.backend.test.case import node

    for module in ("gru", "lstm", "rnn"):  # importing a module defines its cases; collect_testcases imports all modules
        import_module(f"{node.__name__}.{module}")
    return [c for c in node._NodeTestCases if {n.op_type for n in c.model.graph.node} & GATES.keys()]


@pytest.mark.filterwarnings("ignore")
def test_results_match_onnxs_own_recurrent_cases() -> None:
    assert len(onnxs_cases()) == 18
    for case in onnxs_cases():
        names = [value.name for value in case.model.graph.input]
        model = throughtime.from_onnx(case.model)
        assert list(model.inputs) == names
        for given, wanted in case.data_sets:
            found = model(*given)  # weights passed with each call
            assert_alike(results(found), wanted)
            kept = {name: array for name, array in zip(names, given, strict=True) if name in "WRBP"}
            ours = throughtime.from_onnx(case.model, weights=kept)  # weights passed once
            assert list(ours.inputs) == [name for name in names if name not in kept]
            assert_alike(results(ours(*(a for n, a in zip(names, given, strict=True) if n not in kept))), wanted)
            assert sum(p.numel() for p in ours.parameters()) > 0


def results(found: Any) -> list[np.ndarray]:
    return [t.detach().numpy() for t in (found if isinstance(found, tuple) else (found,))]


@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
@pytest.mark.parametrize("operator", GATES)
def test_the_model_can_compute_weights(operator: str, direction: str) -> None:
    directions = 2 if direction == "bidirectional" else 1
    own = arrays(operator, directions=directions)
    nodes = [helper.make_node("Tanh", ["W"], ["V"]), layer(operator, "x V R B", "y h", direction=direction)]
    inputs = {"x": [STEPS, ROWS, INPUT], "W": list(own["W"].shape)}
    model = model_of(nodes, inputs, ["y", "h"], {name: own[name] for name in "RB"})
    x = numbers(STEPS, ROWS, INPUT)
    ours = throughtime.from_onnx(model)
    given = torch.from_numpy(own["W"]).requires_grad_()
    found = ours(torch.from_numpy(x), given)
    assert_alike(results(found), by_onnx_runtime(model, {"x": x, "W": own["W"]}))
    found[0].sum().backward()
    assert given.grad is not None
    assert all(p.grad is not None for p in ours.parameters())


def test_inputs_can_have_initial_values() -> None:
    """In old files, all stored arrays are also inputs, whose values callers can override."""
    own, x = arrays("LSTM"), numbers(STEPS, ROWS, INPUT)
    inputs = {"x": [STEPS, ROWS, INPUT]} | {name: list(a.shape) for name, a in own.items()}
    model = model_of([layer("LSTM", "x W R B", "y")], inputs, ["y"], own)
    ours = throughtime.from_onnx(model)
    assert ours.inputs == ("x",)
    assert_alike(results(ours(x)), by_onnx_runtime(model, {"x": x}))
    other = {"R": arrays("LSTM", 1)["R"]}
    double = {"R": other["R"].astype(np.float64)}  # converted to the file's dtype
    assert throughtime.from_onnx(model, weights=double)(x).dtype == torch.float32
    assert_alike(results(throughtime.from_onnx(model, weights=other)(x)), by_onnx_runtime(model, {"x": x} | other))


def test_weights_that_do_not_fit_are_rejected() -> None:
    inputs = {"x": [STEPS, ROWS, INPUT]} | {name: list(a.shape) for name, a in arrays("GRU").items()}
    model = model_of([layer("GRU", "x W R B", "y")], inputs, ["y"], {})
    for weights, words in [
        ({"V": 1.0}, ["'V'"]),
        ({"W": np.zeros((1, 3, 3))}, ["'W'", "[1, 12, 3]", "[1, 3, 3]"]),
        ({"W": np.array("text")}, ["'W'", "numbers"]),
        ([1.0], ["dictionary", "list"]),
    ]:
        with pytest.raises(UserError) as told:
            throughtime.from_onnx(model, weights=weights)
        assert all(word in str(told.value) for word in words)
    with pytest.raises(UserError, match=r"takes x, W, R, B; got 1 positional.*weights=\{'B': array, 'R': array"):
        throughtime.from_onnx(model)(torch.zeros(STEPS, ROWS, INPUT))
    own = arrays("GRU")
    with pytest.raises(UserError, match=r"R must have shape \[1, 12, 4\]"):
        throughtime.from_onnx(model)(torch.zeros(STEPS, ROWS, INPUT), own["W"], own["R"][:, :6], own["B"])


# Shared weights.


def test_nodes_that_share_arrays_share_parameters() -> None:
    own, other = arrays("LSTM"), arrays("LSTM", 1)
    nodes = [
        layer("LSTM", "x W R B", "y a c0"),
        layer("LSTM", "x W R B", "z b c1"),
        layer("LSTM", "x W R C", "v c c2"),
        layer("LSTM", "x V R B", "u d c3"),
    ]
    stored = own | {"V": other["W"], "C": other["B"]}
    model, x = model_of(nodes, {"x": [STEPS, ROWS, INPUT]}, list("abcd"), stored), numbers(STEPS, ROWS, INPUT)
    ours = throughtime.from_onnx(model)
    first, same, other_bias, other_input = (m.layers[0] for m in ours.layers.values())
    assert first.weight_x_l0 is same.weight_x_l0 is other_bias.weight_x_l0 is not other_input.weight_x_l0
    assert first.weight_h_l0 is same.weight_h_l0 is other_bias.weight_h_l0 is other_input.weight_h_l0
    assert first.bias_l0 is same.bias_l0 is other_input.bias_l0 is not other_bias.bias_l0
    assert_alike(results(ours(x)), by_onnx_runtime(model, {"x": x}))
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.mul_(0.5 if name.startswith("weight_h") else 1.0)
    stored["R"] = stored["R"] * np.float32(0.5)
    half = model_of(nodes, {"x": [STEPS, ROWS, INPUT]}, list("abcd"), stored)
    assert_alike(results(ours(x)), by_onnx_runtime(half, {"x": x}))


@pytest.mark.parametrize("given", [False, True])
def test_a_copy_is_independent_and_computes_the_same(given: bool) -> None:
    own, x = arrays("LSTM"), numbers(STEPS, ROWS, INPUT)
    inputs = {"x": [STEPS, ROWS, INPUT]} | ({"R": list(own["R"].shape)} if given else {})
    stored = {name: array for name, array in own.items() if name not in inputs}
    ours = throughtime.from_onnx(model_of([layer("LSTM", "x W R B", "y")], inputs, ["y"], stored))
    values = [x, own["R"]] if given else [x]
    wanted = results(ours(*values))
    copies = [copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))]
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.zero_()
    for one in copies:
        assert_alike(results(one(*values)), wanted, rtol=0, atol=0)


def test_directions_do_not_share_parameters() -> None:
    own = {name: np.concatenate([array, array]) for name, array in arrays("LSTM").items()}
    model = model_of(
        [layer("LSTM", "x W R B", "y", direction="bidirectional")], {"x": [STEPS, ROWS, INPUT]}, ["y"], own
    )
    (found,) = throughtime.from_onnx(model).layers.values()
    parameters = dict(found.layers[0].named_parameters(remove_duplicate=False))
    assert len({id(p) for p in parameters.values()}) == len(parameters)


def test_a_tied_embedding_stays_tied() -> None:
    """The softmax layer multiplies by the transposed embedding."""
    from throughtime.nn.language_model import LanguageModel
    from throughtime.nn.recurrent import Recurrent

    torch.manual_seed(0)
    model = LanguageModel(7, Recurrent("lstm", HIDDEN, HIDDEN), tie=True).eval()
    ours = throughtime.from_onnx(throughtime.to_onnx(model))
    tables = [p for p in ours.parameters() if p.numel() == 7 * HIDDEN]
    assert len(tables) == 1
    with torch.no_grad():
        tables[0].mul_(0.5)
        model.encoder.weight.mul_(0.5)
    tokens, zeros = torch.randint(7, (STEPS, ROWS)), torch.zeros(1, ROWS, HIDDEN)
    with torch.no_grad():
        assert_alike(results(ours(tokens, zeros, zeros)[0]), [model(tokens)[0].numpy()])
