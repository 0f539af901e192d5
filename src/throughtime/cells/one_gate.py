"""Cells with one gate, which says how much of the old state stays."""

from throughtime.language import activate, affine, cell, sigmoid, tanh


@cell
def ugrnn(x, h, *, activation="tanh"):
    """Update gate network: a plain network, and a gate (Collins et al. 2016, arXiv:1611.09913)."""
    n = activate(activation, affine("candidate", x, h))
    g = sigmoid(affine("update", x, h, bias=1.0))
    h = g * h + (1 - g) * n
    return h


@cell
def janet(x, h, *, beta=1.0):
    """LSTM with its forget gate alone (van der Westhuizen & Lasenby 2018, arXiv:1804.04849).

    `beta` makes what is let in more than what is forgotten. The gate's bias starts at 1, where the paper's chrono
    initialisation is not used.
    """
    s = affine("forget", x, h, bias=1.0)
    f = sigmoid(s)
    i = 1 - sigmoid(s - beta)
    n = tanh(affine("candidate", x, h))
    h = f * h + i * n
    return h


@cell
def star(x, h):
    """Stackable recurrent cell, STAR (Turkoglu et al. 2019, arXiv:1911.11033).

    As the paper has it; the authors' code takes `janet`'s two gates in place of k and 1 - k.
    """
    z = tanh(affine("candidate", x))
    k = sigmoid(affine("update", x, h))
    h = tanh((1 - k) * h + k * z)
    return h


@cell
def minimalrnn(x, h, *, activation="tanh"):
    """MinimalRNN, whose state stays in the space that x is mapped to (Chen 2017, arXiv:1711.06788)."""
    z = activate(activation, affine("candidate", x))
    u = sigmoid(affine("update", h, z))
    h = u * h + (1 - u) * z
    return h
