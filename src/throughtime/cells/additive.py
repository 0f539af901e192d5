"""Additive cells, whose state is a sum of functions of x alone, weighted by gates."""

from throughtime.language import activate, affine, cell, linear, named, sigmoid, tanh


@cell
def ran(x, h, c, *, activation="tanh"):
    """Recurrent additive network, an LSTM whose candidate sees only x (Lee et al. 2017, arXiv:1705.07393)."""
    n = linear("candidate", x)
    i = sigmoid(affine("input", x, h))
    f = sigmoid(affine("forget", x, h))
    c = i * n + f * c
    h = activate(activation, c)
    return h, c


@cell
def atr(x, h):
    """Addition-subtraction twin-gated network, ATR (Zhang et al. 2018, arXiv:1810.12546)."""
    p = affine("input", x)
    q = linear("recurrent", h)
    i = sigmoid(p + q)
    f = named("forget", sigmoid(p - q))
    h = i * p + f * h
    return h


@cell
def cfn(x, h):
    """Chaos-free network, whose state decays to 0 without input (Laurent & von Brecht 2016, arXiv:1612.06212)."""
    f = sigmoid(affine("forget", x, h))
    i = sigmoid(affine("input", x, h))
    h = f * tanh(h) + i * tanh(linear("candidate", x))
    return h
