"""The plain recurrent network."""

from throughtime.language import activate, affine, cell


@cell
def rnn(x, h, *, activation="tanh"):
    """Plain recurrent network, the state is one layer of units (Elman 1990)."""
    h = activate(activation, affine("hidden", x, h))
    return h


rnn_relu = rnn.variant(
    "rnn_relu", "Plain recurrent network with rectified linear units (Le et al. 2015).", activation="relu"
)
