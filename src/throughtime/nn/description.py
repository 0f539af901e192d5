"""Describe modules as plain data, and rebuild them from it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from throughtime.engines import get
from throughtime.errors import ModelError, UserError, nearest
from throughtime.model_file import Description, ModelFile
from throughtime.nn import dropin, dropin_cells
from throughtime.nn.encoders import encoder_from
from throughtime.nn.options import Options
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import from_data as output_from
from throughtime.program.core import Program


class DropIn(NamedTuple):
    """A drop-in layer and the constructor arguments that describe it."""

    kind: type[nn.Module]
    arguments: tuple[str, ...]


_CELL = ("input_size", "hidden_size", "bias")
_LAYER = (*_CELL, "num_layers", "batch_first", "dropout", "bidirectional")
DROP_INS = {
    "RNN": DropIn(dropin.RNN, (*_LAYER, "nonlinearity")),
    "LSTM": DropIn(dropin.LSTM, (*_LAYER, "proj_size")),
    "GRU": DropIn(dropin.GRU, _LAYER),
    "RNNCell": DropIn(dropin_cells.RNNCell, (*_CELL, "nonlinearity")),
    "LSTMCell": DropIn(dropin_cells.LSTMCell, _CELL),
    "GRUCell": DropIn(dropin_cells.GRUCell, _CELL),
}
_MODELS = ("Recurrent", "SequenceModel", *DROP_INS)


def describe(module: nn.Module) -> Description:
    """Describe a module as plain data, without its weights.

    Raises:
        UserError: if the module's class is unsupported, or its weights have been added to or removed by hand.
    """
    found = _described(module)
    if found is None:
        raise UserError(
            f"can't save the type {type(module).__name__}; supported: {', '.join(_MODELS)}. {_saving_advice(module)}"
        )
    own, wanted = module.state_dict().keys(), _made(found).state_dict().keys()
    for name in own ^ wanted:
        problem = "lacks the weight" if name in wanted else "has the unexpected weight"
        raise UserError(
            f"can't save this {found.model}: it {problem} {name!r}. If it is pruned or normalized, "
            "throughtime.from_torch(module) makes a layer with its effective weights"
        )
    return found


def _saving_advice(module: nn.Module) -> str:
    """Explain how to save a module that can't be described."""
    if type(module).__module__.startswith("torch.") and type(module).__name__ in DROP_INS:
        return "Replace it with a drop-in layer: throughtime.accelerate(module)"
    if parametrize.is_parametrized(module) and isinstance(module, nn.RNNBase):
        return "throughtime.from_torch(module) makes a layer with its effective weights"
    own = [name for name, inner in module.named_modules() if _described(inner) is not None]
    top = [name for name in own if name and not any(name.startswith(f"{other}.") for other in own)]
    weights = "save its weights with torch.save(module.state_dict(), path) and load them into the same module"
    if not top:
        return weights.capitalize()
    return (
        f"Rebuilding it from a file would need its Python code. Save one of its layers ({', '.join(map(repr, top))}) "
        f"with throughtime.save(module.get_submodule({top[0]!r}), path), or {weights}"
    )


def _described(module: nn.Module) -> Description | None:
    if type(module) is Recurrent:
        return Description("Recurrent", _settings(module), module.programs)
    if isinstance(module, SequenceModel) and type(module.recurrent) is Recurrent:
        settings = {
            "encoder": module.encoder.data,
            "output": module.head.output.to_data(),
            "dropout": module.dropout,
            "tie": module.tie,
            "skip": module.skip,
            "recurrent": _settings(module.recurrent),
        }
        task = None if module.task is None else module.task.to_data()
        return Description("SequenceModel", settings, module.recurrent.programs, task)
    for name, (ours, arguments) in DROP_INS.items():
        if type(module) is ours:
            layers = module.layers()  # type: ignore[operator]
            settings = {argument: getattr(module, argument) for argument in arguments}
            return Description(name, settings, tuple(directions[0][0] for directions in layers))
    return None


def _settings(recurrent: Recurrent) -> dict[str, Any]:
    return {"hidden_size": recurrent.hidden_size, "options": recurrent.options.data}


def build(file: ModelFile, engine: str | None = None) -> nn.Module:
    """Rebuild the module of a model file, in evaluation mode.

    Args:
        file: the model file.
        engine: the engine's name; chosen by device by default.

    Raises:
        ModelError: if the file is damaged.
        UserError: if there is no engine with that name.
    """
    if engine is not None:
        get(engine)
    try:
        module = _made(file.description)
        wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    except (UserError, ValueError, TypeError, RuntimeError, KeyError, AttributeError, OverflowError) as error:
        raise ModelError(f"{file.path}: its metadata is damaged: {error}") from None
    for name in wanted.keys() | file.shapes.keys():
        if wanted.get(name) != file.shapes.get(name):
            raise ModelError(
                f"{file.path}: its weights don't match its programs: {name!r}: expected {_shape(wanted.get(name))}, "
                f"got {_shape(file.shapes.get(name))}"
            )
    recurrent: Any = module.recurrent if isinstance(module, SequenceModel) else module
    recurrent.engine = engine
    if isinstance(module, SequenceModel):
        module.task = file.task
        _require_codecs(file, module)
    module.load_state_dict(file.weights("pt"), assign=True)
    for name, stored in file.description.shared.items():
        owner, _, parameter = name.rpartition(".")
        module.get_submodule(owner).register_parameter(parameter, module.get_parameter(stored))
    return module.eval()


def _require_codecs(file: ModelFile, module: SequenceModel) -> None:
    """Raise ModelError if the file's vocabulary and the model differ in size."""
    inputs = module.task and module.task.codecs.inputs
    size = getattr(inputs, "size", None)
    if module.reads_tokens and size is not None and size != module.vocabulary_size:
        raise ModelError(f"{file.path}: its vocabulary has {size} tokens, but its model reads {module.vocabulary_size}")


def _made(description: Description) -> nn.Module:
    """Build the module on the meta device, without allocating its weights."""
    kind, settings, programs = description.model, description.settings, description.programs
    with torch.device("meta"):
        if kind == "Recurrent":
            return _recurrent(settings, programs)
        if kind == "SequenceModel":
            _require(settings, "encoder", "output", "dropout", "tie", "skip", "recurrent")
            recurrent = _recurrent(settings["recurrent"], programs)
            return SequenceModel(
                encoder_from(settings["encoder"], recurrent.step_size),
                recurrent,
                output_from(settings["output"]),
                dropout=Options(dropout=settings["dropout"]).dropout,
                tie=settings["tie"] is True,
                skip=settings["skip"] is True,
            )
        if kind not in DROP_INS:
            raise UserError(f"no model named {kind!r}{nearest(kind, _MODELS)}; supported models: {', '.join(_MODELS)}")
        ours, arguments = DROP_INS[kind]
        _require(settings, *arguments)
        if settings.get("num_layers", 1) != len(programs):
            raise UserError(f"num_layers is {settings['num_layers']!r}, but there are {len(programs)} programs")
        module = ours(**settings)
        module.layers()  # type: ignore[operator]  # uses the arguments that the constructor doesn't check
        return module


def _recurrent(settings: Any, programs: tuple[Program, ...]) -> Recurrent:
    _require(settings, "hidden_size", "options")
    hidden = settings["hidden_size"]
    if type(hidden) is not int or hidden < 1:
        raise UserError(f"hidden_size must be a positive integer, got {hidden!r}")
    return Recurrent.from_programs(programs, hidden, **Options.of(settings["options"]).data)


def _require(settings: Any, *names: str) -> None:
    if not isinstance(settings, dict) or settings.keys() != set(names):
        raise UserError(f"expected the settings {', '.join(names)}, got {settings!r:.200}")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "no tensor" if shape is None else f"shape {list(shape)}"
