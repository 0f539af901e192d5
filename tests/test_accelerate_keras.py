"""`accelerate` runs Keras's recurrent layers on throughtime's engine and changes nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import run_python
from keras_helpers import HIDDEN, INPUT, ROWS, STEPS, built, some_input
from torch import nn

import throughtime
from throughtime.acceleration import substitute_layers
from throughtime.errors import UserError
from throughtime.exchange.keras.loop import Loop

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

# Sums of a dozen float32 products in a different order, over five steps of up to two layers.
CLOSE = {"rtol": 1e-5, "atol": 2e-6}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Collect whether throughtime's engine ran each call of an accelerated layer."""
    seen: list[bool] = []
    decide = Loop._runs

    def watched(self: Loop, *of: Any) -> bool:
        seen.append(decide(self, *of))
        return seen[-1]

    monkeypatch.setattr(Loop, "_runs", watched)
    return seen


def results(layer: Any, x: Any, **of: Any) -> list[np.ndarray]:
    """Return a layer's outputs, states, and gradients of its input and weights."""
    x = torch.from_numpy(x).requires_grad_()
    for weight in layer.trainable_weights:
        weight.value.grad = None
    found = layer(x, **of)
    found = list(found) if isinstance(found, list | tuple) else [found]
    sum((y.sin() * (k + 1)).sum() for k, y in enumerate(found)).backward()
    grads = [x.grad, *(w.value.grad for w in layer.trainable_weights)]
    return [t.detach().numpy().copy() for t in (*found, *grads)]


def assert_same(layer: Any, runs: list[bool], x: np.ndarray | None = None, **of: Any) -> None:
    """Check that `accelerate` does not change results, and that throughtime's engine ran."""
    x = some_input() if x is None else x
    expected = results(layer, x, **of)
    throughtime.accelerate(layer)
    found = results(layer, x, **of)
    assert runs
    assert all(runs)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


KINDS = {
    "SimpleRNN": ("SimpleRNN", {}),
    "LSTM": ("LSTM", {}),
    "GRU": ("GRU", {}),
    "GRU before": ("GRU", {"reset_after": False}),
}
OPTIONS = {
    "plain": {},
    "all": {"return_sequences": True, "return_state": True},
    "backwards": {"go_backwards": True, "return_sequences": True, "return_state": True},
    "no bias": {"use_bias": False},
    "unrolled": {"unroll": True, "return_sequences": True},
    "relu": {"activation": "relu", "return_state": True},
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_results_and_gradients_match_keras(keras: Any, runs: list[bool], kind: str, options: str) -> None:
    name, words = KINDS[kind]
    assert_same(built(getattr(keras.layers, name)(HIDDEN, **words, **OPTIONS[options])), runs)


@pytest.mark.parametrize(
    "rates", [{"dropout": 0.4}, {"recurrent_dropout": 0.4}, {"dropout": 0.4, "recurrent_dropout": 0.3}]
)
@pytest.mark.parametrize("kind", KINDS)
def test_dropout_uses_the_masks_of_keras(keras: Any, runs: list[bool], kind: str, rates: dict[str, float]) -> None:
    """With recurrent dropout, an LSTM or a GRU has a mask for each gate, of its input and of its state."""
    name, fixed = KINDS[kind]
    layer = built(getattr(keras.layers, name)(HIDDEN, return_sequences=True, **fixed, **rates))
    x = some_input()
    mask = np.ones((ROWS, STEPS), bool)
    mask[0, 2:] = False  # the engine sorts sequences by length
    found = []
    for change in (lambda layer: layer, throughtime.accelerate):
        torch.manual_seed(0)  # Keras draws the masks with torch's generator
        found.append(results(change(layer), x, training=True, mask=torch.from_numpy(mask)))
    assert all(runs)
    for theirs, ours in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)
    assert not np.allclose(results(layer, x)[0], found[0][0])


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_a_stateful_layer_keeps_its_state_and_trains(keras: Any, runs: list[bool], name: str) -> None:
    kind = getattr(keras.layers, name)
    layer, plain = kind(HIDDEN, stateful=True), built(kind(HIDDEN))
    layer.build((ROWS, STEPS, INPUT))
    layer.set_weights(plain.get_weights())
    x = some_input()
    with torch.no_grad():
        expected = [layer(x).numpy() for _ in range(3)]
        layer.reset_state()
        throughtime.accelerate(layer)
        found = [layer(x).numpy() for _ in range(3)]
        layer.reset_state()
    np.testing.assert_allclose(found, expected, **CLOSE)
    # Gradients come from a stateless layer, because Keras 3.15 overwrites tensors that its own backward needs.
    for a, b in zip(results(layer, x)[:4], results(plain, x)[:4], strict=True):
        np.testing.assert_allclose(a, b, **CLOSE)
    assert all(runs)


MASKS = {
    "right": [[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]],
    "left": [[0, 0, 1, 1, 1], [0, 1, 1, 1, 1]],
    "holes": [[0, 1, 0, 1, 0], [1, 0, 0, 1, 1]],
    "none left": [[0, 0, 0, 0, 0], [1, 1, 0, 0, 1]],
    "full": [[1] * 5] * 2,
}


@pytest.mark.parametrize("options", [{}, {"go_backwards": True}, {"zero_output_for_mask": True}])
@pytest.mark.parametrize("sequences", [False, True])
@pytest.mark.parametrize("mask", MASKS)
def test_all_masks_match_keras(
    keras: Any, runs: list[bool], mask: str, sequences: bool, options: dict[str, bool]
) -> None:
    layer = built(keras.layers.LSTM(HIDDEN, return_sequences=sequences, return_state=True, **options))
    rng = np.random.default_rng(2)
    states = [torch.from_numpy(rng.normal(size=(ROWS, HIDDEN)).astype(np.float32)) for _ in range(2)]
    assert_same(layer, runs, mask=torch.tensor(MASKS[mask], dtype=torch.bool), initial_state=states)


@pytest.mark.parametrize("merge", ["concat", "sum", "ave", "mul"])
def test_bidirectional_layers_match_keras(keras: Any, runs: list[bool], merge: str) -> None:
    layer = keras.layers.Bidirectional(keras.layers.GRU(HIDDEN, return_sequences=True), merge_mode=merge)
    assert_same(built(layer), runs, mask=torch.tensor(MASKS["right"], dtype=torch.bool))
    assert len(runs) == 2


@pytest.mark.parametrize("mask", [None, "holes"])
def test_stacked_cells_match_keras(keras: Any, runs: list[bool], mask: str | None) -> None:
    of = [keras.layers.LSTMCell(HIDDEN), keras.layers.LSTMCell(3), keras.layers.LSTMCell(2)]
    layer = built(keras.layers.RNN(of, return_sequences=True))
    given = {} if mask is None else {"mask": torch.tensor(MASKS[mask], dtype=torch.bool)}
    assert_same(layer, runs, **given)


def test_states_of_stacked_cells_are_nested_as_in_keras(keras: Any) -> None:
    layer = built(keras.layers.RNN([keras.layers.LSTMCell(HIDDEN), keras.layers.GRUCell(3)], return_state=True))
    expected = layer(some_input())
    found = throughtime.accelerate(layer)(some_input())
    for ours, theirs in zip(keras.tree.flatten(found), keras.tree.flatten(expected), strict=True):
        np.testing.assert_allclose(ours.detach(), theirs.detach(), **CLOSE)
    assert [len(states) for states in found[1:]] == [2, 1]


@pytest.mark.parametrize("name", ["SimpleRNN", "LSTM", "GRU"])
def test_results_match_kerass_own_tests(keras: Any, runs: list[bool], name: str) -> None:
    """Expected values from Keras's tests, for constant weights and the input 0, 1, 2, ..."""
    shape = {"SimpleRNN": (2, 3, 4), "LSTM": (3, 6, 4), "GRU": (3, 6, 4)}[name]
    expected = {
        "SimpleRNN": [[0.405432] * 4, [0.73605347] * 4],
        "LSTM": [[0.6288687] * 3, [0.86899155] * 3, [0.9460773] * 3],
        "GRU": [[0.5217289] * 3, [0.6371659] * 3, [0.39384964] * 3],
    }
    constant = keras.initializers.Constant
    weights = {
        "kernel_initializer": constant(0.01),
        "recurrent_initializer": constant(0.02),
        "bias_initializer": constant(0.03),
    }
    layer = throughtime.accelerate(getattr(keras.layers, name)(len(expected[name][0]), **weights))
    found = layer(np.arange(np.prod(shape), dtype=np.float32).reshape(shape)).detach().numpy()
    np.testing.assert_allclose(found, expected[name], atol=1e-5, rtol=1e-5)  # Keras's own tolerance
    assert runs == [True]


def classifier(keras: Any, **options: Any) -> Any:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10, INPUT)),
            keras.layers.Masking(),
            keras.layers.LSTM(8, return_sequences=True, **options),
            keras.layers.Bidirectional(keras.layers.GRU(8, **options)),
            keras.layers.Dense(3),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(40, 10, INPUT)).astype(np.float32)
    x[::3, 6:] = 0  # masked
    return x, rng.integers(0, 3, 40)


@pytest.mark.parametrize("options", [{}, {"dropout": 0.3}, {"recurrent_dropout": 0.3, "dropout": 0.2}])
def test_fit_returns_the_same_losses(keras: Any, runs: list[bool], options: dict[str, float]) -> None:
    """Dropout uses Keras's own masks. Rounding errors grow to less than 1e-4 in 50 steps."""
    x, y = data()
    epochs = 2 if options else 10  # Keras's own loop is slow
    losses = []
    for change in (lambda model: model, throughtime.accelerate):
        model = change(classifier(keras, **options))
        losses.append(model.fit(x, y, batch_size=8, epochs=epochs, shuffle=False, verbose=0).history["loss"])
    np.testing.assert_allclose(*losses, rtol=0, atol=1e-4)
    assert any(runs)
    assert losses[0][-1] != losses[0][0]  # training changes the weights


def test_an_accelerated_model_can_be_saved_and_restored(keras: Any, tmp_path: Path) -> None:
    x, _ = data()
    model = classifier(keras)
    before = model.predict(x, verbose=0)
    config = model.get_config()
    report = substitute_layers(model)
    assert [path.split("/")[1].split("_")[0] for path in report.changed] == ["lstm", "bidirectional", "bidirectional"]
    assert "the loop of keras.layers.LSTM to throughtime's" in report.changed.values()
    assert sorted(substitute_layers(model).ours) == sorted(report.changed)
    assert model.get_config() == config
    np.testing.assert_allclose(model.predict(x, verbose=0), before, **CLOSE)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    np.testing.assert_allclose(loaded.predict(x, verbose=0), before, **CLOSE)
    assert throughtime.restore(model) is model
    assert not substitute_layers(model).ours
    throughtime.restore(model)
    assert all("inner_loop" not in vars(layer) for layer in model._flatten_layers())
    assert np.array_equal(model.predict(x, verbose=0), before)


def test_layers_inside_a_torch_module_are_accelerated(keras: Any, runs: list[bool]) -> None:
    model = nn.ModuleDict({"keras": built(keras.layers.LSTM(HIDDEN)), "torch": nn.LSTM(3, 4)})
    report = substitute_layers(model)
    assert len(report.changed) == 2
    model["keras"](some_input())
    assert runs == [True]


def test_unchanged_layers_are_reported_with_a_reason(keras: Any) -> None:
    class Own(keras.layers.LSTM):  # type: ignore[misc, name-defined]
        pass

    class OwnCell(keras.layers.LSTMCell):  # type: ignore[misc, name-defined]
        pass

    layers = {
        "custom class": Own(HIDDEN),
        "cell OwnCell is not Keras's": keras.layers.RNN(OwnCell(HIDDEN)),
        "activation gelu is not one of tanh, sigmoid": keras.layers.LSTM(HIDDEN, activation="gelu"),
        "computes in bfloat16": keras.layers.GRU(HIDDEN, dtype="bfloat16"),
    }
    for reason, layer in layers.items():
        report = substitute_layers(layer)
        assert not report.changed
        assert [reason in text for text in report.left.values()] == [True]


@pytest.mark.slow
def test_another_backend_is_rejected() -> None:
    code = """
import sys, types
class Layer: pass
keras = types.ModuleType("keras")
keras.Layer, keras.config = Layer, types.SimpleNamespace(backend=lambda: "jax")
sys.modules["keras"] = keras
import throughtime
from throughtime.errors import UserError
try:
    throughtime.accelerate(Layer())
except UserError as error:
    print(error)
"""
    assert "but Keras runs on jax: set the environment variable KERAS_BACKEND=torch" in run_python(code)


def test_other_types_are_rejected(keras: Any) -> None:
    with pytest.raises(UserError, match="takes a torch module, got int"):
        throughtime.accelerate(3)


def test_the_example_in_the_documentation_runs(keras: Any) -> None:
    page = (Path(__file__).parents[1] / "docs" / "keras.md").read_text()
    code = page.split("```py\n")[1].split("```")[0]
    x, y = np.zeros((4, 100, 32), np.float32), np.zeros(4, np.int64)
    exec(compile(code, "docs/keras.md", "exec"), {"x": x, "y": y})
