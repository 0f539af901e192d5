"""Losses of single steps or sequences and their gradients, for each kind of output, in NumPy only.

`throughtime.nn.heads` has the same losses in torch.
"""

from __future__ import annotations

import math
from functools import singledispatch
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError
from throughtime.outputs import Bernoulli, Categorical, Normal, Output, Point, Quantiles, Signal, StudentT, softplus

Array = NDArray[Any]
_HALF_LOG_TAU = 0.5 * math.log(2 * math.pi)


def loss_and_gradient(output: Output, raw: Array, targets: Array) -> tuple[Array, Array]:
    """Compute each row's loss, and the gradient of their sum.

    Args:
        output: the output that the values describe.
        raw: a head's raw values, `[rows, width]`.
        targets: the targets, as returned by `targets_for`.

    Returns:
        The losses `[rows]`, in nats or as squared, absolute or pinball errors, summed over the elements of a target;
        and the gradient of their sum with respect to `raw`, `[rows, width]`. Both are float64.

    Raises:
        UserError: if the output's loss isn't defined for single steps.
    """
    losses, gradient = _losses(output, raw.astype(np.float64), targets)
    return np.asarray(losses), np.asarray(gradient)


def targets_for(output: Output, rows: int, given: Any) -> Array:
    """Check the targets of a step and convert them to an array.

    Args:
        output: the output that is trained.
        rows: the number of sequences.
        given: ids `[rows]`, or values `[rows, *output.target_shape]`; axes of length 1 can be omitted.

    Returns:
        Ids `[rows]` as int64, or numbers `[rows, *output.target_shape]` as float64.

    Raises:
        UserError: if dtype, shape or values are invalid.
    """
    shape = output.target_shape
    wanted = f"{'ids' if not shape else 'numbers'} {[rows, *shape]}"
    try:
        array = np.asarray(given)
    except ValueError:
        raise UserError(f"targets must be {wanted}, got {given!r:.100}") from None
    allowed = [(rows, *shape), *([shape] if rows == 1 else [])]
    if shape == (1,):
        allowed += [(rows,), *([()] if rows == 1 else [])]
    if array.shape not in allowed or array.dtype.kind not in ("iu" if not shape else "iuf"):
        raise UserError(f"targets must be {wanted}, got {array.dtype} {list(array.shape)}")
    array = array.reshape(rows, *shape)
    if not shape:
        if array.min() < 0 or array.max() >= output.width:
            raise UserError(f"ids must be from 0 to {output.width - 1}, got {array.tolist()!r:.100}")
        return array.astype(np.int64)
    array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise UserError("targets must be finite; omit steps whose target is unknown")
    if isinstance(output, Bernoulli) and not ((array >= 0) & (array <= 1)).all():
        raise UserError("targets of a Bernoulli output must be from 0 to 1")
    return array


@singledispatch
def _losses(output: Output, raw: Array, targets: Array) -> tuple[Any, Any]:
    raise UserError(f"{output} has no loss for single steps")


@_losses.register
def _(output: Signal, raw: Array, targets: Array) -> tuple[Any, Any]:
    raise UserError(
        "a signal's loss, the error-to-signal ratio, spans many steps, so it can't be learned step by step; "
        "pass the gradient of your own loss, or train a network with a point output"
    )


@_losses.register
def _(output: Categorical, raw: Array, targets: Array) -> tuple[Any, Any]:
    shifted = raw - raw.max(-1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    gradient = np.exp(log_probabilities)
    rows = np.arange(len(raw))
    gradient[rows, targets] -= 1
    return -log_probabilities[rows, targets], gradient


@_losses.register
def _(output: Bernoulli, raw: Array, targets: Array) -> tuple[Any, Any]:
    return (softplus(raw) - targets * raw).sum(-1), _sigmoid(raw) - targets


@_losses.register
def _(output: Point, raw: Array, targets: Array) -> tuple[Any, Any]:
    error = raw - targets
    if output.loss == "mae":
        return np.abs(error).sum(-1), np.sign(error)
    return (error * error).sum(-1), 2 * error


@_losses.register
def _(output: Quantiles, raw: Array, targets: Array) -> tuple[Any, Any]:
    levels = np.array(output.levels)
    error = targets[..., None] - output.by_level(raw)
    slope = np.where(error > 0, -levels, np.where(error < 0, 1 - levels, 0.5 - levels))
    return (-slope * error).sum((-2, -1)), slope.reshape(raw.shape)


@_losses.register
def _(output: Normal, raw: Array, targets: Array) -> tuple[Any, Any]:
    mean, scale = output.parameters(raw)
    z = (targets - mean) / scale
    of_scale = (1 - z * z) / scale * _sigmoid(raw[..., output.targets :])
    return (0.5 * z * z + np.log(scale) + _HALF_LOG_TAU).sum(-1), np.concatenate([-z / scale, of_scale], -1)


@_losses.register
def _(output: StudentT, raw: Array, targets: Array) -> tuple[Any, Any]:
    n = output.targets
    degrees, location, scale = output.parameters(raw)
    z = (targets - location) / scale
    log_ratio = np.log1p(z * z / degrees)
    z_gradient = (degrees + 1) * z / (degrees + z * z)  # of the loss with respect to z
    losses = 0.5 * (degrees + 1) * log_ratio + np.log(scale) + 0.5 * np.log(math.pi * degrees)
    losses += _log_gamma(0.5 * degrees) - _log_gamma(0.5 * (degrees + 1))
    of_degrees = 0.5 * (log_ratio - z_gradient * z / degrees + 1 / degrees + _digamma(0.5 * degrees))
    of_degrees -= 0.5 * _digamma(0.5 * (degrees + 1))
    of_scale = (1 - z_gradient * z) / scale
    parts = [-z_gradient / scale, of_scale * _sigmoid(raw[..., n : 2 * n]), of_degrees * _sigmoid(raw[..., 2 * n :])]
    return losses.sum(-1), np.concatenate(parts, -1)


def _sigmoid(x: Array) -> Array:
    return np.asarray(np.exp(-softplus(-x)))


_log_gamma = np.vectorize(math.lgamma, otypes=[np.float64])


def _digamma(x: Array) -> Array:
    """Compute the derivative of log gamma for x >= 1, shifted to where its asymptotic series is exact (A&S 6.3.18)."""
    shift = np.zeros_like(x)
    for k in range(10):
        shift += 1 / (x + k)
    x = x + 10
    t = 1 / (x * x)
    series = t * (1 / 12 - t * (1 / 120 - t * (1 / 252 - t * (1 / 240 - t * (1 / 132)))))
    return np.asarray(np.log(x) - 0.5 / x - series - shift)
