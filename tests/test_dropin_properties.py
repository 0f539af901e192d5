"""Random calls of the drop-in layers: they return torch's results or raise torch's errors."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

import throughtime

# Relative to the largest value: sums of a few dozen products in another order. bfloat16 has 8 bits.
TOLERANCE = {torch.float64: 1e-11, torch.float32: 1e-5, torch.bfloat16: 6e-2}


class Call(NamedTuple):
    """One call of a layer.

    Attributes:
        kind: the layer's class.
        arguments: the arguments of its constructor.
        form: "batched", "single" or "packed"; "packed in order" if the lengths are in descending order.
        steps, rows: the shape of the input; either may be 0.
        with_state: whether an initial state is passed.
        view: the memory layout of the input.
        gradients: the tensors that need gradients: "none", "input", "state", "some weights" or "all".
        autocast: whether the call runs under autocast.
        seed: the seed of the weights and the input.
    """

    kind: str
    arguments: dict[str, Any]
    form: str
    steps: int
    rows: int
    with_state: bool
    view: str
    gradients: str
    autocast: bool
    seed: int


@st.composite
def calls(draw: st.DrawFn, kinds: tuple[str, ...] = ("RNN", "LSTM", "GRU")) -> Call:
    kind = draw(st.sampled_from(kinds))
    arguments: dict[str, Any] = {
        "input_size": draw(st.integers(1, 4)),
        "hidden_size": draw(st.integers(1, 5)),
        "num_layers": draw(st.integers(1, 3)),
        "bias": draw(st.booleans()),
        "batch_first": draw(st.booleans()),
        "dropout": draw(st.sampled_from([0.0, 0.5])),
        "bidirectional": draw(st.booleans()),
        "dtype": draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16])),
    }
    if kind == "RNN":
        arguments["nonlinearity"] = draw(st.sampled_from(["tanh", "relu"]))
    if kind == "LSTM":
        arguments["proj_size"] = draw(st.integers(0, arguments["hidden_size"] - 1))
    return Call(
        kind,
        arguments,
        draw(st.sampled_from(["batched", "single", "packed", "packed in order"])),
        draw(st.integers(0, 4)),
        draw(st.integers(0, 3)),
        draw(st.booleans()),
        draw(st.sampled_from(["contiguous", "strided", "transposed", "expanded", "narrow"])),
        draw(st.sampled_from(["none", "input", "state", "some weights", "all"])),
        draw(st.booleans()),
        draw(st.integers(0, 2**31)),
    )


def laid_out(x: Tensor, view: str) -> Tensor:
    """Convert a tensor to another memory layout; "expanded" repeats its first feature."""
    if view == "strided":
        return x.repeat_interleave(2, -1)[..., ::2]
    if view == "transposed":
        return x.transpose(0, -1).contiguous().transpose(0, -1)
    if view == "expanded":
        return x[..., :1].expand_as(x)
    if view == "narrow":
        return torch.cat([x, x], -1)[..., : x.shape[-1]]
    return x


def operands(call: Call) -> tuple[Any, Any, list[Tensor]]:
    """Return the input, the state, and the leaf tensors that need gradients."""
    arguments = call.arguments
    sequences = [] if call.form == "single" else [call.rows]
    shape = [call.steps, *sequences]
    if arguments["batch_first"]:
        shape.reverse()
    leaf = torch.randn(*shape, arguments["input_size"], dtype=arguments["dtype"])
    leaf.requires_grad_(call.gradients in ("input", "all"))
    leaves = [leaf]
    x: Any = laid_out(leaf, call.view)
    if call.form.startswith("packed"):
        in_order = call.form.endswith("order")
        lengths = torch.randint(1, max(call.steps, 1) + 1, (call.rows,)).sort(descending=True).values
        x = pack_padded_sequence(x, lengths if in_order else lengths.flip(0), arguments["batch_first"], in_order)
    if not call.with_state:
        return x, None, leaves
    count = arguments["num_layers"] * (2 if arguments["bidirectional"] else 1)
    widths = [arguments.get("proj_size") or arguments["hidden_size"], arguments["hidden_size"]]
    states = [torch.randn(count, *sequences, w, dtype=arguments["dtype"]) for w in widths]
    states = states[: 2 if call.kind == "LSTM" else 1]
    for state in states:
        leaves.append(state.requires_grad_(call.gradients in ("state", "all")))
    given = [laid_out(state, call.view) for state in states]
    return x, tuple(given) if len(given) > 1 else given[0], leaves


def flat(result: Any) -> list[Tensor]:
    if isinstance(result, PackedSequence):
        return [result.data]
    if isinstance(result, tuple | list):
        return [t for part in result for t in flat(part)]
    return [result]


class Outcome(NamedTuple):
    """The results and derivatives of a call, or the type of its error."""

    error: type[BaseException] | None
    results: Sequence[Tensor] = ()
    first: Sequence[Tensor | None] = ()
    second: Sequence[Tensor | None] = ()


def outcome_of(layer: nn.Module, call: Call) -> Outcome:
    torch.manual_seed(call.seed + 1)
    try:
        x, hx, leaves = operands(call)
    except RuntimeError:  # no such packed sequence
        return Outcome(RuntimeError)
    for k, parameter in enumerate(layer.parameters()):
        parameter.requires_grad_(call.gradients == "all" or (call.gradients == "some weights" and k % 3 == 1))
    try:
        with torch.set_grad_enabled(call.gradients != "none"):
            with torch.autocast("cpu", torch.bfloat16, enabled=call.autocast):
                results = flat(layer(x, hx))
            wanted = [t for t in (*leaves, *layer.parameters()) if t.requires_grad]
            differentiable = [r for r in results if r.requires_grad]
            if not wanted or not differentiable:
                return Outcome(None, results)
            # Weighted, so that no two elements' gradients cancel; twice, through a quadratic function of the first.
            torch.manual_seed(0)
            loss = sum((r.double() * torch.randn_like(r, dtype=torch.double)).sum() for r in differentiable)
            twice = call.arguments["dtype"] == torch.float64 and not call.autocast
            first = torch.autograd.grad(loss, wanted, create_graph=twice, allow_unused=True)
            if not twice:
                return Outcome(None, results, first)
            penalty = sum((g**2).sum() for g in first if g is not None)
            if not isinstance(penalty, Tensor) or not penalty.requires_grad:
                return Outcome(None, results, first)
            return Outcome(None, results, first, torch.autograd.grad(penalty, wanted, allow_unused=True))
    except (RuntimeError, ValueError) as error:
        return Outcome(type(error))


def assert_close(ours: Sequence[Any], theirs: Sequence[Any], tolerance: float, least: float) -> None:
    assert len(ours) == len(theirs)
    # Relative to the largest tensor: a much smaller one is a difference of terms that nearly cancel.
    scale = max((t.abs().max().item() for t in theirs if t is not None and t.numel()), default=0.0)
    for a, b in zip(ours, theirs, strict=True):
        if a is None or b is None:  # torch returns zeros for some unused arguments, and None for others
            left = b if a is None else a
            assert left is None or not left.any()
            continue
        assert a.shape == b.shape
        if not b.numel():
            continue
        # Under autocast, torch's dtype depends on the kernel that it chooses; see test_dropin.py for the usual ones.
        assert a.dtype == b.dtype or least == 1.0
        assert (a.double() - b.double()).abs().max().item() <= tolerance * max(scale, least)


@settings(max_examples=90, deadline=None)
@given(calls())
def test_a_random_call_matches_torchs_layer(call: Call) -> None:
    torch.manual_seed(call.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about dropout in a single layer
        theirs = getattr(nn, call.kind)(**call.arguments).eval()
        ours = getattr(throughtime, call.kind)(**call.arguments).eval()
    ours.load_state_dict(theirs.state_dict())
    expected, found = outcome_of(theirs, call), outcome_of(ours, call)
    assume(expected.error is None)  # torch rejects some calls that ours accepts, such as those without steps
    assert found.error is None
    tolerance = TOLERANCE[torch.bfloat16 if call.autocast else call.arguments["dtype"]]
    least = 1e-3 if tolerance < 1e-3 else 1.0  # sums of numbers of about 1 are rounded to bfloat16
    assert_close(found.results, expected.results, tolerance, least)
    if call.arguments.get("nonlinearity") == "relu":
        # Where rounding decides whether a sum is above 0, a ReLU passes the gradient in one of the two layers only.
        assume(all(torch.equal(a > 0, b > 0) for a, b in zip(found.results, expected.results, strict=True)))
    assert_close(found.first, expected.first, 10 * tolerance, least)
    assert_close(found.second, expected.second, 100 * tolerance, least)
