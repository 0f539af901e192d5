"""Run a model to analyze its one unidirectional recurrent module."""

from __future__ import annotations

from typing import Any

import torch

from throughtime.errors import UserError
from throughtime.sight.arrays import token_ids_of
from throughtime.sight.hooks.residuals import Requests, Residuals
from throughtime.sight.models import RecurrentLayers, evaluating, hooked, language_model, only_recurrent, opened


def one_way_residuals(model: Any, x: Any, state: Any, requests: Requests, what: str) -> Residuals:
    """Run a model without dropout and return the residuals.

    Args:
        model: a model with one recurrent module, a run, or a run's directory.
        x: the model's input; for a language model token ids `[T, B]` or `[T]`.
        state: the initial state; defaults to the cell's own.
        requests: see `Residuals`.
        what: the start of the error message, such as "fixed points require".

    Raises:
        UserError: if an argument is invalid, or the layers are bidirectional.
    """
    module = opened(model)
    recurrent = require_one_way(only_recurrent(module), what)
    language = language_model(module)
    given = x if language is None else token_ids_of(x, language.vocabulary_size)
    residuals = Residuals(recurrent, requests)
    with evaluating(module), hooked(recurrent, residuals), torch.no_grad():
        module(given) if state is None else module(given, state)
    return residuals


def require_one_way(recurrent: RecurrentLayers, what: str) -> RecurrentLayers:
    """Return the recurrent module if its layers are unidirectional; others have no joint state at a step.

    Raises:
        UserError: if the layers are bidirectional.
    """
    if len(recurrent.layers()[0]) > 1:
        raise UserError(f"{what} unidirectional layers; these are bidirectional")
    return recurrent
