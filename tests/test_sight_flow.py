"""Gradient flow and connectivity, compared with torch's autograd through a loop of single steps in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sight_helpers import one_step
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from throughtime import LSTM, Recurrent, cells, sight
from throughtime.errors import UserError
from throughtime.language import affine, cell, linear, tanh
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.options import Options
from throughtime.sight import connectivity, gradient_flow, horizon
from throughtime.sight.gradients import backward

T, B, INPUT, H = 7, 2, 3, 4
# float64: a few hundred rounding errors of 1e-16 each, in a different order
CLOSE = {"rtol": 1e-9, "atol": 1e-13}


def loop(module, x: Tensor, lengths=None, reset=None) -> tuple[Tensor, dict[str, list[list[Tensor]]]]:
    """Run the stack as a loop of single steps, sequence by sequence; return its output and each state's values."""
    lengths = lengths or [len(x)] * x.shape[1]
    values: dict[str, list[list[Tensor]]] = {}
    rows = []
    for b, length in enumerate(lengths):
        lanes = [x[:length, b : b + 1]]
        layers = module.layers()
        for depth, ways in enumerate(layers):
            outputs = []
            for way, (program, parameters) in enumerate(ways):
                y = lanes[way % len(lanes)]
                place = f"layer{depth}.reverse" if way else f"layer{depth}"
                states = [y.new_full((1, s.width), s.initial) for s in program.states]
                out: list[Tensor] = [None] * length  # type: ignore[list-item]
                kept = {s.name: [None] * length for s in program.states}
                for t in reversed(range(length)) if program.reverse else range(length):
                    if reset is not None and reset[t, b]:
                        states = [torch.full_like(s, d.initial) for s, d in zip(states, program.states, strict=True)]
                    body = one_step(program, y[t], states, parameters)
                    states, out[t] = [body[s.next] for s in program.states], body[program.outputs[0].value][None]
                    for s, state in zip(program.states, states, strict=True):
                        kept[s.name][t] = state
                outputs.append(torch.cat(out))
                for name, of_steps in kept.items():
                    values.setdefault(f"{place}.{name}", [[] for _ in lengths])[b] = of_steps
            lanes = together(lanes, outputs, getattr(module, "options", Options()), depth == len(layers) - 1)
        y = torch.cat(lanes, -1)
        rows.append(torch.cat([y, y.new_zeros(len(x) - length, *y.shape[1:])]))
    return torch.cat(rows, 1), values


def together(below, outputs, options, top) -> list[Tensor]:
    """Merge a layer's outputs as `Options` documents."""
    if options.merge == "concat":
        outputs = [torch.cat(outputs, -1)]
    elif options.merge != "none":
        a, b = outputs
        outputs = [{"sum": a + b, "mean": (a + b) / 2, "product": a * b}[options.merge]]
    past = [below[k % len(below)] for k in range(len(outputs))]
    if options.skip == "residual":
        outputs = [x + y if x.shape == y.shape else y for x, y in zip(past, outputs, strict=True)]
    elif options.skip == "dense" and not top:
        outputs = [torch.cat([x, y], -1) for x, y in zip(past, outputs, strict=True)]
    return outputs


def against_time(module) -> bool:
    """Return whether all layers run from the last step to the first."""
    return module.layers()[0][0][0].reverse


def expected(module, x: Tensor, loss, window: int, lengths=None, reset=None) -> dict[str, np.ndarray]:
    """Compute `Flow.norms` with one autograd call per step of the loss."""
    x = x.clone().requires_grad_()
    y, values = loop(module, x, lengths, reset)
    lengths = lengths or [len(x)] * x.shape[1]
    leaf = y.detach().requires_grad_()
    cotangents = torch.autograd.grad(loss(leaf), leaf)[0]
    found = {name: np.full((len(x), window + 1, len(lengths)), np.nan) for name in [*values, "input"]}
    for name in values:
        found.setdefault(name.rpartition(".")[0], np.full((len(x), window + 1, len(lengths)), np.nan))
    for b, length in enumerate(lengths):
        for s in range(length):
            if not cotangents[s, b].any():  # no loss at this step, so it is left out of the mean
                continue
            nodes = [(name, t, v) for name, of_rows in values.items() for t, v in enumerate(of_rows[b])]
            grads = torch.autograd.grad(
                y[s, b], [*(v for _, _, v in nodes), x], cotangents[s, b], retain_graph=True, allow_unused=True,
                materialize_grads=True,
            )  # fmt: skip
            squares: dict[tuple[str, int], float] = {}
            for (name, t, _), g in zip(nodes, grads, strict=False):
                place = name.rpartition(".")[0]
                lag = t - s if place.endswith("reverse") or against_time(module) else s - t
                if 0 <= lag <= window:
                    found[name][s, lag, b] = float(g.norm())
                    squares[place, lag] = squares.get((place, lag), 0.0) + float(g.norm()) ** 2
            for (place, lag), square in squares.items():
                found[place][s, lag, b] = square**0.5
            for lag in range(min(s, window) + 1):
                found["input"][s, lag, b] = float(grads[-1][s - lag, b].norm())
    with np.errstate(invalid="ignore"):
        return {
            k: np.where(np.isnan(v).all(-1), np.nan, np.nansum(v, -1) / (~np.isnan(v)).sum(-1))
            for k, v in found.items()
        }


def squares(y: Tensor) -> Tensor:
    return y.square().sum() / 2


def recurrent(cell="lstm", **options) -> Recurrent:
    torch.manual_seed(3)
    module = Recurrent(cell, INPUT, H, dtype=torch.float64, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.mul_(1.5)
    return module


def assert_norms(found, wanted) -> None:
    assert set(found) == set(wanted)
    for name in wanted:
        np.testing.assert_allclose(found[name], wanted[name], **CLOSE, err_msg=name)


X = torch.randn(T, B, INPUT, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


@pytest.mark.parametrize("name", cells.names())
def test_flow_of_every_cell_matches_autograd(name):
    module, x = recurrent(name), X[:5]
    assert_norms(gradient_flow(module, x, window=3).norms, expected(module, x, squares, 3))


@pytest.mark.parametrize("engine", ["reference", "native"])
def test_flow_of_a_stack_matches_autograd(engine):
    module = recurrent("gru", num_layers=3, engine=engine)
    assert_norms(gradient_flow(module, X, window=T - 1).norms, expected(module, X, squares, T - 1))


def test_lags_of_a_reverse_direction_count_forward_in_time():
    module = recurrent("lstm", num_layers=2, bidirectional=True)
    wanted = expected(module, X, squares, 4)
    del wanted["input"]
    assert_norms(gradient_flow(module, X, window=4).norms, wanted)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_sequences_of_different_lengths_count_up_to_their_ends(bidirectional):
    module = recurrent("lstm", num_layers=2, bidirectional=bidirectional)
    lengths = [3, 7]
    packed = pack_padded_sequence(X, torch.tensor(lengths), enforce_sorted=False)
    # a different weight for each step reveals sequences in the wrong order
    weight = torch.rand(T, B, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    data = pack_padded_sequence(weight, torch.tensor(lengths), enforce_sorted=False).data
    found = gradient_flow(module, packed, loss=lambda given: (given[0].data.square() * data).sum() / 2, window=4)
    wanted = expected(module, X, lambda y: (y.square() * weight).sum() / 2, 4, lengths)
    if bidirectional:
        del wanted["input"]
    assert_norms(found.norms, wanted)


def test_model_that_passes_lengths_itself_keeps_its_batch_order():
    module = recurrent("gru")

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x, lengths=[3, 7])

    weight = torch.rand(T, B, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss(y):
        return (y.square() * weight).sum() / 2

    found = gradient_flow(Wrapped(), X, loss=lambda given: loss(given[0]), window=4)
    assert_norms(found.norms, expected(module, X, loss, 4, [3, 7]))


def test_resets_block_gradients():
    module = recurrent("lstm")
    reset = torch.zeros(T, B, dtype=torch.float64)
    reset[4, 0] = reset[2, 1] = 1

    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x, reset=reset)

    assert_norms(gradient_flow(Wrapped(), X, window=T - 1).norms, expected(module, X, squares, T - 1, reset=reset))


def test_batch_first_and_drop_in_modules_agree():
    torch.manual_seed(0)
    ours = LSTM(INPUT, H, num_layers=2, dtype=torch.float64)
    first = LSTM(INPUT, H, num_layers=2, batch_first=True, dtype=torch.float64)
    first.load_state_dict(ours.state_dict())
    found = gradient_flow(ours, X, window=3).norms
    assert_norms(found, gradient_flow(first, X.transpose(0, 1), window=3).norms)
    assert_norms(found, expected(ours, X, squares, 3))
    one_row = gradient_flow(ours, X[:, 0], window=3).norms
    assert_norms(one_row, expected(ours, X[:, :1], squares, 3))


def language_model() -> LanguageModel:
    torch.manual_seed(0)
    layers = Recurrent("gru", INPUT, H, num_layers=2, dtype=torch.float64, dropout=0.5)
    return LanguageModel(5, layers, dropout=0.5).double()


JOINED = [
    *({"bidirectional": True, "merge": merge} for merge in ("sum", "mean", "product", "none")),
    *({"bidirectional": True, "merge": "sum", "skip": skip} for skip in ("residual", "dense")),
    {"bidirectional": True, "merge": "none", "skip": "dense"},
    {"skip": "residual"},
    {"skip": "dense"},
    {"reverse": True, "skip": "residual"},
    {"zoneout": 0.3, "learn_initial": True, "heads": 2, "clip": 1.0},
]


@pytest.mark.parametrize("options", JOINED, ids=str)
def test_flow_is_correct_for_every_way_of_connecting_layers(options):
    module = recurrent("lstm", num_layers=3, **options)
    weight = torch.rand(T, B, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def loss(y):
        return (y.square() * weight).sum() / 2

    def of_module(given):
        y = given[0]
        return loss(torch.cat(y, -1) if isinstance(y, tuple) else y)

    found = gradient_flow(module, X, loss=of_module, window=4).norms
    wanted = expected(module, X, loss, 4)
    if module.bidirectional or options.get("reverse"):
        del wanted["input"]
    assert_norms(found, wanted)


@pytest.mark.parametrize("options", [{}, {"bidirectional": True}], ids=str)
@pytest.mark.parametrize("lengths", [None, [3, 7]])
def test_module_that_returns_the_last_step_has_a_loss_only_there(options, lengths):
    module = recurrent("gru", num_layers=2, **options)
    last = recurrent("gru", num_layers=2, returns="last", **options)
    last.load_state_dict(module.state_dict())
    given_x = X if lengths is None else pack_padded_sequence(X, torch.tensor(lengths), enforce_sorted=False)
    found = gradient_flow(last, given_x, window=4)
    ends = torch.zeros(T, B, module.output_size, dtype=torch.float64)
    for b, length in enumerate(lengths or [T] * B):
        ends[length - 1, b, :H] = 1
        ends[0, b, H:] = 1  # a reverse direction reaches the first step last
    wanted = expected(module, X, lambda y: (y.square() * ends).sum() / 2, 4, lengths)
    steps = sorted({length - 1 for length in lengths or [T]} | ({0} if options else set()))
    assert found.steps.tolist() == steps
    if options:
        del wanted["input"]
    assert_norms(found.norms, {name: norms[steps] for name, norms in wanted.items()})


def test_loss_of_some_steps_is_averaged_over_those():
    module = recurrent("gru")
    found = gradient_flow(module, X, loss=lambda given: given[0][4].square().sum(), window=4)
    assert found.steps.tolist() == [4]


def test_returned_states_are_not_an_output():
    with pytest.raises(UserError, match="returns='states'"):
        gradient_flow(recurrent("gru", returns="states"), X)


TOKENS = torch.randint(5, (T + 1, B), generator=torch.Generator().manual_seed(2))


def cross_entropy(model: LanguageModel, targets: Tensor):
    def loss(y: Tensor) -> Tensor:
        scores = nn.functional.linear(y, model.head.weight, model.head.bias)
        return nn.functional.cross_entropy(scores.flatten(0, 1), targets.flatten(), reduction="sum")

    return loss


def test_loss_of_a_language_model_is_next_token_cross_entropy_without_dropout():
    model = language_model().train()
    wanted = expected(model.recurrent, model.encoder(TOKENS[:-1]).detach(), cross_entropy(model, TOKENS[1:]), 5)
    assert_norms(gradient_flow(model, TOKENS, window=5).norms, wanted)
    assert_norms(gradient_flow(model, TOKENS[:-1], TOKENS[1:], window=5).norms, wanted)
    assert model.training
    assert model.recurrent.training
    assert model.recurrent.hooks == ()


def test_connectivity_differentiates_the_log_probability_or_the_best_score():
    model = language_model()
    x = model.encoder(TOKENS[:-1]).detach()
    found = connectivity(model, TOKENS, steps=[6, 2], window=T)
    wanted = expected(model.recurrent, x, cross_entropy(model, TOKENS[1:]), T - 1)["input"]
    np.testing.assert_allclose(found.norms, wanted[[6, 2]], **CLOSE)
    np.testing.assert_allclose(found.past(2), wanted[2, 2::-1], **CLOSE)

    def best(y: Tensor) -> Tensor:
        return nn.functional.linear(y, model.head.weight, model.head.bias).max(-1).values.sum()

    found = connectivity(model, TOKENS[:-1], of="best", window=3)
    np.testing.assert_allclose(found.norms, expected(model.recurrent, x, best, 3)["input"], **CLOSE)
    # inputs beyond the window count as 0
    assert (found.past(6)[:3] == 0).all()
    assert (found.past(6)[3:] > 0).all()


def test_chunk_size_does_not_change_results(monkeypatch):
    module = recurrent("lstm", num_layers=2)
    whole = gradient_flow(module, X, window=4).norms
    monkeypatch.setattr("throughtime.sight.gradients.backward._ELEMENTS", 1)
    assert_norms(gradient_flow(module, X, window=4).norms, whole)


def test_memory_does_not_grow_with_the_number_of_steps(monkeypatch):
    """A run of the gradient program stores a bounded number of values, regardless of the number of losses."""
    sizes = []
    run = backward._Stack._through_layer
    monkeypatch.setattr(backward, "_ELEMENTS", 1 << 16)
    monkeypatch.setattr(
        backward._Stack, "_through_layer", lambda self, layer, at, *rest: (
            sizes.append(at.numel() * len(self.lengths) * layer.width), run(self, layer, at, *rest)
        )[1],
    )  # fmt: skip
    module = recurrent("lstm", num_layers=2)
    x = torch.randn(2000, 1, INPUT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = gradient_flow(module, x, window=30)
    assert found.norms["layer0"].shape == (2000, 31)
    assert len(sizes) > 20
    assert max(sizes) <= 1 << 16


@cell
def scaled(x, h, *, by=1.0):
    """A cell whose units multiply their state by a number and add the input."""
    h = by * h + affine("input", x, bias=False)
    return h


@given(by=st.floats(0.3, 1.4), fraction=st.sampled_from([0.01, 0.1]))
@settings(max_examples=20, deadline=None)
def test_horizon_of_a_scaled_state_matches_arithmetic(by, fraction):
    module = Recurrent(scaled, 1, 1, dtype=torch.float64, by=by)
    nn.init.ones_(module.weight_x_l0)
    flow = gradient_flow(
        module, torch.ones(60, 1, 1, dtype=torch.float64), loss=lambda given: given[0].sum(), window=40
    )
    np.testing.assert_allclose(flow.by_lag["layer0"], by ** np.arange(41), rtol=1e-12)
    found = flow.horizon("layer0", fraction)
    assert found.rate == pytest.approx(by, rel=1e-9)
    expected_lag = int(np.argmax(by ** np.arange(41) <= fraction))
    assert found.lag == (expected_lag or None)
    assert found.grows == (by > 1)


def test_gradients_beyond_float32_are_computed_in_float64():
    module = Recurrent(scaled, 1, 1, by=3.0)
    nn.init.ones_(module.weight_x_l0)
    # a loss so small that only its derivative with respect to distant states is large
    flow = gradient_flow(module, torch.ones(101, 1, 1), loss=lambda given: given[0].sum(), window=100)
    np.testing.assert_allclose(flow.by_lag["layer0"], 3.0 ** np.arange(101), rtol=1e-6)
    assert flow.horizons["layer0"].grows
    assert str(flow.horizons["layer0"]) == "grows 5.15e+47-fold by lag 100"


def test_initial_state_affects_the_flow():
    module = recurrent("rnn")
    state = torch.full((1, B, H), 3.0, dtype=torch.float64)
    without, given_one = (gradient_flow(module, X, state=s, window=2).norms["layer0"] for s in (None, state))
    assert np.nanmax(np.abs(without - given_one)) > 1e-3


class TestHorizon:
    def test_the_horizon_is_the_first_lag_with_at_most_1_percent(self):
        found = horizon(np.array([1.0, 0.5, 0.009, 0.02]))
        assert (found.lag, found.window, found.grows, str(found)) == (2, 3, False, "2 steps")

    def test_the_fraction_is_relative_to_the_first_lag_with_a_gradient(self):
        assert horizon(np.array([0.0, 2.0, 1.0, 0.02])).lag == 3

    def test_the_horizon_may_be_beyond_the_window(self):
        found = horizon(np.array([1.0, 0.9, 0.8]))
        assert found.lag is None
        assert not found.grows
        assert str(found) == "more than 2 steps"

    def test_missing_lags_are_skipped_and_infinity_counts_as_growth(self):
        found = horizon(np.array([1.0, np.nan, 0.5, 0.009, np.nan]))
        assert (found.lag, found.window) == (3, 3)
        assert horizon(np.array([1e-3, 1e200, 1e308, np.inf])).grows

    def test_gradient_that_rises_and_falls_again_does_not_grow(self):
        assert not horizon(np.array([1.0, 3.0, 9.0, 8.0, 6.0, 4.0])).grows

    @pytest.mark.parametrize(
        ("by_lag", "fraction", "message"),
        [
            (np.zeros(3), 0.01, "not all zero"),
            (np.array([1.0, -1.0]), 0.01, "nonnegative"),
            (np.array([np.nan, np.nan]), 0.01, "not all zero"),
            (np.ones((2, 2)), 0.01, r"\[lags\]"),
            (np.ones(3), 1.0, "between 0 and 1"),
        ],
    )
    def test_invalid_arguments_raise(self, by_lag, fraction, message):
        with pytest.raises(UserError, match=message):
            horizon(by_lag, fraction)


class TestInvalidArguments:
    def test_an_unknown_name_raises_with_a_suggestion(self):
        flow = gradient_flow(recurrent(), X, window=2)
        with pytest.raises(UserError, match=r"no gradient named 'layer0.cel' .did you mean layer0.cell\?"):
            flow.horizon("layer0.cel")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"window": 0}, "window must be a positive integer, got 0"),
            ({"steps": [7]}, "from 0 to 6, got 7 to 7"),
            ({"steps": []}, "non-empty"),
            ({"steps": [0.5]}, "integers"),
            ({"targets": torch.zeros(2)}, "targets require a sequence model"),
            ({"loss": lambda given: given[0]}, "must be a scalar"),
            ({"loss": lambda given: X.sum()}, "but no gradient reaches them"),
        ],
    )
    def test_an_invalid_window_or_step_raises(self, options, message):
        with pytest.raises(UserError, match=message):
            gradient_flow(recurrent(), X, **options)

    @pytest.mark.parametrize(
        ("tokens", "message"),
        [
            (torch.zeros(1, 1, dtype=torch.int64), "at least 2 tokens"),
            (torch.tensor([0, 5]), "token ids must be from 0 to 4, got 5"),
            (torch.tensor([0, -1]), "got -1"),
            (torch.zeros(3), "must be integers"),
        ],
    )
    def test_invalid_token_ids_raise(self, tokens, message):
        with pytest.raises(UserError, match=message):
            gradient_flow(language_model(), tokens)

    def test_a_model_without_recurrent_layers_raises(self):
        with pytest.raises(UserError, match="Linear has no throughtime recurrent layers"):
            gradient_flow(nn.Linear(2, 2), X)
        with pytest.raises(UserError, match="accelerate"):
            gradient_flow(nn.LSTM(2, 2), X)
        with pytest.raises(UserError, match="got int"):
            gradient_flow(3, X)

    def test_invalid_arguments_of_connectivity_raise(self):
        with pytest.raises(UserError, match="got 'worst'"):
            connectivity(language_model(), TOKENS, of="worst")
        with pytest.raises(UserError, match="scores tokens or labels"):
            connectivity(recurrent(), X, of="best")
        with pytest.raises(UserError, match="step 5 was not computed"):
            connectivity(recurrent(), X, steps=[3]).past(5)


def test_diverged_network_raises():
    module = Recurrent(scaled, 1, 1, by=3.0)
    nn.init.ones_(module.weight_x_l0)
    with pytest.raises(UserError, match="the network has diverged"):
        gradient_flow(module, torch.ones(120, 1, 1))


def test_several_recurrent_modules_are_distinguished_by_path():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = recurrent("gru"), Recurrent("lstm", H, H, dtype=torch.float64)

        def forward(self, x):
            return self.decoder(self.encoder(x)[0])

    found = gradient_flow(Two(), X, window=3)
    assert {"encoder.layer0", "encoder.input", "decoder.layer0.cell"} <= set(found.norms)
    assert found.layers == ["encoder.layer0", "decoder.layer0"]
    assert sight.Flow is type(found)


@cell
def two_stage(x, h):
    """A cell with a second matrix product, unlike any built-in cell."""
    h = linear("out", tanh(affine("in", x, h)))
    return h


def test_user_defined_cells_work():
    module = recurrent(two_stage, num_layers=2)
    assert_norms(gradient_flow(module, X, window=4).norms, expected(module, X, squares, 4))
