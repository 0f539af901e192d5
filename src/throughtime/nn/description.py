"""Modules as plain data, and back."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn.utils import parametrize

from throughtime.engines import get
from throughtime.errors import ModelError, UserError, nearest
from throughtime.model_file import Description, ModelFile
from throughtime.nn import dropin
from throughtime.nn.encoders import encoder_from
from throughtime.nn.options import Options
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import from_data as output_from
from throughtime.program.core import Program


class DropIn(NamedTuple):
    """A drop-in and those of its arguments that say what it is."""

    kind: type[nn.Module]
    arguments: tuple[str, ...]


_CELL = ("input_size", "hidden_size", "bias")
_LAYER = (*_CELL, "num_layers", "batch_first", "dropout", "bidirectional")
DROP_INS = {
    "RNN": DropIn(dropin.RNN, (*_LAYER, "nonlinearity")),
    "LSTM": DropIn(dropin.LSTM, (*_LAYER, "proj_size")),
    "GRU": DropIn(dropin.GRU, _LAYER),
    "RNNCell": DropIn(dropin.RNNCell, (*_CELL, "nonlinearity")),
    "LSTMCell": DropIn(dropin.LSTMCell, _CELL),
    "GRUCell": DropIn(dropin.GRUCell, _CELL),
}
_MODELS = ("Recurrent", "SequenceModel", *DROP_INS)


def describe(module: nn.Module) -> Description:
    """What a module is besides its weights.

    Raises:
        UserError: if it is none of those that can be described, or has been changed by hand.
    """
    found = _described(module)
    if found is None:
        raise UserError(
            f"a model that can be saved is one of {', '.join(_MODELS)}; got {type(module).__name__}: {_way_out(module)}"
        )
    own, wanted = module.state_dict().keys(), _made(found).state_dict().keys()
    for name in own ^ wanted:
        what = "has no" if name in wanted else "has"
        raise UserError(
            f"this {found.model} {what} {name!r} among its weights, unlike any other: it can't be saved. If it is "
            "pruned or normalized, throughtime.from_torch(module) makes a layer of the weights that it runs with."
        )
    return found


def _way_out(module: nn.Module) -> str:
    """How a module that can't be described can be saved."""
    if type(module).__module__.startswith("torch.") and type(module).__name__ in DROP_INS:
        return "throughtime.accelerate(module) makes ours of it."
    if parametrize.is_parametrized(module) and isinstance(module, nn.RNNBase):
        return "throughtime.from_torch(module) makes a layer of the weights that it runs with."
    own = [name for name, inner in module.named_modules() if _described(inner) is not None]
    top = [name for name in own if name and not any(name.startswith(f"{other}.") for other in own)]
    weights = "save its weights with torch.save(module.state_dict(), path), and load them into the same module"
    if not top:
        return f"{weights}."
    return (
        f"rebuilding it from a file would run its Python code. Save a layer in it, with "
        f"throughtime.save(module.get_submodule({top[0]!r}), path) ({', '.join(map(repr, top))}); or {weights}."
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
            return Description(name, settings, tuple(ways[0][0] for ways in layers))
    return None


def _settings(recurrent: Recurrent) -> dict[str, Any]:
    return {"hidden_size": recurrent.hidden_size, "options": recurrent.options.data}


def build(file: ModelFile, engine: str | None = None) -> nn.Module:
    """The module of a file, in evaluation mode.

    Args:
        file: the file.
        engine: the engine's name; chosen by device if not given.

    Raises:
        ModelError: if the file is damaged.
        UserError: if there is no such engine.
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
                f"{file.path}: its weights are not those of its programs: {name!r} {_shape(wanted.get(name))} is "
                f"wanted, and {_shape(file.shapes.get(name))} is there."
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
    """Refuses codecs for another number of symbols than the network has."""
    inputs = module.task and module.task.codecs.inputs
    size = getattr(inputs, "size", None)
    if module.reads_symbols and size is not None and size != module.vocabulary_size:
        raise ModelError(f"{file.path}: it has a vocabulary of {size} symbols for a model of {module.vocabulary_size}.")


def _made(description: Description) -> nn.Module:
    """The module without weights: nothing is set aside for them."""
    kind, settings, programs = description.model, description.settings, description.programs
    with torch.device("meta"):
        if kind == "Recurrent":
            return _recurrent(settings, programs)
        if kind == "SequenceModel":
            _require(settings, "encoder", "output", "dropout", "tie", "skip", "recurrent")
            return SequenceModel(
                encoder_from(settings["encoder"], programs[0].inputs[0].width),
                _recurrent(settings["recurrent"], programs),
                output_from(settings["output"]),
                dropout=Options(dropout=settings["dropout"]).dropout,
                tie=settings["tie"] is True,
                skip=settings["skip"] is True,
            )
        if kind not in DROP_INS:
            raise UserError(f"no model is called {kind!r}{nearest(kind, _MODELS)} (there are: {', '.join(_MODELS)}).")
        ours, arguments = DROP_INS[kind]
        _require(settings, *arguments)
        if settings.get("num_layers", 1) != len(programs):
            raise UserError(f"{settings['num_layers']!r} layers are told of, and {len(programs)} programs are there.")
        module = ours(**settings)
        module.layers()  # type: ignore[operator]  # which not all arguments are asked for before
        return module


def _recurrent(settings: Any, programs: tuple[Program, ...]) -> Recurrent:
    _require(settings, "hidden_size", "options")
    hidden = settings["hidden_size"]
    if type(hidden) is not int or hidden < 1:
        raise UserError(f"hidden_size must be a whole number of 1 or more; given {hidden!r}.")
    return Recurrent.from_programs(programs, hidden, **Options.of(settings["options"]).data)


def _require(settings: Any, *names: str) -> None:
    if not isinstance(settings, dict) or settings.keys() != set(names):
        raise UserError(f"the settings {', '.join(names)} are wanted; given {settings!r:.200}.")


def _shape(shape: tuple[int, ...] | None) -> str:
    return "nothing" if shape is None else str(list(shape))
