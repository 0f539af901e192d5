"""Watch gradients during training with Lightning."""

from __future__ import annotations

import logging
import math
from contextlib import ExitStack
from typing import Any, cast

import lightning
import torch
from lightning.pytorch.callbacks import Callback
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor, nn

from throughtime.errors import UserError
from throughtime.sight.arrays import Array
from throughtime.sight.gating.analysis import gates
from throughtime.sight.gating.saturation import saturation
from throughtime.sight.gradients.advice import LARGE, SHORT, Advice, advice
from throughtime.sight.gradients.backward import backward_by_lag, steps_with_a_loss
from throughtime.sight.gradients.capture import CapturedRun, Given, at_top
from throughtime.sight.gradients.flow import Flow
from throughtime.sight.hooks.residuals import Residuals, to_states
from throughtime.sight.models import RecurrentLayers, evaluating, hooked, recurrent_modules

_log = logging.getLogger("throughtime")


class GradientWatch(Callback):
    """Log how gradients flow through time during training, and warn when they vanish or explode.

    Works with any LightningModule that contains throughtime's recurrent layers. Every few steps, after backward, the
    callback takes the gradient that arrived at each step's output as the loss of that step, and computes its flow to
    earlier states as `throughtime.sight.gradient_flow` does, without dropout and for a few sequences of the batch.
    Training is unaffected.

    It logs for each layer: `flow/layer0/lag1`, `lag2`, `lag4` ..., the mean at that lag relative to lag 0;
    `flow/layer0/horizon`, the lag at which 1% is left, or the window if there is none; and
    `saturation/layer0.forget/low` and `high`, the fractions of steps and units at which a gate is below 0.1 and above
    0.9. It also logs `gradient_norm`, the norm over all parameters before clipping.

    Args:
        every: the number of steps between measurements.
        window: the largest lag, also limited by the steps of a batch.
        rows: the number of sequences per batch to measure.
        short: horizons below this lag are reported as vanishing.
        large: growth by this factor over lag 0 is reported as exploding.

    Attributes:
        flow: the last measurement; None before the first.
        advice: its diagnosis, also logged as a warning to the logger `throughtime` whenever it changes.

    Raises:
        UserError: if an argument is invalid.
    """

    def __init__(
        self, every: int = 100, *, window: int = 200, rows: int = 4, short: int = SHORT, large: float = LARGE
    ) -> None:
        for name, value in (("every", every), ("window", window), ("rows", rows), ("short", short)):
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{name} must be a positive integer, got {value!r}")
        if not large > 1:
            raise UserError(f"large must be greater than 1, got {large!r}")
        self.every, self.window, self.rows, self.short, self.large = every, window, rows, short, large
        self.flow: Flow | None = None
        self.advice: list[Advice] = []
        self._handles: ExitStack | None = None
        self._calls: dict[str, _Call] = {}
        self._told: set[tuple[str, str]] = set()

    def setup(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, stage: str) -> None:
        """Raise an error if the model has no recurrent layers to watch."""
        recurrent_modules(pl_module)

    def on_train_batch_start(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Start watching if a measurement is due."""
        self._leave()
        if trainer.global_step % self.every or not trainer.is_global_zero:
            return
        self._handles = ExitStack()
        self._calls = {prefix: _Call() for prefix in recurrent_modules(pl_module)}
        for prefix, module in recurrent_modules(pl_module).items():
            hook = cast(nn.Module, module).register_forward_hook(self._calls[prefix], with_kwargs=True)
            self._handles.callback(hook.remove)

    def on_after_backward(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Measure the gradients that the backward pass has computed."""
        if self._handles is None:
            return
        self._leave()
        measured: dict[str, float] = {"gradient_norm": _norm(pl_module)}
        norms: dict[str, Array] = {}
        found: list[Advice | None] = []
        steps: Array | None = None
        for prefix, module in recurrent_modules(pl_module).items():
            call = self._calls[prefix]
            if not call.arrived:  # or a gradient is not finite, which the training loop reports
                continue
            run, gate_values = _again(pl_module, module, call, self.rows)
            steps = steps_with_a_loss(run)
            if not len(steps):
                continue
            window = max(1, min(self.window, run.residuals.steps - 1))
            of_module = {prefix + name: n for name, n in backward_by_lag(run, steps, window).items()}
            flow = Flow(steps, of_module)
            norms |= of_module
            programs = {
                f"{prefix}{layer.direction}": layer.forward
                for directions in run.residuals.layers
                for layer in directions
            }
            for name in flow.layers:
                measured |= _measured(name, flow)
                if flow.by_lag[name].any():
                    found.append(advice(name, flow.horizon(name), programs[name], short=self.short, large=self.large))
            for name, values in gate_values.items():
                gate = saturation(values.float())
                measured[f"saturation/{prefix}{name}/low"] = float(gate.low.mean())
                measured[f"saturation/{prefix}{name}/high"] = float(gate.high.mean())
        self._calls = {}
        if norms and steps is not None:
            self.flow = Flow(steps, norms)
        self._tell([each for each in found if each is not None], trainer.global_step)
        for logger in trainer.loggers:
            logger.log_metrics(measured, step=trainer.global_step)

    def on_exception(
        self, trainer: lightning.Trainer, pl_module: lightning.LightningModule, exception: BaseException
    ) -> None:
        """Stop watching."""
        self._leave()

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stop watching."""
        self._leave()

    def _leave(self) -> None:
        if self._handles is not None:
            self._handles.close()
            self._handles = None

    def _tell(self, found: list[Advice], step: int) -> None:
        """Warn about problems that the previous measurement did not show."""
        self.advice = found
        for each in found:
            if (each.layer, each.kind) not in self._told:
                _log.warning("step %d: %s", step, each)
        self._told = {(each.layer, each.kind) for each in found}


class _Call(Given):
    """A call of a recurrent module, with the gradients that have arrived at its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.arguments: tuple[Any, ...] = ()
        self.keywords: dict[str, Any] = {}
        self.gradients: list[Tensor | None] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        data = self.take(module, result)
        if not any(y.requires_grad for y in data):
            return
        self.arguments, self.keywords = args, kwargs
        self.gradients = [None] * len(data)

        def keep(k: int, gradient: Tensor) -> None:
            self.gradients[k] = gradient.detach()

        for k, y in enumerate(data):
            y.register_hook(lambda gradient, k=k: keep(k, gradient))  # type: ignore[no-untyped-call]

    @property
    def arrived(self) -> bool:
        """Whether a finite gradient has arrived."""
        given = [g for g in self.gradients if g is not None]
        return bool(given) and all(bool(g.isfinite().all()) for g in given)


@torch.no_grad()
def _again(model: nn.Module, module: RecurrentLayers, call: _Call, rows: int) -> tuple[CapturedRun, dict[str, Tensor]]:
    """Repeat a call without dropout, capturing its residuals and the values of its gates."""
    from throughtime.sight.hooks.record import record

    residuals = Residuals(module, to_states)
    whole = cast(nn.Module, module)
    names = [
        f"layer{depth}{'.reverse' if direction else ''}.{gate}"
        for depth, directions in enumerate(module.layers())
        for direction, (program, _) in enumerate(directions)
        for gate in gates(program)
    ]
    with evaluating(model), ExitStack() as held:
        recorded = held.enter_context(record(whole, *names)) if names else None
        held.enter_context(hooked(module, residuals))
        arguments, keywords = _as(next(whole.parameters()).dtype, (call.arguments, call.keywords))
        whole(*arguments, **keywords)
    data = [torch.zeros_like(y) for y in call.data]
    gradients = [z if g is None else g for z, g in zip(data, call.gradients, strict=True)]
    run = at_top(residuals, call, [g.to(residuals.layers[-1][0].x.dtype) for g in gradients])
    return run.first_rows(rows), {} if recorded is None else {name: recorded[name] for name in names}


def _as(dtype: torch.dtype, data: Any) -> Any:
    """Convert floating-point tensors to another type: autocast may have changed it from the parameters' type."""
    return apply_to_collection(data, Tensor, lambda t: t.to(dtype) if t.is_floating_point() else t)


def _measured(name: str, flow: Flow) -> dict[str, float]:
    """Return the metrics to log for a layer's flow."""
    by_lag = flow.by_lag[name]
    at_loss = float(by_lag[0])
    if not at_loss > 0:
        return {}
    lags = [2**k for k in range(len(by_lag).bit_length()) if 2**k < len(by_lag)]
    found = {f"flow/{name}/lag{lag}": float(by_lag[lag]) / at_loss for lag in lags}
    reached = flow.horizon(name)
    return found | {f"flow/{name}/horizon": float(reached.window if reached.lag is None else reached.lag)}


def _norm(model: nn.Module) -> float:
    squares = [p.grad.detach().double().square().sum() for p in model.parameters() if p.grad is not None]
    return math.sqrt(float(torch.stack(squares).sum())) if squares else 0.0
