"""Runs of a model for what is seen of one recurrent module in it, of one direction of time."""

from __future__ import annotations

from typing import Any

import torch

from throughtime.errors import UserError
from throughtime.sight.arrays import symbols_of
from throughtime.sight.hooks.residuals import Asked, Residuals
from throughtime.sight.models import RecurrentLayers, evaluating, hooked, language_model, only_recurrent, opened


def one_way_residuals(model: Any, x: Any, state: Any, asked: Asked, what: str) -> Residuals:
    """The residuals of a run without dropout.

    Args:
        model: a model with one recurrent module in it, a run or a run's directory.
        x: what the model takes; for a language model ids `[T, B]` or `[T]`.
        state: the initial state; the cell's own if not given.
        asked: see `Residuals`.
        what: what is wanted of it, for the message.

    Raises:
        UserError: if an argument does not fit, or the layers run in both directions of time.
    """
    module = opened(model)
    recurrent = require_one_way(only_recurrent(module), what)
    language = language_model(module)
    given = x if language is None else symbols_of(x, language.vocabulary_size)
    residuals = Residuals(recurrent, asked)
    with evaluating(module), hooked(recurrent, residuals), torch.no_grad():
        module(given) if state is None else module(given, state)
    return residuals


def require_one_way(recurrent: RecurrentLayers, what: str) -> RecurrentLayers:
    """Refuses layers that run in both directions of time, which together have no state at a step.

    Raises:
        UserError: if they do.
    """
    if len(recurrent.layers()[0]) > 1:
        raise UserError(f"{what} layers that run in one direction of time; these run in both.")
    return recurrent
