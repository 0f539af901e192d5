"""Cells small enough for a microcontroller, which mix the old and the new state by a few scalars."""

from throughtime.language import activate, affine, bias, cell, parameter, sigmoid


@cell
def fastrnn(x, h, *, activation="tanh"):
    """FastRNN, in which two scalars weight the new and the old state (Kusupati et al. 2018, arXiv:1901.02358).

    The scalars are initialized as in the authors' code.
    """
    n = activate(activation, affine("candidate", x, h))
    h = sigmoid(parameter("alpha", 1, -3.0)) * n + sigmoid(parameter("beta", 1, 3.0)) * h
    return h


@cell
def fastgrnn(x, h, *, activation="tanh"):
    """FastGRNN, whose gate and candidate share their matrices (Kusupati et al. 2018, arXiv:1901.02358).

    Biases and scalars are initialized as in the authors' code.
    """
    a = affine("shared", x, h, bias=False)
    z = sigmoid(bias("update", 1.0) + a)
    n = activate(activation, bias("candidate", 1.0) + a)
    h = (sigmoid(parameter("zeta", 1, 1.0)) * (1 - z) + sigmoid(parameter("nu", 1, -4.0))) * n + z * h
    return h
