"""Cells that multiply x and the state."""

from throughtime.language import affine, bias, cell, linear, parameter, sigmoid, tanh


@cell
def lstm_multiplicative(x, h, c):
    """LSTM that sees the product of x and the old state (Krause et al. 2016, arXiv:1609.07959)."""
    m = linear("factor.input", x) * linear("factor.recurrent", h)
    i = sigmoid(affine("input", x, m))
    f = sigmoid(affine("forget", x, m))
    g = tanh(affine("candidate", x, m))
    o = sigmoid(affine("output", x, m))
    c = f * c + i * g
    h = o * tanh(c)
    return h, c


def _integrated(name, x, h):
    """A gate's pre-activation by multiplicative integration: alpha (W x) (U h) + beta1 (U h) + beta2 (W x) + b."""
    w, u = linear(f"{name}.x", x), linear(f"{name}.h", h)
    alpha, beta1, beta2 = (parameter(f"{name}.{each}", initial=1.0) for each in ("alpha", "beta1", "beta2"))
    return alpha * w * u + beta1 * u + beta2 * w + bias(name, 0.0)


@cell
def rnn_integrated(x, h):
    """Plain network with multiplicative integration (Wu et al. 2016, arXiv:1606.06630)."""
    h = tanh(_integrated("hidden", x, h))
    return h


@cell
def lstm_integrated(x, h, c):
    """LSTM with multiplicative integration in each gate (Wu et al. 2016, arXiv:1606.06630)."""
    i = sigmoid(_integrated("input", x, h))
    f = sigmoid(_integrated("forget", x, h))
    g = tanh(_integrated("candidate", x, h))
    o = sigmoid(_integrated("output", x, h))
    c = f * c + i * g
    h = o * tanh(c)
    return h, c


@cell
def gru_integrated(x, h):
    """GRU (reset before) with multiplicative integration in each gate (Wu et al. 2016, arXiv:1606.06630)."""
    r = sigmoid(_integrated("reset", x, h))
    z = sigmoid(_integrated("update", x, h))
    n = tanh(_integrated("candidate", x, r * h))
    h = (1 - z) * n + z * h
    return h
