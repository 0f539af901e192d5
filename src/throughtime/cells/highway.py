"""Several layers within a step."""

from throughtime.language import affine, cell, sigmoid, tanh


@cell
def rhn(x, h, *, depth=3):
    """Recurrent highway network: `depth` layers within a step (Zilly et al. 2016, arXiv:1607.03474).

    x feeds the first of them; the gates are coupled. The transform gates' bias starts at -2, as in the authors' code
    for text, so that layers carry on what they are given.
    """
    for layer in range(depth):
        sources = (x, h) if layer == 0 else (h,)
        n = tanh(affine(f"candidate{layer}", *sources))
        t = sigmoid(affine(f"transform{layer}", *sources, bias=-2.0))
        h = n * t + h * (1 - t)
    return h
