"""A module that holds recurrent layers among others as a model of ONNX, by torch's own exporter."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from throughtime.errors import UserError
from throughtime.exchange.onnx.graph import OPSET
from throughtime.exchange.torch.modules import to_torch
from throughtime.nn.hooks import Hookable


def exported(module: nn.Module, example: Any, metadata: Mapping[str, str], words: Mapping[str, Any]) -> Any:
    """Export a module with torch's layers in the places of ours.

    Args:
        module: the module; it stays as it is.
        example: an input, or a tuple of them.
        metadata: the model's metadata.
        words: arguments of `torch.onnx.export`.

    Raises:
        UserError: if there is no layer of ours in it, torch has no such layer, there is no example, or torch's exporter
            fails.
    """
    if isinstance(module, nn.RNNBase) and not isinstance(module, Hookable):
        raise UserError(
            f"expected a layer of throughtime, got torch's {type(module).__name__}: export "
            "throughtime.from_torch(module), or call throughtime.accelerate(module) before parametrizing it."
        )
    if not isinstance(module, nn.Module) or not any(isinstance(inner, Hookable) for inner in module.modules()):
        raise UserError(
            "expected a Recurrent, RNN, LSTM, GRU or SequenceModel of throughtime or a module that holds some, got a "
            f"{type(module).__module__}.{type(module).__name__}. torch.onnx.export exports other modules."
        )
    layers = [name for name, inner in module.named_modules() if isinstance(inner, Hookable)]
    if example is None:
        raise UserError(
            f"a {type(module).__name__} that holds layers ({', '.join(layers)}) is exported by running it: pass "
            "example=x, or a tuple of its inputs. A layer alone needs no example: "
            f"to_onnx(model.get_submodule({layers[0]!r}))."
        )
    given = tuple(example) if isinstance(example, tuple | list) else (example,)
    if not all(isinstance(value, Tensor) for value in given):
        raise UserError(f"example must be a tensor or a tuple of tensors, got {type(example).__name__}.")
    return _proto(to_torch(module).eval(), given, metadata, words)


def _proto(module: nn.Module, given: tuple[Tensor, ...], metadata: Mapping[str, str], words: Mapping[str, Any]) -> Any:
    from onnx import ModelProto, helper

    file = io.BytesIO()
    # The exporter that keeps each of torch's layers one operator; the newer one unrolls nn.RNN.
    arguments: dict[str, Any] = {"dynamo": False, "opset_version": OPSET} | dict(words)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]  # of the checks in torch's own layers
            # It warns of every LSTM; the zero states that it writes have the size of the batch that is run.
            warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size")
            # With dynamo it returns a program, and otherwise it writes into the file.
            program = torch.onnx.export(module, given, None if arguments["dynamo"] else file, **arguments)  # type: ignore[arg-type]
    except Exception as error:
        raise UserError(
            f"torch.onnx.export can't export this {type(module).__name__}: {type(error).__name__}: {error}"
        ) from error
    model = ModelProto.FromString(file.getvalue()) if program is None else program.model_proto
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return model
