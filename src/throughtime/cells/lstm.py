"""Long short-term memory."""

from throughtime.language import affine, cell, linear, sigmoid, state, tanh


@cell
def lstm(x, h=state("hidden", width="projection"), c=state("cell"), *, projection=None):
    """Long short-term memory with forget gate (Hochreiter & Schmidhuber 1997; Gers et al. 2000).

    With `projection` a matrix maps the hidden units to an output of that width (Sak et al. 2014, arXiv:1402.1128).
    """
    i = sigmoid(affine("input", x, h))
    f = sigmoid(affine("forget", x, h))
    g = tanh(affine("candidate", x, h))
    o = sigmoid(affine("output", x, h))
    c = f * c + i * g
    h = o * tanh(c)
    if projection is not None:
        h = linear("projection", h, width=projection)
    return h, c


lstm_np = lstm.variant("lstm_np", "NP, no peepholes, the same as lstm (Greff et al. 2015, arXiv:1503.04069).")
