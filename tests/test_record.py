"""Recording leaves results bit-identical, and the tape matches the equations."""

import copy
import gc
import os
import pickle
import runpy
import subprocess
import sys
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sight_helpers import HIDDEN, recurrent, total
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

import throughtime
from throughtime import cells
from throughtime.errors import UserError
from throughtime.nn.language_model import LanguageModel
from throughtime.program.recording import ValueSlice, with_outputs


def gradients(model, x, loss):
    return torch.autograd.grad(loss, [x, *model.parameters()], allow_unused=True, materialize_grads=True)


@st.composite
def asked(draw, steps, width):
    """Draw steps and units as a slice, a list, or all."""
    found = []
    for size in (steps, width):
        some = st.lists(
            st.integers(-size, size - 1), min_size=1, max_size=size, unique_by=lambda n, size=size: n % size
        )
        start = draw(st.integers(0, size - 1))
        found.append(draw(st.one_of(st.none(), some, st.just(slice(start, None)), st.just(slice(start, start + 2, 2)))))
    return found


@pytest.mark.parametrize("name", cells.names())
def test_recording_one_unit_changes_no_bit(name):
    torch.manual_seed(0)
    model, x = recurrent(name, 1), torch.randn(3, 2, 4)
    plain, _ = model(x)
    for value in model.programs[0].values:
        with throughtime.record(model, f"layer0.{value}", units=[0]):
            recorded, _ = model(x)
        assert torch.equal(recorded, plain), value


@settings(max_examples=40)
@given(st.data())
def test_recording_changes_no_bit_and_matches_the_reference_engine(data):
    """Cells, directions, shapes and selections are random; outputs and gradients, recorded or not, are compared."""
    torch.manual_seed(0)
    name = data.draw(st.sampled_from(cells.names()))
    T, B = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 4))
    both, layers = data.draw(st.booleans()), data.draw(st.integers(1, 2))
    model = recurrent(name, layers, bidirectional=both)
    x = torch.randn(T, B, 4, requires_grad=True)
    lengths = data.draw(st.one_of(st.none(), st.lists(st.integers(0, T), min_size=B, max_size=B)))
    names = [f"layer{k}.{n}" for k, program in enumerate(model.programs) for n in program.values]
    patterns = data.draw(st.lists(st.sampled_from([*names, "*", "layer?.*.pre", "*.previous"]), min_size=1, max_size=3))
    watched_gradients = data.draw(st.booleans())
    patterns = [p for p in patterns if not p.endswith("pre") or any(n.endswith(".pre") for n in names)] or ["*"]

    def run(grad):
        with torch.set_grad_enabled(grad):
            output, final = model(x, lengths=lengths)
        found = gradients(model, x, total(output, final)) if grad else ()
        return output, *(final if isinstance(final, tuple) else (final,)), *found

    for grad in (False, True):
        plain = run(grad)
        with throughtime.record(model, *patterns, gradients=watched_gradients) as tape:
            recorded = run(grad)
        for p, r in zip(plain, recorded, strict=True):
            assert torch.equal(p, r)
    whole = tape.calls[0]
    # The reference engine computes in a different order, in float32.
    model.engine = "reference"
    with torch.no_grad(), throughtime.record(model, *patterns) as reference:
        run(False)
    model.engine = None
    assert sorted(whole) == sorted(tape.names) == sorted(reference.calls[0])
    for name in tape.names:
        assert whole[name].shape[:2] == (T, B)
        torch.testing.assert_close(whole[name], reference[name], rtol=1e-3, atol=1e-4)
    narrowest = min(value.shape[2] for value in whole.values())
    steps, units = data.draw(asked(T, narrowest))
    with throughtime.record(model, *patterns, steps=steps, units=units, gradients=watched_gradients) as part:
        for p, r in zip(plain, run(True), strict=True):
            assert torch.equal(p, r)

    def chosen(value):
        value = value if steps is None else value[steps]
        return value if units is None else value[:, :, units]

    for name in tape.names:
        assert torch.equal(part[name], chosen(whole[name]))
        if watched_gradients:
            assert torch.equal(part.gradient(name), chosen(tape.gradient(name)))


@pytest.mark.parametrize("batch_first", [False, True])
def test_time_is_the_first_axis_and_sequences_keep_the_callers_order(batch_first):
    layer = throughtime.LSTM(4, 5, batch_first=batch_first)
    x = torch.randn(3, 6, 4) if batch_first else torch.randn(6, 3, 4)
    with throughtime.record(layer, "layer0.hidden") as tape:
        output, _ = layer(x)
    assert torch.equal(tape["layer0.hidden"], output.transpose(0, 1) if batch_first else output)
    packed = pack_padded_sequence(x, [2, 6, 4], batch_first=batch_first, enforce_sorted=False)
    with throughtime.record(layer, "layer0.hidden") as tape:
        output, _ = layer(packed)
    padded, _ = nn.utils.rnn.pad_packed_sequence(output)
    assert torch.equal(tape["layer0.hidden"], padded)


def test_names_in_a_larger_model_start_with_the_path_of_the_module():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = throughtime.Recurrent("gru", 4, 4, bidirectional=True)
            self.decoder = throughtime.LSTM(8, 3, 2)

        def forward(self, x):
            return self.decoder(self.encoder(x)[0])[0]

    model = Model()
    with throughtime.record(model, "*.reverse.update", "decoder.layer1.cell") as tape:
        model(torch.randn(5, 2, 4))
    assert tape.names == ["encoder.layer0.reverse.update", "decoder.layer1.cell"]
    assert [list(call) for call in tape.calls] == [[name] for name in tape.names]
    assert tape["decoder.layer1.cell"].shape == (5, 2, 3)
    with pytest.raises(UserError, match=r"'layer0.update'.*did you mean encoder.layer0.update\?"):
        throughtime.record(model, "layer0.update")


def test_path_is_optional_if_there_is_one_recurrent_module():
    model = LanguageModel(7, recurrent("lstm"))
    for pattern in ("layer0.forget", "recurrent.layer0.forget"):
        with throughtime.record(model, pattern) as tape:
            model(torch.zeros(5, 2, dtype=torch.long))
        assert tape.names == ["layer0.forget"]
        assert torch.equal(tape["layer0.forget"], tape["recurrent.layer0.forget"])
        assert tape["layer0.forget"].shape == (5, 2, HIDDEN)


def test_calls_are_separate_and_can_be_joined_or_cleared():
    step_by_step = throughtime.LSTMCell(4, 5)
    x, state, states = torch.randn(6, 3, 4), None, []
    with throughtime.record(step_by_step, "layer0.cell") as tape:
        for step in x:
            state = step_by_step(step, state)
            states.append(state[1])
        assert len(tape.calls) == 6
        with pytest.raises(
            UserError, match=r"recorded in 6 runs.*tape.calls\[k\]\['layer0.cell'\].*0, 1, 2, 3, 4 \.\.\."
        ):
            tape["layer0.cell"]
        assert torch.equal(tape.calls[2]["layer0.cell"][0], states[2])
        assert torch.equal(tape.joined("layer0.cell"), torch.stack(states))
        tape.clear()
        step_by_step(x[0])
    assert torch.equal(tape["layer0.cell"][0], states[0])


def test_exception_restores_the_model():
    layer = throughtime.LSTM(4, 5)
    with pytest.raises(RuntimeError), throughtime.record(layer, "*"):
        layer(torch.randn(2, 1, 3))
    assert layer.hooks == ()
    pickle.dumps(layer)


def test_recordings_can_be_nested():
    layer = throughtime.LSTM(4, 5)
    x = torch.randn(6, 3, 4)
    with throughtime.record(layer, "*.forget", gradients=True) as outer:
        with throughtime.record(layer, "*.forget*", units=[1]) as inner:
            layer(x)[0].sum().backward()
        layer(x)
    assert len(outer.calls) == 2
    assert len(inner.calls) == 1
    assert torch.equal(inner["layer0.forget"], outer.calls[0]["layer0.forget"][:, :, 1:2])


def test_only_the_selection_is_kept():
    layer = throughtime.LSTM(4, 64)
    for grad in (False, True):
        with torch.set_grad_enabled(grad), throughtime.record(layer, "*", steps=[3], units=[0, 60]) as tape:
            layer(torch.randn(50, 8, 4))
        for value in tape.calls[0].values():
            assert value.untyped_storage().nbytes() == 4 * 8 * 2


def test_residuals_are_not_copied():
    program = cells.get("lstm").program(4, 5)
    from throughtime.program.gradient import everything_wanted, with_residuals

    augmented = with_residuals(program, everything_wanted(program))
    gates = tuple(ValueSlice(program.values[name], 0, 5) for name in ("input", "forget", "candidate", "output"))
    full, _ = with_outputs(augmented, gates, len(program.outputs))
    assert full == augmented


def test_modifying_the_output_does_not_change_the_tape():
    layer = throughtime.LSTM(4, 5)
    with throughtime.record(layer, "layer0.hidden") as tape:
        output, _ = layer(torch.randn(6, 3, 4))
    before = output.detach().clone()
    output.detach().zero_()
    assert torch.equal(tape["layer0.hidden"], before)


def test_a_tape_keeps_no_graph_alive():
    layer = throughtime.LSTM(4, 5)
    with throughtime.record(layer, "*", gradients=True) as tape:
        output = layer(torch.randn(6, 3, 4))[0]
    assert not tape["layer0.forget"].requires_grad
    graph = weakref.ref(output.grad_fn)
    del output
    gc.collect()
    assert graph() is None


def test_budget_is_checked_before_the_run():
    layer = throughtime.LSTM(4, 64)
    x = torch.randn(100, 32, 4)
    with throughtime.record(layer, "*.forget", budget_bytes=1 << 20) as tape:
        layer(x[:, :16])
        with pytest.raises(UserError, match=r"take 800 KiB in addition to 400 KiB .* 1 MiB: .* tape.clear\(\)"):
            layer(x)
        assert len(tape.calls) == 1
        tape.clear()
        layer(x)
    with throughtime.record(layer, "*.forget", units=slice(4), budget_bytes=1 << 16):
        layer(x)
    with (
        throughtime.record(layer, "*.forget", gradients=True, budget_bytes=1 << 20),
        pytest.raises(UserError, match=r"1\.56 MiB, but the budget is 1 MiB"),
    ):
        layer(x)


def test_invalid_arguments_raise():
    layer = throughtime.LSTM(4, 5)
    x = torch.randn(6, 3, 4)
    for arguments, message in [
        (([],), "a torch module"),
        ((nn.LSTM(4, 5), "*"), r"throughtime.accelerate\(model\)"),
        ((layer,), "pass the names of values to record"),
        ((layer, "layer0.forgte"), "did you mean layer0.forget?"),
        ((layer, "layer1.*"), "no value named 'layer1.*'"),
        ((layer, 3), "got 3"),
        ((layer, ["layer0.forget"]), r"got \['layer0.forget'\]"),
    ]:
        with pytest.raises(UserError, match=message):
            throughtime.record(*arguments)
    for options, message in [
        ({"units": [5]}, "units 5 of layer0.forget out of range: must be 0 to 4"),
        ({"units": [1, -4]}, "twice"),
        ({"units": [1, 1]}, "must be distinct"),
        ({"units": "12"}, "a list of integers"),
        ({"steps": [0.5]}, "a list of integers"),
        ({"steps": [True]}, "a list of integers"),
        ({"steps": [6]}, "steps 6 of a run out of range: must be 0 to 5"),
        ({"steps": slice(6, 9)}, "selects none of the 6"),
        ({"budget_bytes": "2 GB"}, "a positive number of bytes, got '2 GB'"),
        ({"budget_bytes": -1}, "a positive number of bytes, got -1"),
    ]:
        with pytest.raises(UserError, match=message), throughtime.record(layer, "layer0.forget", **options):
            layer(x)
    with throughtime.record(layer, "layer0.forget") as tape:
        with pytest.raises(UserError, match="its layer has not run"):
            tape["layer0.forget"]
        layer(x)
        with pytest.raises(UserError, match=r"'layer0.cell' was not recorded"):
            tape["layer0.cell"]
        with pytest.raises(UserError, match="gradients=True"):
            tape.gradient("layer0.forget")


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # torch.compile checks which tensors have one when it resumes
def test_recording_a_compiled_model_works_outside_its_graph_or_raises():
    layer = recurrent("lstm")
    x = torch.randn(6, 3, 4)
    compiled = torch.compile(layer, backend="eager")
    plain, _ = compiled(x)
    with throughtime.record(compiled, "layer0.forget") as tape:
        output, _ = compiled(x)
    assert torch.equal(output, plain)
    assert tape["layer0.forget"].shape == (6, 3, HIDDEN)
    assert torch.equal(compiled(x)[0], plain)
    torch._dynamo.reset()
    whole = torch.compile(layer, backend="eager", fullgraph=True)
    with (
        throughtime.record(layer, "layer0.forget"),
        pytest.raises(RuntimeError, match=r"throughtime\.record and throughtime\.edit work outside of a graph"),
    ):
        whole(x)
    with throughtime.record(layer, "layer0.forget"), pytest.raises(UserError, match="values can't be recorded"):
        torch.export.export(layer, (x,))


@pytest.mark.filterwarnings("ignore:The .grad attribute")
@pytest.mark.parametrize("option", ["zoneout", "recurrent_dropout"])
def test_compiled_layer_keeps_its_masks_while_recorded(option):
    layer = recurrent("lstm", **{option: 0.5})
    x = torch.randn(6, 3, 4)
    torch._dynamo.reset()
    compiled = torch.compile(layer, backend="eager")
    torch.manual_seed(1)
    plain, _ = layer(x)
    torch.manual_seed(1)
    with throughtime.record(compiled, "layer0.forget"):
        output, _ = compiled(x)
    assert torch.equal(output, plain)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
@pytest.mark.parametrize(
    "make", [recurrent, lambda _: throughtime.LSTM(4, HIDDEN), lambda _: throughtime.LSTMCell(4, 6)]
)
def test_copies_are_neither_recorded_nor_edited(make, copied):
    layer = make("lstm")
    x = torch.randn(6, 4)
    plain = layer(x)[0]
    with throughtime.record(layer, "*") as tape, throughtime.edit(layer, {"layer0.input": lambda gate: gate * 0.5}):
        within = copied(layer)
        assert torch.equal(within(x)[0], plain)
        assert not tape.calls
        assert not torch.equal(layer(x)[0], plain)
    assert torch.equal(within(x)[0], plain)


def test_recording_under_vmap_raises():
    layer = throughtime.LSTM(4, 5)
    with throughtime.record(layer, "*"), pytest.raises(UserError, match="under vmap"):
        torch.func.vmap(lambda x: layer(x)[0])(torch.randn(2, 6, 3, 4))


def test_recording_with_the_torch_engine_raises():
    layer = throughtime.LSTM(4, 5, engine="torch")
    with throughtime.record(layer, "*.forget"), pytest.raises(UserError, match="engine 'torch' can't run this"):
        layer(torch.randn(6, 3, 4))


def test_values_under_autocast_are_the_computed_ones():
    layer = throughtime.LSTM(4, 5)
    x = torch.randn(6, 3, 4)
    with throughtime.record(layer, "*.forget") as plain:
        layer(x)
    with throughtime.record(layer, "*.forget") as tape, torch.autocast("cpu", torch.bfloat16):
        layer(x)
    assert torch.equal(tape["layer0.forget"], plain["layer0.forget"])


SCRIPT = """
import os, sys, torch, throughtime
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
rank, size = int(sys.argv[1]), int(sys.argv[3])
distributed.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=size)
torch.manual_seed(0)
model = throughtime.Recurrent("lstm", 4, 5)
whole = torch.randn(6, 2 * size, 4)
x = whole[:, 2 * rank : 2 * rank + 2]
parallel = DistributedDataParallel(model)
found = []
for recorded in (False, True):
    model.zero_grad()
    if recorded:
        with throughtime.record(parallel, "layer0.forget", gradients=True) as tape:
            parallel(x)[0].square().mean().backward()
    else:
        parallel(x)[0].square().mean().backward()
    found.append([p.grad.clone() for p in model.parameters()])
assert all(map(torch.equal, *found))
with throughtime.record(model, "layer0.forget", gradients=True) as alone:
    model(whole)[0].square().mean().backward()
mine = alone["layer0.forget"][:, 2 * rank : 2 * rank + 2]
torch.testing.assert_close(tape["layer0.forget"], mine)
mine = size * alone.gradient("layer0.forget")[:, 2 * rank : 2 * rank + 2]
torch.testing.assert_close(tape.gradient("layer0.forget"), mine)
distributed.barrier()  # gloo aborts if a process exits while the other still communicates
distributed.destroy_process_group()
"""


def test_a_data_parallel_model_records_its_sequences(tmp_path, monkeypatch):
    """Like the next test, but in this process alone."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(sys, "argv", [str(script), "0", str(tmp_path / "meeting"), "1"])
    runpy.run_path(str(script))


@pytest.mark.slow  # each process imports torch
def test_each_process_records_its_own_sequences(tmp_path):
    """Two processes use DistributedDataParallel over gloo; recording leaves gradients bit-identical."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(tmp_path / "meeting"), "2"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
