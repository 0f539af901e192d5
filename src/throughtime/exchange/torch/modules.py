"""Convert torch's recurrent layers to `Recurrent`, and back."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from throughtime.acceleration import restore
from throughtime.engines.torch_layers import TORCH_LAYERS, TorchLayer, torch_layer_of
from throughtime.errors import UserError, nearest
from throughtime.exchange.building import recurrent_of
from throughtime.nn.description import DROP_INS
from throughtime.nn.effective import effective_weights
from throughtime.nn.hooks import Hookable
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel

_KINDS = {"RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN, "LSTM": nn.LSTM, "GRU": nn.GRU}
_SHARED = ("batch_first", "bidirectional", "dropout")  # the options that torch's layers have


class _Sizes(NamedTuple):
    """The sizes and options of a layer, read from the shapes of torch's tensors."""

    input: int
    hidden: int
    projection: int
    layers: int
    directions: int
    bias: bool


def _suffixes(layers: int, directions: int) -> list[str]:
    """Return the suffix of tensor names for each layer and direction."""
    return [f"_l{k}{end}" for k, end in product(range(layers), ["", "_reverse"][:directions])]


def from_torch(
    source: nn.RNNBase | Mapping[str, Tensor],
    *,
    prefix: str = "",
    nonlinearity: str | None = None,
    engine: str | None = None,
    **options: Any,
) -> Recurrent:
    """Create a `Recurrent` from one of torch's recurrent layers, with a copy of its weights.

    To replace layers inside a model, use `throughtime.accelerate`. The layer created here has the options of
    `Recurrent`.

    Args:
        source: an `nn.RNN`, `nn.LSTM` or `nn.GRU`, or its `state_dict`. For a layer with weight norm, spectral norm,
            pruning or another parametrization, the current effective weights are copied.
        prefix: the prefix of the layer's tensors in the `state_dict` of a larger model.
        nonlinearity: `tanh` (the default) or `relu`, for the weights of an `nn.RNN`, which don't determine it.
        engine: the engine's name; chosen by device by default.
        **options: see `throughtime.nn.options.Options`; `batch_first` and `dropout` are the module's own by default.

    Raises:
        UserError: if the tensors don't belong to one of torch's layers, or an option is invalid.
    """
    if isinstance(source, nn.RNNBase):
        arguments = {"batch_first": source.batch_first, "dropout": source.dropout}
        options = {name: value for name, value in arguments.items() if value} | options
        nonlinearity = getattr(source, "nonlinearity", nonlinearity)
        source = effective_weights(source, [name for names in source._all_weights for name in names])
    if not isinstance(source, Mapping) or not all(isinstance(t, Tensor) for t in source.values()):
        raise UserError(
            f"expected a torch.nn.RNN, LSTM or GRU or its state_dict, got {type(source).__name__}{_layers_in(source)}"
        )
    weights = {name.removeprefix(prefix): t for name, t in source.items() if name.startswith(prefix)}
    sizes = _sizes(weights, source, prefix)
    layer = _layer(weights, sizes, nonlinearity or "tanh")
    _require_shapes(weights, layer, sizes)
    both = sizes.directions == 2
    if options.setdefault("bidirectional", both) is not both:
        raise UserError(f"bidirectional must be {both} for these weights, got {options['bidirectional']!r}")
    programs, width = [], sizes.input
    for _ in range(sizes.layers):
        programs.append(layer.program(width, sizes.hidden, sizes.projection, bias=sizes.bias))
        width = (sizes.projection or sizes.hidden) * sizes.directions
    parameters = []
    for suffix in _suffixes(sizes.layers, sizes.directions):
        names = layer.names(suffix, bias=sizes.bias, projected=sizes.projection > 0)
        parameters.append(layer.to_program([weights[name] for name in names], bias=sizes.bias))
    return recurrent_of(programs, sizes.hidden, parameters, engine=engine, **options)


def to_torch(module: nn.Module) -> nn.Module:
    """Convert throughtime layers to torch's own, with a copy of the weights.

    Args:
        module: a `Recurrent` with a cell and options that torch has (`rnn`, `rnn_relu`, `gru` or `lstm`, optionally
            with a projection), a drop-in layer or cell, or a module that contains such layers.

    Returns:
        An `nn.RNN`, `nn.LSTM` or `nn.GRU`; torch's cell for a drop-in cell; or a copy of the containing module with
        torch's layers. Where torch has two biases and the cell has one, `bias_ih` is the cell's bias and `bias_hh` is
        0; a drop-in keeps its two biases.

    Raises:
        UserError: if torch has no such layer; the message names the unsupported feature.
    """
    if isinstance(module, Recurrent):
        return _torchs(module)
    name = _drop_in(module)
    if name is not None:
        return _of_drop_in(module, name)
    if not isinstance(module, nn.Module) or not any(isinstance(inner, Hookable) for inner in module.modules()):
        raise UserError(
            "expected a Recurrent, a drop-in or a module that contains one, got a "
            f"{type(module).__name__} without a throughtime layer"
        )
    return _copied(module)


def _drop_in(module: nn.Module) -> str | None:
    """Return the name of the torch class that a drop-in replaces; None if the module is not a drop-in."""
    kind = type(module)
    if parametrize.is_parametrized(module):  # torch has replaced the class with a subclass
        kind = next((base for base in kind.__mro__[1:] if not base.__name__.startswith("Parametrized")), kind)
    return next((name for name, drop_in in DROP_INS.items() if kind is drop_in.kind), None)


def _of_drop_in(module: nn.Module, name: str) -> nn.Module:
    """Return torch's layer with the effective weights of a drop-in."""
    with torch.device("meta"):
        made: nn.Module = getattr(nn, name)(**{a: getattr(module, a) for a in DROP_INS[name].arguments})
    return _with(made, effective_weights(module, made.state_dict())).train(module.training)


def _is_altered(module: nn.Module) -> bool:
    """Return whether weights are pruned, normalized or parametrized."""
    return parametrize.is_parametrized(module) or bool(module._forward_pre_hooks)


def _copied(module: nn.Module) -> nn.Module:
    """Copy a module, replacing throughtime's layers with torch's; shared layers stay shared."""
    for name, inner in module.named_modules():
        plain = isinstance(inner, Recurrent | SequenceModel) or _drop_in(inner) is not None
        if isinstance(inner, Hookable) and not plain:
            raise UserError(
                f"layer {name!r} is a {type(inner).__name__}, which torch has no class for: convert it to one of "
                f"{', '.join(DROP_INS)} or a Recurrent first"
            )
        if isinstance(inner, SequenceModel):
            raise UserError("torch has no SequenceModel: convert its layers, model.recurrent")
    converted: dict[int, Any] = {}  # replacements by id: torch can't copy a pruned module
    for name, inner in module.named_modules():
        if isinstance(inner, Recurrent):
            converted[id(inner)] = _of_place(inner, name)
        elif (kind := _drop_in(inner)) is not None and _is_altered(inner):
            converted[id(inner)] = _of_drop_in(inner, kind)
    return restore(copy.deepcopy(module, converted))


def _of_place(module: Recurrent, name: str) -> nn.Module:
    try:
        return _torchs(module).train(module.training)
    except UserError as error:
        raise UserError(f"layer {name!r}: {error}") from None


def _layers_in(source: Any) -> str:
    """Return a hint for a module that contains layers: pass one of them."""
    names = [n for n, m in source.named_modules() if isinstance(m, nn.RNNBase)] if isinstance(source, nn.Module) else []
    if not names:
        return ""
    return (
        f": pass one of its layers, as model.get_submodule({names[0]!r}) ({', '.join(map(repr, names))}), or call "
        "throughtime.accelerate(model) to replace them in place"
    )


def _torchs(module: Recurrent) -> nn.Module:
    for name, value in module.options.data.items():
        if name not in _SHARED:
            raise UserError(f"torch's layers have no option {name}, but this one has {name}={value!r}")
    layers = [torch_layer_of(program) for program in module.programs]
    layer, program = layers[0], module.programs[0]
    if layer is None or any(other is not layer for other in layers):
        known = ", ".join(dict.fromkeys(row.cell.name for row in TORCH_LAYERS.values()))
        raise UserError(
            f"torch has no layer for the cell {program.name!r} as configured: it supports {known}, without clip, heads "
            "or other activations"
        )
    hidden, out = program.states[-1].width, program.states[0].width
    bias = any(len(p.shape) == 1 for p in program.parameters)
    arguments: dict[str, Any] = {name: getattr(module.options, name) for name in _SHARED}
    if module.num_layers == 1:
        arguments["dropout"] = 0.0  # dropout applies between layers; torch warns if there is only one
    if layer.mode.startswith("RNN"):
        arguments["nonlinearity"] = layer.mode.removeprefix("RNN_").lower()
    if out != hidden:
        arguments["proj_size"] = out
    with torch.device("meta"):
        made = _KINDS[layer.mode](module.input_size, hidden, module.num_layers, bias=bias, **arguments)
    parameters = [own for directions in module.layers() for _, own in directions]
    weights: dict[str, Tensor] = {}
    suffixes = _suffixes(module.num_layers, module.options.directions)
    for suffix, own in zip(suffixes, parameters, strict=True):
        names = layer.names(suffix, bias=bias, projected=out != hidden)
        weights |= dict(zip(names, layer.to_stored(own, bias=bias), strict=True))
    return _with(made, weights)


def _with(module: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    module.load_state_dict({name: tensor.detach().clone() for name, tensor in weights.items()}, assign=True)
    return module


def _sizes(weights: Mapping[str, Tensor], source: Mapping[str, Tensor], prefix: str) -> _Sizes:
    first = [weights.get(f"{name}_l0") for name in ("weight_ih", "weight_hh")]
    if any(t is None for t in first):
        parametrized_names = [
            n for n in weights if n.startswith("parametrizations.") or n.endswith(("_orig", "_g", "_v", "_mask"))
        ]
        if parametrized_names:
            raise UserError(
                "the weights are normalized, pruned or otherwise parametrized "
                f"(they include {parametrized_names[0]!r}): pass the layer itself instead of its state_dict"
            )
        found = [n.removesuffix("weight_ih_l0") for n in source if n.endswith("weight_ih_l0")]
        hint = f"; found tensors with the prefix {', '.join(map(repr, found))}: pass it as prefix" if found else ""
        raise UserError(
            f"expected the tensors {prefix}weight_ih_l0 and {prefix}weight_hh_l0 of a torch layer, found none{hint}"
        )
    ih, hh = (t for t in first if t is not None)
    hr = weights.get("weight_hr_l0")
    if ih.dim() != 2 or hh.dim() != 2 or (hr is not None and hr.dim() != 2):
        raise UserError("the matrices weight_ih_l0 and weight_hh_l0 must have 2 dimensions")
    projection = hr.shape[0] if hr is not None else 0
    hidden = hr.shape[1] if hr is not None else hh.shape[1]
    numbers = [int(m[1]) for name in weights if (m := re.fullmatch(r"weight_ih_l(\d+)", name))]
    directions = 2 if "weight_ih_l0_reverse" in weights else 1
    return _Sizes(ih.shape[1], hidden, projection, len(numbers), directions, "bias_ih_l0" in weights)


def _layer(weights: Mapping[str, Tensor], sizes: _Sizes, nonlinearity: str) -> TorchLayer:
    if nonlinearity not in ("tanh", "relu"):
        raise UserError(
            f"nonlinearity must be 'tanh' or 'relu', got {nonlinearity!r}{nearest(str(nonlinearity), ('tanh', 'relu'))}"
        )
    gates, rest = divmod(weights["weight_hh_l0"].shape[0], max(sizes.hidden, 1))
    for layer in TORCH_LAYERS.values():
        fits = not layer.mode.startswith("RNN") or layer.mode == f"RNN_{nonlinearity.upper()}"
        if fits and len(layer.layout.gates) == gates and not rest and (not sizes.projection or layer.mode == "LSTM"):
            return layer
    raise UserError(
        f"weight_hh_l0 {list(weights['weight_hh_l0'].shape)} does not fit a torch layer: expected 1, 3 or 4 blocks of "
        f"{sizes.hidden} rows"
    )


def _require_shapes(weights: Mapping[str, Tensor], layer: TorchLayer, sizes: _Sizes) -> None:
    wanted = dict(_shapes(layer, sizes))
    for name in [*wanted, *weights]:
        given = list(weights[name].shape) if name in weights else None
        if name not in wanted:
            raise UserError(f"unexpected tensor {name!r} for this torch layer{nearest(name, wanted)}")
        if given != list(wanted[name]):
            raise UserError(f"{name} must have shape {list(wanted[name])}, got {given or 'no tensor'}")
    kinds = {weights[name].dtype for name in wanted}
    if len(kinds) > 1 or not next(iter(kinds)).is_floating_point:
        raise UserError(
            f"all tensors must have the same floating-point dtype, got {', '.join(sorted(map(str, kinds)))}"
        )


def _shapes(layer: TorchLayer, sizes: _Sizes) -> Iterator[tuple[str, tuple[int, ...]]]:
    rows, out = len(layer.layout.gates) * sizes.hidden, sizes.projection or sizes.hidden
    for suffix in _suffixes(sizes.layers, sizes.directions):
        width = sizes.input if suffix.startswith("_l0") else out * sizes.directions
        shapes: list[tuple[int, ...]] = [(rows, width), (rows, out)]
        shapes += [(rows,)] * (2 * sizes.bias) + [(out, sizes.hidden)] * (sizes.projection > 0)
        yield from zip(layer.names(suffix, bias=sizes.bias, projected=sizes.projection > 0), shapes, strict=True)
