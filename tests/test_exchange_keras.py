"""Import of Keras layers: results match Keras's, from arrays and files, and malicious files do no harm."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from itertools import product
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from helpers import run_python
from hypothesis import given, settings
from hypothesis import strategies as st
from keras_helpers import (
    CLOSE,
    HIDDEN,
    INPUT,
    ROWS,
    STEPS,
    assert_alike,
    built,
    by_keras,
    by_us,
    randomized,
    some_input,
)
from outcomes import COLLECTING, Outcomes

import throughtime
from throughtime.errors import UserError
from throughtime.exchange.keras.layers import KerasError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LAYERS = {
    "SimpleRNN": ("SimpleRNN", {}),
    "LSTM": ("LSTM", {}),
    "GRU after": ("GRU", {"reset_after": True}),
    "GRU before": ("GRU", {"reset_after": False}),
}


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("bias", "steps"), list(product([True, False], repeat=2)))
def test_arrays_with_arguments_match_keras(keras: Any, name: str, bias: bool, steps: bool) -> None:
    kind, words = LAYERS[name]
    layer = built(getattr(keras.layers, kind)(HIDDEN, use_bias=bias, return_sequences=steps, **words))
    assert_alike(throughtime.from_keras(layer.get_weights(), **layer.get_config()), layer)
    assert_alike(throughtime.from_keras(layer), layer)


@pytest.mark.parametrize("name", LAYERS)
def test_arrays_without_arguments_match_keras(keras: Any, name: str) -> None:
    kind, words = LAYERS[name]
    layer = built(getattr(keras.layers, kind)(HIDDEN, return_sequences=True, **words))
    assert_alike(throughtime.from_keras(layer.get_weights()), layer)


def test_states_match_keras(keras: Any) -> None:
    layer = built(keras.layers.LSTM(HIDDEN, return_state=True))
    module, x = throughtime.from_keras(layer), some_input()
    with torch.no_grad():
        output, states = module(torch.from_numpy(x))
    for ours, theirs in zip([output, *(s[0] for s in states)], by_keras(layer, x), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs, **CLOSE)


@pytest.mark.parametrize(
    "activation",
    [
        "relu", "linear", "elu", "exponential", "hard_sigmoid", "hard_tanh", "leaky_relu", "silu", "softplus",
        "softsign", "sigmoid",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", LAYERS)
def test_activations_match_keras(keras: Any, name: str, activation: str) -> None:
    kind, words = LAYERS[name]
    gates = {} if kind == "SimpleRNN" else {"recurrent_activation": "hard_sigmoid"}
    layer = built(getattr(keras.layers, kind)(HIDDEN, activation=activation, **gates, **words))
    scale = 0.1 if activation == "exponential" else 0.5  # nested exponentials overflow and amplify rounding
    layer.set_weights([scale * w for w in layer.get_weights()])
    assert_alike(throughtime.from_keras(layer), layer)


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul", None])
@pytest.mark.parametrize("steps", [True, False])
@pytest.mark.parametrize("name", ["LSTM", "GRU after", "GRU before"])
def test_bidirectional_layers_match_keras(keras: Any, name: str, merge: str | None, steps: bool) -> None:
    kind, words = LAYERS[name]
    inner = getattr(keras.layers, kind)(HIDDEN, return_sequences=steps, **words)
    layer = built(keras.layers.Bidirectional(inner, merge_mode=merge))
    assert_alike(throughtime.from_keras(layer), layer)
    if merge == "concat" and steps:
        assert_alike(throughtime.from_keras(layer.get_weights()), layer)


def test_a_layer_that_goes_backwards_matches_keras(keras: Any) -> None:
    layer = built(keras.layers.GRU(HIDDEN, go_backwards=True))
    assert_alike(throughtime.from_keras(layer), layer)


def test_a_layer_with_dropout_matches_keras_in_inference(keras: Any, caplog: pytest.LogCaptureFixture) -> None:
    layer = built(keras.layers.LSTM(HIDDEN, dropout=0.1, recurrent_dropout=0.25, name="noisy"))
    module = throughtime.from_keras(layer)
    assert (
        "noisy: its input dropout=0.1 is not included; to train it further, apply torch.nn.Dropout before it"
        in caplog.text
    )
    assert module.options.recurrent_dropout == 0.25
    assert_alike(module, layer)


def test_the_caller_keeps_the_state_of_a_stateful_layer(keras: Any, caplog: pytest.LogCaptureFixture) -> None:
    model = keras.Sequential([keras.Input((STEPS, INPUT), batch_size=ROWS), keras.layers.GRU(HIDDEN, stateful=True)])
    randomized(model)
    module, x = throughtime.from_keras(model.layers[0]), some_input()
    assert "stateful: pass the state that each call returns to the next call" in caplog.text
    with torch.no_grad():
        _, state = module(torch.from_numpy(x))
        output, _ = module(torch.from_numpy(x), state)
    by_keras(model, x)
    np.testing.assert_allclose(output.numpy(), by_keras(model, x)[0], **CLOSE)


def test_a_backward_layer_returns_outputs_in_input_order(keras: Any, caplog: pytest.LogCaptureFixture) -> None:
    layer = built(keras.layers.LSTM(HIDDEN, go_backwards=True, return_sequences=True))
    module, x = throughtime.from_keras(layer), some_input()
    assert "returns outputs in input order; flip them to match Keras" in caplog.text
    np.testing.assert_allclose(by_us(module, x)[0][:, ::-1], by_keras(layer, x)[0], **CLOSE)


# Files.


@pytest.fixture(scope="module")
def model(keras: Any) -> Any:
    layers = keras.layers
    inner = keras.Sequential([keras.Input((None, 3)), layers.GRU(2, return_sequences=True, name="inside")], name="box")
    return randomized(
        keras.Sequential(
            [
                keras.Input((None, INPUT)),
                layers.SimpleRNN(4, return_sequences=True, name="first"),
                layers.Bidirectional(layers.LSTM(5, return_sequences=True), merge_mode="ave", name="both"),
                layers.Dense(3),
                inner,
                layers.GRU(4, reset_after=False, use_bias=False, return_sequences=True, name="plain"),
                layers.RNN(
                    layers.StackedRNNCells([layers.LSTMCell(4), layers.LSTMCell(4)]),
                    return_sequences=True,
                    name="stack",
                ),
                layers.GRU(4, activation="relu", name="last"),
            ]
        )
    )


@pytest.fixture(scope="module")
def files(model: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    folder = tmp_path_factory.mktemp("files")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    model.save(folder / "model.h5")
    return folder / "model.keras", folder / "model.weights.h5", folder / "model.h5"


@pytest.mark.parametrize("form", [0, 2], ids=["keras", "h5"])
def test_layers_of_a_model_file_match_keras(model: Any, files: tuple[Path, ...], form: int) -> None:
    found = throughtime.from_keras(files[form])
    assert list(found) == ["first", "both", "inside", "plain", "stack", "last"]
    assert not found.unread
    assert not found.masks
    assert not found.notes
    x = some_input()
    given = torch.from_numpy(x)
    with torch.no_grad():
        y, _ = found["both"](found["first"](given)[0])
        kernel, bias = (torch.from_numpy(w) for w in model.layers[2].get_weights())
        y, _ = found["inside"](y @ kernel + bias)
        y, _ = found["last"](found["stack"](found["plain"](y)[0])[0])
    np.testing.assert_allclose(y.numpy(), by_keras(model, x)[0], **CLOSE)


def test_layers_of_a_weights_file_match_keras(model: Any, files: tuple[Path, ...]) -> None:
    found = throughtime.from_keras(files[1])
    assert set(found) == {"first", "both", "inside", "plain", "stack", "last"}
    x = np.random.default_rng(2).normal(size=(ROWS, STEPS, 3)).astype(np.float32)
    for name, layer in (("first", model.layers[0]), ("inside", model.layers[3].layers[0])):
        np.testing.assert_allclose(by_us(found[name], x)[0], by_keras(layer, x)[0], **CLOSE)
    told = throughtime.from_keras(files[1], activation="relu", return_sequences=False)["last"]
    wide = np.random.default_rng(2).normal(size=(ROWS, STEPS, 4)).astype(np.float32)
    np.testing.assert_allclose(by_us(told, wide)[0], by_keras(model.layers[6], wide)[0], **CLOSE)


def test_layers_with_the_same_name_are_listed_by_path(keras: Any, tmp_path: Path) -> None:
    def inner() -> Any:
        return keras.Sequential([keras.Input((None, 3)), keras.layers.GRU(3, return_sequences=True, name="same")])

    model = keras.Sequential([keras.Input((None, 3)), inner(), inner()])
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    for name in ("model.keras", "model.weights.h5"):
        found = throughtime.from_keras(tmp_path / name)
        assert set(found) == {"layers/sequential/layers/gru", "layers/sequential_1/layers/gru"}


def test_functional_and_subclassed_models_can_be_imported(keras: Any, tmp_path: Path) -> None:
    start = keras.Input((None, INPUT))
    steps = keras.layers.LSTM(4, return_sequences=True, name="b")(start)
    model = randomized(keras.Model(start, keras.layers.LSTM(HIDDEN, name="a")(steps)))
    model.save(tmp_path / "model.keras")
    found = throughtime.from_keras(tmp_path / "model.keras")
    assert list(found) == ["b", "a"]
    x = some_input()
    np.testing.assert_allclose(by_us(found["a"], by_us(found["b"], x)[0])[0], by_keras(model, x)[0], **CLOSE)

    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = keras.layers.GRU(HIDDEN, name="encode")

        def call(self, x: Any) -> Any:
            return self.encoder(x)

    own = Own()
    own(x)
    randomized(own)
    own.save_weights(tmp_path / "own.weights.h5")
    found = throughtime.from_keras(tmp_path / "own.weights.h5", return_sequences=False)
    assert list(found) == ["encode"]
    assert_alike(found["encode"], own)
    own.save(tmp_path / "own.keras")
    with pytest.raises(KerasError, match=r"\(Own\) does not list its layers: call model\.save_weights"):
        throughtime.from_keras(tmp_path / "own.keras")


# Invalid arguments and files.


def arrays(gates: int = 4, units: int = HIDDEN) -> list[np.ndarray]:
    shapes = [(INPUT, gates * units), (units, gates * units), (gates * units,)]
    return [np.zeros(shape, np.float32) for shape in shapes]


def test_invalid_arrays_and_arguments_are_rejected() -> None:
    for given_arrays, words, told in [
        (arrays(2), {}, r"\[\[3, 8\], \[4, 8\], \[8\]\] do not fit SimpleRNN, LSTM or GRU"),
        (arrays()[:1], {}, "expected a kernel, a recurrent kernel and optionally a bias"),
        (arrays(3), {"reset_after": True}, "do not fit.*reset_after=True"),
        ([a.astype(np.float64) if a.ndim == 1 else a for a in arrays()], {}, "same floating-point dtype"),
        ([a.astype(np.int64) for a in arrays()], {}, "same floating-point dtype, got .'int64'"),
        (arrays(), {"units": 5}, "units is 5, but its arrays imply 4"),
        (arrays(), {"use_bias": False}, "use_bias is False"),
        (arrays(), {"reset_after": True}, "LSTM has no argument 'reset_after'"),
        (arrays(1), {"recurrent_activation": "tanh"}, "SimpleRNN has no argument 'recurrent_activation'"),
        (arrays(), {"activatoin": "relu"}, "no argument 'activatoin' .did you mean activation"),
        (arrays(), {"activation": "tahn"}, "activation must be one of tanh, .*got 'tahn' .did you mean tanh"),
        (arrays(), {"activation": {"class_name": "x"}}, "got {'class_name'"),
        (arrays(), {"dropout": 2}, "dropout must be a probability from 0 to 1, got 2"),
        (arrays(), {"return_sequences": 1}, "return_sequences must be True or False, got 1"),
        (arrays(), {"recurrent_dropout": 2.0}, "from 0 to 1, got 2.0"),
        (
            arrays() + arrays(),
            {"merge_mode": "avg"},
            "merge_mode must be one of concat, sum, ave, mul, None, got 'avg'",
        ),
        (arrays() + arrays(units=5), {}, "directions must be the same layer, one forward"),
        (arrays() + arrays(), {"layer": 3}, "layer must have a class_name and a config, got 3"),
        (3, {}, "got int"),
        ([1, 2], {}, "got list"),
    ]:
        with pytest.raises(UserError, match=told):
            throughtime.from_keras(given_arrays, **words)


def test_other_layers_are_rejected(keras: Any) -> None:
    with pytest.raises(KerasError, match=r"got Dense\. Pass the layer inside a wrapper"):
        throughtime.from_keras(keras.layers.Dense(3))


def test_files_without_recurrent_layers_are_rejected(keras: Any, tmp_path: Path) -> None:
    cases = {
        "no.keras": "no such file or directory",
        "text.keras": "not an HDF5 file",
        "zip.keras": "config.json is missing",
    }
    for name, told in cases.items():
        path = tmp_path / name
        if name == "text.keras":
            path.write_text("nothing")
        if name == "zip.keras":
            zipfile.ZipFile(path, "w").close()
        with pytest.raises(KerasError, match=f"{name}.*{told}"):
            throughtime.from_keras(path)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.save(tmp_path / "dense.keras")
    with pytest.raises(KerasError, match="has no SimpleRNN, LSTM, GRU or RNN layer, alone or in"):
        throughtime.from_keras(tmp_path / "dense.keras")
    with h5py.File(tmp_path / "old.h5", "w") as file:
        file.attrs["layer_names"] = ["lstm"]
    with pytest.raises(KerasError, match="Keras before version 3"):
        throughtime.from_keras(tmp_path / "old.h5")


def written(path: Path, **arrays: Any) -> Path:
    """Write a weights file with one layer."""
    with h5py.File(path, "w") as file:
        group = file.create_group("layers/lstm/cell/vars")
        for k, array in enumerate(({"a": np.zeros((3, 16), "f4"), "b": np.zeros((4, 16), "f4")} | arrays).values()):
            if isinstance(array, np.ndarray):
                group[str(k)] = array
            else:
                array(group, str(k))
    return path


def test_links_out_of_a_file_are_not_followed(tmp_path: Path) -> None:
    assert list(throughtime.from_keras(written(tmp_path / "plain.h5"))) == ["lstm"]
    written(tmp_path / "other.h5")
    layout = h5py.VirtualLayout((3, 16), "f4")
    layout[:] = h5py.VirtualSource(str(tmp_path / "other.h5"), "layers/lstm/cell/vars/0", (3, 16))
    (tmp_path / "secret").write_bytes(bytes(3 * 16 * 4))
    for name, odd in {
        "external link": lambda g, k: g.__setitem__(k, h5py.ExternalLink("other.h5", "/layers/lstm/cell/vars/0")),
        "soft link": lambda g, k: g.__setitem__(k, h5py.SoftLink("/layers")),
        "virtual": lambda g, k: g.create_virtual_dataset(k, layout),
        "external": lambda g, k: g.create_dataset(k, (3, 16), "f4", external=[(str(tmp_path / "secret"), 0, 192)]),
        "packed": lambda g, k: g.create_dataset(k, (3, 16), "f4", chunks=(3, 16), compression="gzip"),
        "empty": lambda g, k: g.create_dataset(k, dtype="f4"),
        "group": lambda g, k: g.create_group(k),
        "text": lambda g, k: g.create_dataset(k, data="text"),
    }.items():
        with pytest.raises(KerasError, match=r"array|has no (.* layer|weights)"):
            throughtime.from_keras(written(tmp_path / f"{name}.h5", a=odd))


LIMITED = """
import resource, sys
import numpy
import throughtime
from throughtime.errors import UserError
throughtime.from_keras([numpy.zeros((3, 4), "f4"), numpy.zeros((4, 4), "f4")])
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 28), resource.RLIM_INFINITY))
for path in sys.argv[1:]:
    try:
        throughtime.from_keras(path)
    except UserError as error:
        print(error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="the memory limit needs Linux")
def test_claimed_sizes_do_not_allocate_memory(tmp_path: Path) -> None:
    wide = (1 << 20, 1 << 12)
    paths = [
        written(tmp_path / "late.h5", a=lambda g, k: g.create_dataset(k, wide, "f4")),
        written(tmp_path / "chunks.h5", a=lambda g, k: g.create_dataset(k, wide, "f4", chunks=(64, 64))),
        tmp_path / "cycle.h5",
        tmp_path / "bomb.keras",
    ]
    with h5py.File(tmp_path / "cycle.h5", "w") as file:
        for name in ("a", "b", "c"):
            file[name] = file["/"]
    with zipfile.ZipFile(tmp_path / "bomb.keras", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", bytes(1 << 28))
        archive.writestr("model.weights.h5", b"")
    printed = run_python(LIMITED, *paths)
    told = ["is missing or has the wrong size", "not contiguous", "nested too deeply", "to 268435456 bytes"]
    for line, words in zip(printed.splitlines(), told, strict=True):
        assert words in line


def assert_harmless(content: bytes, outcomes: Outcomes) -> None:
    """Assert that reading a file with this content returns layers or raises a UserError."""
    path = Path(os.environ["XDG_CACHE_HOME"]) / "hostile.keras"
    path.write_bytes(content)
    found = outcomes.of(throughtime.from_keras, path)
    assert found is None or len(found) > 0


@settings(COLLECTING, max_examples=100)
@given(data=st.data())
def test_damaged_bytes_raise_only_user_errors(files: tuple[Path, ...], outcomes: Outcomes, data: st.DataObject) -> None:
    content = bytearray(files[data.draw(st.integers(0, len(files) - 1))].read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        for at in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=4)):
            content[at] ^= data.draw(st.integers(1, 255))
    assert_harmless(bytes(content), outcomes)


ODD = st.sampled_from([None, True, -1, 0, 1 << 62, 0.5, float("nan"), "", "x", "LSTM", "/", "..", [], {}, [[]]])


@settings(COLLECTING, max_examples=100)
@given(data=st.data())
def test_malicious_configurations_raise_only_user_errors(
    files: tuple[Path, ...], outcomes: Outcomes, data: st.DataObject
) -> None:
    with zipfile.ZipFile(files[0]) as archive:
        config, weights = json.loads(archive.read("config.json")), archive.read("model.weights.h5")
    tree, place = config, None
    while place is None or (isinstance(tree[place], dict | list) and tree[place] and data.draw(st.integers(0, 9))):
        tree = config if place is None else tree[place]
        place = data.draw(st.sampled_from(list(tree) if isinstance(tree, dict) else list(range(len(tree)))))
    if data.draw(st.booleans()):
        tree[place] = data.draw(ODD)
    else:
        del tree[place]
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("model.weights.h5", weights)
    assert_harmless(made.getvalue(), outcomes)
