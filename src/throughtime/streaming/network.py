"""Read the programs and weights that a stream runs from a run, a file or a module."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime import stored
from throughtime.data.knobs import DeviceInput
from throughtime.engines.torch_layers import TORCH_LAYERS, TorchLayer
from throughtime.errors import ModelError, RunError, UserError, VersionError
from throughtime.files import write
from throughtime.model_file import Description, ModelFile, is_model_file, shared_weights
from throughtime.nn.options import Options, output_width
from throughtime.outputs import Output
from throughtime.outputs import from_data as output_from
from throughtime.paths import missing, run_path
from throughtime.program.core import Program
from throughtime.program.rewrite import with_projection
from throughtime.task_description import TaskDescription

Array = NDArray[Any]


@dataclass(frozen=True)
class Network:
    """The network that a stream runs.

    Attributes:
        layers: each layer's program and its parameters.
        starts: the initial states of each layer.
        embedding: `[vocabulary, width]`, if the input is token ids.
        head: the head's weight and bias, if there is a head.
        output: the meaning of the head's values.
        skip: whether the input is added to the output.
        source: the file that the network was read from.
        weights: all weights by their names in a file. They share memory with the arrays in the other attributes, except
            where one of those combines several.
        description: the contents of the network's file besides the weights; None if the network can't be saved.
        torch_layer: the torch layer that the weights belong to, if any.
        device: the input of an audio effect with knobs; None for other networks.
    """

    layers: Sequence[tuple[Program, Sequence[Array]]]
    starts: Sequence[Sequence[Array]]
    embedding: Array | None = None
    head: tuple[Array, Array] | None = None
    output: Output | None = None
    skip: bool = False
    source: ModelFile | None = None
    weights: Mapping[str, Array] = field(default_factory=dict)
    description: Description | None = None
    torch_layer: TorchLayer | None = None
    device: DeviceInput | None = None

    @property
    def arrays(self) -> list[Array]:
        """All weight arrays."""
        parameters = [array for _, parameters in self.layers for array in parameters]
        return [*parameters, *([] if self.embedding is None else [self.embedding]), *(self.head or ())]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The dtype of the weights."""
        return np.dtype(next((array.dtype for array in self.arrays), np.float32))


def network_of(model: Any, *, described: bool = False) -> Network:
    """Read the network to stream.

    Args:
        model: see `throughtime.Stream`.
        described: whether to describe a module, so that the network can be saved.

    Raises:
        UserError: if the model can't run one step at a time.
        RunError, ModelError: if the run or the file can't be read.
    """
    runs = sys.modules.get("throughtime.runs")
    if runs is not None and isinstance(model, runs.Run):
        model = model.path
    if isinstance(model, str | os.PathLike):
        network = _of_file(ModelFile.open(model)) if is_model_file(model) else _of_run(run_path(os.fspath(model)))
    else:
        network = _of_module(model, described=described)
    network = replace(network, device=_device_of(network.source or model))
    if network.source is not None:
        network = replace(network, description=network.source.description)
    kinds = {str(array.dtype) for array in network.arrays}
    if len(kinds) > 1 or not kinds <= {"float32", "float64"}:
        raise _wrong_type(", ".join(sorted(kinds)))
    return network


def _device_of(source: Any) -> DeviceInput | None:
    """Return the input of an audio effect with knobs; None for other networks."""
    if isinstance(source, ModelFile):
        codecs = (source.description.task or {}).get("codecs")
        inputs = codecs.get("inputs") if isinstance(codecs, dict) else None
        if not isinstance(inputs, dict) or inputs.get("kind") != "device_input":
            return None  # avoids reading a vocabulary, which is slow
    task = getattr(source, "task", None)
    device = task.codecs.inputs if isinstance(task, TaskDescription) else None
    return device if isinstance(device, DeviceInput) and device.knobs else None


def _wrong_type(given: object) -> UserError:
    return UserError(f"the weights must be float32 or float64, got {given}: convert the model first, with .float()")


def _of_run(path: Path) -> Network:
    if not path.exists():
        raise RunError(missing(path))
    stored.require_run(path)
    for name in (stored.PROGRAMS, stored.TASK, stored.WEIGHTS):
        if not (path / name).is_file():
            raise RunError(f"{path} is a run that can't be used yet: {name} does not exist")
    try:
        stored.require_format(path, json.loads(stored.read_text(path / stored.CONFIG)))
        file = ModelFile.open(path / stored.WEIGHTS)
        if file.description.programs != stored.read_programs(path):
            raise RunError(f"{path} is damaged: {stored.WEIGHTS} belongs to another run")
        return _of_file(file)
    except VersionError:
        raise
    except ModelError as error:
        raise RunError(f"{path} is damaged: {error}") from None
    except UserError:
        raise
    except ValueError as error:
        raise RunError(f"{path} is damaged: {stored.CONFIG}: {error}") from None


def _of_file(file: ModelFile) -> Network:
    if file.dtype not in ("float32", "float64"):
        raise _wrong_type(file.dtype)
    kind, settings, programs = file.description.model, file.description.settings, file.description.programs
    try:
        if kind == "SequenceModel":
            options = _options_from(settings["recurrent"])
            skip = settings["skip"] is True
            return _of_sequence_model(programs, options, file.weights("np"), _output_from(settings), skip, file)
        if kind == "Recurrent":
            weights = file.weights("np")
            return Network(*_layers(programs, _options_from(settings), weights), source=file, weights=weights)
        if kind in ("RNN", "LSTM", "GRU"):
            mode = f"RNN_{settings['nonlinearity'].upper()}" if kind == "RNN" else kind
            _require_one_direction(settings["bidirectional"])
            return replace(_drop_in(TORCH_LAYERS[mode], programs, file.weights("np")), source=file)
    except _Unfit as error:
        raise ModelError(f"{file.path} is damaged: {error}") from None
    except UserError:
        raise  # the file is intact, but its network can't run one step at a time
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ModelError(f"{file.path} is damaged: {type(error).__name__}: {error}") from None
    raise _unknown(kind)


def _options_from(settings: Mapping[str, Any]) -> Options:
    try:
        return Options.of(settings["options"])
    except UserError as error:
        raise _Unfit(error) from None


def _output_from(settings: Mapping[str, Any]) -> Output:
    try:
        return output_from(settings["output"])
    except UserError as error:
        raise _Unfit(error) from None


class _Unfit(Exception):
    """Raised if the weights don't match the programs."""


def _of_sequence_model(
    programs: Sequence[Program],
    options: Options,
    weights: Mapping[str, Array],
    output: Output,
    skip: bool,
    source: ModelFile | None = None,
) -> Network:
    """Build the network of a sequence model from its weights, named as in the module's `state_dict`.

    Raises:
        KeyError, _Unfit: if a weight is missing or has the wrong shape.
    """
    recurrent = {name.removeprefix("recurrent."): array for name, array in weights.items()}
    layers, starts = _layers(programs, options, recurrent)
    matrix, bias = weights["head.weight"], weights["head.bias"]
    _require_shapes([matrix, bias], [(output.width, output_width(layers[-1][0])), (output.width,)])
    embedding, projected = weights.get("encoder.weight"), weights.get("encoder.bias")
    if projected is not None:  # the first layer's program embeds the numbers that the network reads
        projection, embedding = [weights["encoder.weight"], projected], None
        program, parameters = layers[0]
        width = program.inputs[0].width
        size = projection[0].shape[-1]
        _require_shapes(projection, [(width, size), (width,)])
        layers[0] = with_projection(program, size), [*parameters, *projection]
    if embedding is not None:
        _require_shapes([embedding], [(len(embedding), programs[0].inputs[0].width)])
        embedding = np.ascontiguousarray(embedding)
    return Network(layers, starts, embedding, (matrix, bias), output, skip, source, weights)


_Layers = tuple[list[tuple[Program, list[Array]]], list[list[Array]]]  # and their initial states


def _layers(programs: Sequence[Program], options: Options, weights: Mapping[str, Array]) -> _Layers:
    """Build recurrent layers from their weights, named as in the module's `state_dict`."""
    layers, starts = [], []
    try:
        options.require_fit(programs)
    except UserError as error:
        raise _Unfit(error) from None
    for depth, program in enumerate(options.chain(programs)):
        parameters = [weights[stored.stored_name(p.name, f"_l{depth}")] for p in program.parameters]
        initial = _declared_starts(program, parameters)
        if options.learn_initial:
            initial = [weights[stored.initial_name(s.name, f"_l{depth}")] for s in program.states]
        _require_shapes(parameters, [p.shape for p in program.parameters])
        _require_shapes(initial, [(s.width,) for s in program.states])
        layers.append((program, parameters))
        starts.append(initial)
    return layers, starts


def _drop_in(layer: TorchLayer, programs: Sequence[Program], weights: Mapping[str, Array]) -> Network:
    """Build the network of a drop-in layer from its weights, named as in torch."""
    layers, starts = [], []
    for depth, program in enumerate(programs):
        bias, projected = f"bias_ih_l{depth}" in weights, f"weight_hr_l{depth}" in weights
        found: list[Any] = [weights[name] for name in layer.names(f"_l{depth}", bias=bias, projected=projected)]
        parameters: list[Any] = [np.array(p, order="C") for p in layer.to_program(found, bias=bias)]
        _require_shapes(parameters, [p.shape for p in program.parameters])
        layers.append((program, parameters))
        starts.append(_declared_starts(program, parameters))
    return Network(layers, starts, weights=weights, torch_layer=layer)


def _declared_starts(program: Program, parameters: Sequence[Array]) -> list[Array]:
    """Return a cell's declared initial states."""
    dtype = parameters[0].dtype if parameters else np.float32
    return [np.full(state.width, state.initial, dtype) for state in program.states]


def _require_shapes(arrays: Sequence[Array], wanted: Sequence[tuple[int, ...]]) -> None:
    given = [array.shape for array in arrays]
    if given != list(wanted):
        raise _Unfit(f"expected weights of shapes {list(wanted)}, got {given}")


def _of_module(module: Any, *, described: bool) -> Network:
    if "torch" not in sys.modules or not isinstance(module, sys.modules["torch"].nn.Module):
        raise UserError(
            "expected the directory of a run, a file, a language model or recurrent layers, "
            f"got {type(module).__name__}"
        )
    from torch import nn

    from throughtime.nn.effective import effective_weights
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.sequence_model import SequenceModel
    from throughtime.nn.torch_rules import torch_programs

    tensors = dict(module.state_dict())
    if isinstance(module, SequenceModel):
        names = module.recurrent.parameter_names
        of_layers = effective_weights(module.recurrent, names)
        tensors |= {f"recurrent.{name}": tensor for name, tensor in of_layers.items()}
    elif isinstance(module, Recurrent):
        tensors |= effective_weights(module, module.parameter_names)
    elif isinstance(module, nn.RNNBase):
        tensors |= effective_weights(module, [name for names in module._all_weights for name in names])
    weights = _arrays(tensors)
    network = None
    if isinstance(module, SequenceModel):
        layers, output = module.recurrent, module.head.output
        network = _of_sequence_model(layers.programs, layers.options, weights, output, module.skip)
    elif isinstance(module, Recurrent):
        network = Network(*_layers(module.programs, module.options, weights), weights=weights)
    elif isinstance(module, nn.RNNBase):
        _require_one_direction(module.bidirectional)
        programs = [program for (program,) in torch_programs(module)]
        network = _drop_in(TORCH_LAYERS[module.mode], programs, weights)
    if network is not None:
        return replace(network, description=_description(module) if described else None)
    kinds = (Recurrent, SequenceModel, nn.RNNBase)
    raise _unknown(type(module).__name__, [name for name, inner in module.named_modules() if isinstance(inner, kinds)])


def _require_one_direction(bidirectional: bool) -> None:
    Options(bidirectional=bidirectional).chain([])


def _unknown(kind: str, inside: Sequence[str] = ()) -> UserError:
    names = ", ".join(map(repr, inside))
    hint = f": pass one of its layers, as model.get_submodule({inside[0]!r}) ({names})" if inside else ""
    return UserError(f"{kind} is not a recurrent layer or a language model{hint}")


def _description(module: Any) -> Description | None:
    from throughtime.nn.description import describe

    try:
        return describe(module)
    except UserError:
        return None


def _arrays(tensors: Mapping[str, Any]) -> dict[str, Array]:
    """Copy tensors, because the model may change; a tensor with several names stays one array."""
    shared = shared_weights(tensors)
    found = {name: _array(tensor) for name, tensor in tensors.items() if name not in shared}
    return {name: found[shared.get(name, name)] for name in tensors}


def _array(tensor: Any) -> Array:
    try:
        array: Array = tensor.detach().cpu().numpy()
    except TypeError:  # a dtype that NumPy lacks
        raise _wrong_type(tensor.dtype) from None
    return np.array(array, order="C")


def save_network(network: Network, path: str | os.PathLike[str]) -> None:
    """Write a network's current weights and its description to a file.

    Raises:
        UserError: if the network can't be saved or the file can't be written.
    """
    from safetensors.numpy import save

    if network.description is None:
        raise UserError(
            "can't save a stream of this module: create the stream from a file that throughtime.save wrote, or, with "
            "learn=True, from a throughtime module without pruned or normalized weights"
        )
    weights = dict(network.weights)
    if (layer := network.torch_layer) is not None:
        for depth, (_, parameters) in enumerate(network.layers):
            bias = any(parameter.ndim == 1 for parameter in parameters)
            names = layer.names(f"_l{depth}", bias=bias, projected=len(parameters) > (3 if bias else 2))
            arrays: Any = parameters
            weights |= zip(names, layer.to_stored(arrays, bias=bias), strict=True)  # type: ignore[arg-type]
    shared = shared_weights(weights)
    own = {name: np.ascontiguousarray(array) for name, array in weights.items() if name not in shared}
    write(path, save(own, replace(network.description, shared=shared).metadata))
