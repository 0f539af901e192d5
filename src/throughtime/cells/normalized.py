"""Cells with layer normalization."""

from throughtime.language import activate, bias, cell, gate, layer_norm, linear, sigmoid, split, tanh


@cell
def lstm_layer_norm(x, h, c):
    """LSTM with layer norms of W x, R h and the cell state (Ba et al. 2016, arXiv:1607.06450)."""
    from_x = layer_norm("norm_x", linear("gates_x", x, width=4 * c.width))
    from_h = layer_norm("norm_h", linear("gates_h", h, width=4 * c.width))
    i, f, g, o = split(gate("gates", from_x + from_h), 4)
    i = sigmoid(i + bias("input"))
    f = sigmoid(f + bias("forget"))
    g = tanh(g + bias("candidate"))
    o = sigmoid(o + bias("output"))
    c = f * c + i * g
    h = o * tanh(layer_norm("norm_cell", c))
    return h, c


@cell
def gru_layer_norm(x, h):
    """GRU with layer norms of W x and R h, for both gates and the candidate (Ba et al. 2016, arXiv:1607.06450).

    An update gate of 1 keeps the old state, as in `gru`; in the paper it takes the new one.
    """
    from_x = layer_norm("norm_x", linear("gates_x", x, width=2 * h.width))
    from_h = layer_norm("norm_h", linear("gates_h", h, width=2 * h.width))
    r, z = split(gate("gates", from_x + from_h), 2)
    r = sigmoid(gate("reset", r))
    z = sigmoid(gate("update", z))
    recurrent = layer_norm("norm_recurrent", linear("candidate.recurrent", h))
    n = tanh(layer_norm("norm_candidate", linear("candidate", x)) + r * recurrent)
    h = (1 - z) * n + z * h
    return h


@cell
def ligru(x, h, *, activation="relu"):
    """Light GRU, with ReLU, normalized W x and no reset gate (Ravanelli et al. 2018, arXiv:1803.10225).

    It uses layer normalization instead of the paper's batch normalization, which would couple steps and sequences.
    """
    z = sigmoid(layer_norm("norm_update", linear("update", x)) + linear("update.recurrent", h))
    n = activate(activation, layer_norm("norm_candidate", linear("candidate", x)) + linear("candidate.recurrent", h))
    h = z * h + (1 - z) * n
    return h
