"""Drop-in `RNN`, `LSTM`, `GRU` and their cells have the arguments, results and state dicts of torch's."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence
from torch.utils._python_dispatch import TorchDispatchMode

import throughtime

LAYERS = ("RNN", "LSTM", "GRU")
# Relative to the largest value: sums of a few dozen products in a different order, through a few layers and steps.
# Gradients, which sum over all steps and sequences, may differ ten times as much.
TOLERANCE = {torch.float32: 3e-6, torch.float64: 1e-12}


def assert_close(ours: Any, theirs: Any, tolerance: float, least: float = 1e-30) -> None:
    if isinstance(theirs, PackedSequence):
        assert isinstance(ours, PackedSequence)
        assert torch.equal(ours.batch_sizes, theirs.batch_sizes)
        for name in ("sorted_indices", "unsorted_indices"):
            a, b = getattr(ours, name), getattr(theirs, name)
            assert (a is None and b is None) or torch.equal(a, b)
        ours, theirs = ours.data, theirs.data
    if isinstance(theirs, tuple | list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b, tolerance, least)
        return
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype
    scale = max(least, theirs.abs().max().item()) if theirs.numel() else 1.0
    assert (ours - theirs).abs().max().item() <= tolerance * scale if theirs.numel() else True


def flat(result: Any) -> list[torch.Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, tuple | list):
        return [t for part in result for t in flat(part)]
    return [result]


@st.composite
def cases(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(LAYERS))
    arguments: dict[str, Any] = {
        "input_size": draw(st.integers(1, 6)),
        "hidden_size": draw(st.integers(2, 7)),
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.3])),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64])),
    }
    if kind == "RNN":
        arguments["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        arguments["proj_size"] = draw(st.integers(0, arguments["hidden_size"] - 1))
    return {
        "kind": kind,
        "arguments": arguments,
        "form": draw(st.sampled_from(["batched", "unbatched", "packed", "packed in order"])),
        "steps": draw(st.integers(1, 6)),
        "rows": draw(st.integers(1, 5)),
        "with_state": draw(st.booleans()),
        "engine": draw(st.sampled_from([None, "reference", "torch"])),
        "seed": draw(st.integers(0, 2**31)),
    }


@settings(max_examples=120, deadline=None)
@given(cases())
def test_outputs_states_and_gradients_match_torch_for_all_arguments(case: dict[str, Any]) -> None:
    torch.manual_seed(case["seed"])
    arguments = dict(case["arguments"])
    if arguments["num_layers"] == 1:
        arguments["dropout"] = 0.0  # avoids torch's warning
    theirs = getattr(nn, case["kind"])(**arguments).eval()  # torch's own kernel draws different dropout masks
    ours = getattr(throughtime, case["kind"])(**arguments, engine=case["engine"]).eval()
    ours.load_state_dict(theirs.state_dict())
    assert list(ours.state_dict()) == list(theirs.state_dict())

    steps, rows, dtype = case["steps"], case["rows"], arguments["dtype"]
    batched = case["form"] != "unbatched"
    shape = [steps, rows] if batched else [steps]
    if arguments["batch_first"] and batched:
        shape.reverse()
    x = torch.randn(*shape, arguments["input_size"], dtype=dtype, requires_grad=True)
    hx: Any = None
    if case["with_state"]:
        layers = arguments["num_layers"] * (2 if arguments["bidirectional"] else 1)
        widths = [arguments.get("proj_size") or arguments["hidden_size"]]
        if case["kind"] == "LSTM":
            widths.append(arguments["hidden_size"])
        states = [torch.randn(layers, *([rows] if batched else []), w, dtype=dtype, requires_grad=True) for w in widths]
        hx = tuple(states) if len(states) > 1 else states[0]
    given_input: Any = x
    if case["form"].startswith("packed"):
        lengths = torch.randint(1, steps + 1, (rows,))
        lengths[int(torch.randint(rows, ()))] = steps
        in_order = case["form"] == "packed in order"
        lengths = lengths.sort(descending=True).values if in_order else lengths
        given_input = pack_padded_sequence(x, lengths, arguments["batch_first"], enforce_sorted=in_order)

    results = [module(given_input, hx) for module in (ours, theirs)]
    tolerance = TOLERANCE[dtype]
    # A projection to one unit can cancel to nearly 0, where no relative error is bounded.
    assert_close(*results, tolerance, least=1e-5 if arguments.get("proj_size") == 1 else 1e-30)

    leaves = [x, *([] if hx is None else flat(hx))]
    weights = [torch.randn_like(t) for t in flat(results[1])]
    gradients = [
        torch.autograd.grad(
            flat(result), [*leaves, *module.parameters()], weights, retain_graph=True, allow_unused=True
        )
        for result, module in zip(results, (ours, theirs), strict=True)
    ]
    # A gradient much smaller than the others is a sum of nearly canceling terms, with the error of the terms.
    least = 1e-3 * max((g.abs().max().item() for g in gradients[1] if g is not None and g.numel()), default=0.0)
    for a, b in zip(*gradients, strict=True):
        # torch returns None for an unused argument and zero elsewhere; both mean no gradient.
        a, b = (g if g is not None else torch.zeros(()) for g in (a, b))
        assert_close(a.expand_as(b), b.expand_as(a), 10 * tolerance, max(least, 1e-30))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(LAYERS),
    bias=st.booleans(),
    batched=st.booleans(),
    with_state=st.booleans(),
    engine=st.sampled_from([None, "reference", "torch"]),
)
def test_single_steps_match_torch(kind: str, bias: bool, batched: bool, with_state: bool, engine: str | None) -> None:
    torch.manual_seed(0)
    theirs = getattr(nn, f"{kind}Cell")(3, 5, bias=bias, dtype=torch.float64)
    ours = getattr(throughtime, f"{kind}Cell")(3, 5, bias=bias, dtype=torch.float64, engine=engine)
    ours.load_state_dict(theirs.state_dict())
    rows = [2] if batched else []
    x = torch.randn(*rows, 3, dtype=torch.float64, requires_grad=True)
    states = tuple(torch.randn(*rows, 5, dtype=torch.float64) for _ in range(2 if kind == "LSTM" else 1))
    hx: Any = None if not with_state else states if kind == "LSTM" else states[0]
    results = [module(x, hx) for module in (ours, theirs)]
    assert_close(*results, 1e-12)
    gradients = [torch.autograd.grad(flat(r)[0].sin().sum(), [x, *m.parameters()]) for r, m in
                 zip(results, (ours, theirs), strict=True)]  # fmt: skip
    assert_close(*gradients, 1e-11)


@pytest.mark.parametrize("kind", LAYERS)
def test_new_layers_draw_the_same_weights_as_torch(kind: str) -> None:
    torch.manual_seed(3)
    theirs = getattr(nn, kind)(4, 6, 2)
    torch.manual_seed(3)
    ours = getattr(throughtime, kind)(4, 6, 2)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b)
    assert isinstance(ours, nn.RNNBase)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_between_layers_uses_torchs_generator(kind: str) -> None:
    layer = getattr(throughtime, kind)(4, 6, 2, dropout=0.5)
    x = torch.randn(7, 3, 4)
    torch.manual_seed(1)
    first = layer(x)[0]
    torch.manual_seed(1)
    again = layer(x)[0]
    other = layer(x)[0]
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("x", "hx"),
    [
        (torch.zeros(2, 2, 2, 3), None),
        (torch.zeros(2, 2, 4), None),
        (torch.zeros(2, 2, 3), torch.zeros(1, 2, 4)),
        (torch.zeros(2, 2, 3), torch.zeros(1, 5)),
        (torch.zeros(2, 3), torch.zeros(1, 1, 5)),
    ],
)
def test_wrong_shapes_raise_torchs_errors(kind: str, x: torch.Tensor, hx: torch.Tensor | None) -> None:
    given: Any = hx if kind != "LSTM" or hx is None else (hx, hx)
    errors = []
    for module in (getattr(throughtime, kind)(3, 5, engine="reference"), getattr(nn, kind)(3, 5)):
        with pytest.raises((ValueError, RuntimeError)) as caught:
            module(x, given)
        errors.append(type(caught.value))
    assert errors[0] is errors[1]


def test_an_unknown_engine_is_rejected_with_the_nearest_name() -> None:
    with pytest.raises(throughtime.errors.UserError, match="did you mean reference"):
        throughtime.LSTM(3, 5, engine="refrence")


@pytest.mark.parametrize("kind", LAYERS)
def test_modules_survive_deepcopy_pickle_and_dtype_changes(kind: str) -> None:
    import copy
    import io

    layer = getattr(throughtime, kind)(3, 5, engine="reference")
    x = torch.randn(4, 2, 3)
    assert torch.equal(copy.deepcopy(layer)(x)[0], layer(x)[0])
    buffer = io.BytesIO()
    torch.save(layer, buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=False)(x)[0], layer(x)[0])
    assert layer.double()(x.double())[0].dtype == torch.float64


def outputs_and_states(result: Any) -> list[torch.Tensor]:
    output, states = result
    return [output, *(states if isinstance(states, tuple) else (states,))]


@pytest.mark.parametrize("kind", ["RNN", "LSTM", "GRU"])
@pytest.mark.parametrize("batch_first", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("frozen", [False, True])
def test_results_without_gradients_are_bit_identical_to_those_with(
    kind: str, batch_first: bool, with_state: bool, frozen: bool, bias: bool
) -> None:
    layer = getattr(throughtime, kind)(3, 4, bias=bias, batch_first=batch_first).eval()
    for steps, rows in itertools.product((0, 1, 4), (0, 1, 5)):
        x = torch.randn((rows, steps, 3) if batch_first else (steps, rows, 3))
        state = torch.randn(1, rows, 4)
        given = (x, (state, 2 * state) if kind == "LSTM" else state) if with_state else (x,)
        expected = outputs_and_states(layer(*given))
        if frozen:
            throughtime.freeze(layer)
        with torch.no_grad():
            found = outputs_and_states(layer(*given))
        for one, other in zip(found, expected, strict=True):
            assert one.shape == other.shape
            assert torch.equal(one, other)


def test_a_weight_changed_without_torchs_version_counter_takes_effect() -> None:
    layer, x = throughtime.GRU(3, 4), torch.randn(1, 2, 3)
    with torch.no_grad():
        before = layer(x)[0]
        layer.bias_hh_l0.data.add_(1.0)
        layer.weight_ih_l0.detach().numpy()[:] = 0.5
        after, expected = layer(x)[0], nn.GRU.forward(layer, x)[0]
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(3,), (1, 3), (5, 3)])
def test_a_cell_without_gradients_has_the_bits_of_one_with_them(kind: str, bias: bool, shape: tuple[int, ...]) -> None:
    cell, x = getattr(throughtime, kind)(3, 4, bias=bias), torch.randn(shape)
    state = torch.randn(*shape[:-1], 4)
    for hx in (None, (state, 2 * state) if kind == "LSTMCell" else state):
        expected = flat(cell(x, hx))
        with torch.no_grad():
            found = flat(cell(x, hx))
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_a_projected_lstm_without_gradients_has_the_bits_of_one_with_them() -> None:
    layer, x = throughtime.LSTM(3, 6, proj_size=2), torch.randn(1, 2, 3)
    expected = outputs_and_states(layer(x))
    with torch.no_grad():
        found = outputs_and_states(layer(x))
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


# Torch rounds to autocast's dtype at every step and ours rounds the results once: a few units in the last place of 8
# or 11 bits, for values near 1.
ROUNDING = {torch.bfloat16: 4e-2, torch.float16: 5e-3}


def assert_alike(ours: Any, theirs: Any, autocast: torch.dtype) -> None:
    found, expected = flat(ours), flat(theirs)
    assert [t.dtype for t in found] == [t.dtype for t in expected]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.float(), b.float(), rtol=0, atol=ROUNDING[autocast])


@pytest.mark.parametrize("autocast", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("form", ["padded", "single", "packed", "packed in order"])
@pytest.mark.parametrize("kind", ["RNN", "LSTM", "projected LSTM", "GRU"])
def test_results_under_autocast_have_torchs_types_and_values(
    kind: str, form: str, bidirectional: bool, autocast: torch.dtype
) -> None:
    torch.manual_seed(0)
    name, projection = kind.split()[-1], 2 if kind.startswith("projected") else 0
    arguments = {"num_layers": 2, "bidirectional": bidirectional, **({"proj_size": projection} if projection else {})}
    theirs, ours = (getattr(package, name)(3, 5, **arguments) for package in (nn, throughtime))
    ours.load_state_dict(theirs.state_dict())
    rows = [] if form == "single" else [2]
    states = [torch.randn(4 if bidirectional else 2, *rows, width) for width in (projection or 5, 5)]
    given = tuple(states) if name == "LSTM" else states[0]
    compared = 0
    for dtype, state, gradients in itertools.product((torch.float32, autocast), ("none", "given", "carried"), (0, 1)):
        x: Any = torch.randn(4, *rows, 3).to(dtype)
        if form.startswith("packed"):
            in_order = form.endswith("order")
            x = pack_padded_sequence(x, [4, 2] if in_order else [2, 4], enforce_sorted=in_order)
        with torch.autocast("cpu", autocast), torch.set_grad_enabled(bool(gradients)):
            try:
                hx = theirs(x)[1] if state == "carried" else given if state == "given" else None
                expected = theirs(x, hx)
            except RuntimeError:
                # For a float32 input, oneDNN has no bfloat16 without AVX-512, and float16 only without gradients and
                # with AVX512-FP16.
                assert kind == "LSTM"
                assert dtype == torch.float32
                assert ours(x)[0].dtype == autocast
                continue
            assert_alike(ours(x, hx), expected, autocast)
        compared += 1
    assert compared in (6, 9, 12)


@pytest.mark.parametrize("kind", ["RNNCell", "LSTMCell", "GRUCell"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_state", [False, True])
def test_a_cells_results_under_autocast_have_torchs_types_and_values(
    kind: str, dtype: torch.dtype, with_state: bool
) -> None:
    x, state = torch.randn(2, 3).to(dtype), torch.randn(2, 5)
    hx = ((state, state) if kind == "LSTMCell" else state) if with_state else None
    theirs, ours = (getattr(package, kind)(3, 5) for package in (nn, throughtime))
    ours.load_state_dict(theirs.state_dict())
    with torch.autocast("cpu", torch.bfloat16):
        assert_alike(ours(x, hx), theirs(x, hx), torch.bfloat16)


def test_a_compiled_projected_lstm_has_torchs_types_under_autocast() -> None:
    layer, x = throughtime.LSTM(3, 5, proj_size=2), torch.randn(4, 2, 3)
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.compile(layer, backend="aot_eager", fullgraph=True)(x)
        expected = layer(x)
    assert [t.dtype for t in flat(found)] == [t.dtype for t in flat(expected)]


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("steps", [1, 4])
def test_recording_changes_no_bit_of_results_and_gradients(kind: str, steps: int) -> None:
    layer, x = getattr(throughtime, kind)(3, 4), torch.randn(steps, 2, 3, requires_grad=True)
    states = [torch.randn(1, 2, 4, requires_grad=True) for _ in range(2 if kind == "LSTM" else 1)]
    hx = tuple(states) if kind == "LSTM" else states[0]
    leaves = [x, *states, *layer.parameters()]

    def results_and_gradients() -> list[torch.Tensor]:
        results = outputs_and_states(layer(x, hx))
        return [*results, *torch.autograd.grad(sum(r.sin().sum() for r in results), leaves)]

    expected = results_and_gradients()
    with throughtime.record(layer, "layer0.hidden"):
        found = results_and_gradients()
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_of_the_parameters_have_their_own_memory(kind: str) -> None:
    layer = getattr(throughtime, kind)(3, 4)
    layer(torch.randn(1, 2, 3))[0].sum().backward()
    gradients = [p.grad for p in layer.parameters()]
    expected = [g.clone() for g in gradients]
    for k, gradient in enumerate(gradients):
        gradient.zero_()
        assert all(torch.equal(g, e) for g, e in zip(gradients[k + 1 :], expected[k + 1 :], strict=True))
        assert gradient.untyped_storage().nbytes() == 4 * gradient.numel()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_mode_sees_the_backward_pass_of_a_plain_forward_pass(kind: str) -> None:
    class Count(TorchDispatchMode):
        seen = 0

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.seen += "throughtime" not in str(function)
            return function(*args, **(kwargs or {}))

    layer, x = getattr(throughtime, kind)(3, 4), torch.randn(4, 2, 3)
    expected = torch.autograd.grad(layer(x)[0].sin().sum(), list(layer.parameters()))
    y = layer(x)[0]
    with Count() as count:
        found = torch.autograd.grad(y, list(layer.parameters()), y.cos().detach())
    assert count.seen > 5
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_frozen_layer_passes_gradients_to_its_input_only(kind: str) -> None:
    layer, x = getattr(throughtime, kind)(3, 4).eval(), torch.randn(4, 2, 3, requires_grad=True)
    (expected,) = torch.autograd.grad(layer(x)[0].sin().sum(), x)
    throughtime.freeze(layer)(x)[0].sin().sum().backward()
    assert torch.equal(x.grad, expected)
    assert all(p.grad is None for p in layer.parameters())
