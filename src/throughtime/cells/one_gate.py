"""Cells with one gate, which controls how much of the old state is kept."""

from throughtime.language import activate, affine, cell, sigmoid, tanh


@cell
def ugrnn(x, h, *, activation="tanh"):
    """Update gate network, a plain network with a gate (Collins et al. 2016, arXiv:1611.09913)."""
    n = activate(activation, affine("candidate", x, h))
    g = sigmoid(affine("update", x, h, bias=1.0))
    h = g * h + (1 - g) * n
    return h


@cell
def janet(x, h, *, beta=1.0):
    """LSTM with only the forget gate (van der Westhuizen & Lasenby 2018, arXiv:1804.04849).

    A positive `beta` lets in more than is forgotten. The gate's bias is initialized to 1 unless the paper's chrono
    initialization is used.
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

    As in the paper; the authors' code uses the two gates of `janet` instead of k and 1 - k.
    """
    z = tanh(affine("candidate", x))
    k = sigmoid(affine("update", x, h))
    h = tanh((1 - k) * h + k * z)
    return h


@cell
def minimalrnn(x, h, *, activation="tanh"):
    """MinimalRNN, whose state stays in the space to which x is mapped (Chen 2017, arXiv:1711.06788)."""
    z = activate(activation, affine("candidate", x))
    u = sigmoid(affine("update", h, z))
    h = u * h + (1 - u) * z
    return h
