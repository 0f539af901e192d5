"""A cell found by reinforcement learning."""

from throughtime.language import affine, cell, linear, named, relu, sigmoid, tanh


@cell
def nas(x, h, c):
    """The cell found by neural architecture search (Zoph & Le 2016, arXiv:1611.01578).

    As in TensorFlow's code, the fourth of the eight sums is a product. Biases, which that code lacks, are optional.
    """
    a = sigmoid(affine("branch0", x, h)) * relu(affine("branch1", x, h))
    product = relu(linear("branch3", x) * linear("branch3.recurrent", h))
    b = sigmoid(affine("branch2", x, h)) + named("branch3", product)
    d = tanh(affine("branch4", x, h)) * sigmoid(affine("branch5", x, h))
    e = tanh(affine("branch6", x, h)) + sigmoid(affine("branch7", x, h))
    c = tanh(tanh(a) + c) * tanh(b)
    h = tanh(c * tanh(tanh(d) + sigmoid(e)))
    return h, c
