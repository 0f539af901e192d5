"""Plain recurrent networks, whose units read the layer's previous value."""

from throughtime.language import activate, affine, cell, concat, linear, parameter, sigmoid, state


@cell
def rnn(x, h, *, activation="tanh"):
    """Plain recurrent network, whose state is a layer of units (Elman 1990)."""
    h = activate(activation, affine("hidden", x, h))
    return h


rnn_relu = rnn.variant(
    "rnn_relu", "Plain recurrent network with rectified linear units (Le et al. 2015).", activation="relu"
)


@cell
def rnn_leaky(x, h, *, leak=0.5, activation="tanh"):
    """Leaky integrator units, which move only part of the way at each step (Jaeger et al. 2007).

    `leak` is that fraction; with 1 this is the plain recurrent network.
    """
    n = activate(activation, affine("candidate", x, h))
    h = (1 - leak) * h + leak * n
    return h


@cell
def jordan(x, y=state("output"), *, activation="tanh", output_activation="identity"):
    """Plain recurrent network that feeds back its output instead of its hidden units (Jordan 1986).

    This is the textbook version; Jordan's context units also kept part of their old value.
    """
    h = activate(activation, affine("hidden", x, y))
    y = activate(output_activation, affine("output", h))
    return y


@cell
def indrnn(x, h, *, activation="relu"):
    """Independently recurrent network, whose units see only their own old state (Li et al. 2018, arXiv:1803.04831).

    The recurrent weights are initialized to 1, so that the state is kept.
    """
    h = activate(activation, affine("hidden", x) + parameter("recurrent", initial=1.0) * h)
    return h


@cell
def scrn(x, h, s=state("context", width="context"), *, context=None, decay=0.95):
    """Structurally constrained network, with slow context units (Mikolov et al. 2014, arXiv:1412.7753).

    The output concatenates hidden and context units, both of which the paper's output layer reads. `context` is the
    number of context units, by default the hidden size. As in the paper there are no biases.
    """
    s = (1 - decay) * linear("context.input", x, width=context) + decay * s
    h = sigmoid(affine("hidden", x, h, s, bias=False))
    return concat(h, s), h, s
