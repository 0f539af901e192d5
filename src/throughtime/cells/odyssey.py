"""The LSTM with peepholes, and its variants from "LSTM: A Search Space Odyssey", each of which changes one feature."""

from throughtime.language import activate, affine, cell, named, parameter, sigmoid, state, tanh


@cell
def lstm_peephole(
    x, h, c, *, input_gate=True, forget_gate=True, coupled=False, output_gate=True,
    input_activation="tanh", output_activation="tanh", peephole=True,
):  # fmt: skip
    """LSTM with peepholes, through which its gates see the cell state (Gers, Schraudolph & Schmidhuber 2002).

    Each gate multiplies the cell state by a vector of weights: the input and forget gates the old cell state, the
    output gate the new one. An omitted gate is 1.
    """

    def gate(name, c):
        a = affine(name, x, h)
        return sigmoid(a + parameter(f"peephole.{name}") * c if peephole else a)

    i = gate("input", c) if input_gate else 1
    f = named("forget", 1 - i) if coupled else gate("forget", c) if forget_gate else 1
    g = activate(input_activation, affine("candidate", x, h))
    c = f * c + i * g
    o = gate("output", c) if output_gate else 1
    h = o * activate(output_activation, c)
    return h, c


lstm_coupled = lstm_peephole.variant(
    "lstm_coupled",
    "CIFG, coupled input and forget gates (Greff et al. 2015, arXiv:1503.04069).",
    coupled=True,
)
lstm_nig = lstm_peephole.variant(
    "lstm_nig", "NIG, no input gate (Greff et al. 2015, arXiv:1503.04069).", input_gate=False
)
lstm_nfg = lstm_peephole.variant(
    "lstm_nfg", "NFG, no forget gate (Greff et al. 2015, arXiv:1503.04069).", forget_gate=False
)
lstm_nog = lstm_peephole.variant(
    "lstm_nog", "NOG, no output gate (Greff et al. 2015, arXiv:1503.04069).", output_gate=False
)
lstm_niaf = lstm_peephole.variant(
    "lstm_niaf", "NIAF, no input activation function (Greff et al. 2015, arXiv:1503.04069).",
    input_activation="identity",
)  # fmt: skip
lstm_noaf = lstm_peephole.variant(
    "lstm_noaf", "NOAF, no output activation function (Greff et al. 2015, arXiv:1503.04069).",
    output_activation="identity",
)  # fmt: skip


@cell
def lstm_fgr(x, h, c, i=state("input"), f=state("forget"), o=state("output")):
    """FGR, full gate recurrence: each gate sees all gates of the previous step (Greff et al. 2015, arXiv:1503.04069).

    It has peepholes, as do the paper's other variants.
    """
    sources = (x, h, i, f, o)

    def gate(name, c):
        return sigmoid(affine(name, *sources) + parameter(f"peephole.{name}") * c)

    i = gate("input", c)
    f = gate("forget", c)
    g = tanh(affine("candidate", x, h))
    c = f * c + i * g
    o = gate("output", c)
    h = o * tanh(c)
    return h, c, i, f, o
