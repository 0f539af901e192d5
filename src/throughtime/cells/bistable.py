"""Bistable cells, whose units feed back to themselves and, with strong feedback, hold one of two states."""

from throughtime.language import affine, cell, linear, parameter, sigmoid, tanh


@cell
def brc(x, h):
    """Bistable recurrent cell, whose units see only their own old state (Vecoven et al. 2020, arXiv:2006.05252).

    The recurrent weights are initialized to 1, as in the authors' code.
    """
    a = 1 + tanh(affine("feedback", x) + parameter("feedback.recurrent", initial=1.0) * h)
    c = sigmoid(affine("update", x) + parameter("update.recurrent", initial=1.0) * h)
    h = c * h + (1 - c) * tanh(linear("candidate", x) + a * h)
    return h


@cell
def nbrc(x, h):
    """Bistable recurrent cell whose gates see all units (Vecoven et al. 2020, arXiv:2006.05252)."""
    a = 1 + tanh(affine("feedback", x, h))
    c = sigmoid(affine("update", x, h))
    h = c * h + (1 - c) * tanh(linear("candidate", x) + a * h)
    return h
