"""Plain recurrent networks: one layer of units that sees what it was a step before."""

from throughtime.language import activate, affine, cell, concat, linear, parameter, sigmoid, state


@cell
def rnn(x, h, *, activation="tanh"):
    """Plain recurrent network, the state is one layer of units (Elman 1990)."""
    h = activate(activation, affine("hidden", x, h))
    return h


rnn_relu = rnn.variant(
    "rnn_relu", "Plain recurrent network with rectified linear units (Le et al. 2015).", activation="relu"
)


@cell
def rnn_leaky(x, h, *, leak=0.5, activation="tanh"):
    """Leaky integrator units, which go only a part of the way at each step (Jaeger et al. 2007).

    `leak` is that part; with 1 it is the plain recurrent network.
    """
    n = activate(activation, affine("candidate", x, h))
    h = (1 - leak) * h + leak * n
    return h


@cell
def jordan(x, y=state("output"), *, activation="tanh", output_activation="identity"):
    """Plain recurrent network to which its output is fed back, not its hidden units (Jordan 1986).

    As textbooks have it: Jordan's own context units also kept a part of what they were.
    """
    h = activate(activation, affine("hidden", x, y))
    y = activate(output_activation, affine("output", h))
    return y


@cell
def indrnn(x, h, *, activation="relu"):
    """Independently recurrent: of the step before a unit sees itself alone (Li et al. 2018, arXiv:1803.04831).

    The recurrent weights start at 1, so that the state is kept.
    """
    h = activate(activation, affine("hidden", x) + parameter("recurrent", initial=1.0) * h)
    return h


@cell
def scrn(x, h, s=state("context", width="context"), *, context=None, decay=0.95):
    """Structurally constrained network: hidden units, and slow context units (Mikolov et al. 2014, arXiv:1412.7753).

    The output is both side by side, as the paper's output layer reads both. `context` is the number of context units,
    as many as hidden ones if not given; as in the paper there are no biases.
    """
    s = (1 - decay) * linear("context.input", x, width=context) + decay * s
    h = sigmoid(affine("hidden", x, h, s, bias=False))
    return concat(h, s), h, s
