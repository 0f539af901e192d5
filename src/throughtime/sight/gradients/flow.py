"""How gradients flow through time: from the loss of each step back to the states and inputs of the steps before."""

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
from throughtime.sight.gradients.capture import Loss, Seen, seen
from throughtime.sight.gradients.horizon import FALLEN, Horizon, horizon
from throughtime.sight.models import opened, sequence_model
from throughtime.tables import html_table, text_table

_BEST = "best"
_ROW_HEAD = ("gradient of", "at lag 0", "halfway", "at the last lag", "horizon (1%)")


@dataclass(frozen=True, repr=False)
class Flow:
    """The norm of the gradient of the loss at step s with respect to the state at step t.

    Attributes:
        steps: the steps s, `[S]`.
        norms: for each name `[S, window + 1]`: at `[n, lag]` the gradient of the loss at step s = `steps[n]` with
            respect to what was at step s - lag (s + lag in a reverse direction), the mean over the rows of the batch;
            NaN before the first step. Names are those of layers, `layer0`, for the norm over all states of the layer
            together, of each state, `layer0.cell`, and `input`, for the input of the lowest layer.
    """

    steps: Array
    norms: Mapping[str, Array]

    @property
    def window(self) -> int:
        """The largest lag."""
        return int(next(iter(self.norms.values())).shape[1] - 1)

    @property
    def layers(self) -> list[str]:
        """The names of the layers, from the lowest; a reverse direction counts as one of its own."""
        return layer_names(self.norms)

    @cached_property
    def by_lag(self) -> dict[str, Array]:
        """The mean over all steps s at each lag, `[window + 1]`; NaN at a lag that no step has."""
        with np.errstate(invalid="ignore"):
            return {name: np.nansum(n, 0) / (~np.isnan(n)).sum(0) for name, n in self.norms.items()}

    def horizon(self, name: str, fraction: float = FALLEN) -> Horizon:
        """The lag at which the mean has fallen to a fraction of lag 0, or that it grows.

        Raises:
            UserError: if there is no such name.
        """
        if name not in self.norms:
            known = ", ".join(self.norms)
            raise UserError(f"there is no {name!r} here{nearest(name, self.norms)} (there are: {known}).")
        return horizon(self.by_lag[name], fraction)

    @property
    def horizons(self) -> dict[str, Horizon]:
        """The horizon of each name at 1 %."""
        return {name: horizon(mean) for name, mean in self.by_lag.items()}

    def __repr__(self) -> str:
        return "\n".join([self._caption, *text_table([_ROW_HEAD, *self._rows()])])

    def _repr_html_(self) -> str:
        return html_table(_ROW_HEAD, self._rows(), self._caption)

    @property
    def _caption(self) -> str:
        return f"gradient flow of {len(self.steps)} losses, lags 0 to {self.window}"

    def _rows(self) -> list[tuple[str, ...]]:
        lags = (0, self.window // 2, self.window)
        return [
            (name, *(f"{self.by_lag[name][lag]:.3g}" for lag in lags), str(found))
            for name, found in self.horizons.items()
        ]

    def figure(self) -> Any:
        """The mean by lag of each layer, on a logarithmic scale, its horizon marked; a plotly figure."""
        from throughtime.sight.figures import lines_by_lag

        return lines_by_lag({name: self.by_lag[name] for name in self.layers}, self.horizons)


def layer_names(names: Iterable[str]) -> list[str]:
    """Of the names of a flow those of layers, not of their states, from the lowest: `encoder.layer1.reverse`."""
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
    """The norm of the gradient of the loss at step s with respect to the state at step t, for all s and t.

    The gradient with respect to a state is the whole one, by every path from that step's value to the loss: what
    `retain_grad` would leave on it. It vanishes or explodes with the lag s - t (Hochreiter 1991; Bengio, Simard &
    Frasconi 1994; Pascanu et al. 2013, arXiv:1211.5063). All steps s are rows of one batch of the layers' gradient
    programs, over the residuals of one run; memory grows with the steps and with the window, not with their product.

    A loss of step s is what depends on the output of that step alone, as a language model's does. Where a loss takes
    several steps' outputs together, its part of step s is the gradient that reaches it by the output of that step.

    Args:
        model: a model with recurrent layers in it, a run or a run's directory. It is run without dropout.
        x: what the model takes; for a sequence model ids `[T, B]` or `[T]`, or numbers `[T, B, F]` or `[T, F]`.
        targets: of a sequence model; if not given, for a language model the ids that come next in `x`.
        state: the initial state; the cell's own if not given.
        loss: from what the model gives to the loss, a scalar. If not given: for a sequence model with targets its
            own, summed; without them, if it predicts labels, that of the likeliest labels; for any other model half
            the sum of the squares of what its recurrent layers give.
        window: the largest lag. A bidirectional stack takes the time and memory of all lags in any case.
        steps: the steps s of the loss; all that have one if not given.

    Returns:
        The norms; names begin with the recurrent module's path where the model has several.

    Raises:
        UserError: if an argument does not fit, or no gradient arrives.
    """
    runs = list(seen(opened(model), x, targets, state, loss).items())
    chosen = _steps(steps, [run for _, run in runs])
    window = _window(window, runs[0][1].residuals.steps)
    found: dict[str, Array] = {}
    for prefix, run in runs:
        for name, norms in backward_by_lag(run, chosen, window).items():
            found[prefix + name] = norms
    return Flow(chosen, found)


@dataclass(frozen=True)
class Connectivity:
    """The norm of the gradient of an output at step t with respect to each earlier input.

    Attributes:
        steps: the steps t, `[S]`; of a model with one output per sequence the last step.
        norms: `[S, window + 1]`: at `[n, lag]` the gradient of the output at t = `steps[n]` with respect to the input
            at step t - lag; NaN before the first step.
        ahead: the same for the input at step t + lag; None where no output depends on a later input.
    """

    steps: Array
    norms: Array
    ahead: Array | None = None

    def past(self, step: int) -> Array:
        """The norms for the output at one step, `[step + 1]`: one for each input up to it, 0 beyond the window.

        Raises:
            UserError: if it was not asked for.
        """
        found = np.flatnonzero(self.steps == step)
        if not len(found):
            raise UserError(f"step {step} is not among the steps, from {self.steps[0]} to {self.steps[-1]}.")
        reached = self.norms[found[0]][: step + 1][::-1]
        return np.concatenate([np.zeros(step + 1 - len(reached), reached.dtype), reached])

    def figure(self) -> Any:
        """The norms as a heat map of steps and lags, which are negative for later inputs; a plotly figure."""
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
    """The norm of the gradient of an output at step t with respect to each input: what the output depends on.

    The definition is that of saliency (Simonyan et al. 2014, arXiv:1312.6034), over time as in Madsen (2019,
    "Visualizing memorization in RNNs", Distill).

    Args:
        model, x, targets, state, window: see `gradient_flow`. The inputs of a model that reads symbols are its
            embedded symbols.
        of: `"next"`, the loss that `gradient_flow` takes: for a language model the log-probability of the symbol that
            came next, for a model that predicts labels that of the targets, or of the likeliest labels without
            targets; `"best"`, the score (logit) of the likeliest symbol or label; or a function from what the model
            gives to the sum of the outputs of all steps.
        steps: the steps t; all if not given. A bidirectional model with one output per sequence has its last step
            alone.

    Returns:
        The norms.

    Raises:
        UserError: if an argument does not fit.
    """
    module = opened(model)
    if isinstance(of, str) and of not in ("next", _BEST):
        raise UserError(f"of is 'next', 'best' or a function; given {of!r}.")
    if of == _BEST and not isinstance(getattr(sequence_model(module), "head", None), CategoricalHead):
        raise UserError("'best' is for models that score symbols or labels: give a function of what this model gives.")
    loss = None if of == "next" else _best_score if of == _BEST else of
    assert not isinstance(loss, str)
    runs = list(seen(module, x, targets, state, loss).values())
    if len(runs) > 1:
        raise UserError("the model has several recurrent modules: give the one whose inputs are meant, and its input.")
    (run,) = runs
    window = _window(window, run.residuals.steps)
    if not any(layer.forward.reverse for ways in run.residuals.layers for layer in ways):
        chosen = _steps(steps, runs)
        return Connectivity(chosen, backward_by_lag(run, chosen, window)[INPUT])
    lengths = run.residuals.lengths.numpy()
    if run.residuals.options.returns == "last":
        whole = backward_to_inputs(run, None)
        last = np.array([run.residuals.steps - 1])
        if steps is not None and list(steps) != last.tolist():
            raise UserError(f"the model's only output belongs to its last step, {last[0]}; got steps={steps!r}.")
        return Connectivity(last, _lags(whole, lengths[None] - 1, window, -1))
    chosen = _steps(steps, runs)
    whole = backward_to_inputs(run, chosen)
    at = np.broadcast_to(chosen[:, None], (len(chosen), len(lengths)))
    return Connectivity(chosen, _lags(whole, at, window, -1), _lags(whole, at, window, 1))


def _lags(norms: Array, at: Array, window: int, way: int) -> Array:
    """Norms `[S, T, B]` by their distance from steps `[S, B]`: the mean over the rows, `[S, window + 1]`."""
    places = at[:, None] + way * np.arange(window + 1)[:, None]
    inside = (places >= 0) & (places < norms.shape[1])
    found = np.take_along_axis(norms, places.clip(0, norms.shape[1] - 1), 1)
    found = np.where(inside, found, np.nan)
    with np.errstate(invalid="ignore"):
        mean: Array = np.nansum(found, -1) / (~np.isnan(found)).sum(-1)
    return mean


def _best_score(given: Any) -> Tensor:
    scores: Tensor = given[0]
    return scores.max(-1).values.sum()


def _steps(steps: Iterable[int] | None, runs: list[Seen]) -> Array:
    length = min(run.residuals.steps for run in runs)
    if max(run.residuals.steps for run in runs) > length:
        raise UserError("the model's recurrent modules run over different numbers of steps: look at one of them alone.")
    with_loss = np.unique(np.concatenate([steps_with_a_loss(run) for run in runs]))
    if steps is None and not len(with_loss):
        raise UserError("no gradient arrives: the loss does not change with what the recurrent layers give.")
    chosen = with_loss if steps is None else np.array(list(steps))
    if chosen.ndim != 1 or not len(chosen) or chosen.dtype.kind != "i":
        raise UserError(f"steps are whole numbers, at least one; given {steps!r}.")
    if chosen.min() < 0 or chosen.max() >= length:
        raise UserError(f"steps are numbered from 0 to {length - 1}; given {chosen.min()} to {chosen.max()}.")
    return chosen


def _window(window: int, length: int) -> int:
    if not isinstance(window, int) or window < 1:
        raise UserError(f"the window is a whole number of lags, 1 or more; given {window!r}.")
    return min(window, length - 1)
