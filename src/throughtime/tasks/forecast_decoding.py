"""Decode forecasts from a network with the direct, parallel or recursive strategy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from throughtime.data.timeline import Integers
from throughtime.data.windows import Windows
from throughtime.tasks.forecast_figures import Array, Forecast, forecast_of

if TYPE_CHECKING:
    from throughtime.nn.sequence_model import SequenceModel


def forecasts(
    model: SequenceModel, windows: Windows, share: float, *, calibrated: bool = True
) -> Iterator[tuple[Integers, Forecast]]:
    """Forecast windows with a network, at the common scale.

    Args:
        model: the network; runs in evaluation mode and is restored to its previous mode.
        windows: the windows to forecast.
        share: the fraction of values that intervals should contain.
        calibrated: whether to widen intervals by the calibrated margins.

    Returns:
        The window indices and their forecasts, in chunks that fit in memory.
    """
    parameter = next(model.parameters())
    margins = model.task.calibration.get("margins") if calibrated and model.task else None
    training = model.training
    model.eval()
    for chosen in windows.chunks():
        inputs = windows.inputs(chosen)
        steps = torch.from_numpy(inputs.steps).to(parameter.device, parameter.dtype)
        raw = decode(model, windows, steps, share)
        found = forecast_of(model.head.output, raw, share)
        last = inputs.last[:, None].astype(np.float64)
        point, low, high = (each[:, : windows.horizon] + last for each in found[:3])
        quantiles = None if found.quantiles is None else found.quantiles[:, : windows.horizon] + last[..., None]
        found = Forecast(point, low, high, quantiles)
        yield chosen, found if margins is None else found.widened(np.array(margins) * units(windows, chosen))
    model.train(training)


def units(windows: Windows, chosen: Integers) -> Array:
    """Return the unit of interval margins `[B, 1]`: each series' seasonal naive error in training."""
    return np.asarray(windows.data.errors[windows.where(chosen)[0]][:, None])


@torch.no_grad()
def decode(model: SequenceModel, windows: Windows, steps: Tensor, share: float) -> Array:
    """Return the head's raw outputs for each segment of the horizon `[B, m, width]`.

    Args:
        model: the network.
        windows: the windows to forecast.
        steps: the network's inputs `[n + m, B, features]` (see `Windows.inputs`).
        share: see `forecasts`.
    """
    n, m = windows.steps
    if not windows.recursive:
        raw, _ = model(steps, branches=windows.branches)
        found = raw[windows.decoding :]
    else:
        raw, state = model(steps[:n])
        rows = [raw[-1]]
        for k in range(n, n + m - 1):
            point = forecast_of(model.head.output, rows[-1][:, None].double().cpu().numpy(), share).point
            steps[k, :, : windows.codec.segment] = torch.from_numpy(point)
            raw, state = model(steps[k : k + 1], state)
            rows.append(raw[0])
        found = torch.stack(rows)
    return np.asarray(found.double().cpu().numpy().transpose(1, 0, 2))
