"""Online learning: gradients are exact where documented, and streams learn from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from online_helpers import HIDDEN, INPUT, STEPS, Summing, inputs_of, layer, network, targets_of

import throughtime
from throughtime import Stream, cells
from throughtime.nn.recurrent import Recurrent
from throughtime.outputs import Bernoulli, Categorical, Normal, Point, Quantiles


def both(recurrent, learn, rows=2):
    """Compute gradients over a sequence by a stream, and by backpropagation through time."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(STEPS, rows, INPUT, generator=generator, dtype=torch.float64)
    weights = torch.randn(STEPS, rows, recurrent.output_size, generator=generator, dtype=torch.float64)
    beside = {
        i.name: torch.rand(STEPS, rows, i.width, generator=generator, dtype=torch.float64)
        for i in recurrent.programs[0].inputs[1:]
    }
    recurrent.engine = "reference"
    y, _ = recurrent(x, **beside)
    (y * weights).sum().backward()
    stream = Stream(recurrent, rows, learn=learn, optimizer=Summing(), clip=0)
    for t, (now, of_now) in enumerate(zip(x.numpy(), weights.numpy(), strict=True)):
        stream.step(now, **{name: value[t].numpy() for name, value in beside.items()})
        stream.learn(gradient=of_now)
    found = stream._learner.optimizer.total
    wanted = {
        f"layer{depth}.{p.name}": recurrent.get_parameter(name).grad.numpy()
        for depth, program in enumerate(recurrent.programs)
        for p in program.parameters
        for name in [p.name.replace(".", "_") + f"_l{depth}"]
    }
    return stream, found, wanted


def error(found, wanted):
    scale = max(np.abs(w).max() for w in wanted.values())
    return max(np.abs(found[name] - w).max() for name, w in wanted.items()) / scale


@pytest.mark.parametrize("cell", cells.names())
def test_rtrl_matches_backpropagation_through_time(cell):
    # For one layer of each named cell: the same sums in float64, in a different order.
    stream, found, wanted = both(layer(cell), "rtrl")
    assert stream.methods[0].name == "rtrl"
    assert error(found, wanted) < 1e-10


def test_every_layer_takes_the_step_inputs():
    _, found, wanted = both(layer("cfc", inputs=["dt"]), "rtrl")
    assert error(found, wanted) < 1e-10
    _, found, wanted = both(layer("cfc", layers=2, inputs=["dt"]), "rtrl")
    assert error(found, {name: w for name, w in wanted.items() if name.startswith("layer1")}) < 1e-10


LOCAL = ["indrnn", "mingru", "minlstm", "sru", "rg_lru", "brc", "t_rnn", "unicornn"]


@pytest.mark.parametrize("cell", LOCAL)
def test_cells_with_independent_units_are_exact_at_the_cost_of_their_parameters(cell):
    stream, found, wanted = both(layer(cell), True, rows=1)
    (method,) = stream.methods
    parameters = sum(w.size for w in wanted.values())
    states = len(cells.get(cell).program(INPUT, HIDDEN).states)
    assert method.name == "rtrl"
    assert method.bytes <= 8 * states * parameters
    assert error(found, wanted) < 1e-10
    assert Stream(layer(cell), learn="snap1").methods == (method,)  # both methods are equal


@pytest.mark.parametrize("cell", ["rnn", "gru", "janet", "cfn"])
def test_snap1_keeps_the_diagonal_of_recurrent_matrices(cell):
    # SnAp-1 is exact if the recurrent matrices of the only state are diagonal.
    recurrent = layer(cell)
    with torch.no_grad():
        for weight in [p for name, p in recurrent.named_parameters() if "weight_h" in name]:
            weight *= torch.eye(HIDDEN, dtype=torch.float64).repeat(weight.shape[0] // HIDDEN, 1)
    stream, found, wanted = both(recurrent, "snap1")
    assert stream.methods[0].name == "snap1"
    assert stream.methods[0].bytes == 2 * 8 * sum(w.size for w in wanted.values())  # two rows
    assert error(found, wanted) < 1e-10
    _, by_snap1, by_time = both(layer(cell), "snap1")
    assert 1e-4 < error(by_snap1, by_time) < 1  # otherwise an approximation


@pytest.mark.parametrize("cell", cells.names())
def test_snap1_supports_every_cell_with_little_memory(cell):
    recurrent = layer(cell)
    stream, found, wanted = both(recurrent, "snap1", rows=1)
    states = len(recurrent.programs[0].states)
    parameters = sum(w.size if len(w) > 1 else HIDDEN for w in wanted.values())  # a scalar reaches all units
    assert stream.methods[0].bytes <= 8 * states * parameters
    assert all(np.isfinite(g).all() for g in found.values())


def test_gradients_of_the_top_layer_are_exact():
    for skip in (None, "residual", "dense"):
        _, found, wanted = both(layer("lstm", layers=2, skip=skip), "rtrl")
        top = {name: w for name, w in wanted.items() if name.startswith("layer1")}
        assert error(found, top) < 1e-10


def test_gradients_of_lower_layers_are_exact_below_a_memoryless_layer():
    @throughtime.cell
    def memoryless(x, h):
        """A cell that writes its state but never reads it."""
        return throughtime.language.tanh(throughtime.language.affine("hidden", x) + 0 * h)

    recurrent = Recurrent.from_programs(
        [cells.gru.program(INPUT, HIDDEN), memoryless.program(HIDDEN, HIDDEN)], HIDDEN, dtype=torch.float64
    )
    _, found, wanted = both(recurrent, "rtrl")
    assert error(found, wanted) < 1e-10


# Whole networks.


@pytest.mark.parametrize(
    "output",
    [Categorical(4), Bernoulli(3), Point(2, "mse"), Point(1, "mae"), Quantiles(1, (0.1, 0.9)), Normal(2)],
    ids=str,
)
@pytest.mark.parametrize("embed", [None, 4])
def test_a_network_with_one_layer_has_exact_gradients(output, embed):
    model = network(output, embed=embed)
    x, targets = inputs_of(model), targets_of(output)
    loss, _ = model.loss(x, targets)
    (loss / 2).backward()  # the mean over two rows
    stream = Stream(model, 2, learn="rtrl", optimizer=Summing(), clip=0)
    losses = []
    for now, target in zip(x.numpy(), targets.numpy(), strict=True):
        stream.step(now)
        losses.append(stream.learn(target))
    assert np.isclose(sum(losses), loss.item() / 2, rtol=1e-12)
    found = stream._learner.optimizer.total
    wanted = {
        f"layer0.{p.name}": model.recurrent.get_parameter(f"{p.name}_l0").grad.numpy()
        for p in model.recurrent.programs[0].parameters
    }
    wanted |= {"head.weight": model.head.weight.grad.numpy(), "head.bias": model.head.bias.grad.numpy()}
    if embed:
        wanted |= {f"layer0.embedding.{name}": p.grad.numpy() for name, p in model.encoder.named_parameters()}
    assert error(found, wanted) < 1e-10


@pytest.mark.parametrize("tie", [False, True])
def test_embeddings_learn_from_the_step_that_reads_them(tie):
    # After one step from the initial state, all gradients are exact, including the embedding's.
    model = network(Categorical(7), vocabulary_size=7, tie=tie)
    x, targets = inputs_of(model, 1), targets_of(Categorical(7), 1)
    loss, _ = model.loss(x, targets)
    (loss / 2).backward()
    stream = Stream(model, 2, learn=True, optimizer=Summing(), clip=0)
    stream.step(x[0].numpy())
    stream.learn(targets[0].numpy())
    found = stream._learner.optimizer.total
    assert np.allclose(found["embedding"], model.encoder.weight.grad.numpy(), rtol=0, atol=1e-13)
    assert ("head.weight" in found) is not tie


def test_learning_reduces_the_loss():
    # The target is the sign of the input two steps ago, which only the state can provide.
    model = network(Point(1, "mse"), "lstm", dtype=torch.float32)
    stream, frozen = Stream(model, learn=True, lr=0.01), Stream(model)
    generator = np.random.default_rng(0)
    x = np.sign(generator.standard_normal((1500, INPUT))).astype(np.float32)
    losses, before = [], []
    for t in range(2, len(x)):
        target = x[t - 2, :1]
        before.append(float(((frozen.step(x[t]) - target) ** 2)[0]))
        stream.step(x[t])
        losses.append(stream.learn(target))
    assert np.mean(losses[-100:]) < 0.05
    assert np.mean(before) > 0.8


def test_a_learning_stream_matches_a_fixed_one_before_it_learns():
    for model in (network(Categorical(4), layers=2), layer("lstm", layers=2)):
        x = torch.randn(STEPS, 2, INPUT, dtype=torch.float64).numpy()
        one, other = Stream(model, 2), Stream(model, 2, learn=True)
        for now in x:
            assert np.allclose(one.step(now), other.step(now), rtol=0, atol=1e-14)  # the head sums in a different order
        assert all(np.array_equal(one.state[name], other.state[name]) for name in one.state)
        one.reset([1])
        other.reset([1])
        assert all(np.array_equal(one.state[name], other.state[name]) for name in one.state)


def test_a_block_matches_its_steps():
    model = network(Point(1, "mse"))
    x = inputs_of(model, rows=1).numpy()[:, 0]
    one, other = Stream(model, learn=True), Stream(model, learn=True)
    assert np.array_equal(one.process(x), np.stack([other.step(now) for now in x]))


def test_a_reset_stream_forgets_its_past():
    model = network(Point(1, "mse"))
    x, target = inputs_of(model).numpy(), np.ones((2, 1))
    found = []
    for steps in (x, x[-1:]):
        stream = Stream(model, 2, learn=True, optimizer=Summing())
        for now in steps[:-1]:
            stream.step(now)
        stream.reset()
        stream.step(steps[-1])
        stream.learn(target)
        found.append(stream._learner.optimizer.total)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
