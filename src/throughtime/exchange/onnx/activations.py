"""The activation functions of ONNX's recurrent operators, in the cell language."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from throughtime.language import elu, hard_sigmoid, leaky_relu, relu, select, sigmoid, softplus, softsign, tanh
from throughtime.program.symbols import Symbol


class Kind(NamedTuple):
    """The definition of one of ONNX's activation functions.

    Attributes:
        meaning: the function, called as `meaning(x, *constants)`.
        constants: the defaults of alpha, and of beta if the function takes it; None where the specification has no
            default.
    """

    meaning: Callable[..., Symbol]
    constants: tuple[float | None, ...] = ()


KINDS = {
    "Relu": Kind(relu),
    "Tanh": Kind(tanh),
    "Sigmoid": Kind(sigmoid),
    "Affine": Kind(lambda x, alpha, beta: x * alpha + beta, (1.0, 0.0)),
    "LeakyRelu": Kind(leaky_relu, (0.01,)),
    "ThresholdedRelu": Kind(lambda x, alpha: select(x < alpha, 0.0, x), (1.0,)),
    "ScaledTanh": Kind(lambda x, alpha, beta: tanh(x * beta) * alpha, (None, None)),
    "HardSigmoid": Kind(hard_sigmoid, (0.2, 0.5)),
    "Elu": Kind(elu, (1.0,)),
    "Softsign": Kind(softsign),
    "Softplus": Kind(softplus),
}


@dataclass(frozen=True)
class Activation:
    """An activation function: its name in ONNX and its constants, alpha and beta."""

    name: str
    constants: tuple[float, ...] = ()

    def __call__(self, x: Symbol) -> Symbol:
        """Apply the function to a vector."""
        return KINDS[self.name].meaning(x, *self.constants)
