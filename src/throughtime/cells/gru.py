"""Gated recurrent units, with two gates or one."""

from throughtime.language import affine, cell, sigmoid, tanh


@cell
def gru(x, h):
    """Gated recurrent unit, with the reset after the matrix product (Cho et al. 2014, arXiv:1406.1078)."""
    r = sigmoid(affine("reset", x, h))
    z = sigmoid(affine("update", x, h))
    n = tanh(affine("candidate", x) + r * affine("candidate.recurrent", h))
    h = (1 - z) * n + z * h
    return h


@cell
def gru_reset_before(x, h):
    """Gated recurrent unit as in its paper, with the reset before the product (Cho et al. 2014, arXiv:1406.1078)."""
    r = sigmoid(affine("reset", x, h))
    z = sigmoid(affine("update", x, h))
    n = tanh(affine("candidate", x, r * h))
    h = (1 - z) * n + z * h
    return h


@cell
def mgu(x, h):
    """Minimal gated unit, whose forget gate both resets and updates (Zhou et al. 2016, arXiv:1603.09420)."""
    f = sigmoid(affine("forget", x, h))
    n = tanh(affine("candidate", x, f * h))
    h = (1 - f) * h + f * n
    return h
