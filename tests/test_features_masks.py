"""Dropout, recurrent dropout, zoneout and weight drop match their papers, on every engine and for every cell."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from helpers import assert_close
from torch import Tensor
from torch.nn import functional

from throughtime import cells
from throughtime.errors import UserError
from throughtime.nn import regularization
from throughtime.nn.masks import dropped, mask, scaled_mask
from throughtime.nn.recurrent import Recurrent
from throughtime.program.rewrite import masked_states, recurrent_weights

STEPS, ROWS, WIDTH, HIDDEN = 5, 3, 3, 4
ENGINES = ["native", "reference"]


@pytest.fixture
def masks(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The masks on states, in the order they are drawn."""
    drawn: list[Tensor] = []

    class Seen(regularization.Masks):
        def inputs(self, *given: Any) -> list[Tensor]:
            found = super().inputs(*given)
            drawn.extend(found)
            return found

    monkeypatch.setattr("throughtime.nn.recurrent.Masks", Seen)
    return drawn


def layer_and_input(cell: str, engine: str | None = None, layers: int = 1, **options: Any) -> tuple[Recurrent, Tensor]:
    torch.manual_seed(0)
    layer = Recurrent(cell, WIDTH, HIDDEN, layers, engine=engine, dtype=torch.float64, **options)
    return layer, torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)


# One step of each cell as in its paper, with a mask on the state where it enters the matrix products.


def rnn(w: dict[str, Tensor], x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    return (torch.tanh(x @ w["x"].T + w["b"] + (h * m) @ w["h"].T),)


def gru(w: dict[str, Tensor], x: Tensor, h: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    (xr, xz, xn), (hr, hz, hn) = (x @ w["x"].T).chunk(3, -1), ((h * m) @ w["h"].T).chunk(3, -1)
    br, bz, bn, bm = w["b"].chunk(4)
    r, z = torch.sigmoid(xr + hr + br), torch.sigmoid(xz + hz + bz)
    n = torch.tanh(xn + bn + r * (hn + bm))
    return ((1 - z) * n + z * h,)


def lstm(w: dict[str, Tensor], x: Tensor, h: Tensor, c: Tensor, m: Tensor) -> tuple[Tensor, ...]:
    i, f, g, o = (x @ w["x"].T + w["b"] + (h * m) @ w["h"].T).chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


STEP: dict[str, Callable[..., tuple[Tensor, ...]]] = {"rnn": rnn, "gru": gru, "lstm": lstm}


def by_hand(
    cell: str,
    layer: Recurrent,
    x: Tensor,
    *,
    recurrent: Tensor | None = None,
    keep: list[Tensor] | None = None,
    mean: list[float] | None = None,
) -> list[Tensor]:
    """Compute the output and the final states of one layer with a loop.

    Args:
        cell: the name of the cell.
        layer: the layer with the weights.
        x: the input, `[T, B, I]`.
        recurrent: the mask on the hidden state where it enters the matrix products, `[B, H]`.
        keep: one mask per state, nonzero where the state keeps its old value, `[T, B, H]`.
        mean: one number per state, the fraction of the old value that the state keeps.
    """
    weights = {n: layer.get_parameter(f"{p}_l0") for n, p in (("x", "weight_x"), ("h", "weight_h"), ("b", "bias"))}
    states = [x.new_zeros(ROWS, HIDDEN) for _ in layer.programs[0].states]
    outputs = []
    for t in range(STEPS):
        m = torch.ones_like(states[0]) if recurrent is None else recurrent
        new = STEP[cell](weights, x[t], *states, m)
        if keep is not None:
            new = tuple(torch.where(k[t] != 0, old, n) for k, old, n in zip(keep, states, new, strict=True))
        if mean is not None:
            new = tuple(p * old + (1 - p) * n for p, old, n in zip(mean, states, new, strict=True))
        states = list(new)
        outputs.append(states[0])
    return [torch.stack(outputs), *states]


def flat(result: tuple[Any, Any]) -> list[Tensor]:
    found: list[Tensor] = []
    for part in result:
        found += part if isinstance(part, tuple | list) else [part]
    return found


def values_and_gradients(results: list[Tensor], layer: Recurrent, x: Tensor) -> list[Tensor]:
    loss = sum((r.sin() * r).sum() for r in results)
    assert isinstance(loss, Tensor)
    found = torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True, materialize_grads=True)
    return [*results, *found]


def assert_same(layer: Recurrent, x: Tensor, found: tuple[Any, Any], wanted: list[Tensor]) -> None:
    wanted = [wanted[0], *(w.unsqueeze(0) for w in wanted[1:])]
    assert_close(values_and_gradients(flat(found), layer, x), values_and_gradients(wanted, layer, x))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", STEP)
def test_recurrent_dropout_masks_the_state_in_matrix_products_with_one_mask(
    cell: str, engine: str, masks: list[Tensor]
) -> None:
    layer, x = layer_and_input(cell, engine, recurrent_dropout=0.5)
    found = layer(x)
    (drawn,) = masks
    assert set(drawn.unique().tolist()) == {0.0, 2.0}
    assert_same(layer, x, found, by_hand(cell, layer, x, recurrent=drawn[0]))
    layer.eval()
    assert_same(layer, x, layer(x), by_hand(cell, layer, x))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("cell", STEP)
def test_zoneout_keeps_units_in_training_and_uses_the_mean_in_evaluation(
    cell: str, engine: str, masks: list[Tensor]
) -> None:
    layer, x = layer_and_input(cell, engine, zoneout=0.3)
    found = layer(x)
    assert_same(layer, x, found, by_hand(cell, layer, x, keep=masks))
    layer.eval()
    assert_same(layer, x, layer(x), by_hand(cell, layer, x, mean=[0.3] * len(masks)))


def test_each_state_can_have_its_own_zoneout_probability(masks: list[Tensor]) -> None:
    layer, x = layer_and_input("lstm", zoneout={"cell": 0.5, "hidden": 0.05})
    found = layer(x)
    assert_same(layer, x, found, by_hand("lstm", layer, x, keep=masks))
    layer.eval()
    assert_same(layer, x, layer(x), by_hand("lstm", layer, x, mean=[0.05, 0.5]))
    masks.clear()
    only, x = layer_and_input("lstm", zoneout={"cell": 0.5})
    only(x)
    assert len(masks) == 1


@pytest.mark.parametrize("engine", ENGINES)
def test_recurrent_dropout_and_zoneout_combine(engine: str, masks: list[Tensor]) -> None:
    layer, x = layer_and_input("lstm", engine, recurrent_dropout=0.5, zoneout=0.2)
    found = layer(x)
    assert_same(layer, x, found, by_hand("lstm", layer, x, recurrent=masks[0][0], keep=masks[1:]))


@pytest.mark.parametrize("cell", STEP)
def test_weight_drop_drops_elements_of_the_recurrent_matrices(cell: str) -> None:
    layer, x = layer_and_input(cell, weight_drop=0.5)
    torch.manual_seed(1)
    found = layer(x)[0]
    torch.manual_seed(1)
    matrix = layer.get_parameter("weight_h_l0")
    masked = dropped(matrix, 0.5)
    assert 0 < int((masked == 0).sum()) < masked.numel()
    twin, _ = layer_and_input(cell)
    wanted = torch.func.functional_call(twin, dict(layer.named_parameters()) | {"weight_h_l0": masked}, x)[0]
    assert torch.equal(found, wanted)
    assert_close(
        torch.autograd.grad(found.sum(), list(layer.parameters())),
        torch.autograd.grad(wanted.sum(), list(layer.parameters())),
    )
    assert torch.equal(layer.eval()(x)[0], twin(x)[0])


@pytest.mark.parametrize("name", cells.names())
def test_every_cell_supports_every_mask(name: str, masks: list[Tensor]) -> None:
    """The native engine matches the reference engine. Zoneout alone also matches a loop of single steps."""
    program = cells.get(name).program(WIDTH, HIDDEN)
    recurrent = 0.4 if masked_states(program) else 0.0
    results = []
    for engine in ENGINES:
        layer, x = layer_and_input(name, engine, recurrent_dropout=recurrent, zoneout=0.3, weight_drop=recurrent)
        torch.manual_seed(1)
        results.append(values_and_gradients(flat(layer(x)), layer, x))
    # The engines round differently, and the functions of some cells are steep in places.
    assert_close(*results, tolerance=1e-9)
    masks.clear()
    layer, x = layer_and_input(name, "reference", zoneout=0.3)
    found = flat(layer(x))
    plain, _ = layer_and_input(name, "reference")
    states: Any = [x.new_full((1, ROWS, s.width), s.initial) for s in program.states]
    for t in range(STEPS):
        new = flat(plain(x[t : t + 1], states[0] if len(states) == 1 else tuple(states)))[1:]
        states = [torch.where(m[t] != 0, old, n) for m, old, n in zip(masks, states, new, strict=True)]
    assert_close(found[1:], states)


@pytest.mark.parametrize("name", [n for n in cells.names() if recurrent_weights(cells.get(n).program(2, 2))])
def test_a_mask_only_scales_states_that_enter_matrix_products(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("throughtime.nn.regularization.scaled_mask", lambda like, shape, dropout: like.new_ones(shape))
    layer, x = layer_and_input(name, "reference", recurrent_dropout=0.5)
    plain, _ = layer_and_input(name, "reference")
    assert_close(flat(layer(x)), flat(plain(x)))
    monkeypatch.setattr("throughtime.nn.regularization.scaled_mask", lambda like, shape, dropout: like.new_zeros(shape))
    weights = [layer.programs[0].parameters[k].name.replace(".", "_") for k in recurrent_weights(layer.programs[0])]
    without = {n: p * 0 if n.removesuffix("_l0") in weights else p for n, p in layer.named_parameters()}
    assert_close(flat(layer(x)), flat(torch.func.functional_call(plain, without, x)))


@pytest.mark.parametrize(
    "options", [{"recurrent_dropout": 0.5}, {"zoneout": 0.3}, {"weight_drop": 0.5}, {"dropout": 0.5}]
)
@pytest.mark.parametrize("engine", [None, "reference"])
def test_a_seed_reproduces_training_on_any_number_of_threads(options: dict[str, float], engine: str | None) -> None:
    layer, x = layer_and_input("lstm", engine, 2, **options)
    threads, results = torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(7)
            results.append(values_and_gradients(flat(layer(x)), layer, x))
    finally:
        torch.set_num_threads(threads)
    for again in results[1:]:
        assert all(map(torch.equal, again, results[0]))
    other = layer(x)[0]
    assert not torch.equal(other, results[0][0])  # the generator has advanced


@pytest.mark.parametrize("variational", [False, True])
def test_dropout_between_layers_differs_per_step_unless_variational(variational: bool) -> None:
    layer, x = layer_and_input("rnn", "reference", 2, dropout=0.5, variational=variational)
    torch.manual_seed(1)
    found = layer(x)[0]
    first, second = (
        Recurrent.from_programs([program], HIDDEN, engine="reference", dtype=torch.float64)
        for program in layer.programs
    )
    for depth, alone in enumerate((first, second)):
        alone.load_state_dict(
            {n.replace(f"_l{depth}", "_l0"): p for n, p in layer.state_dict().items() if n.endswith(f"_l{depth}")}
        )
    torch.manual_seed(1)
    between = first(x)[0]
    masked = between * scaled_mask(between, (1, ROWS, HIDDEN), 0.5) if variational else dropped(between, 0.5)
    kept = (masked != 0).to(x.dtype)
    assert bool((kept == kept[0]).all()) is variational
    assert_close([found, masked], [second(masked)[0], kept * 2.0 * between])


def test_masks_have_the_right_statistics() -> None:
    torch.manual_seed(0)
    like = torch.zeros(1)
    drawn = mask(like, (500, 1000), 0.3)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert abs(float(drawn.mean()) - 0.3) < 0.004  # six standard deviations
    # Neighbors are derived from the same random number, and must be independent.
    for shift in (1, 2, 3, 4):
        both = drawn.view(-1)[:-shift] * drawn.view(-1)[shift:]
        assert abs(float(both.mean()) - 0.09) < 0.004
    assert (mask(like, (1000,), 0.0) == 0).all()
    assert (mask(like, (1000,), 1.0) == 1).all()
    assert mask(like.double(), (3, 0, 2), 0.5).shape == (3, 0, 2)
    assert mask(like.double(), (2,), 0.5).dtype == torch.float64


def test_dropout_matches_torch_semantics() -> None:
    x = torch.randn(40, 50, dtype=torch.float64, requires_grad=True)
    torch.manual_seed(0)
    y = dropped(x, 0.2)
    kept = y != 0
    assert_close([y], [torch.where(kept, x / 0.8, 0.0)])
    (g,) = torch.autograd.grad(y.sum(), x)
    assert_close([g], [torch.where(kept, 1 / 0.8, 0.0).double()])
    assert dropped(x, 0.0) is x
    assert torch.equal(dropped(x, 1.0), functional.dropout(x, 1.0))
    some = x[:, ::7]  # not contiguous
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: (torch.manual_seed(3), dropped(x, 0.5))[1], some[:2, :3])
    assert dropped(x[:0], 0.5).shape == (0, 50)
    assert dropped(x.float(), 0.5).dtype == torch.float32
    assert dropped(x.bfloat16(), 0.5).dtype == torch.bfloat16


def test_dropout_works_under_transforms_and_torch_compile() -> None:
    x = torch.ones(30, 40)
    y, tangent = torch.func.jvp(lambda x: dropped(x, 0.25), (x,), (3 * x,))
    assert torch.equal(tangent, 3 * y)
    assert not torch.equal(y, x)
    torch.manual_seed(3)
    compiled = torch.compile(lambda x: dropped(x, 0.25), fullgraph=True, backend="aot_eager")(x)
    torch.manual_seed(3)
    assert torch.equal(compiled, dropped(x, 0.25))
    of = x.requires_grad_(), torch.tensor(5), 0.25
    torch.library.opcheck(torch.ops.throughtime.dropout, of)


@pytest.mark.parametrize("chance", [0.05, 0.5])
def test_dropped_elements_are_independent(chance: float) -> None:
    torch.manual_seed(0)
    first, second = (dropped(torch.ones(1_000_000), chance) == 0 for _ in range(2))
    within = 6 * (chance / 1_000_000) ** 0.5  # six standard deviations, or more
    assert abs(float(first.float().mean()) - chance) < within
    # Four neighbors share a random number, 32 are drawn at once, and each call uses a new seed.
    for shift in (1, 2, 3, 4, 31, 32, 33, 128):
        assert abs(float((first[:-shift] & first[shift:]).float().mean()) - chance**2) < within
    assert abs(float((first & second).float().mean()) - chance**2) < within


@pytest.mark.parametrize(
    ("cell", "options", "message"),
    [
        ("lstm", {"dropout": 1.5}, "dropout must be a probability from 0 to 1, got 1.5"),
        ("lstm", {"zoneout": -0.1}, "zoneout must be a probability"),
        ("lstm", {"zoneout": {"cel": 0.1}}, "'cel', but cell 'lstm' has no such state.*did you mean cell"),
        ("lstm", {"zoneout": {"cell": 2}}, "zoneout of cell must be a probability"),
        ("lstm", {"weight_drop": True}, "weight_drop must be a probability"),
        ("lstm", {"recurrent_dropout": "much"}, "recurrent_dropout must be a probability"),
        ("lstm", {"variational": True}, "pass a dropout above 0 too"),
        ("indrnn", {"recurrent_dropout": 0.1}, "recurrent_dropout drops elements of recurrent matrices"),
        ("mingru", {"weight_drop": 0.1}, "weight_drop drops elements of recurrent matrices"),
    ],
)
def test_invalid_probabilities_raise(cell: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recurrent(cell, 3, 4, **options)
