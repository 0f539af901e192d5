"""Keras's recurrent layers: their cells, the layout of their weights, and their arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from throughtime import cells, language
from throughtime.engines.weight_layouts import Stored, WeightLayout
from throughtime.errors import UserError, nearest
from throughtime.exchange.building import recurrent_of, with_functions
from throughtime.nn.recurrent import Recurrent
from throughtime.program.cell import Cell
from throughtime.program.core import Program
from throughtime.program.symbols import Symbol

Array = NDArray[Any]


class KerasError(UserError):
    """Raised for Keras weights or files that are damaged or contain something unsupported."""


@dataclass(frozen=True)
class KerasLayer:
    """A kind of recurrent layer in Keras.

    Attributes:
        kind: the name of the layer's class.
        cell: the equivalent cell with the default activations.
        layout: the position of the cell's parameters in Keras's tensors.
        functions: the activation arguments, with the values of the cell that each applies to.
        reset_after: the required value of that argument; None for layers without it.
    """

    kind: str
    cell: Cell
    layout: WeightLayout
    functions: Mapping[str, tuple[str, ...]]
    reset_after: bool | None = None


def _gru(cell: Cell, *, after: bool) -> KerasLayer:
    functions = {"recurrent_activation": ("update.pre", "reset.pre"), "activation": ("candidate.pre",)}
    return KerasLayer("GRU", cell, WeightLayout(("update", "reset", "candidate")), functions, after)


KERAS_LAYERS = (
    KerasLayer("SimpleRNN", cells.rnn, WeightLayout(("hidden",)), {"activation": ("hidden.pre",)}),
    KerasLayer(
        "LSTM",
        cells.lstm,
        WeightLayout(("input", "forget", "candidate", "output")),
        {"recurrent_activation": ("input.pre", "forget.pre", "output.pre"), "activation": ("candidate.pre", "cell")},
    ),
    _gru(cells.gru, after=True),
    _gru(cells.gru_reset_before, after=False),
)
KINDS = tuple(dict.fromkeys(layer.kind for layer in KERAS_LAYERS))
BIDIRECTIONAL = "Bidirectional"


def _leaky_relu(a: Symbol) -> Symbol:
    return language.leaky_relu(a, 0.2)  # Keras's default slope, which differs from torch's


_DEFAULTS = {"activation": "tanh", "recurrent_activation": "sigmoid"}
FUNCTIONS = {
    "tanh": language.tanh,
    "sigmoid": language.sigmoid,
    "relu": language.relu,
    "linear": language.identity,
    "elu": language.elu,
    "exponential": language.exp,
    "hard_sigmoid": language.hard_sigmoid,
    "hard_tanh": language.hard_tanh,
    "leaky_relu": _leaky_relu,
    "silu": language.silu,
    "softplus": language.softplus,
    "softsign": language.softsign,
}

_MERGES = {"concat": "concat", "sum": "sum", "ave": "mean", "mul": "product", None: "none"}

# A layer's arguments. _IGNORED lists those that only concern initialization, training or implementation, or request
# results that a `Recurrent` always returns.
_USED = ("units", "use_bias", "reset_after", "go_backwards", "return_sequences", "recurrent_dropout", *_DEFAULTS)
_FOR_CALLER = ("dropout", "stateful")  # `reminders` tells the caller what to do instead
_IGNORED = {
    "name", "trainable", "dtype", "return_state", "unroll", "zero_output_for_mask", "unit_forget_bias", "seed",
    "use_cudnn", "implementation", "activity_regularizer",
    *(f"{what}_{how}" for what in ("kernel", "recurrent", "bias") for how in ("initializer", "regularizer")),
    *(f"{what}_constraint" for what in ("kernel", "recurrent", "bias")),
}  # fmt: skip
_BIDIRECTIONAL_ARGUMENTS = {"layer", "backward_layer", "merge_mode"}  # arguments of `Bidirectional`


class Direction(NamedTuple):
    """One direction of a Keras layer, or a unidirectional layer.

    Attributes:
        arrays: the arrays that `get_weights()` returns: kernel, recurrent kernel and bias.
        arguments: the known arguments of the layer.
        kind: the name of the layer's class; None if unknown.
    """

    arrays: Sequence[Array]
    arguments: Mapping[str, Any]
    kind: str | None = None


class _Read(NamedTuple):
    """The result of converting a direction.

    Attributes:
        program: the direction's program, running from the first step to the last.
        parameters: the program's parameters.
        hidden: the number of hidden units.
        arguments: the values of all arguments in `_USED`, given or default.
    """

    program: Program
    parameters: list[Tensor]
    hidden: int
    arguments: dict[str, Any]


def layer_of(
    what: str, directions: Sequence[Sequence[Direction]], merge: Any = "concat", engine: str | None = None
) -> Recurrent:
    """Convert a Keras layer to a `Recurrent`.

    Args:
        what: the name of the layer in error messages.
        directions: the stacked cells of each direction: one direction, or forward and backward.
        merge: Keras's name for how the directions are combined.
        engine: the engine's name; chosen by device by default.

    Raises:
        KerasError: if the layer does something that `Recurrent` doesn't support, or its arrays have wrong shapes.
    """
    if isinstance(merge, list | dict) or merge not in _MERGES:
        known = [name for name in _MERGES if name is not None]
        raise KerasError(f"{what}: merge_mode must be one of {', '.join(known)}, None, got {merge!r}")
    read = [[_read(what, cell) for cell in direction] for direction in directions]
    first, top = read[0][0], read[0][-1]
    backwards = [direction[0].arguments["go_backwards"] for direction in read]
    options: dict[str, Any] = {
        "batch_first": True,
        "returns": "steps" if top.arguments["return_sequences"] else "last",
        "recurrent_dropout": first.arguments["recurrent_dropout"],
    }
    if len(read) == 1:
        options["reverse"] = backwards[0]
    else:
        for name in (name for name in top.arguments if name != "go_backwards"):
            if top.arguments[name] != read[1][-1].arguments.get(name):
                values = f"{top.arguments[name]!r} and {read[1][-1].arguments.get(name)!r}"
                raise KerasError(f"{what}: its directions must have the same arguments, but {name} is {values}")
        programs = [[cell.program for cell in direction] for direction in read]
        if programs[0] != programs[1] or backwards != [False, True]:
            raise KerasError(f"{what}: its directions must be the same layer, one forward and one backward")
        if len(read[0]) > 1 and merge is not None:
            raise KerasError(
                f"{what}: Keras merges the directions of stacked cells only after the top cell, but Recurrent merges "
                "them after each layer; only merge_mode=None is supported"
            )
        options |= {"bidirectional": True, "merge": _MERGES[merge]}
    stack = [cell.program for cell in read[0]]
    parameters = [direction[depth].parameters for depth in range(len(stack)) for direction in read]
    return recurrent_of(stack, first.hidden, parameters, engine=engine, **options)


def is_one_stack(cells: Sequence[Direction]) -> bool:
    """Return whether one `Recurrent` can hold these stacked cells: sizes and recurrent dropout must be equal."""
    sizes = {(c.kind, c.arrays[1].shape[:1] if len(c.arrays) > 1 else ()) for c in cells}
    return len(sizes) == len({_number(c, "recurrent_dropout") for c in cells}) == 1


def reminders(directions: Sequence[Sequence[Direction]]) -> list[str]:
    """List behavior of the Keras layer that the caller of the `Recurrent` must reproduce."""
    arguments = directions[0][0].arguments
    found = []
    if rates := sorted({rate for direction in directions for cell in direction if (rate := _number(cell, "dropout"))}):
        rates_text = " and ".join(map(str, rates))
        found.append(
            f"its input dropout={rates_text} is not included; to train it further, apply torch.nn.Dropout before it"
        )
    if arguments.get("stateful"):
        found.append("it is stateful: pass the state that each call returns to the next call")
    if (
        len(directions) == 1
        and arguments.get("go_backwards")
        and directions[0][-1].arguments.get("return_sequences", True)
    ):
        found.append("it runs backward and returns outputs in input order; flip them to match Keras")
    return found


def _number(cell: Direction, name: str) -> float:
    rate = cell.arguments.get(name, 0.0) or 0.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise KerasError(f"{name} must be a probability from 0 to 1, got {rate!r:.200}")
    return rate


def split_directions(arrays: Sequence[Array], arguments: Mapping[str, Any]) -> tuple[list[Direction], Any]:
    """Split a layer's arrays by direction.

    Args:
        arrays: the arrays that `get_weights()` returns; for two directions, the forward arrays come first.
        arguments: the arguments of the layer or of `Bidirectional`.

    Raises:
        KerasError: if the arguments of `Bidirectional` are invalid.
    """
    if not _BIDIRECTIONAL_ARGUMENTS & arguments.keys() and (len(arrays) < 4 or "cell" in arguments):
        return [Direction(arrays, arguments)], "concat"
    half = len(arrays) // 2
    shared = {
        name: value
        for name, value in arguments.items()
        if name not in _BIDIRECTIONAL_ARGUMENTS | {"name", "trainable", "dtype"}
    }
    directions = []
    for own, name, back in ((arrays[:half], "layer", False), (arrays[half:], "backward_layer", True)):
        settings = arguments.get(name, {"class_name": None, "config": {}})
        if not isinstance(settings, dict) or not isinstance(settings.get("config"), dict):
            raise KerasError(f"Bidirectional's {name} must have a class_name and a config, got {settings!r:.200}")
        config = {"go_backwards": back} | settings["config"] | shared
        directions.append(Direction(own, config, settings.get("class_name")))
    return directions, arguments.get("merge_mode", "concat")


def _read(what: str, direction: Direction) -> _Read:
    layer, inputs, hidden = _form(what, direction)
    arguments = _arguments(what, direction, layer)
    arrays = [np.ascontiguousarray(array.T if array.ndim == 2 else array) for array in direction.arrays]
    kernel, recurrent, *biases = (torch.from_numpy(_native(array)) for array in arrays)
    first = second = None
    if biases:
        # Two rows of biases were transposed along with the matrices.
        first = biases[0] if biases[0].dim() == 1 else biases[0][:, 0]
        second = torch.zeros_like(first) if biases[0].dim() == 1 else biases[0][:, 1]
    program = program_of(layer, inputs, hidden, bool(biases), arguments)
    parameters = layer.layout.to_program(layer.layout.mapping(program), Stored(kernel, recurrent, first, second))
    return _Read(program, parameters, hidden, arguments)


def program_of(layer: KerasLayer, inputs: int, hidden: int, bias: bool, arguments: Mapping[str, Any]) -> Program:
    """Return the program of a Keras cell.

    Args:
        layer: the kind of layer.
        inputs, hidden: the input and hidden sizes.
        bias: whether the cell has a bias.
        arguments: the name of the activation for each activation argument, from `FUNCTIONS`.
    """
    base = layer.cell.program(inputs, hidden, bias=bias)
    functions = tuple(
        (name, FUNCTIONS[arguments[argument]])
        for argument, names in layer.functions.items()
        if arguments[argument] != _DEFAULTS[argument]
        for name in names
    )
    return with_functions(base, functions) if functions else base


def _native(array: Array) -> Array:
    """Copy an array, converting it to native byte order."""
    return array.astype(array.dtype.newbyteorder("="), copy=True)


def _form(what: str, direction: Direction) -> tuple[KerasLayer, int, int]:
    """Infer a layer's kind and sizes from its arrays."""
    arrays = direction.arrays
    shapes = [list(array.shape) for array in arrays]
    if len(arrays) not in (2, 3) or [len(shape) for shape in shapes[:2]] != [2, 2] or any(0 in s for s in shapes):
        raise KerasError(f"{what}: expected a kernel, a recurrent kernel and optionally a bias, got shapes {shapes}")
    kinds = {array.dtype.newbyteorder("=") for array in arrays}
    if len(kinds) > 1 or next(iter(kinds)) not in (np.float16, np.float32, np.float64):
        raise KerasError(f"{what}: its arrays must have the same floating-point dtype, got {sorted(map(str, kinds))}")
    inputs, hidden = shapes[0][0], shapes[1][0]
    after = direction.arguments.get("reset_after", shapes[2:] != [[3 * hidden]])
    for layer in KERAS_LAYERS:
        rows = len(layer.layout.gates) * hidden
        bias = [2, rows] if layer.reset_after else [rows]
        fits = shapes[:2] == [[inputs, rows], [hidden, rows]] and shapes[2:] in ([], [bias])
        if fits and layer.reset_after in (None, after) and direction.kind in (None, layer.kind):
            return layer, inputs, hidden
    meant = direction.kind or ", ".join(KINDS[:-1]) + f" or {KINDS[-1]}"
    option_text = f" with reset_after={after!r}" if "reset_after" in direction.arguments else ""
    raise KerasError(f"{what}: arrays of shapes {shapes} do not fit {meant}{option_text}")


def _arguments(what: str, direction: Direction, layer: KerasLayer) -> dict[str, Any]:
    own = {*_USED, *_FOR_CALLER, *_IGNORED} - (_DEFAULTS.keys() - layer.functions.keys())
    own -= {"reset_after"} if layer.reset_after is None else set()
    for name in direction.arguments:
        if name not in own:
            raise KerasError(f"{what}: {layer.kind} has no argument {name!r}{nearest(str(name), own)}")
    given = dict(direction.arguments)
    fixed = {"units": direction.arrays[1].shape[0], "use_bias": len(direction.arrays) == 3}
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise KerasError(f"{what}: {name} is {given[name]!r}, but its arrays imply {value!r}")
    defaults = {"go_backwards": False, "return_sequences": True, "recurrent_dropout": 0.0} | {
        name: _DEFAULTS[name] for name in layer.functions
    }
    arguments = {name: given.get(name, value) for name, value in defaults.items()}
    for name in ("go_backwards", "return_sequences"):
        if not isinstance(arguments[name], bool):
            raise KerasError(f"{what}: {name} must be True or False, got {arguments[name]!r}")
    for name in layer.functions:
        if not isinstance(arguments[name], str) or arguments[name] not in FUNCTIONS:
            raise KerasError(
                f"{what}: {name} must be one of {', '.join(FUNCTIONS)}, got {arguments[name]!r:.200}"
                f"{nearest(str(arguments[name]), FUNCTIONS)}"
            )
    return arguments
