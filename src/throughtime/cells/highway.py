"""Cells with several layers within a step."""

from throughtime.language import affine, cell, sigmoid, tanh


@cell
def rhn(x, h, *, depth=3):
    """Recurrent highway network, with `depth` layers within a step (Zilly et al. 2016, arXiv:1607.03474).

    Only the first layer sees x, and the gates are coupled. The bias of the transform gates is initialized to -2, as in
    the authors' code for text, so that layers initially pass on their input.
    """
    for layer in range(depth):
        sources = (x, h) if layer == 0 else (h,)
        n = tanh(affine(f"candidate{layer}", *sources))
        t = sigmoid(affine(f"transform{layer}", *sources, bias=-2.0))
        h = n * t + h * (1 - t)
    return h
