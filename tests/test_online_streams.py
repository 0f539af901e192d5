"""Learning streams: copies, files, methods, optimizers and errors."""

from __future__ import annotations

import copy
import logging
import os
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

from online_helpers import HIDDEN, INPUT, Summing, inputs_of, layer, network

import throughtime
from throughtime import Stream, cells
from throughtime.errors import UserError
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Categorical, Point, Signal
from throughtime.streaming import SGD, Adam
from throughtime.streaming.structure import Structure

# Copies, files, methods.


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_learn_independently(copied):
    model = network(Point(1, "mse"))
    x = inputs_of(model, rows=1).numpy()[:, 0]
    stream = Stream(model, learn=True)
    for now in x:
        stream.step(now)
        stream.learn(1.0)
    other = copied(stream)
    kept = copied(stream)
    outputs = []
    for one in (stream, other):
        for now in x:
            one.step(now)
            one.learn(2.0)
        outputs.append(one.step(x[0]))
    assert np.array_equal(*outputs)
    assert not np.array_equal(kept.step(x[0]), outputs[0])


def test_two_streams_with_one_optimizer_do_not_share_it():
    model, optimizer = network(Point(1, "mse")), Adam(lr=0.01)
    x = inputs_of(model, rows=1).numpy()[0, 0]
    results = []
    for _ in range(2):
        stream = Stream(model, learn=True, optimizer=optimizer)
        stream.step(x)
        stream.learn(1.0)
        results.append(stream.step(x))
    assert np.array_equal(*results)


@pytest.mark.parametrize(
    "module",
    [
        layer("gru", layers=2, learn_initial=True),
        network(Categorical(7), vocabulary_size=7, tie=True),
        network(Point(1, "mse")),
        network(Point(1, "mse"), embed=4),
        throughtime.LSTM(INPUT, HIDDEN, num_layers=2, proj_size=4),
        throughtime.GRU(INPUT, HIDDEN, bias=False),
        throughtime.RNN(INPUT, HIDDEN),
    ],
    ids=lambda m: f"{type(m).__name__}({m.extra_repr()})",
)
@pytest.mark.parametrize("from_file", [False, True])
def test_a_stream_that_has_learned_can_be_saved(module, from_file, tmp_path):
    source = module
    if from_file:
        throughtime.save(module, tmp_path / "before.safetensors")
        source = tmp_path / "before.safetensors"
    tokens = isinstance(module, SequenceModel) and module.reads_tokens
    stream = Stream(source, learn=True, lr=0.1)
    x = 3 if tokens else np.ones(INPUT, stream.dtype)
    before = stream.step(x)
    stream.learn(gradient=np.ones_like(before))
    stream.save(tmp_path / "after.safetensors")
    stream.reset()
    after = stream.step(x)
    assert np.abs(after - before).max() > 1e-3
    assert np.allclose(Stream(tmp_path / "after.safetensors").step(x), after, rtol=0, atol=1e-6)
    loaded = throughtime.load(tmp_path / "after.safetensors")
    given = torch.tensor([[x]]) if tokens else torch.as_tensor(x)[None, None]
    with torch.no_grad():
        assert np.allclose(loaded(given)[0][0, 0].numpy(), after, rtol=0, atol=1e-6)


def test_the_method_depends_on_the_size_and_is_logged(caplog):
    with caplog.at_level(logging.INFO, "throughtime"):
        small = Stream(Recurrent("lstm", 8, 32), learn=True)
        large = Stream(Recurrent("lstm", 8, 128), learn=True)
        local = Stream(Recurrent("mingru", 8, 128), learn=True)
    # 64 state elements times 4 * 32 * (8 + 32 + 1) parameters times 4 bytes
    assert [m.bytes for m in small.methods] == [64 * 4 * 32 * 41 * 4]
    assert [s.methods[0].name for s in (small, large, local)] == ["rtrl", "snap1", "rtrl"]
    assert caplog.messages == [
        "layer 0 (lstm): exact RTRL, 1.3 MB of sensitivities",
        "layer 0 (lstm): SnAp-1, 491.0 kB of sensitivities",  # 2 elements for 3 gates, 1 for the output gate
        "layer 0 (mingru): exact RTRL, 9.2 kB of sensitivities",
    ]
    assert Stream(Recurrent("lstm", 8, 32)).methods == ()


WITHOUT_TORCH = """
import sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'lightning', 'pydantic'): raise ImportError(name + ' is barred')
sys.meta_path.insert(0, Barred())
import throughtime
stream = throughtime.Stream(sys.argv[1], learn=True)
for _ in range(20):
    stream.step([0.5, 0.5, 0.5])
    print(stream.learn(1.0))
stream.save(sys.argv[2])
"""


def test_learning_does_not_need_torch(tmp_path):
    throughtime.save(network(Point(1, "mse"), dtype=torch.float32), tmp_path / "model.safetensors")
    paths = [str(tmp_path / name) for name in ("model.safetensors", "learned.safetensors")]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *paths],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    losses = [float(line) for line in done.stdout.split()]
    assert losses[-1] < losses[0]
    assert Stream(paths[1]).step(np.full(3, 0.5, np.float32)).shape == (1,)


# Optimizers.


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (Adam(0.01), lambda p: torch.optim.Adam(p, 0.01)),
        (Adam(0.01, (0.8, 0.95)), lambda p: torch.optim.Adam(p, 0.01, (0.8, 0.95))),
    ],
    ids=["sgd", "momentum", "adam", "betas"],
)
def test_optimizers_match_torch(ours, theirs):
    generator = torch.Generator().manual_seed(0)
    parameter = torch.nn.Parameter(torch.randn(3, 4, generator=generator, dtype=torch.float64))
    weights = {"w": parameter.detach().numpy().copy()}
    optimizer = theirs([parameter])
    for _ in range(5):
        parameter.grad = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        ours.update(weights, {"w": parameter.grad.numpy().copy()})
        optimizer.step()
    assert np.allclose(weights["w"], parameter.detach().numpy(), rtol=0, atol=1e-14)


def test_the_gradient_norm_is_clipped():
    model = network(Point(1, "mse"))
    stream = Stream(model, learn=True, optimizer=Summing(), clip=0.5)
    stream.step(np.ones(INPUT))
    stream.learn(100.0)
    norm = np.sqrt(sum((g**2).sum() for g in stream._learner.optimizer.total.values()))
    assert np.isclose(norm, 0.5, rtol=1e-12)


# Errors.


def test_unsupported_models_and_calls_are_rejected():
    with pytest.raises(UserError, match="a bidirectional layer needs the whole sequence"):
        Stream(Recurrent("gru", 2, 3, bidirectional=True), learn=True)
    model = network(Point(1, "mse"))
    with pytest.raises(UserError, match=r"create it with Stream\(model, learn=True\)"):
        Stream(model).learn(1.0)
    stream = Stream(model, learn=True)
    with pytest.raises(UserError, match="call step first"):
        stream.learn(1.0)
    stream.step(np.ones(INPUT))
    for target in ("up", [1.0, 2.0], float("nan"), None):
        with pytest.raises(UserError, match="target"):
            stream.learn(target)
    stream.learn(1.0)  # after an error, the step can still be learned from
    with pytest.raises(UserError, match="call step first"):
        stream.learn(1.0)
    stream.step(np.ones(INPUT))
    stream.reset()
    with pytest.raises(UserError, match="call step first"):
        stream.learn(1.0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"learn": "bptt"}, "learn must be True, False, 'rtrl' or 'snap1', got 'bptt'"),
        ({"optimizer": "adm"}, "got 'adm' .did you mean adam"),
        ({"optimizer": Adam(), "lr": 0.1}, "has its own"),
        ({"lr": 0}, "lr must be a positive number, got 0"),
        ({"clip": -1}, "clip must be 0 or a positive number, got -1"),
    ],
)
def test_invalid_options_are_rejected(options, told):
    with pytest.raises(UserError, match=told):
        Stream(network(Point(1, "mse")), **{"learn": True, **options})


def test_invalid_inputs_are_rejected():
    stream = Stream(network(Point(1, "mse")), 2, learn=True)
    for x in (np.ones(INPUT), np.ones((2, INPUT + 1)), np.array([["a"] * INPUT] * 2)):
        with pytest.raises(UserError, match=r"x must be numbers \[2, 3\]"):
            stream.step(x)
    tokens = Stream(network(Categorical(7), vocabulary_size=7), learn=True)
    for x in (7, -1):
        with pytest.raises(UserError, match="ids must be from 0 to 6"):
            tokens.step(x)
    with pytest.raises(UserError, match="x must be ids"):
        tokens.step(1.0)


def test_networks_without_a_stepwise_loss_learn_from_a_gradient():
    for model, told in ((layer("gru"), "have no loss"), (network(Signal(1)), "many steps")):
        stream = Stream(model, learn=True)
        y = stream.step(np.ones(INPUT))
        with pytest.raises(UserError, match=told):
            stream.learn(np.ones_like(y))
        with pytest.raises(UserError, match=r"gradient must be an array of shape \[1,"):
            stream.learn(gradient=np.ones(7))
        assert np.isnan(stream.learn(gradient=np.ones_like(y)))


def test_a_gradient_that_is_not_finite_changes_nothing():
    stream = Stream(network(Point(1, "mse")), learn=True)
    y = stream.step(np.ones(INPUT))
    with pytest.raises(UserError, match="not finite"):
        stream.learn(gradient=np.full_like(y, np.inf))
    stream.reset()
    assert np.array_equal(stream.step(np.ones(INPUT)), y)


def test_sensitivities_that_are_too_large_are_rejected():
    with torch.device("meta"):
        program = cells.lstm.program(256, 512)
    recurrent = Recurrent.from_programs([program], 512)
    with pytest.raises(UserError, match="use learn='snap1', fewer rows or a smaller layer"):
        Stream(recurrent, learn="rtrl")


def test_a_transposed_matrix_is_rejected():
    from throughtime.program.builder import Builder
    from throughtime.program.core import Parameter

    builder = Builder("turned")
    x, h = builder.input("x", 4), builder.state("h", 4)
    weight = builder.parameter(Parameter("w", (4, 4)))
    new = builder.tanh(builder.linear_transposed(h, weight) + x)
    with pytest.raises(UserError, match="transposed matrix"):
        Structure.of(builder.finish([new], [("y", new)]))
