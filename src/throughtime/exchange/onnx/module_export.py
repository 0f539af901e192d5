"""Export a module that contains recurrent layers to ONNX, with torch's own exporter."""

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


def exported(module: nn.Module, example: Any, metadata: Mapping[str, str], options: Mapping[str, Any]) -> Any:
    """Export a module after replacing throughtime's layers in a copy with torch's.

    Args:
        module: the module; it is not changed.
        example: an example input, or a tuple of inputs.
        metadata: the model's metadata.
        options: further arguments of `torch.onnx.export`.

    Raises:
        UserError: if the module has no throughtime layer, torch has no such layer, the example is missing, or torch's
            exporter fails.
    """
    if isinstance(module, nn.RNNBase) and not isinstance(module, Hookable):
        raise UserError(
            f"expected a layer of throughtime, got torch's {type(module).__name__}: export "
            "throughtime.from_torch(module), or call throughtime.accelerate(module) before parametrizing it"
        )
    if not isinstance(module, nn.Module) or not any(isinstance(inner, Hookable) for inner in module.modules()):
        raise UserError(
            "expected a Recurrent, RNN, LSTM, GRU or SequenceModel of throughtime, or a module that contains one, got "
            f"a {type(module).__module__}.{type(module).__name__}. Export other modules with torch.onnx.export"
        )
    layers = [name for name, inner in module.named_modules() if isinstance(inner, Hookable)]
    if example is None:
        raise UserError(
            f"a {type(module).__name__} that contains layers ({', '.join(layers)}) is exported by running it: pass "
            "example=x, or a tuple of its inputs. A single layer needs no example: "
            f"to_onnx(model.get_submodule({layers[0]!r}))"
        )
    given = tuple(example) if isinstance(example, tuple | list) else (example,)
    if not all(isinstance(value, Tensor) for value in given):
        raise UserError(f"example must be a tensor or a tuple of tensors, got {type(example).__name__}")
    return _proto(to_torch(module).eval(), given, metadata, options)


def _proto(
    module: nn.Module, given: tuple[Tensor, ...], metadata: Mapping[str, str], options: Mapping[str, Any]
) -> Any:
    from onnx import ModelProto, helper

    file = io.BytesIO()
    # This exporter keeps each of torch's layers as one operator; the newer one unrolls nn.RNN.
    arguments: dict[str, Any] = {"dynamo": False, "opset_version": OPSET} | dict(options)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # type: ignore[attr-defined]  # from checks in torch's own layers
            # torch warns about every LSTM, but the zero states that it exports adapt to the batch size at run time.
            warnings.filterwarnings("ignore", message="Exporting a model to ONNX with a batch_size")
            # With dynamo it returns a program; otherwise it writes to the file.
            program = torch.onnx.export(module, given, None if arguments["dynamo"] else file, **arguments)  # type: ignore[arg-type]
    except Exception as error:
        raise UserError(
            f"torch.onnx.export can't export this {type(module).__name__}: {type(error).__name__}: {error}"
        ) from error
    model = ModelProto.FromString(file.getvalue()) if program is None else program.model_proto
    if metadata:
        helper.set_model_props(model, dict(metadata))
    return model
