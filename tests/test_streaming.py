"""A stream's results are bit-identical to the module's over the whole sequence, without torch and on many threads."""

from __future__ import annotations

import copy
import itertools
import json
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from random_programs import programs
from tiny_training import train_tiny
from torch import nn
from torch.nn.utils import parametrizations, prune

pytest.importorskip("throughtime._native", reason="the native engine's extension module is not built")

import throughtime
from throughtime import cells
from throughtime.engines.native import NativeEngine, instruction_sets
from throughtime.errors import RunError, UserError
from throughtime.nn.encoders import Numeric
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.recurrent import Recurrent
from throughtime.nn.sequence_model import SequenceModel
from throughtime.outputs import Signal
from throughtime.program.builder import Builder
from throughtime.program.core import Parameter, Program
from throughtime.program.legality import require_legal
from throughtime.program.symbols import Symbol
from throughtime.runs import Run
from throughtime.streaming import Stream

STEPS = 7


def steps_of(stream: Stream, x: torch.Tensor) -> torch.Tensor:
    """Return a stream's outputs over the steps of `x`, `[T, rows, features]`."""
    return torch.from_numpy(np.stack([stream.step(now.numpy()) for now in x]))


def modules() -> Iterator[nn.Module]:
    for name in cells.names():
        yield Recurrent(name, 9, 20, num_layers=2, engine="native")
    yield Recurrent("lstm", 5, 33, projection=8, engine="native", dtype=torch.float64)
    yield throughtime.RNN(3, 16, nonlinearity="relu", engine="native")
    yield throughtime.LSTM(9, 70, num_layers=2, batch_first=True, engine="native")
    yield throughtime.GRU(9, 17, bias=False, engine="native")


@pytest.mark.parametrize("rows", [1, 5, 40])
@pytest.mark.parametrize("module", list(modules()), ids=lambda m: f"{type(m).__name__}({m.extra_repr()})")
def test_results_are_bit_identical_to_the_module(module: nn.Module, rows: int) -> None:
    dtype = next(module.parameters()).dtype
    x = torch.randn(STEPS, rows, module.input_size, dtype=dtype)
    with torch.no_grad():
        wanted, final = module(x.transpose(0, 1) if module.batch_first else x)
    stream = Stream(module, rows)
    assert torch.equal(steps_of(stream, x), wanted.transpose(0, 1) if module.batch_first else wanted)
    states = [final] if isinstance(final, torch.Tensor) else list(final)
    found = list(stream.state.values())  # ordered by layer, then by state
    for depth in range(module.num_layers):
        for k, state in enumerate(states):
            assert np.array_equal(found[depth * len(states) + k], state[depth].numpy())


@pytest.mark.parametrize("isa", instruction_sets())
def test_results_are_bit_identical_with_each_instruction_set(isa: str) -> None:
    module = Recurrent("lstm", 6, 21)
    program, parameters = module.programs[0], [p.detach() for p in module.parameters()]
    x, zeros = torch.randn(STEPS, 3, 6), [torch.zeros(3, 21)] * 2
    wanted = run_on(NativeEngine(1, isa), program, STEPS, [x], zeros, parameters).outputs[0]
    assert torch.equal(steps_of(Stream(module, 3, instruction_set=isa), x), wanted)


@settings(max_examples=40)
@given(program=programs(reductions=False), rows=st.integers(1, 4))
def test_results_are_bit_identical_for_random_programs(program: Program, rows: int) -> None:
    if len(program.inputs) != 1 or not program.outputs or not program.parameters or program.reverse:
        return
    module = Recurrent.from_programs([program], 4, dtype=torch.float64, engine="native")
    x = torch.randn(STEPS, rows, program.inputs[0].width, dtype=torch.float64)
    with torch.no_grad():
        wanted = module(x)[0]
    # A program can compute NaN, which is not equal to itself.
    assert np.array_equal(steps_of(Stream(module, rows), x).numpy(), wanted.numpy(), equal_nan=True)


WIDE = 200  # more columns than a step multiplies at once
MEETING = {
    "three products in one sum": lambda of, w, x, s: [of.tanh(w(x) + w(s) + w(s * s))],
    "a product of a product": lambda of, w, x, s: [of.tanh(w(w(s)) + w(x))],
    "two products added to the same value": lambda of, w, x, s: [
        of.tanh(p + w(s)) * of.tanh(p + w(s * s)) for p in [w(x)]
    ],
    "one product added to the first part of another": lambda of, w, x, s: [
        of.tanh(of.concat(p[: WIDE // 2] + w(s, WIDE // 2), x[WIDE // 2 :]) + p) for p in [w(x)]
    ],
    "one product added to its own input": lambda of, w, x, s: [of.tanh(p + w(p) + s) for p in [w(x)]],
    "one product added to an equal one": lambda of, w, x, s: [of.tanh(w(w(s) + w(x)) + w(x))],
}


@pytest.mark.parametrize("case", MEETING)
def test_products_that_are_summed_run_in_a_valid_order(case: str) -> None:
    builder = Builder("meeting")
    numbers = itertools.count()

    def product(of: Symbol, rows: int = WIDE) -> Symbol:
        return builder.linear(of, builder.parameter(Parameter(f"w{next(numbers)}", (rows, WIDE))))

    given, old = builder.input("x", WIDE), builder.state("s", WIDE, 0.0)
    (new,) = MEETING[case](builder, product, given, old)
    program = require_legal(builder.finish([new], [("y", new)], []))
    module = Recurrent.from_programs([program], WIDE, engine="native")
    x = torch.randn(STEPS, 1, WIDE)
    with torch.no_grad():
        wanted = module(x)[0]
    assert torch.equal(steps_of(Stream(module), x), wanted)


def test_results_match_torchs_own_layers() -> None:
    for kind in (nn.RNN, nn.LSTM, nn.GRU):
        layer = kind(8, 24, num_layers=2)
        x = torch.randn(STEPS, 2, 8)
        with torch.no_grad():
            wanted = layer(x)[0]
        # A few float32 rounding errors per step.
        assert torch.allclose(steps_of(Stream(layer, 2), x), wanted, rtol=0, atol=2e-6)


# The state.


def test_the_state_can_be_read_and_set() -> None:
    module = Recurrent("lstm", 4, 8, num_layers=2)
    stream, x = Stream(module, 3), torch.randn(STEPS, 3, 4)
    steps_of(stream, x)
    state = stream.state
    assert {name: value.shape for name, value in state.items()} == {
        f"layer{k}.{name}": (3, 8) for k in (0, 1) for name in ("hidden", "cell")
    }
    wanted = steps_of(stream, x)
    other = Stream(module, 3)
    other.state = state
    assert torch.equal(steps_of(other, x), wanted)


def test_reading_the_state_returns_a_copy() -> None:
    stream = Stream(Recurrent("gru", 4, 8))
    (state,) = stream.state.values()
    stream.step(np.ones(4, np.float32))
    assert not state.any()


@pytest.mark.parametrize("rows", [1, [0, 2], np.array([False, True, True]), slice(1, 3)], ids=str)
def test_some_rows_can_be_reset(rows: Any) -> None:
    module = Recurrent("lstm", 4, 8)
    stream, x = Stream(module, 3), torch.randn(STEPS, 3, 4)
    fresh = steps_of(stream, x)
    carried = steps_of(stream, x)
    stream.reset()
    steps_of(stream, x)
    stream.reset(rows)
    found = steps_of(stream, x)
    begun = np.zeros(3, bool)
    begun[rows] = True
    assert torch.equal(found[:, begun], fresh[:, begun])
    assert torch.equal(found[:, ~begun], carried[:, ~begun])


def test_initial_states_are_those_that_the_cell_declares() -> None:
    @throughtime.cell
    def leaning(x, h=throughtime.language.state("hidden", initial=0.25)):  # type: ignore[no-untyped-def]
        h = throughtime.language.tanh(throughtime.language.affine("hidden", x, h))
        return h

    stream = Stream(Recurrent(leaning, 2, 3), 2)
    stream.step(np.ones((2, 2), np.float32))
    stream.reset()
    assert np.array_equal(stream.state["layer0.hidden"], np.full((2, 3), 0.25, np.float32))


# Inputs and outputs of a step.


def test_the_result_has_the_form_of_the_input() -> None:
    stream = Stream(Recurrent("gru", 4, 8))
    x = np.ones((1, 4), np.float32)
    first = stream.step(x)
    stream.reset()
    assert first.shape == (1, 8)
    assert stream.step(x[0]).shape == (8,)
    stream.reset()
    out = np.full((1, 8), np.nan, np.float32)
    assert stream.step(x, out) is out
    assert np.array_equal(out, first)
    stream.reset()
    flat = np.empty(8, np.float32)
    stream.step(x, out=flat)
    assert np.array_equal(flat, first[0])


def test_later_steps_do_not_change_a_result() -> None:
    stream = Stream(Recurrent("gru", 4, 8))
    first = stream.step(np.ones((1, 4), np.float32))
    copy = first.copy()
    stream.step(np.zeros((1, 4), np.float32))
    assert np.array_equal(first, copy)


def test_kept_results_stay_valid() -> None:
    stream, x = Stream(Recurrent("gru", 4, 8)), np.ones((1, 4), np.float32)
    results = [stream.step(x) for _ in range(5)]
    copies = [result.copy() for result in results]
    view = stream.step(x)[0, 2:]  # a view of an array without other references
    kept = view.copy()
    spoilt = stream.step(x)
    spoilt.shape = (2, 4)
    del spoilt
    locked = stream.step(x)
    locked.flags.writeable = False
    del locked
    assert all(stream.step(x).shape == (1, 8) for _ in range(5))
    assert all(np.array_equal(result, copy) for result, copy in zip(results, copies, strict=True))
    assert np.array_equal(view, kept)


def test_arrays_can_have_any_strides() -> None:
    module = Recurrent("gru", 4, 8)
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    wanted = Stream(module, 3).step(x)
    misaligned = np.zeros(3 * 4 * 4 + 1, np.uint8)[1:].view(np.float32).reshape(3, 4)
    misaligned[...] = x
    for given_x in (np.asfortranarray(x), np.repeat(x, 2, 1)[:, ::2], x[::-1][::-1], misaligned):
        out = np.zeros((3, 16), np.float32)[:, ::-2]
        assert np.array_equal(Stream(module, 3).step(given_x, out), wanted)
        assert np.array_equal(out, wanted)


def test_x_and_out_can_be_the_same_array() -> None:
    module = Recurrent("gru", 8, 8)
    x = np.random.default_rng(0).normal(size=(3, 8)).astype(np.float32)
    wanted = Stream(module, 3).step(x)
    assert np.array_equal(Stream(module, 3).step(x, x), wanted)


def test_weights_are_copied_when_the_stream_is_created() -> None:
    module = Recurrent("gru", 4, 8)
    stream, x = Stream(module), np.ones((1, 4), np.float32)
    wanted = stream.step(x)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(7)
    stream.reset()
    assert np.array_equal(stream.step(x), wanted)


# Language models.


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_tiny(tmp_path_factory.mktemp("streaming"))


def test_a_language_model_returns_the_logits_of_the_next_token(run: Run) -> None:
    ids = np.random.default_rng(0).integers(0, run.description.codecs.inputs.size, (STEPS, 2))
    model = run.model("native")
    with torch.no_grad():
        wanted, _ = model(torch.from_numpy(ids))
    for source in (run, run.path, str(run.path), model):
        stream = Stream(source, 2)
        for kind in (np.int64, np.uint8):
            stream.reset()
            found = np.stack([stream.step(now.astype(kind)) for now in ids])
            # The module's softmax layer uses torch's matrix product, the stream's its own.
            assert np.allclose(found, wanted.numpy(), rtol=0, atol=1e-6 * float(wanted.abs().max()) + 1e-6)


def test_a_step_takes_one_token_in_any_form(run: Run) -> None:
    stream = Stream(run)
    ids = stream.task.codecs.inputs.encode("time")
    size = run.description.codecs.inputs.size
    assert [stream.step(ids[:1]).shape, stream.step(ids[1]).shape] == [(1, size), (size,)]
    stream.reset()
    whole = [stream.step(int(id)) for id in ids]
    stream.reset()
    assert np.array_equal([stream.step(id) for id in ids], whole)


def test_a_model_with_a_tied_embedding_matches_the_module() -> None:
    model = LanguageModel(11, Recurrent("gru", 8, 8, engine="native"), tie=True).eval()
    ids = torch.arange(5)[:, None]
    with torch.no_grad():
        wanted, _ = model(ids)
    stream = Stream(model)
    found = np.stack([stream.step(now.numpy()) for now in ids])
    assert np.allclose(found, wanted.numpy(), rtol=0, atol=1e-5)


WITHOUT_TORCH = """
import json, sys
class Barred:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in ('torch', 'lightning', 'pydantic'): raise ImportError(name + ' is barred')
sys.meta_path.insert(0, Barred())
import throughtime
stream = throughtime.Stream(sys.argv[1])
text = stream.task.codecs.inputs.encode("through time")
print(json.dumps([stream.step(id).tolist() for id in text]))
"""


def test_a_run_does_not_need_torch(run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, str(run.path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    stream = Stream(run)
    wanted = [stream.step(id) for id in stream.task.codecs.inputs.encode("through time")]
    assert np.array_equal(np.array(json.loads(done.stdout), np.float32), wanted)


# Threads.


@pytest.mark.parametrize("hidden", [30, 200])  # short steps keep the GIL, long ones release it
def test_many_streams_run_in_parallel(hidden: int) -> None:
    module = Recurrent("lstm", 20, hidden, engine="native")
    x = torch.randn(200, 1, 20)
    wanted = steps_of(Stream(module), x)
    found: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(steps_of(Stream(module), x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    assert all(torch.equal(f, wanted) for f in found)


def test_two_threads_in_one_stream_are_rejected() -> None:
    stream = Stream(Recurrent("lstm", 400, 400), 16)  # steps long enough for another thread to interfere
    x = np.zeros((16, 400), np.float32)
    stop, told = threading.Event(), []

    def step() -> None:
        while not stop.is_set():
            try:
                stream.step(x)
            except UserError as error:
                told.append(str(error))
                stop.set()

    threads = [threading.Thread(target=step) for _ in range(2)]
    for thread in threads:
        thread.start()
    stop.wait(20)
    stop.set()
    for thread in threads:
        thread.join()
    assert "another thread" in told[0]


# Errors.


def test_unsupported_models_are_rejected() -> None:
    for module in (Recurrent("gru", 2, 3, bidirectional=True), throughtime.LSTM(2, 3, bidirectional=True)):
        with pytest.raises(UserError, match="a bidirectional layer needs the whole sequence"):
            Stream(module)
    with pytest.raises(UserError, match="float16"):
        Stream(throughtime.LSTM(2, 3, dtype=torch.float16))
    with pytest.raises(UserError, match="bfloat16"):
        Stream(throughtime.LSTM(2, 3, dtype=torch.bfloat16))
    with pytest.raises(UserError, match="Linear"):
        Stream(nn.Linear(2, 3))
    with pytest.raises(
        UserError, match=r"Sequential is not .*: pass one of its layers, as model\.get_submodule\('1'\)"
    ):
        Stream(nn.Sequential(nn.Linear(2, 3), throughtime.GRU(3, 4)))
    with pytest.raises(UserError, match="got int"):
        Stream(3)
    for rows in (0, -1, True, 1.0):
        with pytest.raises(UserError, match="rows"):
            Stream(Recurrent("gru", 2, 3), rows)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no instruction set named mmx"):
        Stream(Recurrent("gru", 2, 3), instruction_set="mmx")


def test_invalid_inputs_are_rejected() -> None:
    stream = Stream(Recurrent("gru", 4, 8), 2)
    before = stream.state
    for x in (
        np.zeros((2, 5), np.float32),
        np.zeros((1, 4), np.float32),
        np.zeros(4, np.float32),
        np.zeros((2, 4), np.float64),
        np.zeros((2, 4), ">f4"),
        np.zeros((2, 4), np.int32),
        np.zeros((1, 2, 4), np.float32),
        torch.zeros(2, 4),
        [[0.0] * 4] * 2,
        None,
    ):
        with pytest.raises(UserError, match=r"a step takes a float32 array \[2, 4\], got"):
            stream.step(x)
    read_only = np.zeros((2, 8), np.float32)
    read_only.flags.writeable = False
    for out in (np.zeros((2, 4), np.float32), np.zeros((2, 8)), read_only, 3):
        with pytest.raises(UserError, match="out must be"):
            stream.step(np.zeros((2, 4), np.float32), out)  # type: ignore[arg-type]
    assert all(np.array_equal(value, before[name]) for name, value in stream.state.items())


def test_invalid_token_ids_are_rejected(run: Run) -> None:
    stream, size = Stream(run), run.description.codecs.inputs.size
    for token in (size, -1, 10**30, np.array([size]), np.array([-1]), np.array([2**64 - 1], np.uint64)):
        with pytest.raises(UserError, match=f"token ids must be from 0 to {size - 1}"):
            stream.step(token)
    for token in (1.0, np.zeros(1, np.float32), np.zeros(2, int), "a", None):
        with pytest.raises(UserError, match="takes token ids"):
            stream.step(token)
    with pytest.raises(UserError, match="takes token ids"):
        Stream(run, 2).step(1)


def test_invalid_states_are_rejected() -> None:
    stream = Stream(Recurrent("lstm", 4, 8), 2)
    state = stream.state
    with pytest.raises(UserError, match=r"'layer0\.cel' .did you mean layer0\.cell"):
        stream.state = {"layer0.hidden": state["layer0.hidden"], "layer0.cel": state["layer0.cell"]}
    with pytest.raises(UserError, match="missing states"):
        stream.state = {"layer0.hidden": state["layer0.hidden"]}
    for wrong in (np.zeros((2, 9), np.float32), np.zeros((2, 8)), 0):
        with pytest.raises(UserError, match=r"layer0\.cell must be float32 \[2, 8\], got"):
            stream.state = {**state, "layer0.cell": wrong}
    for rows in (2, [0, 5], np.zeros(3, bool), "a"):
        with pytest.raises(UserError, match="rows must be indices from 0 to 1"):
            stream.reset(rows)  # type: ignore[arg-type]


def test_unreadable_runs_are_rejected(run: Run, tmp_path: Path) -> None:
    def copy(**changed: bytes | None) -> Path:
        path = tmp_path / str(len(list(tmp_path.iterdir())))
        path.mkdir()
        for file in run.path.iterdir():
            if file.is_file():
                content = changed.get(file.stem, file.read_bytes())
                if content is not None:
                    (path / file.name).write_bytes(content)
        return path

    with pytest.raises(RunError, match=r"no such file or directory"):
        Stream(tmp_path / "absent")
    for name in ("config", "task", "program", "model"):
        with pytest.raises(RunError, match=name):
            Stream(copy(**{name: None}))
    for name in ("config", "program", "model"):
        with pytest.raises(RunError, match="damaged"):
            Stream(copy(**{name: b"{"}))
    with pytest.raises(RunError, match="newer"):
        Stream(copy(config=b'{"format": 99}'))
    content = json.loads((run.path / "program.json").read_bytes())
    with pytest.raises(RunError, match="belongs to another run"):
        Stream(copy(program=json.dumps([*content, content[1]]).encode()))  # a layer without weights
    content[0]["format"] = 99
    with pytest.raises(RunError, match=r"^\S+program\.json: expected a program of format \d+, got 99"):
        Stream(copy(program=json.dumps(content).encode()))


def test_an_intact_bidirectional_network_is_not_called_damaged(tmp_path: Path) -> None:
    layers = throughtime.Recurrent("gru", 3, 4, bidirectional=True)
    throughtime.save(layers, tmp_path / "layers.safetensors")
    throughtime.save(SequenceModel(Numeric(3), layers, Signal(1)), tmp_path / "model.safetensors")
    for name in ("layers", "model"):
        with pytest.raises(UserError, match=r"^a bidirectional layer needs the whole sequence"):
            Stream(tmp_path / f"{name}.safetensors")


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
@pytest.mark.parametrize("kind", ["layer", "language model"])
def test_a_copy_is_independent(kind: str, way: Callable[[Stream], Stream]) -> None:
    layer = Recurrent("lstm", 3, 4, 2)
    stream = Stream(layer if kind == "layer" else LanguageModel(5, layer), rows=2)
    given = [np.random.default_rng(t).normal(size=(2, 3)).astype(np.float32) for t in range(4)]
    if kind != "layer":
        given = [np.array([t, t + 1]) for t in range(4)]
    stream.step(given[0])
    other = way(stream)
    after = [stream.step(x) for x in given[1:]]
    torch.nn.init.zeros_(layer.weight_x_l0)  # a copy has the stream's weights, not the model's
    np.testing.assert_array_equal(way(other).step(given[1]), after[0])
    for x, expected in zip(given[1:], after, strict=True):
        np.testing.assert_array_equal(other.step(x), expected)


def test_parametrized_layers_run_with_their_effective_weights() -> None:
    normed, pruned, hooked = throughtime.LSTM(3, 4), Recurrent("gru", 3, 4), torch.nn.GRU(3, 4)
    parametrizations.weight_norm(normed, "weight_hh_l0")
    parametrizations.spectral_norm(normed, "weight_ih_l0")
    prune.l1_unstructured(pruned, "weight_h_l0", 0.5)
    prune.random_unstructured(hooked, "weight_hh_l0", 0.5)
    normed.parametrizations.weight_hh_l0.original0.data.mul_(2)  # type: ignore[union-attr]
    x = torch.randn(1, 1, 3)
    for layer in (normed, pruned, hooked):
        expected = layer.eval()(x)[0][0, 0].detach().numpy()
        # torch's own GRU sums in a different order.
        np.testing.assert_allclose(Stream(layer).step(x[0, 0].numpy()), expected, rtol=1e-5, atol=1e-6)
