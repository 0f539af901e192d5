"""One step of each named cell in plain torch, written from the cell's paper."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from cell_harness import Step, Weights
from torch import Tensor, relu, sigmoid, tanh
from torch.nn.functional import layer_norm, logsigmoid, softplus


class Loop(NamedTuple):
    """A reference implementation of a named cell.

    Attributes:
        cell: the name of the cell.
        step: one step of the cell.
        options: the arguments of `assert_matches_loop`: sizes, hyper-parameters and a function for valid states.
    """

    cell: str
    step: Step
    options: dict[str, Any]


LOOPS: list[Loop] = []


def paper(*cells: str, **options: Any) -> Callable[[Step], Step]:
    """Register a function as the step of these cells."""

    def register(step: Step) -> Step:
        LOOPS.extend(Loop(cell, step, options) for cell in cells)
        return step

    return register


States = tuple[Tensor, list[Tensor]]

# Plain networks.


@paper("rnn")
def rnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = tanh(w.affine("hidden", x=x, h=h))
    return h, [h]


@paper("rnn_relu")
@paper("rnn", activation="relu")
def rnn_relu(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = relu(w.affine("hidden", x=x, h=h))
    return h, [h]


@paper("rnn_leaky", leak=0.3)
def rnn_leaky(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = 0.7 * h + 0.3 * tanh(w.affine("candidate", x=x, h=h))
    return h, [h]


@paper("jordan", output_activation="sigmoid")
def jordan(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (y,) = states
    h = tanh(w.affine("hidden", x=x, y=y))
    y = sigmoid(w.affine("output", output=h))
    return y, [y]


@paper("indrnn")
def indrnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = relu(w.affine("hidden", x=x) + w["recurrent"] * h)
    return h, [h]


@paper("scrn", context=2)
def scrn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # The paper's output layer reads h and s.
    h, s = states
    s = 0.05 * w.affine("context.input", x=x) + 0.95 * s
    h = sigmoid(w.affine("hidden", hidden=s, x=x, h=h))
    return torch.cat([h, s], -1), [h, s]


# LSTMs.


@paper("lstm", "lstm_np")
def lstm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, c = states
    i, f, o = (sigmoid(w.affine(gate, x=x, h=h)) for gate in ("input", "forget", "output"))
    c = f * c + i * tanh(w.affine("candidate", x=x, h=h))
    h = o * tanh(c)
    return h, [h, c]


@paper("lstm", projection=2)
def lstm_projected(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, [_, c] = lstm(w, x, states)
    h = h @ w["weight_projection"].T
    return h, [h, c]


def odyssey(without: str = "") -> Step:
    """Greff et al. 2015: section 2 defines the vanilla LSTM; section 3 defines the variants."""

    def step(w: Weights, x: Tensor, states: list[Tensor]) -> States:
        h, c = states

        def gate(name: str, c: Tensor) -> Tensor:
            return sigmoid(w.affine(name, x=x, h=h) + w[f"peephole.{name}"] * c)

        i = torch.ones_like(c) if without == "input gate" else gate("input", c)
        if without == "forget gate":
            f = torch.ones_like(c)
        elif without == "independent forget gate":
            f = 1 - i
        else:
            f = gate("forget", c)
        z = w.affine("candidate", x=x, h=h)
        c = i * (z if without == "input activation" else tanh(z)) + f * c
        o = torch.ones_like(c) if without == "output gate" else gate("output", c)
        h = o * (c if without == "output activation" else tanh(c))
        return h, [h, c]

    return step


paper("lstm_peephole")(odyssey())
paper("lstm_coupled")(odyssey("independent forget gate"))
paper("lstm_nig")(odyssey("input gate"))
paper("lstm_nfg")(odyssey("forget gate"))
paper("lstm_nog")(odyssey("output gate"))
paper("lstm_niaf")(odyssey("input activation"))
paper("lstm_noaf")(odyssey("output activation"))


@paper("lstm_fgr")
def lstm_fgr(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Greff et al. 2015, section 3: R_ii i + R_fi f + R_oi o of the previous step are added to each gate.
    h, c, *old = states
    gates = dict(zip("ifo", old, strict=True))

    def gate(name: str, c: Tensor) -> Tensor:
        return sigmoid(w.affine(name, x=x, h=h, **gates) + w[f"peephole.{name}"] * c)

    i, f = gate("input", c), gate("forget", c)
    c = i * tanh(w.affine("candidate", x=x, h=h)) + f * c
    o = gate("output", c)
    h = o * tanh(c)
    return h, [h, c, i, f, o]


# GRUs and related cells.


@paper("gru")
def gru(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    r, z = sigmoid(w.affine("reset", x=x, h=h)), sigmoid(w.affine("update", x=x, h=h))
    n = tanh(w.affine("candidate", x=x) + r * w.affine("candidate.recurrent", h=h))
    h = (1 - z) * n + z * h
    return h, [h]


@paper("gru_reset_before")
def gru_reset_before(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Cho et al. 2014, equations 5 to 8.
    (h,) = states
    r, z = sigmoid(w.affine("reset", x=x, h=h)), sigmoid(w.affine("update", x=x, h=h))
    n = tanh(w.affine("candidate", x=x, candidate=r * h))
    h = z * h + (1 - z) * n
    return h, [h]


@paper("mgu")
def mgu(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    f = sigmoid(w.affine("forget", x=x, h=h))
    n = tanh(w.affine("candidate", x=x, candidate=f * h))
    h = (1 - f) * h + f * n
    return h, [h]


@paper("mut1", input_size=4)
@paper("mut1")
def mut1(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    e = x if x.shape == h.shape else w.affine("embedding", x=x)
    z = sigmoid(w.affine("update", x=x))
    r = sigmoid(w.affine("reset", x=x, h=h))
    h = tanh(w.affine("candidate", candidate=r * h) + tanh(e)) * z + h * (1 - z)
    return h, [h]


@paper("mut2", input_size=4)
@paper("mut2")
def mut2(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    e = x if x.shape == h.shape else w.affine("embedding", x=x)
    z = sigmoid(w.affine("update", x=x, h=h))
    r = sigmoid(e + w.affine("reset", h=h))
    h = tanh(w.affine("candidate", candidate=r * h, x=x)) * z + h * (1 - z)
    return h, [h]


@paper("mut3")
def mut3(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    z = sigmoid(w.affine("update", x=x, update=tanh(h)))
    r = sigmoid(w.affine("reset", x=x, h=h))
    h = tanh(w.affine("candidate", candidate=r * h, x=x)) * z + h * (1 - z)
    return h, [h]


# One gate.


@paper("ugrnn")
def ugrnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    g = sigmoid(w.affine("update", x=x, h=h))
    h = g * h + (1 - g) * tanh(w.affine("candidate", x=x, h=h))
    return h, [h]


@paper("janet", beta=0.7)
def janet(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (c,) = states
    s = w.affine("forget", x=x, h=c)
    c = sigmoid(s) * c + (1 - sigmoid(s - 0.7)) * tanh(w.affine("candidate", x=x, h=c))
    return c, [c]


@paper("star")
def star(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    k = sigmoid(w.affine("update", x=x, h=h))
    h = tanh((1 - k) * h + k * tanh(w.affine("candidate", x=x)))
    return h, [h]


@paper("minimalrnn")
def minimalrnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    z = tanh(w.affine("candidate", x=x))
    u = sigmoid(w.affine("update", h=h, update=z))
    h = u * h + (1 - u) * z
    return h, [h]


# Small, bistable and additive cells.


@paper("fastrnn")
def fastrnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = sigmoid(w["alpha"]) * tanh(w.affine("candidate", x=x, h=h)) + sigmoid(w["beta"]) * h
    return h, [h]


@paper("fastgrnn")
def fastgrnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    a = w.affine("shared", x=x, h=h)
    z, n = sigmoid(a + w.bias("update")), tanh(a + w.bias("candidate"))
    h = (sigmoid(w["zeta"]) * (1 - z) + sigmoid(w["nu"])) * n + z * h
    return h, [h]


@paper("brc")
def brc(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    a = 1 + tanh(w.affine("feedback", x=x) + w["feedback.recurrent"] * h)
    c = sigmoid(w.affine("update", x=x) + w["update.recurrent"] * h)
    h = c * h + (1 - c) * tanh(w.affine("candidate", x=x) + a * h)
    return h, [h]


@paper("nbrc")
def nbrc(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    a = 1 + tanh(w.affine("feedback", x=x, h=h))
    c = sigmoid(w.affine("update", x=x, h=h))
    h = c * h + (1 - c) * tanh(w.affine("candidate", x=x) + a * h)
    return h, [h]


@paper("ran")
def ran(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, c = states
    i, f = sigmoid(w.affine("input", x=x, h=h)), sigmoid(w.affine("forget", x=x, h=h))
    c = i * w.affine("candidate", x=x) + f * c
    return tanh(c), [tanh(c), c]


@paper("atr")
def atr(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    p, q = w.affine("input", x=x), w.affine("recurrent", h=h)
    h = sigmoid(p + q) * p + sigmoid(p - q) * h
    return h, [h]


@paper("cfn")
def cfn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    theta, eta = sigmoid(w.affine("forget", x=x, h=h)), sigmoid(w.affine("input", x=x, h=h))
    h = theta * tanh(h) + eta * tanh(w.affine("candidate", x=x))
    return h, [h]


# Products of x and the state.


@paper("lstm_multiplicative")
def lstm_multiplicative(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, c = states
    m = w.affine("factor.input", x=x) * w.affine("factor.recurrent", h=h)
    i, f, o = (sigmoid(w.affine(gate, x=x, input=m)) for gate in ("input", "forget", "output"))
    c = f * c + i * tanh(w.affine("candidate", x=x, input=m))
    h = o * tanh(c)
    return h, [h, c]


def integrated(w: Weights, gate: str, x: Tensor, end: str, h: Tensor) -> Tensor:
    a, u = w.affine(f"{gate}.x", x=x), w.affine(f"{gate}.h", **{end: h})
    return w[f"{gate}.alpha"] * a * u + w[f"{gate}.beta1"] * u + w[f"{gate}.beta2"] * a + w.bias(gate)


@paper("rnn_integrated")
def rnn_integrated(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    h = tanh(integrated(w, "hidden", x, "h", h))
    return h, [h]


@paper("lstm_integrated")
def lstm_integrated(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, c = states
    i, f, g, o = (integrated(w, gate, x, "h", h) for gate in ("input", "forget", "candidate", "output"))
    c = sigmoid(f) * c + sigmoid(i) * tanh(g)
    h = sigmoid(o) * tanh(c)
    return h, [h, c]


@paper("gru_integrated")
def gru_integrated(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    r, z = sigmoid(integrated(w, "reset", x, "h", h)), sigmoid(integrated(w, "update", x, "h", h))
    h = z * h + (1 - z) * tanh(integrated(w, "candidate", x, "candidate_h", r * h))
    return h, [h]


# Layer normalization.


def norm(w: Weights, name: str, v: Tensor) -> Tensor:
    return layer_norm(v, v.shape[-1:], w[f"{name}.gain"], w[f"{name}.shift"])


@paper("lstm_layer_norm")
def lstm_layer_norm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Ba et al. 2016, equations 20 to 22.
    h, c = states
    gates = norm(w, "norm_x", w.affine("gates_x", x=x)) + norm(w, "norm_h", w.affine("gates_h", h=h))
    i, f, g, o = gates.chunk(4, -1)
    c = sigmoid(f + w.bias("forget")) * c + sigmoid(i + w.bias("input")) * tanh(g + w.bias("candidate"))
    h = sigmoid(o + w.bias("output")) * tanh(norm(w, "norm_cell", c))
    return h, [h, c]


@paper("gru_layer_norm")
def gru_layer_norm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Ba et al. 2016, with 1 - z for their z.
    (h,) = states
    gates = norm(w, "norm_x", w.affine("gates_x", x=x)) + norm(w, "norm_h", w.affine("gates_h", h=h))
    r, z = sigmoid(gates).chunk(2, -1)
    recurrent = norm(w, "norm_recurrent", w.affine("candidate.recurrent", h=h))
    n = tanh(norm(w, "norm_candidate", w.affine("candidate", x=x)) + r * recurrent)
    h = (1 - z) * n + z * h
    return h, [h]


@paper("ligru")
def ligru(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Ravanelli et al. 2018, with layer normalization instead of batch normalization.
    (h,) = states
    z = sigmoid(norm(w, "norm_update", w.affine("update", x=x)) + w.affine("update.recurrent", h=h))
    n = relu(norm(w, "norm_candidate", w.affine("candidate", x=x)) + w.affine("candidate.recurrent", h=h))
    h = z * h + (1 - z) * n
    return h, [h]


# Exponential gates.


@paper("slstm", states=lambda states: [*states[:2], 1 + states[2] ** 2, states[3]])
def slstm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Beck et al. 2024, equations 8 to 17.
    h, c, n, m = states
    i, f, z, o = (w.affine(gate, x=x, h=h) for gate in ("input", "forget", "candidate", "output"))
    m_new = torch.maximum(logsigmoid(f) + m, i)
    i, f = torch.exp(i - m_new), torch.exp(logsigmoid(f) + m - m_new)
    c, n = f * c + i * tanh(z), f * n + i
    h = sigmoid(o) * c / n
    return h, [h, c, n, m_new]


# No matrix product with a state.


@paper("sru", input_size=4, activation="tanh")
@paper("sru", activation="tanh")
def sru(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (c,) = states
    f = sigmoid(w.affine("forget", x=x) + w["forget.recurrent"] * c)
    r = sigmoid(w.affine("reset", x=x) + w["reset.recurrent"] * c)
    c = f * c + (1 - f) * w.affine("candidate", x=x)
    past = x if x.shape == c.shape else w.affine("skip", x=x)
    return r * tanh(c) + (1 - r) * past, [c]


@paper("t_rnn")
def t_rnn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    f = sigmoid(w.affine("forget", x=x))
    h = f * h + (1 - f) * w.affine("candidate", x=x)
    return h, [h]


def positive(u: Tensor) -> Tensor:
    """Compute the function g of Feng et al. 2024."""
    return torch.where(u >= 0, u + 0.5, sigmoid(u))


@paper("mingru")
def mingru(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    z = sigmoid(w.affine("update", x=x))
    h = (1 - z) * h + z * w.affine("candidate", x=x)
    return h, [h]


@paper("mingru", positive=True)
def mingru_positive(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    z = sigmoid(w.affine("update", x=x))
    h = (1 - z) * h + z * positive(w.affine("candidate", x=x))
    return h, [h]


@paper("minlstm")
def minlstm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    f, i = sigmoid(w.affine("forget", x=x)), sigmoid(w.affine("input", x=x))
    f, i = f / (f + i), i / (f + i)
    h = f * h + i * w.affine("candidate", x=x)
    return h, [h]


@paper("minlstm", positive=True)
def minlstm_positive(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # In log space, as in the paper's parallel form.
    (h,) = states
    difference = softplus(-w.affine("forget", x=x)) - softplus(-w.affine("input", x=x))
    f, i = torch.exp(-softplus(difference)), torch.exp(-softplus(-difference))
    h = f * h + i * positive(w.affine("candidate", x=x))
    return h, [h]


@paper("rg_lru", input_size=4)
@paper("rg_lru")
def rg_lru(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # De et al. 2024, with a = sigmoid(-decay), so that log a = -softplus(decay).
    (h,) = states
    e = x if x.shape == h.shape else w.affine("embedding", x=x)
    r, i = sigmoid(w.affine("recurrence", x=x)), sigmoid(w.affine("input", x=x))
    a = sigmoid(-w["decay"]) ** (8 * r)
    h = a * h + torch.sqrt(1 - a**2) * (i * e)
    return h, [h]


# Differential equations.


@paper("cornn", dt=0.1, gamma=1.5, epsilon=0.7)
def cornn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Rusch & Mishra 2020, with the old velocity in the damping.
    y, z = states
    z = z + 0.1 * (tanh(w.affine("force", x=x, y=y, z=z)) - 1.5 * y - 0.7 * z)
    y = y + 0.1 * z
    return y, [y, z]


@paper("unicornn", dt=0.2, alpha=3.0)
def unicornn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    y, z = states
    scale = 0.2 * sigmoid(w["control"])
    z = z - scale * (tanh(w["recurrent"] * y + w.affine("force", x=x)) + 3.0 * y)
    y = y + scale * z
    return y, [y, z]


@paper("lem", dt=0.6)
def lem(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    y, z = states
    dz = 0.6 * sigmoid(w.affine("memory.scale", x=x, y=y))
    dy = 0.6 * sigmoid(w.affine("hidden.scale", x=x, y=y))
    z = (1 - dz) * z + dz * tanh(w.affine("memory.candidate", x=x, y=y))
    y = (1 - dy) * y + dy * tanh(w.affine("hidden.candidate", x=x, hidden_candidate=z))
    return y, [y, z]


@paper("cfc", backbone=5)
def cfc(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    (h,) = states
    u = 1.7159 * tanh(0.666 * w.affine("backbone", x=x, h=h))
    t = sigmoid(w.affine("time", first=u))
    h = tanh(w.affine("first", first=u)) * (1 - t) + tanh(w.affine("second", first=u)) * t
    return h, [h]


# Depth within a step, and a cell found by architecture search.


@paper("rhn", depth=2)
def rhn(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Zilly et al. 2016, c = 1 - t.
    (s,) = states
    h, t = tanh(w.affine("candidate0", x=x, h=s)), sigmoid(w.affine("transform0", x=x, h=s))
    s = h * t + s * (1 - t)
    h, t = (w.affine(f"{gate}1", candidate1=s) for gate in ("candidate", "transform"))
    s = tanh(h) * sigmoid(t) + s * (1 - sigmoid(t))
    return s, [s]


@paper("grid_lstm", input_size=8)
@paper("grid_lstm")
def grid_lstm(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    # Kalchbrenner et al. 2015, equations 1 to 3, where the output gate is inside the tanh.
    h_time, m_time = states
    width = h_time.shape[-1]
    if x.shape[-1] == 2 * width:
        h_depth, m_depth = x[..., :width], x[..., width:]
    else:
        h_depth, m_depth = (x @ w.of("weight_x", gate).T for gate in ("embedding", "embedding.memory"))
    new = []
    for dimension, memory in (("time", m_time), ("depth", m_depth)):
        u, f, o, c = (
            w.affine(f"{dimension}.{gate}", time_input=h_depth, h=h_time)
            for gate in ("input", "forget", "output", "candidate")
        )
        memory = sigmoid(f) * memory + sigmoid(u) * tanh(c)
        new.append((tanh(sigmoid(o) * memory), memory))
    (h_time, m_time), depth = new
    return torch.cat(depth, -1), [h_time, m_time]


@paper("nas")
def nas(w: Weights, x: Tensor, states: list[Tensor]) -> States:
    h, c = states
    a = [w.affine(f"branch{k}", x=x, h=h) if k != 3 else None for k in range(8)]
    product = w.affine("branch3", x=x) * w.affine("branch3.recurrent", h=h)
    first, second = tanh(sigmoid(a[0]) * relu(a[1])), tanh(sigmoid(a[2]) + relu(product))
    third, fourth = tanh(tanh(a[4]) * sigmoid(a[5])), sigmoid(tanh(a[6]) + sigmoid(a[7]))
    c = tanh(first + c) * second
    h = tanh(c * tanh(third + fourth))
    return h, [h, c]
