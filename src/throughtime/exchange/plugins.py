"""Read and write audio effect networks for plugins: RTNeural's JSON, NAM's .nam and GuitarML's JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from throughtime.codecs import Codecs
from throughtime.data.knobs import DeviceInput
from throughtime.data.waveform import Waveform
from throughtime.errors import DataError, ModelError, UserError
from throughtime.exchange.torch.modules import from_torch, to_torch
from throughtime.files import write
from throughtime.nn.encoders import Numeric, Projection
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Signal
from throughtime.paths import display_path
from throughtime.stored import initial_name
from throughtime.task_description import TaskDescription

_NAM_VERSION, _NAM_SILENCE = "0.5.4", 48_000  # samples of silence that lead to a .nam file's initial state
_MAX_SIZE, _MAX_LAYERS = 4096, 32
_KERAS_GATES = {"lstm": (0, 1, 2, 3), "gru": (1, 0, 2)}  # each gate's index in torch's order
_GUITARML = {"lstm": "LSTM", "gru": "GRU"}


class _Parts:
    """The parts of a network that plugin formats store, in torch's weight layout.

    Attributes:
        kind: "lstm" or "gru".
        layers: weight_ih, weight_hh, bias_ih and bias_hh of each layer.
        head: the head's weight `[1, hidden]` and bias `[1]`.
        skip: whether to add the input to the output.
        initial: the initial hidden and cell states of each layer; None for zeros.
        rate: the sample rate in Hz, if known.
    """

    def __init__(
        self,
        kind: str,
        layers: Sequence[Sequence[Tensor]],
        head: tuple[Tensor, Tensor],
        skip: bool,
        initial: Sequence[tuple[Tensor, Tensor]] | None = None,
        rate: int | None = None,
    ) -> None:
        self.kind, self.layers, self.head, self.skip = kind, layers, head, skip
        self.initial, self.rate = initial, rate

    @property
    def hidden(self) -> int:
        """The number of hidden units."""
        return self.layers[0][1].shape[1]

    @classmethod
    def of(cls, model: SequenceModel, what: str) -> _Parts:
        """Convert a model.

        Raises:
            UserError: if plugin formats can't represent the model.
        """
        if not isinstance(model, SequenceModel):
            raise UserError(f"{what} holds a whole network: expected a SequenceModel, got {type(model).__name__}")
        codec = None if model.task is None else model.task.codecs.inputs
        if isinstance(codec, DeviceInput) and codec.knobs:
            raise UserError(
                f"{what} takes audio samples alone, but this network also reads the knobs "
                f"{', '.join(codec.knobs)}. Export it to ONNX or C instead: model.onnx or model.c"
            )
        if model.reads_tokens or model.input_size != 1 or model.head.output.width != 1 or not model.per_step:
            raise UserError(
                f"{what} needs a network with 1 input and 1 output per sample; this one reads {_described(model)}. "
                "Export it to ONNX instead: model.onnx"
            )
        if isinstance(model.encoder, Projection):
            raise UserError(
                f"{what} passes samples to the recurrent layers directly, but this network embeds them first. Export "
                "it to ONNX or C instead: model.onnx or model.c"
            )
        options = model.recurrent.options
        if options.learn_initial:
            raise UserError(f"{what} always starts from zeros, but this network has learned initial states")
        try:
            torchs: Any = to_torch(model.recurrent)
        except UserError as error:
            raise UserError(
                f"{what} supports only LSTM and GRU layers: {error}. Export it to ONNX instead: model.onnx"
            ) from None
        kind = {nn.LSTM: "lstm", nn.GRU: "gru"}.get(type(torchs))
        if kind is None or torchs.bidirectional or torchs.proj_size or not torchs.bias:
            raise UserError(
                f"{what} supports only unidirectional LSTM and GRU layers with biases and without a projection. Export "
                "it to ONNX instead: model.onnx"
            )
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        layers = [
            [getattr(torchs, f"{name}_l{k}").detach().float() for name in names] for k in range(torchs.num_layers)
        ]
        head = (model.head.weight.detach().float(), model.head.bias.detach().float())
        return cls(kind, layers, head, model.skip, None, codec.rate if isinstance(codec, Waveform) else None)

    def model(self, path: Path) -> SequenceModel:
        """Build the model.

        Raises:
            ModelError: if the parts don't fit together.
        """
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weights = {f"{name}_l{k}": t for k, own in enumerate(self.layers) for name, t in zip(names, own, strict=True)}
        try:
            recurrent: Recurrent = from_torch(weights, learn_initial=self.initial is not None)
            own = {name: tensor.clone() for name, tensor in recurrent.state_dict().items()}
            model = SequenceModel(Numeric(recurrent.input_size), recurrent, Signal(1), skip=self.skip)
            recurrent.load_state_dict(own)  # SequenceModel has reinitialized them
            with torch.no_grad():
                for k, states in enumerate(self.initial or ()):
                    for state, value in zip(recurrent.programs[k].states, states, strict=True):
                        recurrent.get_parameter(initial_name(state.name, f"_l{k}")).copy_(value)
                for parameter, value in zip((model.head.weight, model.head.bias), self.head, strict=True):
                    if parameter.shape != value.shape:
                        raise UserError(f"the head must have shape {list(parameter.shape)}, got {list(value.shape)}")
                    parameter.copy_(value)
            if self.rate is not None:
                model.task = TaskDescription("effect", Codecs(DeviceInput(self.rate)), {"skip": self.skip})
        except (UserError, RuntimeError) as error:
            raise ModelError(f"{display_path(path)} is damaged: {error}") from None
        return model.eval()


def to_rtneural(model: SequenceModel, path: str | Path) -> None:
    """Write an effect's network as RTNeural's JSON (Chowdhury 2021, arXiv:2106.03037), which AIDA-X reads too.

    The keys `samplerate` and `in_skip` are AIDA-X's. The network starts from zeros.

    Args:
        model: a network of one or more LSTM or GRU layers, with 1 input and 1 output per sample.
        path: the file to write; replaced if it exists.

    Raises:
        UserError: if the format doesn't support the network.
    """
    parts = _Parts.of(model, "RTNeural's JSON")
    gates = _KERAS_GATES[parts.kind]
    layers: list[dict[str, Any]] = []
    for ih, hh, bias_ih, bias_hh in parts.layers:
        kernels = [_reordered(x, gates).T for x in (ih, hh)]
        biases = [_reordered(x, gates) for x in (bias_ih, bias_hh)]
        bias = torch.stack(biases) if parts.kind == "gru" else biases[0] + biases[1]
        weights = [tensor.tolist() for tensor in (*kernels, bias)]
        layers.append(
            {"type": parts.kind, "activation": "tanh", "shape": [None, None, parts.hidden], "weights": weights}
        )
    weight, head_bias = parts.head
    dense = {"type": "dense", "activation": "", "shape": [None, None, 1]}
    layers.append({**dense, "weights": [weight.T.tolist(), head_bias.tolist()]})
    extra: dict[str, Any] = {} if parts.rate is None else {"samplerate": float(parts.rate)}
    if parts.skip:
        extra["in_skip"] = 1
    write(path, json.dumps({"in_shape": [None, None, 1], **extra, "layers": layers}).encode())


def from_rtneural(path: str | Path) -> SequenceModel:
    """Read a network from RTNeural's JSON: LSTM or GRU layers, then a dense layer with one output.

    Raises:
        ModelError: if the file is missing or damaged, or contains other layers.
    """
    data, path = _json(path), Path(path)

    def read() -> _Parts:
        *recurrent, dense = data["layers"]
        kinds = {layer["type"] for layer in recurrent}
        if len(kinds) != 1 or not kinds <= _KERAS_GATES.keys() or dense["type"] != "dense":
            found = ", ".join(str(layer["type"]) for layer in data["layers"])
            raise ModelError(f"{display_path(path)} must have LSTM or GRU layers, then a dense one, got {found}")
        if dense.get("activation") not in ("", "linear", None):
            raise ModelError(f"{display_path(path)}: its dense layer must be linear, got {dense['activation']!r}")
        if any(data.get(gain) for gain in ("in_gain", "out_gain")):
            raise ModelError(f"{display_path(path)} has in_gain or out_gain, which are not supported; set them to 0")
        kind = kinds.pop()
        gates = np.argsort(_KERAS_GATES[kind]).tolist()
        layers = []
        for layer in recurrent:
            kernel, recurrent_kernel, bias = map(_tensor, layer["weights"])
            first, second = (bias[0], bias[1]) if kind == "gru" else (bias, torch.zeros_like(bias))
            layers.append([_reordered(x, gates) for x in (kernel.T, recurrent_kernel.T, first, second)])
        weight, bias = map(_tensor, dense["weights"])
        rate = data.get("samplerate")
        return _Parts(kind, layers, (weight.T, bias), data.get("in_skip") == 1, None, rate and int(rate))

    return _built(path, read)


def to_nam(model: SequenceModel, path: str | Path, metadata: Mapping[str, Any] | None = None) -> None:
    """Write an effect's network as a Neural Amp Modeler file.

    The network starts from its states after 48,000 samples of silence, as in the format's own files.

    Args:
        model: a network of one or more LSTM layers, with 1 input and 1 output per sample and no skip connection.
        path: the file to write; replaced if it exists.
        metadata: the file's metadata, such as its name and author.

    Raises:
        UserError: if the format doesn't support the network.
    """
    parts = _Parts.of(model, "a .nam file")
    if parts.kind != "lstm":
        raise UserError("a .nam file supports only LSTM layers, but this network has GRU layers; use RTNeural's JSON")
    if parts.skip:
        raise UserError(
            "a .nam file does not support the network's skip connection; use RTNeural's JSON, or train with "
            "skip=False (--no-skip)"
        )
    with torch.no_grad():
        _, state = model.recurrent(torch.zeros(_NAM_SILENCE, 1, 1, dtype=model.head.weight.dtype))
    # The states of all layers, each as [layers, rows, width].
    hidden, cell = state if isinstance(state, tuple) else (state, state)
    values = []
    for k, (ih, hh, bias_ih, bias_hh) in enumerate(parts.layers):
        values += [torch.cat([ih, hh], 1), bias_ih + bias_hh, hidden[k, 0], cell[k, 0]]
    values += list(parts.head)
    config = {"input_size": 1, "hidden_size": parts.hidden, "num_layers": len(parts.layers)}
    content: dict[str, Any] = {
        "version": _NAM_VERSION,
        "metadata": dict(metadata or {}),
        "architecture": "LSTM",
        "config": config,
        "weights": torch.cat([value.float().reshape(-1) for value in values]).tolist(),
    }
    if parts.rate is not None:
        content["sample_rate"] = parts.rate
    write(path, json.dumps(content).encode())


def from_nam(path: str | Path) -> SequenceModel:
    """Read an LSTM network from a Neural Amp Modeler file, including its initial states.

    Raises:
        ModelError: if the file is missing or damaged, or contains another architecture.
    """
    data, path = _json(path), Path(path)

    def read() -> _Parts:
        if data["architecture"] != "LSTM":
            raise ModelError(f"{display_path(path)} holds a {data['architecture']}, not an LSTM")
        config, weights = data["config"], _tensor(data["weights"])
        width, hidden, count = (
            _size(config[name], maximum)
            for name, maximum in (("input_size", 1), ("hidden_size", _MAX_SIZE), ("num_layers", _MAX_LAYERS))
        )
        position, layers, initial = 0, [], []

        def take(*shape: int) -> Tensor:
            nonlocal position
            found = weights[position : position + int(np.prod(shape))].reshape(shape)
            position += found.numel()
            return found

        for _ in range(count):
            both, bias = take(4 * hidden, width + hidden), take(4 * hidden)
            layers.append([both[:, :width], both[:, width:], bias, torch.zeros_like(bias)])
            initial.append((take(hidden), take(hidden)))
            width = hidden
        head = (take(1, hidden), take(1))
        if position != len(weights):
            raise ModelError(f"{display_path(path)} has {len(weights)} weights, expected {position}")
        rate = data.get("sample_rate")
        return _Parts("lstm", layers, head, False, initial, rate and int(rate))

    return _built(path, read)


def to_guitarml(model: SequenceModel, path: str | Path) -> None:
    """Write an effect's network as GuitarML's JSON, which Proteus and NeuralPi read.

    Args:
        model: a network of one LSTM or GRU layer, with 1 input and 1 output per sample.
        path: the file to write; replaced if it exists.

    Raises:
        UserError: if the format doesn't support the network.
    """
    parts = _Parts.of(model, "GuitarML's JSON")
    if len(parts.layers) > 1:
        raise UserError(f"GuitarML's JSON supports only one layer, but this network has {len(parts.layers)}")
    names = ("rec.weight_ih_l0", "rec.weight_hh_l0", "rec.bias_ih_l0", "rec.bias_hh_l0", "lin.weight", "lin.bias")
    tensors = [tensor.tolist() for tensor in (*parts.layers[0], *parts.head)]
    described = {
        "model": "SimpleRNN",
        "input_size": 1,
        "skip": int(parts.skip),
        "output_size": 1,
        "unit_type": _GUITARML[parts.kind],
        "num_layers": 1,
        "hidden_size": parts.hidden,
        "bias_fl": True,
    }
    content = {"model_data": described, "state_dict": dict(zip(names, tensors, strict=True))}
    write(path, json.dumps(content).encode())


def from_guitarml(path: str | Path) -> SequenceModel:
    """Read a network with one LSTM or GRU layer from GuitarML's JSON.

    Raises:
        ModelError: if the file is missing or damaged, or contains another kind of network.
    """
    data, path = _json(path), Path(path)

    def read() -> _Parts:
        described, stored = data["model_data"], data["state_dict"]
        kinds = {name: kind for kind, name in _GUITARML.items()}
        if described["unit_type"] not in kinds or described.get("num_layers", 1) != 1:
            raise ModelError(f"{display_path(path)} must have one LSTM or GRU layer, got {described!r:.200}")
        layer = [_tensor(stored[f"rec.{name}_l0"]) for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
        head = (_tensor(stored["lin.weight"]), _tensor(stored["lin.bias"]))
        return _Parts(kinds[described["unit_type"]], [layer], head, described.get("skip") == 1)

    return _built(path, read)


def _built(path: Path, read: Callable[[], _Parts]) -> SequenceModel:
    """Read a network's parts and build the model; errors name the file."""
    try:
        parts = read()
    except (DataError, ModelError) as error:
        raise ModelError(str(error)) from None
    except (KeyError, TypeError, ValueError, IndexError, RuntimeError, AttributeError) as error:
        raise ModelError(f"{display_path(path)} is damaged: {type(error).__name__}: {error}") from None
    return parts.model(path)


def _json(path: str | Path) -> dict[str, Any]:
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelError(f"{display_path(path)} can't be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{display_path(path)} is not JSON: {error}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{display_path(path)} must be a JSON object")
    return data


def _tensor(values: Any) -> Tensor:
    found = torch.tensor(values, dtype=torch.float32)
    if not found.isfinite().all():
        raise ValueError("a weight is not finite")
    return found


def _size(value: Any, maximum: int) -> int:
    if type(value) is not int or not 1 <= value <= maximum:
        raise ValueError(f"a size must be from 1 to {maximum}, got {value!r:.100}")
    return value


def _reordered(tensor: Tensor, gates: Sequence[int]) -> Tensor:
    """Reorder a tensor's blocks of rows, one for each gate."""
    blocks = tensor.chunk(len(gates))
    return torch.cat([blocks[k] for k in gates])


def _described(model: SequenceModel) -> str:
    reads = "tokens" if model.reads_tokens else f"{model.input_size} numbers per step"
    outputs = f"{model.head.output.width} per {'step' if model.per_step else 'sequence'}"
    return f"{reads} and outputs {outputs}"
