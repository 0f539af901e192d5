"""Memory along the depth of a stack as well as along time."""

from throughtime.language import affine, cell, concat, linear, named, sigmoid, split, tanh


@cell
def grid_lstm(x, h, c):
    """Grid LSTM of two dimensions, time and depth (Kalchbrenner et al. 2015, arXiv:1507.01526).

    A layer gives the next one a hidden and a memory vector side by side, so its output is 2 H wide, and each dimension
    has an LSTM of its own. x is that pair where it is 2 H wide; the first layer makes one of any other x by two
    matrices.
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
