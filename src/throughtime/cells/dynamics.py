"""Discretized differential equations."""

from throughtime.language import affine, cell, gate, inputs, parameter, sigmoid, state, tanh


@cell
def cornn(x, y=state("position"), z=state("velocity"), *, dt=0.042, gamma=2.7, epsilon=4.7):
    """Coupled oscillators with damping and forcing (Rusch & Mishra 2020, arXiv:2010.00951).

    The damping uses the previous velocity, as in the authors' code; the defaults are theirs for sequential MNIST.
    """
    z = z + dt * (tanh(affine("force", x, y, z)) - gamma * y - epsilon * z)
    y = y + dt * z
    return y, z


@cell
def unicornn(x, y=state("position"), z=state("velocity"), *, dt=0.19, alpha=30.65):
    """Undamped, uncoupled oscillators (Rusch & Mishra 2021, arXiv:2103.05487).

    The defaults are the authors' for permuted sequential MNIST.
    """
    s = dt * sigmoid(parameter("control"))
    z = z - s * (tanh(affine("force", x) + parameter("recurrent") * y) + alpha * y)
    y = y + s * z
    return y, z


@cell
def lem(x, y=state("hidden"), z=state("memory"), *, dt=1.0):
    """Long expressive memory, two states with learned time scales (Rusch et al. 2021, arXiv:2110.04744)."""
    a = dt * sigmoid(affine("memory.scale", x, y))
    b = dt * sigmoid(affine("hidden.scale", x, y))
    z = (1 - a) * z + a * tanh(affine("memory.candidate", x, y))
    y = (1 - b) * y + b * tanh(affine("hidden.candidate", x, z))
    return y, z


@cell
def cfc(x, h, dt=inputs(width=1, optional=True), *, backbone=128):
    """Closed-form continuous-time network (Hasani et al. 2022, arXiv:2106.13898).

    As in the authors' code, `backbone` units feed the heads. The optional input `dt` is the time since the previous
    step; without it every step takes a time of 1, and the two matrices for the time reduce to one.
    """
    u = 1.7159 * tanh(0.666 * affine("backbone", x, h, width=backbone))
    f = tanh(affine("first", u))
    g = tanh(affine("second", u))
    if dt is None:
        t = sigmoid(affine("time", u))
    else:
        t = sigmoid(gate("time", affine("time.scale", u) * dt + affine("time.shift", u)))
    h = f * (1 - t) + g * t
    return h
