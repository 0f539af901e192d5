"""Import of whole Keras models: every recurrent layer in a file matches Keras's or is reported as unread."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from keras_helpers import CLOSE, HIDDEN, INPUT, ROWS, STEPS, by_keras, by_us, randomized, some_input

import throughtime
from throughtime.exchange.keras.layers import KerasError

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

FORMS = ("keras", "h5", "weights.h5")


def read(model: Any, path: Path, **words: Any) -> Any:
    """Save a model to a file and import it."""
    (model.save_weights if path.name.endswith(".weights.h5") else model.save)(path)
    return throughtime.from_keras(path, **words)


def one_layer(keras: Any, layer: Any) -> Any:
    return randomized(keras.Sequential([keras.Input((STEPS, INPUT)), layer]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", ["LSTMCell", "GRUCell", "SimpleRNNCell"])
def test_an_rnn_with_a_cell_matches_keras(keras: Any, tmp_path: Path, kind: str, form: str) -> None:
    cell = getattr(keras.layers, kind)(HIDDEN, use_bias=kind != "LSTMCell")
    model = one_layer(keras, keras.layers.RNN(cell, return_sequences=True, name="run"))
    found = read(model, tmp_path / f"model.{form}")
    assert list(found) == ["run"]
    np.testing.assert_allclose(by_us(found["run"], some_input())[0], by_keras(model, some_input())[0], **CLOSE)
    alone = throughtime.from_keras(model.layers[0])
    np.testing.assert_allclose(by_us(alone, some_input())[0], by_keras(model, some_input())[0], **CLOSE)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("backwards", [False, True])
def test_stacked_cells_of_the_same_kind_become_one_layer(
    keras: Any, tmp_path: Path, form: str, backwards: bool
) -> None:
    cells = [keras.layers.GRUCell(HIDDEN, name=f"depth{k}") for k in range(12)]
    stack = keras.layers.StackedRNNCells(cells)
    model = one_layer(keras, keras.layers.RNN(stack, go_backwards=backwards, name="run"))
    given = {} if form != "weights.h5" else {"go_backwards": backwards, "return_sequences": False}
    found = read(model, tmp_path / f"model.{form}", **given)
    assert found["run"].num_layers == 12
    for module in (found["run"], throughtime.from_keras(model.layers[0])):
        np.testing.assert_allclose(by_us(module, some_input())[0], by_keras(model, some_input())[0], **CLOSE)


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_stacked_cells_of_different_kinds_become_one_layer_each(keras: Any, tmp_path: Path, form: str) -> None:
    k = keras.layers
    cells = [k.LSTMCell(4, name="low"), k.GRUCell(3, name="middle"), k.LSTMCell(4, name="high")]
    model = one_layer(keras, k.RNN(cells, name="run"))
    found = read(model, tmp_path / f"model.{form}")
    assert list(found) == ["run/low", "run/middle", "run/high"]
    y = torch.from_numpy(some_input())
    with torch.no_grad():
        for module in found.values():
            y, _ = module.eval()(y)
    np.testing.assert_allclose(y.numpy(), by_keras(model, some_input())[0], **CLOSE)


def test_stacked_cells_of_different_kinds_need_a_configuration(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    mixed = k.RNN([k.LSTMCell(4), k.GRUCell(3)], return_sequences=True, name="run")
    model = keras.Sequential([keras.Input((STEPS, INPUT)), mixed, k.GRU(2, name="gru")])
    found = read(model, tmp_path / "model.weights.h5")
    assert list(found) == ["gru"]
    assert "the order of stacked cells: read the model from a .keras file" in found.unread["run"]


@pytest.mark.parametrize("form", FORMS)
def test_bidirectional_cells_match_keras(keras: Any, tmp_path: Path, form: str) -> None:
    k = keras.layers
    rnn = k.RNN(k.LSTMCell(HIDDEN), return_sequences=True)
    model = one_layer(keras, k.Bidirectional(rnn, merge_mode="sum", name="both"))
    found = read(model, tmp_path / f"model.{form}", merge_mode="sum")
    np.testing.assert_allclose(by_us(found["both"], some_input())[0], by_keras(model, some_input())[0], **CLOSE)


def test_bidirectional_stacked_cells_match_keras(keras: Any, tmp_path: Path) -> None:
    k = keras.layers

    def both(merge: str | None) -> Any:
        start = keras.Input((STEPS, INPUT))
        cells = k.RNN([k.GRUCell(HIDDEN), k.GRUCell(HIDDEN)], return_sequences=True)
        ends = k.Bidirectional(cells, merge_mode=merge, name="both")(start)
        return randomized(keras.Model(start, ends))

    model = both(None)
    found = read(model, tmp_path / "model.keras")
    for ours, theirs in zip(by_us(found["both"], some_input()), by_keras(model, some_input()), strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    with pytest.raises(KerasError, match=r"after the top cell.*only merge_mode=None is supported"):
        read(both("concat"), tmp_path / "merged.keras")


@pytest.mark.parametrize("form", FORMS)
def test_layers_in_wrappers_match_keras(
    keras: Any, tmp_path: Path, form: str, caplog: pytest.LogCaptureFixture
) -> None:
    k = keras.layers
    start = keras.Input((6, STEPS, INPUT))
    frames = k.TimeDistributed(k.LSTM(HIDDEN, name="inner"), name="frames")(start)
    model = randomized(keras.Model(start, k.Bidirectional(k.GRU(2, return_sequences=True), name="both")(frames)))
    found = read(model, tmp_path / f"model.{form}", **({"return_sequences": False} if form == "weights.h5" else {}))
    assert set(found) == {"inner", "both"}
    x = np.random.default_rng(1).normal(size=(ROWS, 6, STEPS, INPUT)).astype(np.float32)
    ours = by_us(found["inner"], x.reshape(-1, STEPS, INPUT))[0].reshape(ROWS, 6, HIDDEN)
    np.testing.assert_allclose(ours, by_keras(model.layers[1], x)[0], **CLOSE)
    if form != "weights.h5":
        np.testing.assert_allclose(by_us(found["both"], ours)[0], by_keras(model, x)[0], **CLOSE)
        assert "inner of model" in caplog.text
        assert "is inside TimeDistributed 'frames'" in found.notes["inner"][0]


@pytest.mark.parametrize("form", ["keras", "h5"])
def test_layers_of_nested_models_match_keras(keras: Any, tmp_path: Path, form: str) -> None:
    k = keras.layers
    middle = keras.Input((None, 3))
    functional = keras.Model(middle, k.LSTM(4, return_sequences=True, name="deep")(k.Dense(3)(middle)), name="graph")
    sequence = keras.Sequential([functional, k.GRU(2, name="top")], name="line")
    start = keras.Input((STEPS, INPUT))
    model = randomized(keras.Model(start, sequence(k.SimpleRNN(3, return_sequences=True, name="low")(start))))
    found = read(model, tmp_path / f"model.{form}")
    assert list(found) == ["low", "deep", "top"]
    assert not found.unread
    for name, layer in (("low", model.layers[1]), ("deep", functional.layers[-1]), ("top", sequence.layers[-1])):
        x = np.random.default_rng(2).normal(size=(ROWS, STEPS, found[name].input_size)).astype(np.float32)
        np.testing.assert_allclose(by_us(found[name], x)[0], by_keras(layer, x)[0], **CLOSE)


# Masks.


IDS = np.array([[3, 1, 4, 1, 5], [2, 7, 0, 0, 0]])


@pytest.mark.parametrize("form", ["keras", "h5"])
@pytest.mark.parametrize("functional", [False, True])
def test_the_mask_of_an_embedding_determines_lengths(keras: Any, tmp_path: Path, form: str, functional: bool) -> None:
    k = keras.layers
    layers = [
        k.Embedding(10, INPUT, mask_zero=True, name="words"),
        k.Dropout(0.5),
        k.Bidirectional(k.LSTM(HIDDEN, return_sequences=True), name="low"),
        k.GRU(HIDDEN, name="top"),
        k.RepeatVector(3),
        k.GRU(HIDDEN, name="decoder"),
    ]
    start = keras.Input((STEPS,))
    if functional:
        y = start
        for layer in layers:
            y = layer(y)
        model = keras.Model(start, y)
    else:
        model = keras.Sequential([start, *layers])
    randomized(model)
    found = read(model, tmp_path / f"model.{form}")
    assert list(found) == ["low", "top", "decoder"]
    assert list(found.masks) == ["low", "top"]
    (mask,) = found.masks["low"]
    assert str(mask) == "words (mask_zero)"
    lengths = mask.lengths(torch.from_numpy(IDS))
    assert lengths.tolist() == [5, 2]
    with torch.no_grad():
        table = torch.from_numpy(layers[0].get_weights()[0])
        y, _ = found["low"].eval()(table[torch.from_numpy(IDS)], lengths=lengths)
        y, _ = found["top"].eval()(y, lengths=lengths)
        y, _ = found["decoder"].eval()(y[:, None].expand(-1, 3, -1))
    np.testing.assert_allclose(y.numpy(), by_keras(model, IDS)[0], **CLOSE)


def test_the_mask_of_a_masking_layer_determines_lengths(
    keras: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    k = keras.layers
    masking = k.Masking(0.5, name="padding")
    model = keras.Sequential([keras.Input((STEPS, INPUT)), masking, k.LSTM(HIDDEN, name="run")])
    randomized(model)
    found = read(model, tmp_path / "model.keras")
    assert "run of model.keras skips steps that padding (Masking of 0.5) masks: pass lengths to it" in caplog.text
    x = some_input()
    x[1, 3:] = 0.5
    lengths = found.masks["run"][0].lengths(torch.from_numpy(x))
    with torch.no_grad():
        y, _ = found["run"].eval()(torch.from_numpy(x), lengths=lengths)
    np.testing.assert_allclose(y.numpy(), by_keras(model, x)[0], **CLOSE)
    x[0, 0] = 0.5
    with pytest.raises(KerasError, match=r"padding masks steps that aren't at the end.*padding='post'"):
        found.masks["run"][0].lengths(torch.from_numpy(x))


def test_a_mask_computed_by_the_model_is_noted(keras: Any, tmp_path: Path) -> None:
    start = keras.Input((STEPS, INPUT))
    mask = keras.ops.any(keras.ops.greater(start, 0.0), axis=-1)
    model = keras.Model(start, keras.layers.LSTM(HIDDEN, name="run")(start, mask=mask))
    found = read(model, tmp_path / "model.keras")
    (note,) = found.notes["run"]
    assert re.fullmatch(r"it takes the mask that 'any(_\d+)?' computes in the model; pass lengths instead", note)


# Unsupported layers.


def test_unsupported_layers_are_listed_as_unread(keras: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    k = keras.layers

    @keras.saving.register_keras_serializable("mine")
    class Own(k.Layer):
        def __init__(self, **words: Any) -> None:
            super().__init__(**words)
            self.rnn = k.GRU(INPUT, return_sequences=True, name="hidden")

        def build(self, shape: Any) -> None:
            self.rnn.build(shape)

        def call(self, x: Any) -> Any:
            return self.rnn(x)

    model = keras.Sequential(
        [
            keras.Input((STEPS, INPUT)),
            Own(name="own"),
            k.LSTM(4, activation="selu", return_sequences=True, name="odd"),
            k.Reshape((STEPS, 4, 1)),
            k.ConvLSTM1D(3, 2, return_sequences=True, name="convolved"),
            k.TimeDistributed(k.Flatten()),
            k.GRU(2, name="fine"),
        ]
    )
    for form in ("keras", "h5"):
        found = read(model, tmp_path / f"model.{form}")
        assert list(found) == ["fine"]
        own = next(name for name in found.unread if name not in ("odd", "convolved"))
        assert "own" in own
        assert "the configuration doesn't say which layer uses these weights" in found.unread[own]
        assert "activation must be one of" in found.unread["odd"]
        assert "convolution" in found.unread["convolved"]
        for name in found.unread:
            assert f"Not read from model.{form}: {name}: " in caplog.text
        with pytest.raises(KerasError, match="layer 'convolved' could not be read: ConvLSTM1D computes"):
            found["convolved"]
        with pytest.raises(KerasError, match=r"no recurrent layer named 'fime' .did you mean fine.*its layers: fine"):
            found["fime"]
    found = read(model, tmp_path / "model.weights.h5")
    assert set(found) == {"fine", "odd", "hidden"}
    assert "convolved" in found.unread


def test_a_file_without_readable_layers_reports_all_reasons(keras: Any, tmp_path: Path) -> None:
    k = keras.layers
    layers = [k.LSTM(2, activation="selu", return_sequences=True, name="a"), k.GRU(2, activation="gelu", name="b")]
    model = keras.Sequential([keras.Input((STEPS, INPUT)), *layers])
    with pytest.raises(KerasError, match=r"(?s)none of the recurrent layers.*\n  a: .*'selu'.*\n  b: .*'gelu'"):
        read(model, tmp_path / "model.keras")


def test_an_h5_file_of_keras_2_is_rejected(keras: Any, tmp_path: Path) -> None:
    one_layer(keras, keras.layers.LSTM(HIDDEN)).save(tmp_path / "model.h5")
    with h5py.File(tmp_path / "model.h5", "a") as file:
        file.attrs["keras_version"] = "2.15.0"
    with pytest.raises(KerasError, match="written by Keras before version 3: load the model there"):
        throughtime.from_keras(tmp_path / "model.h5")


def test_dropout_in_a_file_does_not_change_inference(keras: Any, tmp_path: Path) -> None:
    layer = keras.layers.LSTM(HIDDEN, dropout=0.2, recurrent_dropout=0.3, name="run")
    model = one_layer(keras, layer)
    found = read(model, tmp_path / "model.keras")
    assert found.notes["run"] == [
        "its input dropout=0.2 is not included; to train it further, apply torch.nn.Dropout before it"
    ]
    np.testing.assert_allclose(by_us(found["run"], some_input())[0], by_keras(model, some_input())[0], **CLOSE)
