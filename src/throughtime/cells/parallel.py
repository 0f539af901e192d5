"""Cells without recurrent matrices, whose matrix products are computed for all steps at once."""

from throughtime.language import (
    activate,
    affine,
    cell,
    exp,
    linear,
    named,
    parameter,
    select,
    sigmoid,
    softplus,
    sqrt,
    state,
)  # fmt: skip


@cell
def sru(x, c=state("cell"), *, activation="identity"):
    """Simple recurrent unit (Lei et al. 2018, arXiv:1709.02755).

    As in the paper's last version. The highway connection carries x or, if x doesn't have the width of the layer, a
    matrix times x, as in the authors' code; their scaling factor is omitted.
    """
    s = x if x.width == c.width else linear("skip", x)
    n = linear("candidate", x)
    f = sigmoid(affine("forget", x) + parameter("forget.recurrent") * c)
    r = sigmoid(affine("reset", x) + parameter("reset.recurrent") * c)
    c = f * c + (1 - f) * n
    h = named("hidden", r * activate(activation, c) + (1 - r) * s)
    return h, c


@cell
def t_rnn(x, h):
    """Strongly-typed recurrent network (Balduzzi & Ghifary 2016, arXiv:1602.02218)."""
    z = linear("candidate", x)
    f = sigmoid(affine("forget", x))
    h = f * h + (1 - f) * z
    return h


@cell
def mingru(x, h, *, positive=False):
    """GRU whose gate and candidate see only x (Feng et al. 2024, arXiv:2410.01201).

    With `positive` the candidate is positive, as the paper requires for computing in log space.
    """
    z = sigmoid(affine("update", x))
    n = affine("candidate", x)
    if positive:
        n = named("candidate", select(n > 0, n + 0.5, sigmoid(n)))
    h = (1 - z) * h + z * n
    return h


@cell
def minlstm(x, h, *, positive=False):
    """LSTM whose gates, which sum to 1, and candidate see only x (Feng et al. 2024, arXiv:2410.01201).

    With `positive` the candidate is positive, as the paper requires for computing in log space.
    """
    f = sigmoid(affine("forget", x))
    i = sigmoid(affine("input", x))
    n = affine("candidate", x)
    if positive:
        n = named("candidate", select(n > 0, n + 0.5, sigmoid(n)))
    h = f / (f + i) * h + i / (f + i) * n
    return h


@cell
def rg_lru(x, h, *, sharpness=8.0):
    """Real-gated linear recurrent unit from Griffin (De et al. 2024, arXiv:2402.19427).

    An x with the width of the layer is used directly, as in the paper; any other x is multiplied by a matrix. `decay`
    is initialized so that a unit keeps 0.98 of its state under an open gate, which is within the paper's range.
    """
    e = x if x.width == h.width else linear("embedding", x)
    r = sigmoid(affine("recurrence", x))
    i = sigmoid(affine("input", x))
    a = exp(-sharpness * softplus(parameter("decay", initial=-6.0)) * r)
    h = a * h + sqrt(1 - a * a) * (i * e)
    return h
