"""The combination of layers and directions, and the results of a layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import assert_close
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from throughtime import cells
from throughtime.errors import UserError
from throughtime.language import ACTIVATIONS
from throughtime.nn.language_model import LanguageModel
from throughtime.nn.options import Options
from throughtime.nn.recurrent import Recurrent
from throughtime.program.rewrite import activated, recurrent_weights

STEPS, ROWS, WIDTH, HIDDEN = 5, 4, 3, 4
LENGTHS = [3, 5, 0, 4]


def made(cell: str = "lstm", layers: int = 1, width: int = WIDTH, **options: Any) -> Recurrent:
    torch.manual_seed(0)
    return Recurrent(cell, width, HIDDEN, layers, dtype=torch.float64, **options)


def data(width: int = WIDTH) -> Tensor:
    torch.manual_seed(1)
    return torch.randn(STEPS, ROWS, width, dtype=torch.float64, requires_grad=True)


def alone(layer: Recurrent, depth: int, way: int = 0) -> Recurrent:
    """Return one direction of one layer of a stack as a separate layer that shares its parameters."""
    suffix = f"_l{depth}_reverse" if way else f"_l{depth}"
    one = Recurrent.from_programs([layer.programs[depth]], HIDDEN, reverse=way == 1, dtype=torch.float64)
    named = dict(layer.named_parameters())
    for name in dict(one.named_parameters()):
        one._parameters[name] = named[name.removesuffix("_l0") + suffix]  # shared, to compare gradients
    return one


def states_of(final: Any) -> list[Tensor]:
    return list(final) if isinstance(final, tuple) else [final]


def assert_same(layer: Recurrent, x: Tensor, found: list[Tensor], wanted: list[Tensor]) -> None:
    """Assert that values and gradients agree."""
    leaves = [x, *layer.parameters()]

    def all_of(results: list[Tensor]) -> list[Tensor]:
        loss = sum((r.sin() * r).sum() for r in results)
        assert isinstance(loss, Tensor)
        return [*results, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)]

    assert_close(all_of(found), all_of(wanted))


MERGED = {
    "concat": lambda a, b: [torch.cat([a, b], -1)],
    "sum": lambda a, b: [a + b],
    "mean": lambda a, b: [(a + b) / 2],
    "product": lambda a, b: [a * b],
    "none": lambda a, b: [a, b],
}


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("merge", MERGED)
@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_directions_are_merged(cell: str, merge: str, lengths: list[int] | None) -> None:
    layer, x = made(cell, 2, bidirectional=True, merge=merge), data()
    output, final = layer(x, lengths=lengths)
    taken = [x]
    ends = []
    for depth in range(2):
        both = [alone(layer, depth, way)(taken[way % len(taken)], lengths=lengths) for way in range(2)]
        taken = MERGED[merge](both[0][0], both[1][0])
        ends += [states_of(state) for _, state in both]
    wanted = [torch.cat(of) for of in zip(*ends, strict=True)]
    outputs = list(output) if merge == "none" else [output]
    assert outputs[0].shape[-1] == layer.output_size
    assert_same(layer, x, [*outputs, *states_of(final)], [*taken, *wanted])


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_residual_skip_adds_the_input_of_a_layer(bidirectional: bool) -> None:
    layer, x = (
        made("gru", 3, bidirectional=bidirectional, merge="mean" if bidirectional else "concat", skip="residual"),
        data(),
    )
    y = x
    for depth in range(3):
        given = [alone(layer, depth, way)(y)[0] for way in range(1 + bidirectional)]
        gives = sum(given) / len(given)
        y = gives if depth == 0 else y + gives  # the first layer's input has a different width
    assert_same(layer, x, [layer(x)[0]], [y])


def test_a_dense_skip_concatenates_the_outputs_of_all_lower_layers() -> None:
    layer, x = made("gru", 3, skip="dense"), data()
    assert [program.inputs[0].width for program in layer.programs] == [3, 7, 11]
    first = alone(layer, 0)(x)[0]
    second = alone(layer, 1)(torch.cat([x, first], -1))[0]
    third = alone(layer, 2)(torch.cat([x, first, second], -1))[0]
    assert_same(layer, x, [layer(x)[0]], [third])


def test_a_skip_adds_the_values_before_dropout() -> None:
    layer, x = made("gru", 2, width=HIDDEN, skip="residual", dropout=1.0), data(HIDDEN)
    first = x + alone(layer, 0)(x)[0]
    assert_same(layer, x, [layer(x)[0]], [first + alone(layer, 1)(first * 0)[0]])


@pytest.mark.parametrize("cell", cells.names())
def test_reverse_equals_the_layer_on_reversed_time(cell: str) -> None:
    layer, x = made(cell, 2, reverse=True), data()
    forward = made(cell, 2)
    forward.load_state_dict(layer.state_dict())
    y, final = layer(x)
    turned, other = forward(x.flip(0))
    assert_close([y, *states_of(final)], [turned.flip(0), *states_of(other)])


@pytest.mark.parametrize("cell", ["lstm", "scrn"])
@pytest.mark.parametrize("options", [{}, {"reverse": True}, {"bidirectional": True}, {"batch_first": True}])
@pytest.mark.parametrize("form", ["padded", "lengths", "packed", "single"])
def test_returns_last_selects_the_last_step_of_each_sequence(cell: str, options: dict[str, bool], form: str) -> None:
    layer = made(cell, 2, returns="last", **options)
    plain = made(cell, 2, **options)
    first = options.get("batch_first", False)
    x = data()
    lengths = {"lengths": LENGTHS, "packed": [3, 5, 1, 4]}.get(form, [STEPS] * ROWS)
    y, final = plain(x.transpose(0, 1) if first else x, lengths=lengths)
    y = y.transpose(0, 1) if first else y
    ahead = torch.stack([y[n - 1, row] if n else y[0, row] * 0 for row, n in enumerate(lengths)])
    behind = y[0]
    width = y.shape[-1] // 2
    wanted = ahead
    if "reverse" in options:
        wanted = behind
    elif "bidirectional" in options:
        wanted = torch.cat([ahead[:, :width], behind[:, width:]], -1)
    given = x.transpose(0, 1) if first else x
    if form == "packed":
        found, ended = layer(pack_padded_sequence(given, torch.tensor(lengths), first, enforce_sorted=False))
    elif form == "single":
        found, ended = layer(x[:, 1])
        wanted, final = wanted[1], tuple(s[:, 1] for s in final) if isinstance(final, tuple) else final[:, 1]
    else:
        found, ended = layer(given, lengths=lengths if form == "lengths" else None)
    assert_close([found, *states_of(ended)], [wanted, *states_of(final)])


@pytest.mark.parametrize("cell", cells.names())
@pytest.mark.parametrize("engine", ["native", "reference"])
def test_a_run_can_continue_from_any_returned_state(cell: str, engine: str) -> None:
    layer, x = made(cell, 2, returns="states", engine=engine), data()
    given, final = layer(x)
    sequence = states_of(given)
    assert [s.shape[:3] for s in sequence] == [(STEPS, 2, ROWS)] * len(sequence)
    halfway = [s[1] for s in states_of(layer(x)[0])]
    rest, end = layer(x[2:], halfway[0] if len(halfway) == 1 else tuple(halfway))
    assert_same(layer, x, states_of(rest) + states_of(end), [s[2:] for s in sequence] + states_of(final))
    assert all(torch.equal(s[-1], e) for s, e in zip(sequence, states_of(final), strict=True))


@pytest.mark.parametrize("form", ["lengths", "packed", "single"])
def test_states_of_both_directions_match_each_sequence_run_alone(form: str) -> None:
    layer, x = made("lstm", 2, returns="states", bidirectional=True), data()
    sequence = states_of(layer(x)[0])
    if form == "single":
        assert_close(states_of(layer(x[:, 1])[0]), [s[:, :, 1] for s in sequence])
        return
    lengths = [3, 5, 1, 4]
    if form == "packed":
        found = states_of(layer(pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False))[0])
    else:
        found = states_of(layer(x, lengths=lengths)[0])
    for row, n in enumerate(lengths):
        assert_close([s[:n, :, row] for s in found], [s[:, :, 0] for s in states_of(layer(x[:n, row : row + 1])[0])])
        assert all(bool((s[n:, :, row] == 0).all()) for s in found)


def test_unmerged_directions_return_packed_outputs() -> None:
    layer, x = made("gru", 2, bidirectional=True, merge="none"), data()
    lengths = torch.tensor([3, 5, 1, 4])
    wanted = layer(x, lengths=lengths)[0]
    found = layer(pack_padded_sequence(x, lengths, enforce_sorted=False))[0]
    assert_close([pad_packed_sequence(f)[0] for f in found], list(wanted))


# Learned initial states.


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("cell", ["lstm", "slstm"])
def test_initial_states_are_learned(cell: str, engine: str) -> None:
    layer, x = made(cell, 2, bidirectional=True, learn_initial=True, engine=engine), data()
    states = layer.programs[0].states
    names = [f"_l{depth}{end}" for depth in range(2) for end in ("", "_reverse")]
    starts = [[layer.get_parameter(f"initial_{s.name}{n}") for n in names] for s in states]
    for state, of_state in zip(states, starts, strict=True):
        assert all((start == state.initial).all() for start in of_state)
    with torch.no_grad():
        for start in [start for of_state in starts for start in of_state]:
            start += torch.rand_like(start)
    given = tuple(torch.stack([start.expand(ROWS, -1) for start in of_state]) for of_state in starts)
    plain = [p for n, p in layer.named_parameters() if not n.startswith("initial")]
    assert len(plain) < len(list(layer.parameters()))
    assert_same(layer, x, [layer(x)[0]], [layer(x, given)[0]])
    afresh = torch.zeros(STEPS, ROWS)
    afresh[2] = 1
    one_way = made(cell, 1, learn_initial=True, engine=engine)
    with torch.no_grad():
        for state in states:
            one_way.get_parameter(f"initial_{state.name}_l0").add_(0.5)
    joined = torch.cat([one_way(x[:2])[0], one_way(x[2:])[0]])
    assert_same(one_way, x, [one_way(x, reset=afresh)[0]], [joined])


# Programs that a layer rewrites.


def test_clip_bounds_pre_activations() -> None:
    layer, x = made("lstm", clip=0.1), data()
    w, r, b = (layer.get_parameter(f"{n}_l0") for n in ("weight_x", "weight_h", "bias"))
    h = c = x.new_zeros(ROWS, HIDDEN)
    wanted = []
    for t in range(STEPS):
        i, f, g, o = (x[t] @ w.T + h @ r.T + b).clamp(-0.1, 0.1).chunk(4, -1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        wanted.append(h)
    assert_same(layer, x, [layer(x)[0]], [torch.stack(wanted)])


@pytest.mark.parametrize("cell", [n for n in cells.names() if activated(cells.get(n).program(2, 2))])
def test_every_cell_supports_clip(cell: str) -> None:
    x = data()
    wide, plain = made(cell, clip=1e6, engine="reference"), made(cell, engine="reference")
    assert_same(wide, x, [wide(x)[0]], [wide(x)[0]])
    assert_close([wide(x)[0]], [plain(x)[0]])
    results = [made(cell, clip=0.01, engine=engine)(x)[0] for engine in ("native", "reference")]
    assert_close(*[[r] for r in results])
    assert not torch.equal(results[1], plain(x)[0])


def dense_of(layer: Recurrent, heads: int) -> dict[str, Tensor]:
    """Expand the block-diagonal matrices of a layer with heads to those of a layer without heads."""
    found = {}
    for name, parameter in layer.named_parameters():
        if "_head" not in name:
            found[name] = parameter
    program = layer.programs[0]
    for whole in {p.name.rsplit(".head", 1)[0] for p in program.parameters if ".head" in p.name}:
        blocks = [layer.get_parameter(f"{whole.replace('.', '_')}_head{n}_l0") for n in range(heads)]
        parts = next(p.parts for p in program.parameters if p.name == f"{whole}.head0")
        rows = [torch.block_diag(*(b[p.start : p.stop] for b in blocks)) for p in parts]
        found[f"{whole.replace('.', '_')}_l0"] = torch.cat(rows)
    return found


@pytest.mark.parametrize("cell", [n for n in cells.names() if recurrent_weights(cells.get(n).program(2, 2))])
def test_heads_equal_block_diagonal_matrices(cell: str) -> None:
    x = data()
    layer, plain = made(cell, heads=2), made(cell)
    assert sum(p.numel() for p in layer.parameters()) < sum(p.numel() for p in plain.parameters())
    wanted = torch.func.functional_call(plain, dense_of(layer, 2), x)
    assert_same(layer, x, [layer(x)[0]], [wanted[0]])


@pytest.mark.parametrize(("cell", "gate", "name", "function"), [
    ("lstm", "candidate", "relu", torch.relu),
    ("gru", "candidate", "identity", lambda x: x),
    ("rnn", "hidden", "softplus", torch.nn.functional.softplus),
])  # fmt: skip
def test_the_activation_of_a_gate_can_be_replaced(cell: str, gate: str, name: str, function: Any) -> None:
    layer, x = made(cell, activations={gate: name}), data()
    w, r, b = (layer.get_parameter(f"{n}_l0") for n in ("weight_x", "weight_h", "bias"))
    h = c = x.new_zeros(ROWS, HIDDEN)
    wanted = []
    for t in range(STEPS):
        if cell == "lstm":
            i, f, g, o = (x[t] @ w.T + h @ r.T + b).chunk(4, -1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * function(g)
            h = torch.sigmoid(o) * torch.tanh(c)
        elif cell == "gru":
            (xr, xz, xn), (hr, hz, hn), (br, bz, bn, bm) = (x[t] @ w.T).chunk(3, -1), (h @ r.T).chunk(3, -1), b.chunk(4)
            z = torch.sigmoid(xz + hz + bz)
            h = (1 - z) * function(xn + bn + torch.sigmoid(xr + hr + br) * (hn + bm)) + z * h
        else:
            h = function(x[t] @ w.T + h @ r.T + b)
        wanted.append(h)
    assert_same(layer, x, [layer(x)[0]], [torch.stack(wanted)])


TORCHS = {
    "tanh": torch.tanh, "sigmoid": torch.sigmoid, "relu": torch.relu, "softplus": functional.softplus,
    "identity": lambda x: x, "leaky_relu": functional.leaky_relu, "elu": functional.elu, "silu": functional.silu,
    "gelu": lambda x: functional.gelu(x, approximate="tanh"), "softsign": functional.softsign,
    "hard_sigmoid": lambda x: (x / 6 + 0.5).clamp(0, 1), "hard_tanh": functional.hardtanh,
}  # fmt: skip


@pytest.mark.parametrize("engine", ["native", "reference"])
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_match_torch(name: str, engine: str) -> None:
    """Values, gradients and names agree for a cell's hyper-parameter and for a replaced gate activation."""
    layer, x = made("rnn", activation=name, engine=engine), data()
    w, r, b = (layer.get_parameter(f"{n}_l0") for n in ("weight_x", "weight_h", "bias"))
    h = x.new_zeros(ROWS, HIDDEN)
    wanted = []
    for t in range(STEPS):
        h = TORCHS[name](4 * x[t] @ w.T + h @ r.T + b)  # large enough to reach the kinks of the functions
        wanted.append(h)
    found = layer(4 * x)[0]
    assert_same(layer, x, [found], [torch.stack(wanted)])
    other = made("rnn", activations={"hidden": name}, engine=engine)
    assert_close([other(4 * x)[0]], [found])
    for program in (layer.programs[0], other.programs[0]):
        assert program.values["hidden"] == program.outputs[0].value
        assert (program.values["hidden.pre"] == program.values["hidden"]) is (name == "identity")


# Configuration.


EVERYTHING: dict[str, Any] = {
    "batch_first": True, "bidirectional": True, "merge": "sum", "skip": "residual", "dropout": 0.1, "variational": True,
    "recurrent_dropout": 0.2, "zoneout": {"cell": 0.1}, "weight_drop": 0.3, "learn_initial": True, "returns": "states",
}  # fmt: skip


def test_a_layer_can_be_rebuilt_from_its_programs_and_options() -> None:
    layer = made("lstm", 2, heads=2, clip=3.0, activations={"candidate": "relu"}, **EVERYTHING)
    assert layer.options.data == EVERYTHING
    assert made().options.data == {}
    again = Recurrent.from_programs(layer.programs, HIDDEN, dtype=torch.float64, **layer.options.data)
    again.load_state_dict(layer.state_dict())
    x = data().transpose(0, 1)
    results = []
    for one in (layer, again):
        torch.manual_seed(2)
        results.append(states_of(one(x)[0]))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"merge": "summ", "bidirectional": True}, "merge must be one of concat.*got 'summ'.*did you mean sum"),
        ({"merge": "sum"}, "pass bidirectional=True too"),
        ({"skip": "residuals"}, "did you mean residual"),
        ({"skip": "dense"}, "at least 2 layers"),
        ({"skip": "residual"}, "whose input and output have the same width"),
        ({"returns": "end"}, "returns must be one of steps, last, states"),
        ({"bidirectional": True, "reverse": True}, "bidirectional or reverse, not both"),
        ({"bidirectional": True, "merge": "sum", "skip": "residual", "returns": "last"}, "end at different steps"),
        ({"learn_initial": "yes"}, "learn_initial must be True or False"),
        ({"heads": 3}, "state 'hidden' of cell .* has 4 units, which can't be divided into 3 heads"),
        ({"heads": 0}, "heads must be a positive integer, got 0"),
        ({"clip": -1.0}, "clip must be a number greater than 0, got -1.0"),
        ({"activations": {"candidte": "relu"}}, "named 'candidte'.*did you mean candidate"),
        ({"activations": {"candidate": "relo"}}, "no activation named 'relo'.*did you mean relu"),
        ({"zoneot": 0.1}, "did you mean zoneout"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Recurrent("lstm", 3, 4, **options)


def test_invalid_saved_options_raise() -> None:
    programs = made("gru", 2).programs
    with pytest.raises(UserError, match=r"no option named 'zoneot'.*did you mean zoneout"):
        Recurrent.from_programs(programs, HIDDEN, zoneot=0.1)
    with pytest.raises(UserError, match="layer 1 takes 4 features, but the layer below outputs 7"):
        Recurrent.from_programs(programs, HIDDEN, skip="dense")
    with pytest.raises(UserError, match="cell 'indrnn' can't have heads"):
        Recurrent("indrnn", 3, 4, heads=2)


def test_the_repr_of_a_layer_contains_its_options() -> None:
    assert "zoneout={'cell': 0.1}" in repr(made("lstm", zoneout={"cell": 0.1}))
    assert Options.of(EVERYTHING).data == EVERYTHING


@pytest.mark.parametrize(
    "options", [{"returns": "last"}, {"bidirectional": True, "merge": "none"}, {"batch_first": True}]
)
def test_a_language_model_needs_an_output_for_each_step(options: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"output (for each|per) step"):
        LanguageModel(9, Recurrent("gru", 3, 4, **options))
