"""Cells with exponential gates, kept in range by a stabilizer."""

from throughtime.language import affine, cell, exp, maximum, named, sigmoid, softplus, state, tanh


@cell
def slstm(x, h, c, n=state("normalizer", initial=1.0), m=state("stabilizer", initial=-1e4)):
    """sLSTM from the xLSTM, with normalized exponential gates (Beck et al. 2024, arXiv:2405.04517).

    The stabilizer m starts below any gate's logarithm, so that the forget gate is 0 at the first step and the state
    starts with that step's input, as in the authors' code, which detects the first step.
    """
    log_i = affine("input", x, h)
    log_f = -softplus(-affine("forget", x, h))
    z = tanh(affine("candidate", x, h))
    o = sigmoid(affine("output", x, h))
    m_new = maximum(log_f + m, log_i)
    i = named("input", exp(log_i - m_new))
    f = named("forget", exp(log_f + m - m_new))
    c = f * c + i * z
    n = f * n + i
    h = o * c / n
    return h, c, n, m_new
