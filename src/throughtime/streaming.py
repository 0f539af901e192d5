"""A trained network one step at a time, its state inside: a microsecond or two a step, and no torch."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime import stored
from throughtime.data.knobs import DeviceInput
from throughtime.engines.torch_layers import TORCH_LAYERS, TorchLayer
from throughtime.errors import ModelError, RunError, UserError, nearest
from throughtime.model_file import ModelFile, is_model_file
from throughtime.nn.options import Options, output_width
from throughtime.outputs import Output
from throughtime.outputs import from_data as output_from
from throughtime.paths import missing, run_path
from throughtime.program.core import Input, Program
from throughtime.task_description import TaskDescription

Array = NDArray[Any]


class Stream:
    """Streams that run side by side through one network, each step of all of them in one call.

    The weights are copied and made ready when the stream is made: what is done to the model afterwards does not reach
    it. There is no dropout. Each result has the same bits as the module's, run over the whole sequence by the native
    engine with the same instruction set; but for a language model's scores, which torch's own product rounds otherwise.

    A stream is for one thread at a time; different streams run at the same time.

    Args:
        model: the directory of a run (or the `Run`; "latest" is the newest one under `runs`) or a file that
            `throughtime.save` wrote, for which no torch is needed; or a `SequenceModel`, a `Recurrent`, a drop-in
            `RNN`, `LSTM` or `GRU`, or one of torch's own. Of one direction of time, in float32 or float64.
        rows: how many independent streams there are.
        knobs: for the network of an effect that was trained with knobs, their settings from 0 to 1, such as
            `{"gain": 0.7}`. The stream then takes samples of sound alone.
        instruction_set: what the processor is to use; the best that it has if not given (see
            `throughtime.engines.native.NativeEngine`).

    Attributes:
        rows: how many independent streams there are.
        dtype: the type of inputs, outputs and states.

    Raises:
        UserError: if the model can't be run a step at a time.
        RunError, ModelError: if the run or the file can't be read.
    """

    def __init__(
        self, model: Any, rows: int = 1, *, knobs: Mapping[str, float] | None = None, instruction_set: str = ""
    ) -> None:
        if type(rows) is not int or rows < 1:
            raise UserError(f"rows must be a whole number of 1 or more; given {rows!r}.")
        self._make(_network_of(model), rows, instruction_set)
        self.knobs = knobs or {}
        self.reset()

    def _make(self, network: _Network, rows: int, instruction_set: str) -> None:
        self._network, self._instruction_set = network, instruction_set
        self.rows = rows
        self.dtype = network.dtype
        self._source = network.source
        self._initial = {
            f"layer{depth}.{state.name}": np.repeat(start[None], rows, 0)
            for depth, ((program, _), starts) in enumerate(zip(network.layers, network.starts, strict=True))
            for state, start in zip(program.states, starts, strict=True)
        }
        self._machine = _machine(network, rows, instruction_set)
        self._step, self._process = self._machine.step, self._machine.process
        if network.device is not None:
            self._step, self._process = self._step_with_knobs, self._process_with_knobs
        self._inputs = network.layers[0][0].inputs

    def __getstate__(self) -> dict[str, Any]:
        """What is copied and pickled: the network and the streams' states."""
        return {
            "network": self._network,
            "rows": self.rows,
            "instruction_set": self._instruction_set,
            "knobs": self.knobs,
            "state": self.state,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Make a stream of its own from what was copied."""
        self._make(state["network"], state["rows"], state["instruction_set"])
        self.knobs = state["knobs"]
        self._set(state["state"])

    def step(self, x: Any, out: Array | None = None, **inputs: Any) -> Array:
        """Takes one step.

        Args:
            x: for recurrent layers an array `[rows, input_size]`, or `[input_size]` where there is one row; for a
                language model the symbols' numbers, an array of whole numbers `[rows]`, or one number where there is
                one row.
            out: where to write the result; a new array if not given. Nothing is allocated if it is.
            **inputs: the cell's inputs beside x, by name: arrays as x, with their own widths; a number where there is
                one row and one element.

        Returns:
            The output `[rows, output_size]`; for a language model the scores of the next symbol (logits)
            `[rows, symbols]`. Without the axis of rows where `x` has none.

        Raises:
            UserError: if the shape or the type does not fit, or another thread is in the middle of a step.
        """
        if inputs or len(self._inputs) > 1:
            x = _joined(self._inputs, x, inputs, np.ndim(x) - 1, self.dtype)
        try:
            return self._step(x, out)  # type: ignore[no-any-return]
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    def process(self, x: Any, **inputs: Any) -> Array:
        """Take the steps of a block, with the state carried from block to block.

        The results have the same bits as those of `step`, however a sequence is cut into blocks.

        Args:
            x: for one stream an array `[steps, input_size]`, or `[steps]` where a step has one number; for networks
                that read symbols the ids, an array of integers `[steps]`.
            **inputs: the cell's inputs beside x, by name: arrays `[steps, width]`, or `[steps]` where the width is 1.

        Returns:
            The outputs `[steps, output_size]`; `[steps]` where a step has one number in `x` and in the output, and `x`
            has one axis.

        Raises:
            UserError: the shape or the type does not fit, the stream has several rows, or another thread is in the
                middle of a step.
        """
        if inputs or len(self._inputs) > 1:
            x = _joined(self._inputs, x, inputs, 1, self.dtype)
        try:
            return self._process(x)  # type: ignore[no-any-return]
        except (ValueError, RuntimeError, OverflowError) as error:
            raise UserError(f"{error}.") from None

    @property
    def knobs(self) -> dict[str, float]:
        """The settings of an effect's knobs from 0 to 1, which can be changed between blocks; empty if it has none."""
        return dict(self._knobs)

    @knobs.setter
    def knobs(self, knobs: Mapping[str, float]) -> None:
        device = self._network.device or DeviceInput(1)
        self._settings = device.settings(knobs).astype(self.dtype)
        self._knobs = dict(knobs)

    def _step_with_knobs(self, x: Any, out: Array | None) -> Any:
        return self._machine.step(self._with_knobs(x, "a step", "[1] or [rows, 1]"), out)

    def _process_with_knobs(self, x: Any) -> Any:
        flat = np.ndim(x) == 1
        samples = np.asarray(x)[:, None] if flat else x
        found = self._machine.process(self._with_knobs(samples, "a block", "[steps, 1] or [steps]"))
        return found[:, 0] if flat else found

    def _with_knobs(self, x: Any, what: str, shapes: str) -> Array:
        """Samples `[..., 1]` with the settings of the knobs beside each."""
        samples = np.asarray(x)
        if samples.dtype != self.dtype or samples.ndim not in (1, 2) or samples.shape[-1] != 1:
            raise UserError(f"{what} is a {self.dtype} array {shapes}, got {samples.dtype} {list(samples.shape)}.")
        return np.concatenate(
            [samples, np.broadcast_to(self._settings, (*samples.shape[:-1], *self._settings.shape))], -1
        )

    def reset(self, rows: int | Sequence[int] | Array | None = None) -> None:
        """Lets streams begin afresh, with the states that the cell declares.

        Args:
            rows: which ones: a number, several, or a mask of truth values `[rows]`; all if not given.

        Raises:
            UserError: if there is no such row.
        """
        if rows is None:
            self._set(self._initial)
            return
        state = self.state
        try:
            for name, value in state.items():
                value[rows] = self._initial[name][rows]
        except (IndexError, TypeError, ValueError):
            raise UserError(
                f"rows are numbered from 0 to {self.rows - 1}, or told by a mask of {self.rows}; given {rows!r}."
            ) from None
        self._set(state)

    @property
    def state(self) -> dict[str, Array]:
        """What the network carries to its next step: `layer0.hidden`, say, to an array `[rows, width]`, a copy.

        It can be set to such a dictionary, of this stream or of another of the same network.
        """
        try:
            return {name: self._machine.state(k) for k, name in enumerate(self._initial)}
        except RuntimeError as error:
            raise UserError(f"{error}.") from None

    @state.setter
    def state(self, state: Mapping[str, Array]) -> None:
        unknown = next((name for name in state if name not in self._initial), None)
        if unknown is not None or len(state) != len(self._initial):
            given = f"no state is called {unknown!r}{nearest(str(unknown), self._initial)}" if unknown else "some lack"
            raise UserError(f"{given}: a state is given by {', '.join(self._initial)}.")
        values = {name: np.asarray(value) for name, value in state.items()}
        for name, value in values.items():
            wanted = self._initial[name]
            if value.shape != wanted.shape or value.dtype != wanted.dtype:
                raise UserError(
                    f"the state {name} is {wanted.dtype} {list(wanted.shape)}; given {value.dtype} {list(value.shape)}."
                )
        self._set(values)

    def _set(self, state: Mapping[str, Array]) -> None:
        try:
            for k, name in enumerate(self._initial):
                self._machine.set_state(k, state[name])
        except RuntimeError as error:
            raise UserError(f"{error}.") from None

    @property
    def output(self) -> Output | None:
        """What a sequence model's results mean: `stream.output.predict(result)`; None for recurrent layers alone."""
        return self._network.output

    @cached_property
    def task(self) -> TaskDescription | None:
        """What the network of a run or a file was made for, with its codecs; None if that isn't known.

        Raises:
            ModelError: its description is damaged.
        """
        return None if self._source is None else self._source.task


def _joined(declared: Sequence[Input], x: Any, inputs: Mapping[str, Any], axes: int, dtype: np.dtype[Any]) -> Array:
    """The inputs of a step or of steps side by side, as the machine takes them.

    Args:
        declared: the network's inputs, x first.
        x: the caller's x.
        inputs: the caller's other inputs, by name.
        axes: the number of axes of x before its features.
        dtype: the type of all.

    Raises:
        UserError: one is unknown, missing, or of another shape or type.
    """
    (of_x, *others), steps = declared, np.shape(x)[:axes]
    names = [given.name for given in others]
    for name in inputs:
        if name not in names:
            has = f"it takes {', '.join(names)}" if names else "it takes x alone"
            raise UserError(f"the network takes no input {name!r}{nearest(name, names)} ({has}).")
    for name in names:
        if name not in inputs:
            raise UserError(f"the network takes {name} at each step, and it is missing: step(x, {name}=...).")
    found = []
    for given, value in zip(declared, [x, *(inputs[name] for name in names)], strict=True):
        array = np.asarray(value, None if isinstance(value, np.ndarray) else dtype)
        if given.width == 1 and array.shape == steps:
            array = array[..., None]
        if array.shape != (*steps, given.width) or array.dtype != dtype:
            name = "x" if given is of_x else given.name
            raise UserError(f"{name} must be {dtype} {[*steps, given.width]}; got {array.dtype} {list(array.shape)}.")
        found.append(array)
    return np.concatenate(found, -1)


@dataclass(frozen=True)
class _Network:
    """What is streamed.

    Attributes:
        layers: each layer's program and its parameters.
        starts: what each layer's states start with.
        embedding: `[symbols, width]`, if the input is symbols.
        head: matrix and bias of the head, if there is one.
        output: what the head's numbers mean.
        skip: whether the input is added to the output.
        source: the file that it was read from.
        device: what an effect with knobs reads; None for other networks.
    """

    layers: Sequence[tuple[Program, Sequence[Array]]]
    starts: Sequence[Sequence[Array]]
    embedding: Array | None = None
    head: tuple[Array, Array] | None = None
    output: Output | None = None
    skip: bool = False
    source: ModelFile | None = None
    device: DeviceInput | None = None

    @property
    def arrays(self) -> list[Array]:
        """All its weights."""
        parameters = [array for _, parameters in self.layers for array in parameters]
        return [*parameters, *([] if self.embedding is None else [self.embedding]), *(self.head or ())]

    @property
    def dtype(self) -> np.dtype[Any]:
        """The weights' type."""
        return np.dtype(next((array.dtype for array in self.arrays), np.float32))


def _machine(network: _Network, rows: int, instruction_set: str) -> Any:
    try:
        from throughtime import _native
        from throughtime.engines.native.plan import lower
    except ImportError:
        raise UserError("a stream needs the native engine, whose extension module is not built; install it.") from None
    layers: list[tuple[Any, Sequence[Array]]] = [(lower(program), parameters) for program, parameters in network.layers]
    if network.head is not None:
        layers.append((_head_plan(*network.head[0].shape), network.head))
    kind = {"float32": _native.Stream32, "float64": _native.Stream64}[str(network.dtype)]
    try:
        return kind(layers, rows, network.embedding, instruction_set, network.skip)
    except ValueError as error:
        raise UserError(f"{error}.") from None


def _head_plan(symbols: int, width: int) -> Any:
    """The plan of a head: a matrix times the input, plus the bias."""
    from throughtime import _native

    plan = _native.Plan([width], [symbols], [], [(symbols, width), (symbols, 0)], [], False, [], [])
    x = plan.add_buffer("input", 0, width, 0.0)
    y = plan.add_buffer("output", 0, symbols, 0.0)
    bias = plan.add_buffer("parameter", 1, symbols, 0.0)
    plan.add_stage("step")
    plan.add_gemm(0, False, (y, 0), (x, 0), (bias, 0))
    return plan


def _network_of(model: Any) -> _Network:
    runs = sys.modules.get("throughtime.runs")
    if runs is not None and isinstance(model, runs.Run):
        model = model.path
    if isinstance(model, str | os.PathLike):
        network = _of_file(ModelFile.open(model)) if is_model_file(model) else _of_run(run_path(os.fspath(model)))
    else:
        network = _of_module(model)
    network = replace(network, device=_device_of(network.source or model))
    kinds = {str(array.dtype) for array in network.arrays}
    if len(kinds) > 1 or not kinds <= {"float32", "float64"}:
        raise UserError(f"a stream computes in float32 or float64; this model has {', '.join(sorted(kinds))}.")
    return network


def _device_of(source: Any) -> DeviceInput | None:
    """What an effect with knobs reads; None for other networks."""
    if isinstance(source, ModelFile):
        codecs = (source.description.task or {}).get("codecs")
        inputs = codecs.get("inputs") if isinstance(codecs, dict) else None
        if not isinstance(inputs, dict) or inputs.get("kind") != "device_input":
            return None  # a vocabulary, say, takes long to read
    task = getattr(source, "task", None)
    device = task.codecs.inputs if isinstance(task, TaskDescription) else None
    return device if isinstance(device, DeviceInput) and device.knobs else None


def _of_run(path: Path) -> _Network:
    if not path.exists():
        raise RunError(missing(path, "file or directory"))
    stored.require_run(path)
    for name in (stored.PROGRAMS, stored.TASK, stored.WEIGHTS):
        if not (path / name).is_file():
            raise RunError(f"{path} is a run that can't be used yet: it has no {name}")
    try:
        stored.require_format(path, json.loads(stored.read_text(path / stored.CONFIG)))
        file = ModelFile.open(path / stored.WEIGHTS)
        if file.description.programs != stored.read_programs(path):
            raise RunError(f"{path} is damaged: {stored.WEIGHTS} is not of this run")
        return _of_file(file)
    except (ValueError, ModelError) as error:
        if isinstance(error, UserError) and not isinstance(error, ModelError):
            raise
        raise RunError(f"{path} is damaged: {error}") from None


def _of_file(file: ModelFile) -> _Network:
    if file.dtype not in ("float32", "float64"):
        raise UserError(f"a stream computes in float32 or float64; this model has {file.dtype}.")
    kind, settings, programs = file.description.model, file.description.settings, file.description.programs
    try:
        if kind == "SequenceModel":
            options = _told_options(settings["recurrent"])
            skip = settings["skip"] is True
            return _of_sequence_model(programs, options, file.weights("np"), settings["output"], skip, file)
        if kind == "Recurrent":
            return _Network(*_layers(programs, _told_options(settings), file.weights("np")), source=file)
        if kind in ("RNN", "LSTM", "GRU"):
            mode = f"RNN_{settings['nonlinearity'].upper()}" if kind == "RNN" else kind
            _require_one_direction(settings["bidirectional"])
            return _Network(*_drop_in_layers(TORCH_LAYERS[mode], programs, file.weights("np")), source=file)
    except (KeyError, TypeError, AttributeError, ValueError, _Unfit) as error:
        raise ModelError(f"{file.path} is damaged: {type(error).__name__}: {error}") from None
    raise _unknown(kind)


def _told_options(settings: Mapping[str, Any]) -> Options:
    try:
        return Options.of(settings["options"])
    except UserError as error:
        raise _Unfit(error) from None


class _Unfit(Exception):
    """Weights that are not of the programs."""


def _of_sequence_model(
    programs: Sequence[Program],
    options: Options,
    weights: Mapping[str, Array],
    output: Mapping[str, Any],
    skip: bool,
    source: ModelFile | None = None,
) -> _Network:
    """The network of a sequence model from its weights, called as in the module's `state_dict`.

    Raises:
        KeyError, _Unfit: a weight is missing, or of another shape than the programs say.
    """
    recurrent = {name.removeprefix("recurrent."): array for name, array in weights.items()}
    layers, starts = _layers(programs, options, recurrent)
    matrix, bias = weights["head.weight"], weights["head.bias"]
    meaning = output_from(output)
    _require_shapes([matrix, bias], [(meaning.width, output_width(layers[-1][0])), (meaning.width,)])
    embedding = weights.get("encoder.weight")
    if embedding is not None:
        _require_shapes([embedding], [(len(embedding), programs[0].inputs[0].width)])
        embedding = np.ascontiguousarray(embedding)
    return _Network(layers, starts, embedding, (matrix, bias), meaning, skip, source)


_Layers = tuple[list[tuple[Program, list[Array]]], list[list[Array]]]  # and what their states start with


def _layers(programs: Sequence[Program], options: Options, weights: Mapping[str, Array]) -> _Layers:
    """Recurrent layers from their weights, called as in the module's `state_dict`."""
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


def _drop_in_layers(layer: TorchLayer, programs: Sequence[Program], weights: Mapping[str, Array]) -> _Layers:
    """A drop-in's layers from its weights, called as torch calls them."""
    layers, starts = [], []
    for depth, program in enumerate(programs):
        bias, projected = f"bias_ih_l{depth}" in weights, f"weight_hr_l{depth}" in weights
        found: list[Any] = [weights[name] for name in layer.names(f"_l{depth}", bias=bias, projected=projected)]
        parameters: list[Any] = layer.to_program(found, bias=bias)
        _require_shapes(parameters, [p.shape for p in program.parameters])
        layers.append((program, parameters))
        starts.append(_declared_starts(program, parameters))
    return layers, starts


def _declared_starts(program: Program, parameters: Sequence[Array]) -> list[Array]:
    """What a cell's states start with, as it declares it."""
    dtype = parameters[0].dtype if parameters else np.float32
    return [np.full(state.width, state.initial, dtype) for state in program.states]


def _require_shapes(arrays: Sequence[Array], wanted: Sequence[tuple[int, ...]]) -> None:
    given = [array.shape for array in arrays]
    if given != list(wanted):
        raise _Unfit(f"weights of the shapes {list(wanted)} are wanted, and {given} are there")


def _of_module(module: Any) -> _Network:
    if "torch" not in sys.modules or not isinstance(module, sys.modules["torch"].nn.Module):
        raise UserError(
            "a stream is made from a run's directory, a file, a language model or recurrent layers; "
            f"given {type(module).__name__}."
        )
    from torch import nn

    from throughtime.nn.dropin import torch_programs
    from throughtime.nn.effective import effective_weights
    from throughtime.nn.recurrent import Recurrent
    from throughtime.nn.sequence_model import SequenceModel

    tensors = dict(module.state_dict())
    if isinstance(module, SequenceModel):
        names = module.recurrent.parameter_names
        of_layers = effective_weights(module.recurrent, names)
        tensors |= {f"recurrent.{name}": tensor for name, tensor in of_layers.items()}
    elif isinstance(module, Recurrent):
        tensors |= effective_weights(module, module.parameter_names)
    elif isinstance(module, nn.RNNBase):
        tensors |= effective_weights(module, [name for names in module._all_weights for name in names])
    weights = {name: _array(tensor) for name, tensor in tensors.items()}
    if isinstance(module, SequenceModel):
        output = module.head.output.to_data()
        return _of_sequence_model(module.recurrent.programs, module.recurrent.options, weights, output, module.skip)
    if isinstance(module, Recurrent):
        return _Network(*_layers(module.programs, module.options, weights))
    if isinstance(module, nn.RNNBase):
        _require_one_direction(module.bidirectional)
        programs = [program for (program,) in torch_programs(module)]
        return _Network(*_drop_in_layers(TORCH_LAYERS[module.mode], programs, weights))
    kinds = (Recurrent, SequenceModel, nn.RNNBase)
    raise _unknown(type(module).__name__, [name for name, inner in module.named_modules() if isinstance(inner, kinds)])


def _require_one_direction(bidirectional: bool) -> None:
    Options(bidirectional=bidirectional).chain([])


def _unknown(kind: str, inside: Sequence[str] = ()) -> UserError:
    names = ", ".join(map(repr, inside))
    told = f": pass a layer in it, as model.get_submodule({inside[0]!r}) ({names})" if inside else ""
    return UserError(
        f"{kind} is not a recurrent layer or a language model, and a stream is made from one of these{told}."
    )


def _array(tensor: Any) -> Array:
    try:
        array: Array = tensor.detach().cpu().numpy()
    except TypeError:  # a type that NumPy has not
        raise UserError(f"a stream computes in float32 or float64; this model has {tensor.dtype}.") from None
    return np.array(array, order="C")  # a copy: the model may change
