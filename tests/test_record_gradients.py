"""Recorded gradients of the values at every step, compared with autograd and the equations."""

import pytest
import torch
from helpers import Arguments, assert_close, run_on
from sight_helpers import recurrent, total
from torch.nn.utils.rnn import pack_sequence

import throughtime
from throughtime import cells
from throughtime.engines.reference import ReferenceEngine
from throughtime.language import affine, cell, named, parameter, tanh
from throughtime.program.core import Input
from throughtime.program.rewriting import Rewriting


class Perturbed(Rewriting):
    """A program that adds a perturbation to one value; its gradient is that of the value."""

    def __init__(self, program, name):
        self.name = name
        super().__init__(program)

    def adds(self):
        return [Input("added", self.program.body[self.program.values[self.name]].width)]

    def value(self, id, given):
        return given + self.added[0] if id == self.program.values[self.name] else given


@pytest.mark.parametrize("name", cells.names())
def test_gradients_of_every_value_match_autograd(name):
    """Compare with autograd on the reference engine, for zeros added to the value at each step."""
    torch.manual_seed(0)
    model = recurrent(name, dtype=torch.float64)
    x = torch.randn(4, 3, 4, dtype=torch.float64)
    with throughtime.record(model, "*", gradients=True) as tape:
        total(*model(x, lengths=[4, 2, 3])).backward()
    ((program, parameters),) = model.layers()[0]
    order = [0, 2, 1]  # longest first
    for value in program.values:
        perturbed = Perturbed(program, value).result()
        zeros = torch.zeros(4, 3, perturbed.inputs[-1].width, dtype=torch.float64, requires_grad=True)
        arguments = Arguments(
            [x[:, order], zeros], [x.new_full((3, s.width), s.initial) for s in program.states], list(parameters)
        )
        result = run_on(ReferenceEngine(), perturbed, 4, *arguments, [3, 3, 2, 1])
        loss = total(result.outputs[0], tuple(result.states))
        (wanted,) = torch.autograd.grad(loss, zeros, allow_unused=True, materialize_grads=True)
        # The same sums in two orders, in float64.
        assert_close([tape.gradient(f"layer0.{value}")], [wanted[:, order]], 1e-10)


def lstm_by_hand(layer, x):
    """Loop over `torch.nn.LSTM`'s equations and keep every value of every step."""
    kept = {}
    h = c = x.new_zeros(x.shape[1], layer.hidden_size)
    outputs = []
    for step in x:
        values = {"hidden.previous": h, "cell.previous": c}
        sums = step @ layer.weight_ih_l0.T + layer.bias_ih_l0 + h @ layer.weight_hh_l0.T + layer.bias_hh_l0
        pieces = dict(zip(("input", "forget", "candidate", "output"), sums.chunk(4, -1), strict=True))
        values |= {f"{name}.pre": piece.clone() for name, piece in pieces.items()}
        for name in pieces:
            values[name] = (torch.tanh if name == "candidate" else torch.sigmoid)(values[f"{name}.pre"])
        c = values["cell"] = values["forget"] * c + values["input"] * values["candidate"]
        h = values["hidden"] = values["output"] * torch.tanh(c)
        for name, value in values.items():
            kept.setdefault(name, []).append(value)
        outputs.append(h)
    return torch.stack(outputs), kept


def test_values_and_gradients_of_an_lstm_match_a_loop_over_its_equations():
    torch.manual_seed(0)
    layer = throughtime.LSTM(4, 5, dtype=torch.float64)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    with throughtime.record(layer, "*", gradients=True) as tape:
        output, _ = layer(x)
    output.square().sum().backward()  # outside the block: the tape still receives the gradients
    by_hand, kept = lstm_by_hand(layer, x)
    values = [v for name in kept for v in kept[name] if not name.endswith(".previous")]
    found = iter(torch.autograd.grad(by_hand.square().sum(), values))
    for name, of_steps in kept.items():
        assert_close([tape[f"layer0.{name}"]], [torch.stack(of_steps)], 1e-13)
        if not name.endswith(".previous"):
            assert_close([tape.gradient(f"layer0.{name}")], [torch.stack([next(found) for _ in of_steps])], 1e-13)


def test_gradients_accumulate_over_backward_calls():
    layer = throughtime.GRU(4, 5, dtype=torch.float64)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    with throughtime.record(layer, "*.update", gradients=True) as tape:
        output, _ = layer(x)
        output.sum().backward(retain_graph=True)
        once = tape.gradient("layer0.update")
        output.sum().backward()
    assert_close([tape.gradient("layer0.update")], [2 * once], 1e-15)


def test_gradient_is_zero_if_the_loss_does_not_depend_on_the_value():
    layer = throughtime.LSTM(4, 5)
    with throughtime.record(layer, "*", gradients=True) as tape:
        output, _ = layer(torch.randn(6, 3, 4))
    output[:3].sum().backward()
    assert not tape.gradient("layer0.forget")[3:].any()
    assert tape.gradient("layer0.forget")[1:3].any()


def test_gradients_are_recorded_with_frozen_weights():
    """Only the input or only the initial state needs a gradient."""
    layer = throughtime.LSTM(4, 5).requires_grad_(False)
    x, h, c = torch.randn(6, 3, 4), torch.zeros(1, 3, 5), torch.zeros(1, 3, 5, requires_grad=True)
    found = []
    for leaf in (x, c):
        leaf.requires_grad_()
        with throughtime.record(layer, "*", gradients=True) as tape:
            layer(x, (h, c))[0].sum().backward()
        found.append({name: tape.gradient(name) for name in tape.names})
        x.requires_grad_(False)
    for name in tape.names:
        # The two gradient programs compute their products in different places.
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-4, atol=1e-5)


def test_gradients_of_a_parameter_vector_are_recorded_at_each_step():
    """The parameter's own gradient is the sum over steps and sequences, whether or not it is required."""

    @cell
    def scaled(x, h):
        return tanh(affine("candidate", x, h)) * named("scale", parameter("gain", initial=1.0))

    layer = throughtime.Recurrent(scaled, 4, 5, dtype=torch.float64)
    x = torch.randn(6, 3, 4, dtype=torch.float64)
    for needed in (True, False):
        layer.gain_l0.requires_grad_(needed)
        with throughtime.record(layer, "*", gradients=True) as tape:
            layer(x)[0].square().sum().backward()
        assert_close([tape.gradient("layer0.scale").sum((0, 1))], [layer.gain_l0.grad], 1e-14)
    assert torch.equal(tape["layer0.scale"], torch.ones(6, 3, 5, dtype=torch.float64))


def test_gradients_are_recorded_for_packed_input_and_second_derivatives():
    layer = throughtime.LSTM(4, 5, dtype=torch.float64)
    rows = [torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (3, 5, 1)]
    with throughtime.record(layer, "*.cell", gradients=True) as tape:
        output, _ = layer(pack_sequence(rows, enforce_sorted=False))
        (first,) = torch.autograd.grad(output.data.square().sum(), rows[1], create_graph=True)
        kept = tape.gradient("layer0.cell")
        first.square().sum().backward()
    assert not tape["layer0.cell"][3:, 0].any()
    assert tape["layer0.cell"][:3, 0].any(-1).all()
    assert not kept[1:, 2].any()
    for k, row in enumerate(rows):
        with throughtime.record(layer, "*.cell") as alone, torch.no_grad():
            layer(row)
        assert_close([tape["layer0.cell"][: len(row), k]], [alone["layer0.cell"][:, 0]], 1e-13)
