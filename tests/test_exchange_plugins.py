"""Files of audio plugins: results match Keras, torch and the formats' own arithmetic."""

import json

import numpy as np
import pytest
import torch
from sounds import tone
from torch import nn

import throughtime
from throughtime import Recurrent
from throughtime.codecs import Codecs
from throughtime.data.knobs import DeviceInput
from throughtime.errors import ModelError, UserError
from throughtime.nn.encoders import Numeric, Projection
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Categorical, Signal
from throughtime.task_description import TaskDescription

SECOND = torch.from_numpy(tone(1.0, 8000))[:, None, None]
FORMATS = {
    "rtneural": (throughtime.to_rtneural, throughtime.from_rtneural),
    "nam": (throughtime.to_nam, throughtime.from_nam),
    "guitarml": (throughtime.to_guitarml, throughtime.from_guitarml),
}


def network(cell="lstm", layers=1, skip=False, inputs=1, embed=None, output=None, **options):
    torch.manual_seed(0)
    encoder = Projection(inputs, embed) if embed else Numeric(inputs)
    recurrent = Recurrent(cell, encoder.features, 6, num_layers=layers, **options)
    model = SequenceModel(encoder, recurrent, output or Signal(1), skip=skip).eval()
    with torch.no_grad():
        for name, parameter in recurrent.named_parameters():
            if "bias" in name:
                parameter.normal_(0, 0.5)
    model.task = TaskDescription("effect", Codecs(DeviceInput(8000)), {})
    return model


def run(model, x=SECOND):
    with torch.no_grad():
        return model(x)[0][:, 0, 0]


@pytest.mark.parametrize(("cell", "layers", "skip"), [("lstm", 1, True), ("gru", 1, False), ("lstm", 2, False)])
def test_rtneural_matches_keras(keras, tmp_path, cell, layers, skip):
    model = network(cell, layers, skip)
    throughtime.to_rtneural(model, tmp_path / "model.json")
    data = json.loads((tmp_path / "model.json").read_text())
    assert data["in_shape"] == [None, None, 1]
    assert data["samplerate"] == 8000
    assert data.get("in_skip", 0) == skip
    kinds = {"lstm": keras.layers.LSTM, "gru": keras.layers.GRU}
    made = keras.Sequential([keras.Input((None, 1))])
    for layer in data["layers"][:-1]:
        made.add(kinds[layer["type"]](layer["shape"][-1], return_sequences=True))
    made.add(keras.layers.Dense(1))
    for layer, described in zip(made.layers, data["layers"], strict=True):
        layer.set_weights([np.array(weight, np.float32) for weight in described["weights"]])
    x = SECOND[:400]
    with torch.no_grad():
        found = made(x.transpose(0, 1))[0, :, 0].cpu() + (x[:, 0, 0] if skip else 0)
    assert torch.allclose(run(model, x), found, atol=1e-5)
    again = throughtime.from_rtneural(tmp_path / "model.json")
    assert torch.allclose(run(again), run(model), atol=1e-6)
    assert again.task.codecs.inputs == DeviceInput(8000)


def nam_by_hand(path, x):
    """Run a file with the format's arithmetic, written from its specification."""
    data = json.loads(path.read_text())
    hidden, layers = data["config"]["hidden_size"], data["config"]["num_layers"]
    weights, width, place = np.array(data["weights"]), 1, 0
    cells = []
    for _ in range(layers):
        sizes = [4 * hidden * (width + hidden), 4 * hidden, hidden, hidden]
        both, bias, h, c = np.split(weights[place : place + sum(sizes)], np.cumsum(sizes)[:-1])
        place += sum(sizes)
        cells.append([both.reshape(4 * hidden, -1), bias, h, c])
        width = hidden
    head, head_bias = weights[place:-1], weights[-1]
    found = []
    for sample in x:
        y = np.array([sample])
        for cell in cells:
            matrix, bias, h, c = cell
            i, f, g, o = np.split(matrix @ np.concatenate([y, h]) + bias, 4)
            c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
            y = h = np.tanh(c) / (1 + np.exp(-o))
            cell[2:] = h, c
        found.append(head @ y + head_bias)
    return np.array(found)


@pytest.mark.parametrize("layers", [1, 2])
def test_nam_starts_after_a_second_of_silence(tmp_path, layers):
    model = network(layers=layers)
    throughtime.to_nam(model, tmp_path / "model.nam", {"name": "a test"})
    data = json.loads((tmp_path / "model.nam").read_text())
    assert (data["architecture"], data["sample_rate"], data["metadata"]["name"]) == ("LSTM", 8000, "a test")
    found = nam_by_hand(tmp_path / "model.nam", SECOND[:300, 0, 0].tolist())
    silence = torch.zeros(48000, 1, 1)
    expected = run(model, torch.cat([silence, SECOND[:300]]))[48000:].numpy()
    assert found == pytest.approx(expected, abs=1e-5)
    again = throughtime.from_nam(tmp_path / "model.nam")
    assert run(again, SECOND[:300]).numpy() == pytest.approx(expected, abs=1e-5)
    # throughtime's own file format and streams keep the initial states too.
    throughtime.save(again, tmp_path / "model.safetensors")
    stream = throughtime.Stream(tmp_path / "model.safetensors")
    assert stream.process(SECOND[:300, 0, 0].numpy()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(("cell", "skip"), [("lstm", True), ("gru", False)])
def test_guitarml_has_torchs_weights(tmp_path, cell, skip):
    model = network(cell, skip=skip)
    throughtime.to_guitarml(model, tmp_path / "model.json")
    data = json.loads((tmp_path / "model.json").read_text())
    assert (data["model_data"]["unit_type"], data["model_data"]["skip"]) == (cell.upper(), int(skip))

    class SimpleRNN(nn.Module):
        def __init__(self):
            super().__init__()
            self.rec = {"lstm": nn.LSTM, "gru": nn.GRU}[cell](1, 6)
            self.lin = nn.Linear(6, 1)

    theirs = SimpleRNN()
    theirs.load_state_dict({name: torch.tensor(value) for name, value in data["state_dict"].items()})
    with torch.no_grad():
        expected = theirs.lin(theirs.rec(SECOND)[0]) + (SECOND if skip else 0)
    assert torch.allclose(run(model), expected[:, 0, 0], atol=1e-6)
    assert torch.allclose(run(throughtime.from_guitarml(tmp_path / "model.json")), expected[:, 0, 0], atol=1e-6)


@pytest.mark.parametrize(("name", "model", "message"), [
    ("nam", {"skip": True}, "does not support the network's skip connection; use RTNeural's JSON"),
    ("nam", {"cell": "gru"}, "supports only LSTM layers, but this network has GRU layers; use RTNeural's JSON"),
    ("guitarml", {"layers": 2}, "supports only one layer, but this network has 2"),
    ("rtneural", {"cell": "mgu"}, "supports only LSTM and GRU layers.*ONNX instead: model.onnx"),
    ("rtneural", {"cell": "gru_reset_before"}, "supports only LSTM and GRU layers.*ONNX instead: model.onnx"),
    ("rtneural", {"inputs": 2}, "this one reads 2 numbers per step.*Export it to ONNX instead"),
    ("rtneural", {"output": Categorical(5)}, "and outputs 5 per step"),
    ("rtneural", {"learn_initial": True}, "always starts from zeros"),
    ("rtneural", {"bidirectional": True}, "supports only unidirectional"),
    ("nam", {"embed": 3}, "passes samples to the recurrent layers directly"),
])  # fmt: skip
def test_unsupported_networks_are_rejected(tmp_path, name, model, message):
    with pytest.raises(UserError, match=message):
        FORMATS[name][0](network(**model), tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_files_are_rejected(tmp_path, name):
    to, of = FORMATS[name]
    path = tmp_path / "model"
    to(network(), path)
    whole = json.loads(path.read_text())
    for change in (
        lambda data: data.clear(),
        lambda data: data.update(
            weights=data.get("weights", [])[:-1], layers=data.get("layers", [])[1:], state_dict={}
        ),
        lambda data: data.update(
            config={"input_size": 1, "hidden_size": 10**9, "num_layers": 1}, layers=[{}], model_data={"unit_type": "X"}
        ),
        lambda data: data.update(architecture="WaveNet", layers=[{"type": "conv1d"}] * 2, model_data=None),
    ):
        data = json.loads(json.dumps(whole))
        change(data)
        path.write_text(json.dumps(data))
        with pytest.raises(ModelError, match="model"):
            of(path)
    path.write_text("{")
    with pytest.raises(ModelError, match="is not JSON"):
        of(path)
    with pytest.raises(ModelError, match="can't be read: No such file"):
        of(tmp_path / "none")
