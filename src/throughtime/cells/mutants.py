"""The three best cells of an evolutionary search. An update gate of 1 takes the new value, 0 keeps the old one.

They add x itself to the input of the units, so x should have the width of the layer, as an embedding may have; any
other x is multiplied by a matrix first.
"""

from throughtime.language import affine, cell, linear, sigmoid, tanh


@cell
def mut1(x, h):
    """MUT1, whose update gate sees only x (Jozefowicz et al. 2015, PMLR 37)."""
    e = x if x.width == h.width else linear("embedding", x)
    z = sigmoid(affine("update", x))
    r = sigmoid(affine("reset", x, h))
    n = tanh(affine("candidate", r * h) + tanh(e))
    h = n * z + h * (1 - z)
    return h


@cell
def mut2(x, h):
    """MUT2, whose reset gate sees x itself (Jozefowicz et al. 2015, PMLR 37)."""
    e = x if x.width == h.width else linear("embedding", x)
    z = sigmoid(affine("update", x, h))
    r = sigmoid(affine("reset", h) + e)
    n = tanh(affine("candidate", x, r * h))
    h = n * z + h * (1 - z)
    return h


@cell
def mut3(x, h):
    """MUT3, whose update gate sees the tanh of the state (Jozefowicz et al. 2015, PMLR 37)."""
    z = sigmoid(affine("update", x, tanh(h)))
    r = sigmoid(affine("reset", x, h))
    n = tanh(affine("candidate", x, r * h))
    h = n * z + h * (1 - z)
    return h
