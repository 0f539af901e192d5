"""Cells with memory along the depth of a stack as well as along time."""

from throughtime.language import affine, cell, concat, linear, named, sigmoid, split, tanh


@cell
def grid_lstm(x, h, c):
    """Grid LSTM with two dimensions, time and depth (Kalchbrenner et al. 2015, arXiv:1507.01526).

    Each dimension has an LSTM of its own. A layer passes a hidden and a memory vector to the next layer, so its output
    has width 2 H. An x of width 2 H is taken as that pair; from any other x, as in the first layer, two matrices
    compute it.
    """
    d, m = split(x, 2) if x.width == 2 * h.width else (linear("embedding", x), linear("embedding.memory", x))

    def lstm(dimension, memory):
        i = sigmoid(affine(f"{dimension}.input", d, h))
        f = sigmoid(affine(f"{dimension}.forget", d, h))
        g = tanh(affine(f"{dimension}.candidate", d, h))
        o = sigmoid(affine(f"{dimension}.output", d, h))
        memory = f * memory + i * g
        return tanh(o * memory), memory

    next_h, c = lstm("time", c)
    next_d, m = lstm("depth", m)
    return concat(named("depth.hidden", next_d), named("depth.cell", m)), next_h, c
