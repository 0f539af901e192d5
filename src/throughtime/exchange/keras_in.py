"""Keras's recurrent layers as ours."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, overload

import numpy as np

from throughtime.exchange.keras_file import read_keras
from throughtime.exchange.keras_layers import BIDIRECTIONAL, KINDS, Array, Direction, KerasError, directions, layer_of
from throughtime.nn.recurrent import Recurrent


@overload
def from_keras(source: str | os.PathLike[str], *, engine: str | None = None, **words: Any) -> dict[str, Recurrent]: ...


@overload
def from_keras(source: Sequence[Array], *, engine: str | None = None, **words: Any) -> Recurrent: ...


@overload
def from_keras(source: Any, *, engine: str | None = None, **words: Any) -> Any: ...


def from_keras(source: Any, *, engine: str | None = None, **words: Any) -> Any:
    """Makes recurrent layers of Keras's SimpleRNN, LSTM and GRU, alone or in Bidirectional.

    What is made takes and gives `[B, T, features]`, as Keras does, and besides the output gives the state, as
    `return_state` does.

    Args:
        source: the arrays that a layer's `get_weights()` gives, or the layer; or a file `.keras`, or `.weights.h5`.
        engine: the engine's name; chosen by device if not given.
        **words: the arguments that the layer was made with, as in its `get_config()`; those of a file's layers are the
            file's own where they are not given. What is told nowhere is as it usually is in Keras, but all steps are
            returned. Those about its start, its training and its way of computing are left behind.

    Returns:
        For arrays or a layer a `Recurrent`; for a file all of its layers, by their names (where two in models in the
        model have the same, by their paths in the file). Other layers in a file are left out.

    Raises:
        KerasError: if a layer does what a `Recurrent` does not, with the argument's name; if arrays do not fit, or
            the file is missing or damaged.
    """
    if isinstance(source, str | os.PathLike):
        found = {}
        for name, layer in read_keras(Path(source)).items():
            ways = [Direction(w.arrays, {**w.words, **words}, w.kind) for w in layer.ways]
            if len(ways) == 2 and "go_backwards" in words:
                raise KerasError(f"{name} of {source} runs both ways: leave go_backwards out.")
            found[name] = layer_of(f"{name} of {source}", ways, layer.merge, engine)
        return found
    if hasattr(source, "get_weights") and hasattr(source, "get_config"):
        kind = type(source).__name__
        if kind not in (*KINDS, BIDIRECTIONAL):
            raise KerasError(f"a layer {', '.join(KINDS)} or {BIDIRECTIONAL} of Keras is wanted; given {kind}.")
        return from_keras(source.get_weights(), engine=engine, **{**source.get_config(), **words})
    if not isinstance(source, Sequence | tuple) or not all(isinstance(array, np.ndarray) for array in source):
        raise KerasError(
            "the arrays of a layer's get_weights(), the layer, or a file .keras or .weights.h5 are wanted; given "
            f"{type(source).__name__}."
        )
    ways, merge = directions(list(source), words)
    return layer_of("the layer", ways, merge, engine)
