"""NumPy optimizers for online learning."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from throughtime.errors import UserError, nearest

Array = NDArray[Any]
Arrays = Mapping[str, Array]


class Optimizer(ABC):
    """Base class of optimizers, which update weights from gradients; subclasses may keep state between steps."""

    @abstractmethod
    def update(self, weights: Arrays, gradients: Arrays) -> None:
        """Update the weights in place.

        Args:
            weights: the arrays by name.
            gradients: arrays with the same names and shapes.
        """


@dataclass
class SGD(Optimizer):
    """Stochastic gradient descent, optionally with momentum.

    Args:
        lr: the learning rate.
        momentum: the momentum coefficient, at least 0 and below 1 (Polyak 1964).
    """

    kind: ClassVar[str] = "sgd"
    lr: float = 0.01
    momentum: float = 0.0
    _velocity: dict[str, Array] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        _require_share("momentum", self.momentum)

    def update(self, weights: Arrays, gradients: Arrays) -> None:
        """See `Optimizer.update`."""
        for name, gradient in gradients.items():
            if self.momentum:
                velocity = self._velocity.setdefault(name, np.zeros_like(gradient))
                velocity *= self.momentum
                velocity += gradient
                gradient = velocity
            weights[name][...] -= self.lr * gradient


@dataclass
class Adam(Optimizer):
    """The Adam optimizer (Kingma & Ba 2015, arXiv:1412.6980).

    Args:
        lr: the learning rate.
        betas: the decay rates of the running means of the gradient and of its square.
        epsilon: the constant added to the root of the mean squared gradient.
    """

    kind: ClassVar[str] = "adam"
    lr: float = 0.001
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = 1e-8
    _moments: dict[str, tuple[Array, Array]] = field(default_factory=dict, init=False, repr=False, compare=False)
    _steps: int = field(default=0, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _require_rate(self.lr)
        for beta in self.betas:
            _require_share("betas", beta)

    def update(self, weights: Arrays, gradients: Arrays) -> None:
        """See `Optimizer.update`."""
        self._steps += 1
        kept, kept_squares = self.betas
        unbiased = 1 - kept**self._steps
        unbiased_squares = math.sqrt(1 - kept_squares**self._steps)
        for name, gradient in gradients.items():
            if name not in self._moments:
                self._moments[name] = np.zeros_like(gradient), np.zeros_like(gradient)
            mean, square = self._moments[name]
            mean += (1 - kept) * (gradient - mean)
            square += (1 - kept_squares) * (gradient * gradient - square)
            step = np.sqrt(square)
            step /= unbiased_squares
            step += self.epsilon
            np.divide(mean, step, out=step)
            weights[name][...] -= (self.lr / unbiased) * step


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {kind.kind: kind for kind in (SGD, Adam)}


def optimizer_for(given: str | Optimizer, lr: float | None) -> Optimizer:
    """Return the optimizer with a given name, or the optimizer itself if one is passed.

    Raises:
        UserError: if the name is unknown, or a learning rate is passed together with an optimizer.
    """
    if isinstance(given, Optimizer):
        if lr is not None:
            raise UserError("lr applies only to an optimizer's name; an Optimizer has its own learning rate")
        return given
    if given not in OPTIMIZERS:
        names = ", ".join(OPTIMIZERS)
        raise UserError(
            f"optimizer must be one of {names} or an Optimizer, got {given!r}{nearest(str(given), OPTIMIZERS)}"
        )
    return OPTIMIZERS[given]() if lr is None else OPTIMIZERS[given](lr=lr)


def clip_norm(gradients: Arrays, largest: float) -> float:
    """Scale gradients in place so that their total norm is at most `largest`; 0 disables clipping.

    Returns:
        The norm before clipping.
    """
    norm = math.sqrt(sum(float(np.vdot(g, g)) for g in gradients.values()))
    if 0 < largest < norm < math.inf:
        for gradient in gradients.values():
            gradient *= largest / norm
    return norm


def _require_rate(lr: object) -> None:
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise UserError(f"lr must be a positive number, got {lr!r}")


def _require_share(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise UserError(f"{name} must be at least 0 and below 1, got {value!r}")
