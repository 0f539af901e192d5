"""The gated recurrent unit."""

from throughtime.language import affine, cell, sigmoid, tanh


@cell
def gru(x, h):
    """Gated recurrent unit, reset after the matrix product (Cho et al. 2014, arXiv:1406.1078)."""
    r = sigmoid(affine("reset", x, h))
    z = sigmoid(affine("update", x, h))
    n = tanh(affine("candidate", x) + r * affine("candidate.recurrent", h))
    h = (1 - z) * n + z * h
    return h
