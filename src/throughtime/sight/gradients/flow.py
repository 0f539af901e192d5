"""Measure how gradients flow through time, from the loss of each step back to earlier states and inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from throughtime.errors import UserError, nearest
from throughtime.nn.heads import CategoricalHead
from throughtime.sight.arrays import Array
from throughtime.sight.gradients.backward import INPUT, backward_by_lag, backward_to_inputs, steps_with_a_loss
from throughtime.sight.gradients.capture import CapturedRun, Loss, capture_runs
from throughtime.sight.gradients.horizon import FALLEN, Horizon, horizon
from throughtime.sight.models import opened, sequence_model
from throughtime.spelling import counted
from throughtime.tables import html_table, text_table

_BEST = "best"
_ROW_HEAD = ("gradient of", "at lag 0", "halfway", "at the last lag", "horizon (1%)")


@dataclass(frozen=True, repr=False)
class Flow:
    """Norms of the gradient of the loss at step s with respect to the state at step t.

    Attributes:
        steps: the steps s, `[S]`.
        norms: arrays `[S, window + 1]` by name. Element `[n, lag]` is the gradient of the loss at step s = `steps[n]`
            with respect to the value at step s - lag (s + lag in a reverse direction), averaged over the batch; NaN
            before the first step. A layer's name, `layer0`, holds the norm over all its states together, a state's
            name, `layer0.cell`, that of the state, and `input` that of the lowest layer's input.
    """

    steps: Array
    norms: Mapping[str, Array]

    @property
    def window(self) -> int:
        """The largest lag."""
        return int(next(iter(self.norms.values())).shape[1] - 1)

    @property
    def layers(self) -> list[str]:
        """The names of the layers from bottom to top; each direction is listed separately."""
        return layer_names(self.norms)

    @cached_property
    def by_lag(self) -> dict[str, Array]:
        """The mean over all steps s at each lag, `[window + 1]`; NaN at a lag that no step has."""
        with np.errstate(invalid="ignore"):
            return {name: np.nansum(n, 0) / (~np.isnan(n)).sum(0) for name, n in self.norms.items()}

    def horizon(self, name: str, fraction: float = FALLEN) -> Horizon:
        """Return the lag at which the mean has fallen to a fraction of its value at lag 0, or report its growth.

        Raises:
            UserError: if `name` is unknown.
        """
        if name not in self.norms:
            known = ", ".join(self.norms)
            raise UserError(f"no gradient named {name!r}{nearest(name, self.norms)}; available: {known}")
        return horizon(self.by_lag[name], fraction)

    @property
    def horizons(self) -> dict[str, Horizon]:
        """The horizon of each name at 1%."""
        return {name: horizon(mean) for name, mean in self.by_lag.items()}

    def __repr__(self) -> str:
        return "\n".join([self._caption, *text_table([_ROW_HEAD, *self._rows()])])

    def _repr_html_(self) -> str:
        return html_table(_ROW_HEAD, self._rows(), self._caption)

    @property
    def _caption(self) -> str:
        return f"gradient flow of {counted(len(self.steps), 'loss')}, lags 0 to {self.window}"

    def _rows(self) -> list[tuple[str, ...]]:
        lags = (0, self.window // 2, self.window)
        return [
            (name, *(f"{self.by_lag[name][lag]:.3g}" for lag in lags), str(found))
            for name, found in self.horizons.items()
        ]

    def figure(self) -> Any:
        """Return a plotly figure of each layer's mean by lag on a logarithmic scale, with horizons marked."""
        from throughtime.sight.figures import lines_by_lag

        return lines_by_lag({name: self.by_lag[name] for name in self.layers}, self.horizons)


def layer_names(names: Iterable[str]) -> list[str]:
    """Return the names of layers (not of their states) among a flow's names, lowest first: `encoder.layer1.reverse`."""
    found = [m for name in names if (m := re.fullmatch(r"(.*\.)?layer(\d+)(\.reverse)?", name))]
    modules = [m[1] for m in found]
    return [m[0] for m in sorted(found, key=lambda m: (modules.index(m[1]), int(m[2]), bool(m[3])))]


def gradient_flow(
    model: Any,
    x: Any,
    targets: Any = None,
    *,
    state: Any = None,
    loss: Loss | None = None,
    window: int = 200,
    steps: Iterable[int] | None = None,
) -> Flow:
    """Compute the norm of the gradient of the loss at step s with respect to the state at step t, for all s and t.

    The gradient with respect to a state is the total gradient along every path from its value at that step to the loss,
    as `retain_grad` would store it. It vanishes or explodes with the lag s - t (Hochreiter 1991; Bengio, Simard &
    Frasconi 1994; Pascanu et al. 2013, arXiv:1211.5063). All steps s form one batch for the layers' gradient programs,
    which read the residuals of a single run, so memory grows with the sum of steps and window, not with their product.

    The loss of step s is the part that depends on the output of that step alone, as in a language model. If a loss
    combines the outputs of several steps, its part for step s is the gradient that reaches it through that step's
    output.

    Args:
        model: a model with recurrent layers, a run, or a run's directory. It runs without dropout.
        x: the model's input; for a sequence model token ids `[T, B]` or `[T]`, or numbers `[T, B, F]` or `[T, F]`.
        targets: a sequence model's targets; for a language model they default to the next ids in `x`.
        state: the initial state; defaults to the cell's own.
        loss: maps the model's output to a scalar loss. The default for a sequence model is its own loss, summed, if
            there are targets, or else that of the most likely labels if it predicts labels; for any other model it is
            half the sum of squares of the recurrent layers' outputs.
        window: the largest lag. A bidirectional stack takes the time and memory of all lags regardless.
        steps: the steps s; by default all that have a loss.

    Returns:
        The norms; names start with the recurrent module's path if the model has several.

    Raises:
        UserError: if an argument is invalid, or no gradient reaches the recurrent layers.
    """
    runs = list(capture_runs(opened(model), x, targets, state, loss).items())
    chosen = _steps(steps, [run for _, run in runs])
    window = _window(window, runs[0][1].residuals.steps)
    found: dict[str, Array] = {}
    for prefix, run in runs:
        for name, norms in backward_by_lag(run, chosen, window).items():
            found[prefix + name] = norms
    return Flow(chosen, found)


@dataclass(frozen=True)
class Connectivity:
    """Norms of the gradient of an output at step t with respect to each input.

    Attributes:
        steps: the steps t, `[S]`; the last step for a model with one output per sequence.
        norms: `[S, window + 1]`. Element `[n, lag]` is the gradient of the output at t = `steps[n]` with respect to the
            input at step t - lag; NaN before the first step.
        ahead: the same for the input at step t + lag; None if no output depends on later inputs.
    """

    steps: Array
    norms: Array
    ahead: Array | None = None

    def past(self, step: int) -> Array:
        """Return the norms for the output at one step, `[step + 1]`: one per input up to it, 0 beyond the window.

        Raises:
            UserError: if the step was not requested.
        """
        found = np.flatnonzero(self.steps == step)
        if not len(found):
            raise UserError(f"step {step} was not computed; the steps range from {self.steps[0]} to {self.steps[-1]}")
        reached = self.norms[found[0]][: step + 1][::-1]
        return np.concatenate([np.zeros(step + 1 - len(reached), reached.dtype), reached])

    def figure(self) -> Any:
        """Return a plotly heat map of the norms over steps and lags (negative for later inputs)."""
        from throughtime.sight.figures import heat_by_lag

        if self.ahead is None:
            return heat_by_lag(self.steps, self.norms)
        both = np.concatenate([self.ahead[:, :0:-1], self.norms], 1)
        return heat_by_lag(self.steps, both, 1 - self.ahead.shape[1])


def connectivity(
    model: Any,
    x: Any,
    targets: Any = None,
    *,
    of: str | Loss = "next",
    state: Any = None,
    window: int = 200,
    steps: Iterable[int] | None = None,
) -> Connectivity:
    """Compute the norm of the gradient of an output at step t with respect to each input.

    It shows which inputs the output depends on. This is saliency (Simonyan et al. 2014, arXiv:1312.6034)
    over time, as in Madsen (2019, "Visualizing memorization in RNNs", Distill).

    Args:
        model, x, targets, state, window: see `gradient_flow`. For a model of tokens, the inputs are the token
            embeddings.
        of: the output. `"next"` is the loss that `gradient_flow` uses: a language model's log-probability of the next
            token, or the log-probability of the targets (without targets, of the most likely labels) for a model that
            predicts labels. `"best"` is the score (logit) of the most likely token or label. A function maps the
            model's output to the sum of the outputs of all steps.
        steps: the steps t; all by default. A bidirectional model with one output per sequence has only its last step.

    Returns:
        The norms.

    Raises:
        UserError: if an argument is invalid.
    """
    module = opened(model)
    if isinstance(of, str) and of not in ("next", _BEST):
        raise UserError(f"of must be 'next', 'best' or a function, got {of!r}")
    if of == _BEST and not isinstance(getattr(sequence_model(module), "head", None), CategoricalHead):
        raise UserError(
            "of='best' requires a model that scores tokens or labels; pass a function of this model's output"
        )
    loss = None if of == "next" else _best_score if of == _BEST else of
    assert not isinstance(loss, str)
    runs = list(capture_runs(module, x, targets, state, loss).values())
    if len(runs) > 1:
        raise UserError("the model has several recurrent modules; pass one of them and its input")
    (run,) = runs
    window = _window(window, run.residuals.steps)
    if not any(layer.forward.reverse for layers in run.residuals.layers for layer in layers):
        chosen = _steps(steps, runs)
        return Connectivity(chosen, backward_by_lag(run, chosen, window)[INPUT])
    lengths = run.residuals.lengths.numpy()
    if run.residuals.options.returns == "last":
        whole = backward_to_inputs(run, None)
        last = np.array([run.residuals.steps - 1])
        if steps is not None and list(steps) != last.tolist():
            raise UserError(f"the model's only output is at its last step, {last[0]}; got steps={steps!r}")
        return Connectivity(last, _lags(whole, lengths[None] - 1, window, -1))
    chosen = _steps(steps, runs)
    whole = backward_to_inputs(run, chosen)
    at = np.broadcast_to(chosen[:, None], (len(chosen), len(lengths)))
    return Connectivity(chosen, _lags(whole, at, window, -1), _lags(whole, at, window, 1))


def _lags(norms: Array, at: Array, window: int, sign: int) -> Array:
    """Arrange norms `[S, T, B]` by distance from steps `[S, B]` and average over the batch: `[S, window + 1]`."""
    positions = at[:, None] + sign * np.arange(window + 1)[:, None]
    inside = (positions >= 0) & (positions < norms.shape[1])
    found = np.take_along_axis(norms, positions.clip(0, norms.shape[1] - 1), 1)
    found = np.where(inside, found, np.nan)
    with np.errstate(invalid="ignore"):
        mean: Array = np.nansum(found, -1) / (~np.isnan(found)).sum(-1)
    return mean


def _best_score(given: Any) -> Tensor:
    scores: Tensor = given[0]
    return scores.max(-1).values.sum()


def _steps(steps: Iterable[int] | None, runs: list[CapturedRun]) -> Array:
    length = min(run.residuals.steps for run in runs)
    if max(run.residuals.steps for run in runs) > length:
        raise UserError("the model's recurrent modules run for different numbers of steps; pass one of them alone")
    with_loss = np.unique(np.concatenate([steps_with_a_loss(run) for run in runs]))
    if steps is None and not len(with_loss):
        raise UserError("the loss must depend on the recurrent layers' outputs, but no gradient reaches them")
    chosen = with_loss if steps is None else np.array(list(steps))
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind != "i":
        raise UserError(f"steps must be a non-empty list of integers, got {steps!r}")
    if chosen.min() < 0 or chosen.max() >= length:
        raise UserError(f"steps must be from 0 to {length - 1}, got {chosen.min()} to {chosen.max()}")
    return chosen


def _window(window: int, length: int) -> int:
    if not isinstance(window, int) or window < 1:
        raise UserError(f"window must be a positive integer, got {window!r}")
    return min(window, length - 1)
