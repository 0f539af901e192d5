"""Keras's recurrent layers: for each the cell that it runs, where it has the parameters, and what its words mean."""

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
from throughtime.program.builder import Symbol
from throughtime.program.cell import Cell
from throughtime.program.core import Program

Array = NDArray[Any]


class KerasError(UserError):
    """Weights or a file of Keras's that are damaged, or that have something in them that can't be read."""


@dataclass(frozen=True)
class KerasLayer:
    """A recurrent layer of Keras.

    Attributes:
        kind: the name of its class.
        cell: the cell that it runs with the usual activations.
        layout: where its tensors have the cell's parameters.
        functions: its arguments that are activations, and the values of the cell that each is applied to.
        reset_after: what that argument must be; None where there is no such argument.
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
    return language.leaky_relu(a, 0.2)  # torch's usual slope is another


_USUAL = {"activation": "tanh", "recurrent_activation": "sigmoid"}
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

# The arguments of a layer. Those that are left behind say what it starts with, how it is trained or computed, or ask
# for what a `Recurrent` always gives.
_TAKEN = ("units", "use_bias", "reset_after", "go_backwards", "return_sequences", "recurrent_dropout", *_USUAL)
_CALLERS = ("dropout", "stateful")  # what the caller of a `Recurrent` does in their place is in `reminders`
_LEFT = {
    "name", "trainable", "dtype", "return_state", "unroll", "zero_output_for_mask", "unit_forget_bias", "seed",
    "use_cudnn", "implementation", "activity_regularizer",
    *(f"{what}_{how}" for what in ("kernel", "recurrent", "bias") for how in ("initializer", "regularizer")),
    *(f"{what}_constraint" for what in ("kernel", "recurrent", "bias")),
}  # fmt: skip
_OF_BOTH = {"layer", "backward_layer", "merge_mode"}  # of `Bidirectional`


class Direction(NamedTuple):
    """One direction of time of a layer of Keras, or the whole of it.

    Attributes:
        arrays: what `get_weights()` gives: kernel, recurrent kernel and bias.
        words: the arguments that it was made with, those that are known.
        kind: its class; None if that is not known.
    """

    arrays: Sequence[Array]
    words: Mapping[str, Any]
    kind: str | None = None


class _Read(NamedTuple):
    """What a direction is.

    Attributes:
        program: what it computes, in the direction from the first step to the last.
        parameters: the program's.
        hidden: the number of hidden units.
        words: all of `_TAKEN`, as they are told or as they usually are.
    """

    program: Program
    parameters: list[Tensor]
    hidden: int
    words: dict[str, Any]


def layer_of(
    what: str, ways: Sequence[Sequence[Direction]], merge: Any = "concat", engine: str | None = None
) -> Recurrent:
    """Make a `Recurrent` of a layer of Keras.

    Args:
        what: what error messages call the layer.
        ways: for each direction of time (one, or the forward and the backward one), the stacked cells.
        merge: Keras's name for how the directions are put together.
        engine: the engine's name; chosen by device if not given.

    Raises:
        KerasError: if the layer does something that a `Recurrent` does not, or its arrays do not fit.
    """
    if isinstance(merge, list | dict) or merge not in _MERGES:
        known = [name for name in _MERGES if name is not None]
        raise KerasError(f"{what}: merge_mode is one of {', '.join(known)}, None; given {merge!r}.")
    read = [[_read(what, cell) for cell in way] for way in ways]
    first, top = read[0][0], read[0][-1]
    backwards = [way[0].words["go_backwards"] for way in read]
    options: dict[str, Any] = {
        "batch_first": True,
        "returns": "steps" if top.words["return_sequences"] else "last",
        "recurrent_dropout": first.words["recurrent_dropout"],
    }
    if len(read) == 1:
        options["reverse"] = backwards[0]
    else:
        for name in (name for name in top.words if name != "go_backwards"):
            if top.words[name] != read[1][-1].words.get(name):
                values = f"{top.words[name]!r} and {read[1][-1].words.get(name)!r}"
                raise KerasError(f"{what}: its directions must be alike; {name} is {values}.")
        programs = [[cell.program for cell in way] for way in read]
        if programs[0] != programs[1] or backwards != [False, True]:
            raise KerasError(f"{what}: its directions must be one layer forward, and the same one backward.")
        if len(read[0]) > 1 and merge is not None:
            raise KerasError(
                f"{what}: Keras merges the directions of stacked cells above the topmost cell, and a Recurrent above "
                "each; only merge_mode=None can be read."
            )
        options |= {"bidirectional": True, "merge": _MERGES[merge]}
    stack = [cell.program for cell in read[0]]
    parameters = [way[depth].parameters for depth in range(len(stack)) for way in read]
    return recurrent_of(stack, first.hidden, parameters, engine=engine, **options)


def is_one_stack(cells: Sequence[Direction]) -> bool:
    """Whether one `Recurrent` can hold these stacked cells: their states and their dropout are alike."""
    sizes = {(c.kind, c.arrays[1].shape[:1] if len(c.arrays) > 1 else ()) for c in cells}
    return len(sizes) == len({_number(c, "recurrent_dropout") for c in cells}) == 1


def reminders(ways: Sequence[Sequence[Direction]]) -> list[str]:
    """List what Keras's layer does and the caller of the `Recurrent` has to do in its place."""
    words = ways[0][0].words
    found = []
    if rates := sorted({rate for way in ways for cell in way if (rate := _number(cell, "dropout"))}):
        told = " and ".join(map(str, rates))
        found.append(f"its dropout={told} of the input is left out; put torch.nn.Dropout before it to train it further")
    if words.get("stateful"):
        found.append("it is stateful: pass the state that a call returns to the next call")
    if len(ways) == 1 and words.get("go_backwards") and ways[0][-1].words.get("return_sequences", True):
        found.append("it runs backwards and its output is in the order of its input; flip it to have Keras's order")
    return found


def _number(cell: Direction, name: str) -> float:
    rate = cell.words.get(name, 0.0) or 0.0
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1:
        raise KerasError(f"{name} is a probability from 0 to 1; given {rate!r:.200}.")
    return rate


def directions(arrays: Sequence[Array], words: Mapping[str, Any]) -> tuple[list[Direction], Any]:
    """The directions of a layer from its arrays, and how they are put together.

    Args:
        arrays: what `get_weights()` gives; those of two directions one after the other.
        words: the layer's arguments; those of `Bidirectional` if it is one.

    Raises:
        KerasError: if the arguments of `Bidirectional` make no sense.
    """
    if not _OF_BOTH & words.keys() and (len(arrays) < 4 or "cell" in words):
        return [Direction(arrays, words)], "concat"
    half = len(arrays) // 2
    shared = {name: value for name, value in words.items() if name not in _OF_BOTH | {"name", "trainable", "dtype"}}
    ways = []
    for own, name, back in ((arrays[:half], "layer", False), (arrays[half:], "backward_layer", True)):
        told = words.get(name, {"class_name": None, "config": {}})
        if not isinstance(told, dict) or not isinstance(told.get("config"), dict):
            raise KerasError(f"Bidirectional's {name} is a class_name and its config; given {told!r:.200}.")
        ways.append(Direction(own, {"go_backwards": back} | told["config"] | shared, told.get("class_name")))
    return ways, words.get("merge_mode", "concat")


def _read(what: str, way: Direction) -> _Read:
    layer, inputs, hidden = _form(what, way)
    words = _words(what, way, layer)
    arrays = [np.ascontiguousarray(array.T if array.ndim == 2 else array) for array in way.arrays]
    kernel, recurrent, *biases = (torch.from_numpy(_native(array)) for array in arrays)
    first = second = None
    if biases:
        # Two rows of biases have been transposed with the matrices.
        first = biases[0] if biases[0].dim() == 1 else biases[0][:, 0]
        second = torch.zeros_like(first) if biases[0].dim() == 1 else biases[0][:, 1]
    program = program_of(layer, inputs, hidden, bool(biases), words)
    parameters = layer.layout.to_program(layer.layout.mapping(program), Stored(kernel, recurrent, first, second))
    return _Read(program, parameters, hidden, words)


def program_of(layer: KerasLayer, inputs: int, hidden: int, bias: bool, words: Mapping[str, Any]) -> Program:
    """The program of a cell of Keras.

    Args:
        layer: its row of the table.
        inputs, hidden: its sizes.
        bias: whether it has a bias.
        words: its activations by argument, each one of `FUNCTIONS`.
    """
    base = layer.cell.program(inputs, hidden, bias=bias)
    functions = tuple(
        (name, FUNCTIONS[words[argument]])
        for argument, names in layer.functions.items()
        if words[argument] != _USUAL[argument]
        for name in names
    )
    return with_functions(base, functions) if functions else base


def _native(array: Array) -> Array:
    """The numbers in the order of bytes of this machine."""
    return array.astype(array.dtype.newbyteorder("="), copy=True)


def _form(what: str, way: Direction) -> tuple[KerasLayer, int, int]:
    """The row of the table that a layer is of, and its sizes."""
    arrays = way.arrays
    shapes = [list(array.shape) for array in arrays]
    if len(arrays) not in (2, 3) or [len(shape) for shape in shapes[:2]] != [2, 2] or any(0 in s for s in shapes):
        raise KerasError(f"{what}: a kernel, a recurrent kernel and a bias or none are wanted; given shapes {shapes}.")
    kinds = {array.dtype.newbyteorder("=") for array in arrays}
    if len(kinds) > 1 or next(iter(kinds)) not in (np.float16, np.float32, np.float64):
        raise KerasError(f"{what}: its arrays must all be of one floating-point type; given {sorted(map(str, kinds))}.")
    inputs, hidden = shapes[0][0], shapes[1][0]
    after = way.words.get("reset_after", shapes[2:] != [[3 * hidden]])
    for layer in KERAS_LAYERS:
        rows = len(layer.layout.gates) * hidden
        bias = [2, rows] if layer.reset_after else [rows]
        fits = shapes[:2] == [[inputs, rows], [hidden, rows]] and shapes[2:] in ([], [bias])
        if fits and layer.reset_after in (None, after) and way.kind in (None, layer.kind):
            return layer, inputs, hidden
    meant = way.kind or ", ".join(KINDS[:-1]) + f" or {KINDS[-1]}"
    told = f" with reset_after={after!r}" if "reset_after" in way.words else ""
    raise KerasError(f"{what}: arrays of the shapes {shapes} are not those of {meant}{told}.")


def _words(what: str, way: Direction, layer: KerasLayer) -> dict[str, Any]:
    own = {*_TAKEN, *_CALLERS, *_LEFT} - (_USUAL.keys() - layer.functions.keys())
    own -= {"reset_after"} if layer.reset_after is None else set()
    for name in way.words:
        if name not in own:
            raise KerasError(f"{what}: {layer.kind} has no argument {name!r}{nearest(str(name), own)}")
    given = dict(way.words)
    fixed = {"units": way.arrays[1].shape[0], "use_bias": len(way.arrays) == 3}
    for name, value in fixed.items():
        if given.get(name, value) != value:
            raise KerasError(f"{what}: {name} is {given[name]!r}, but its arrays say {value!r}.")
    usual = {"go_backwards": False, "return_sequences": True, "recurrent_dropout": 0.0} | {
        name: _USUAL[name] for name in layer.functions
    }
    words = {name: given.get(name, value) for name, value in usual.items()}
    for name in ("go_backwards", "return_sequences"):
        if not isinstance(words[name], bool):
            raise KerasError(f"{what}: {name} is True or False; given {words[name]!r}.")
    for name in layer.functions:
        if not isinstance(words[name], str) or words[name] not in FUNCTIONS:
            raise KerasError(
                f"{what}: {name} is one of {', '.join(FUNCTIONS)}; given {words[name]!r:.200}"
                f"{nearest(str(words[name]), FUNCTIONS)}"
            )
    return words
