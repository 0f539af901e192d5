"""An edited network's outputs and gradients match a loop over its equations with the value replaced."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import throughtime
from throughtime import cells
from throughtime.errors import UserError
from throughtime.language import affine, cell, concat, exp, named, sigmoid, split, tanh
from throughtime.program.editing import Edit, with_edits

STEPS, ROWS, WIDTH, HIDDEN = 5, 3, 4, 6


def gradients(output, leaves):
    loss = output.square().sum()
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True, retain_graph=True)


class ByHand:
    """A loop over torch's equations of a layer that passes every value through `replaced(name, step, value)`."""

    def __init__(self, layer, replaced):
        self.layer, self.replaced = layer, replaced

    def __call__(self, x):
        layer, outputs = self.layer, []
        state = [x.new_zeros(x.shape[1], HIDDEN) for _ in range(2)]
        for t, step in enumerate(x):

            def put(name, value, t=t):
                return self.replaced(name, t, value)

            state[0] = put("hidden.previous", state[0])
            of_x = step @ layer.weight_ih_l0.T + layer.bias_ih_l0
            of_h = state[0] @ layer.weight_hh_l0.T + layer.bias_hh_l0
            state = (self.lstm if isinstance(layer, nn.LSTM | throughtime.LSTM) else self.gru)(of_x, of_h, state, put)
            outputs.append(state[0])
        return torch.stack(outputs)

    @staticmethod
    def lstm(of_x, of_h, state, put):
        def gate(name, function, sums):
            return put(name, function(put(f"{name}.pre", sums)))

        functions = {"input": torch.sigmoid, "forget": torch.sigmoid, "candidate": torch.tanh, "output": torch.sigmoid}
        pieces = (of_x + of_h).chunk(4, -1)
        i, f, g, o = (gate(name, functions[name], p) for name, p in zip(functions, pieces, strict=True))
        c = put("cell", f * put("cell.previous", state[1]) + i * g)
        return [put("hidden", o * torch.tanh(c)), c]

    @staticmethod
    def gru(of_x, of_h, state, put):
        (r, z, n), (rh, zh, nh) = of_x.chunk(3, -1), of_h.chunk(3, -1)
        r = put("reset", torch.sigmoid(put("reset.pre", r + rh)))
        z = put("update", torch.sigmoid(put("update.pre", z + zh)))
        n = put("candidate", torch.tanh(put("candidate.pre", n + r * put("candidate.recurrent", nh))))
        return [put("hidden", (1 - z) * n + z * state[0]), None]


def dense(chosen, size):
    return list(range(size)) if chosen is None else list(np.arange(size)[chosen])


@pytest.mark.parametrize("engine", [None, "reference"])
@pytest.mark.parametrize(
    ("kind", "name"),
    [
        *((throughtime.LSTM, n) for n in ("input", "forget", "forget.pre", "candidate", "output.pre", "cell")),
        *((throughtime.LSTM, n) for n in ("hidden", "cell.previous", "hidden.previous")),
        *((throughtime.GRU, n) for n in ("reset.pre", "update", "candidate", "candidate.pre", "candidate.recurrent")),
        *((throughtime.GRU, n) for n in ("hidden", "hidden.previous")),
    ],
)
def test_edits_match_a_loop_over_the_equations(kind, name, engine):
    """Replacements are numbers, arrays and functions, at all steps and units or at some; gradients are compared too."""
    torch.manual_seed(0)
    layer = kind(WIDTH, HIDDEN, dtype=torch.float64, engine=engine)
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    array = torch.randn(STEPS, ROWS, HIDDEN, dtype=torch.float64, requires_grad=True)
    for steps, units in ((None, None), ([3, 1], None), (None, [4, 0]), (slice(2, None), slice(0, 5, 2))):
        mask = torch.zeros(STEPS, ROWS, HIDDEN, dtype=torch.bool)
        at, of = dense(steps, STEPS), dense(units, HIDDEN)
        mask[np.ix_(at, range(ROWS), of)] = True
        changes = {
            0.25: lambda t, v: torch.full_like(v, 0.25),
            (lambda v: sigmoid(v * 2) - 0.5): lambda t, v: torch.sigmoid(v * 2) - 0.5,
            array[at][:, :, of]: lambda t, v: array[t],
            array: lambda t, v: array[t],
        }
        for new, torchs in changes.items():
            if new is array and (steps, units) != (None, None):
                continue  # a list of all units in a different order is a selection
            with throughtime.edit(layer, {f"layer0.{name}": new}, steps=steps, units=units):
                output, _ = layer(x)

            def replaced(n, t, v, mask=mask, torchs=torchs):
                return torch.where(mask[t], torchs(t, v), v) if n == name else v

            by_hand = ByHand(layer, replaced)(x)
            assert_close([output], [by_hand], 1e-13)
            leaves = [x, array, *layer.parameters()]
            anyway = 0 * x.sum()  # in case the whole output is replaced
            # The same sums in two orders, in float64.
            assert_close(gradients(output + anyway, leaves), gradients(by_hand + anyway, leaves), 1e-12)


@settings(max_examples=60)
@given(st.data())
def test_native_edits_of_any_cell_match_python_functions_on_the_reference_engine(data):
    """The two ways share no code: a rewritten program, and a torch function called in the loop."""
    torch.manual_seed(0)
    layer = throughtime.Recurrent(data.draw(st.sampled_from(cells.names())), WIDTH, HIDDEN, dtype=torch.float64)
    name = data.draw(st.sampled_from(list(layer.programs[0].values)))
    lengths = data.draw(st.one_of(st.none(), st.lists(st.integers(0, STEPS), min_size=ROWS, max_size=ROWS)))
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    found = []
    for engine, new in ((None, lambda v: tanh(v) * 0.5 + 0.125), ("reference", lambda v: torch.tanh(v) * 0.5 + 0.125)):
        layer.engine = engine
        with throughtime.edit(layer, {f"layer0.{name}": new}), throughtime.record(layer, "*") as tape:
            output, _ = layer(x, lengths=lengths)
        leaves = [x, *layer.parameters()]
        found.append([output, *gradients(output + 0 * x.sum(), leaves), *tape.calls[0].values()])
    # The same operations on two engines in float64.
    assert_close(*found, 1e-9)


@pytest.mark.parametrize("name", cells.names())
def test_replacing_a_value_by_its_recording_changes_nothing(name):
    torch.manual_seed(0)
    layer = throughtime.Recurrent(name, WIDTH, HIDDEN, 2, bidirectional=True, dtype=torch.float64)
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64)
    lengths = [3, 5, 0]
    with torch.no_grad():
        with throughtime.record(layer, "*") as tape:
            plain, _ = layer(x, lengths=lengths)
        for value in layer.programs[0].values:
            names = [f"layer0.{value}", f"layer1.reverse.{value}"]
            with throughtime.edit(layer, {n: tape.calls[0][n] for n in names}):
                spliced, _ = layer(x, lengths=lengths)
            # The order of the sums depends on the program; in float64.
            assert_close([spliced], [plain], 1e-10)


def test_identity_function_changes_no_bit():
    layer = throughtime.LSTM(WIDTH, HIDDEN)
    x = torch.randn(STEPS, ROWS, WIDTH, requires_grad=True)
    plain, _ = layer(x)
    with throughtime.edit(layer, {"*": lambda value: value}, steps=slice(2), units=[1]):
        edited, _ = layer(x)
    leaves = [x, *layer.parameters()]
    for e, p in zip([edited, *gradients(edited, leaves)], [plain, *gradients(plain, leaves)], strict=True):
        assert torch.equal(e, p)


def test_first_and_second_derivatives_match_finite_differences():
    layer = throughtime.LSTM(2, 3, dtype=torch.float64)
    x, new = (torch.randn(3, 2, n, dtype=torch.float64, requires_grad=True) for n in (2, 3))

    def edited(x, new):
        changes = {"layer0.forget": new, "layer0.cell": lambda c, forget: c * forget + 0.1}
        with throughtime.edit(layer, changes, steps=[0, 2], units=[0, 1]):
            return layer(x)[0]

    assert torch.autograd.gradcheck(edited, (x, new))
    assert torch.autograd.gradgradcheck(edited, (x, new))


def test_replaced_value_gets_no_gradient_and_no_nan():
    """An exponential gate overflows and is replaced; its gradient must not contain NaN."""

    @cell
    def exponential(x, h):
        gate = named("gate", exp(affine("sum", x)))
        return tanh(gate * affine("candidate", x, h))

    layer = throughtime.Recurrent(exponential, WIDTH, HIDDEN)
    x = torch.full((STEPS, ROWS, WIDTH), 1e4, requires_grad=True)
    with torch.no_grad():
        layer.weight_x_l0[:HIDDEN] = 1.0
    with throughtime.edit(layer, {"layer0.gate": 1.0}), throughtime.record(layer, "layer0.sum.pre") as tape:
        output, _ = layer(x)
    output.sum().backward()
    assert bool(x.grad.isfinite().all())
    assert not layer.weight_x_l0.grad[:HIDDEN].any()
    assert (tape["layer0.sum.pre"] > 1000).all()  # still computed, though unused


def test_recording_returns_the_replacement():
    layer = throughtime.LSTM(WIDTH, HIDDEN)
    x = torch.randn(STEPS, ROWS, WIDTH)
    with throughtime.record(layer, "*") as plain, torch.no_grad():
        layer(x)
    for outer, inner in ((0, 1), (1, 0)):  # regardless of which is entered first
        contexts = [throughtime.edit(layer, {"layer0.forget": 0.5}, units=[2]), throughtime.record(layer, "*")]
        with contexts[outer] as a, contexts[inner] as b:
            layer(x)
        tape = a or b
        assert (tape["layer0.forget"][:, :, 2] == 0.5).all()
        assert (tape["layer0.forget"][:, :, 1] != 0.5).all()
        assert torch.equal(tape["layer0.forget.pre"][0], plain["layer0.forget.pre"][0])


def test_gradients_of_edited_values():
    """Recorded gradients are those of the replacement."""
    layer = throughtime.LSTM(WIDTH, HIDDEN, dtype=torch.float64)
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64)
    new = torch.rand(STEPS, ROWS, HIDDEN, dtype=torch.float64, requires_grad=True)
    with throughtime.edit(layer, {"layer0.forget": new}), throughtime.record(layer, "*", gradients=True) as tape:
        layer(x)[0].square().sum().backward()
    assert_close([tape.gradient("layer0.forget")], [new.grad], 1e-15)
    assert not tape.gradient("layer0.forget.pre").any()
    constant = torch.full_like(new, 0.5).requires_grad_()
    found = []
    for of in (constant, 0.5):
        with throughtime.edit(layer, {"layer0.forget": of}), throughtime.record(layer, "*", gradients=True) as tape:
            layer(x)[0].square().sum().backward()
        found.append([tape.gradient(name) for name in tape.names])
    assert_close(*found, 1e-15)


def test_nested_edits_apply_from_the_outside_in():
    layer = throughtime.LSTM(WIDTH, HIDDEN)
    x = torch.randn(STEPS, ROWS, WIDTH)
    with (
        throughtime.edit(layer, {"layer0.forget": 0.25}, steps=[1, 2]),
        throughtime.edit(layer, {"layer0.forget": lambda f: f * 2}, steps=[2]),
        throughtime.record(layer, "*.forget") as tape,
    ):
        layer(x)
    assert (tape["layer0.forget"][1] == 0.25).all()
    assert (tape["layer0.forget"][2] == 0.5).all()
    assert (tape["layer0.forget"][3] != 0.5).all()


def test_arrays_follow_the_callers_order_and_the_selection():
    layer = throughtime.LSTM(WIDTH, HIDDEN, bidirectional=True)
    rows = [torch.randn(n, WIDTH) for n in (2, 5, 4)]
    packed = nn.utils.rnn.pack_sequence(rows, enforce_sorted=False)
    new = torch.rand(STEPS, 3, HIDDEN)
    steps, units = [3, 0], [5, 1]
    for array, options in [
        (new, {}),
        (new.numpy(), {}),
        (new[steps], {"steps": steps}),
        (new, {"steps": slice(1, 4)}),
        (new[steps][:, :, units], {"steps": steps, "units": units}),
        (new[0, 0], {}),
        (new[0, 0].tolist(), {}),
        (new[0, 0, units], {"units": units}),
        (new[0], {"steps": [2]}),
        (new[:, :1, :1], {}),
    ]:
        with (
            throughtime.edit(layer, {"*.forget": array}, **options),
            throughtime.record(layer, "*.forget", **options) as tape,
        ):
            layer(packed)
        wanted = new[1:4] if options == {"steps": slice(1, 4)} else torch.as_tensor(array)
        wanted = wanted.expand(tape["layer0.forget"].shape)
        for name in tape.names:
            times = dense(options.get("steps"), STEPS)
            for k, row in enumerate(rows):
                there = [n for n, t in enumerate(times) if t < len(row)]
                assert torch.equal(tape[name][there, k], wanted[there, k])


def test_model_with_resets_and_state_dropout_is_edited():
    layer = throughtime.Recurrent("lstm", WIDTH, HIDDEN, zoneout=0.5, recurrent_dropout=0.5)
    reset = torch.zeros(STEPS, ROWS)
    reset[2] = 1
    with throughtime.edit(layer, {"layer0.cell": 3.0}, steps=[1, 3]), throughtime.record(layer, "*") as tape:
        layer(torch.randn(STEPS, ROWS, WIDTH), reset=reset)
    assert (tape["layer0.cell"][[1, 3]] == 3).all()
    assert not tape["layer0.cell.previous"][2].any()
    assert (tape["layer0.cell.previous"][4] == 3).all()


def test_a_single_step_and_several_modules_at_once():
    model = nn.ModuleDict({"encoder": throughtime.GRU(WIDTH, HIDDEN), "step": throughtime.LSTMCell(WIDTH, HIDDEN)})
    x = torch.randn(STEPS, ROWS, WIDTH)
    with throughtime.edit(model, {"*.hidden": 0.0, "step.layer0.cell": 2.0}):
        output, _ = model["encoder"](x)
        h, c = model["step"](x[0])
    assert not output.any()
    assert not h.any()
    assert (c == 2).all()
    assert model["encoder"].hooks == model["step"].hooks == ()


# Named values that are part of a wider value, or are concatenated from parts.


@cell
def parts(x, h):
    both = sigmoid(affine("both", x, h, width=2 * h.width))
    left, right = split(both, 2)
    named("left", left)
    middle = named("middle", both[1 : h.width + 1])
    return tanh(left * h + right * middle + concat(left[:2], left[2:])) + 0.1 * concat(left, right)[: h.width]


@cell
def joined(x, h):
    a, b = tanh(affine("a", x, h, width=2)), tanh(affine("b", x, h, width=h.width - 2))
    whole = named("whole", concat(a, b))
    return whole * 0.5 + h * 0.25


@cell
def joined_and_apart(x, h):
    a, b = tanh(affine("a", x, h, width=2)), tanh(affine("b", x, h, width=h.width - 2))
    whole = named("whole", concat(a, b))
    return whole * 0.5 + concat(a * 0.1, b)


def test_part_of_a_wider_value_is_replaced_wherever_it_is_used():
    layer = throughtime.Recurrent(parts, WIDTH, HIDDEN, dtype=torch.float64)
    x = torch.randn(1, ROWS, WIDTH, dtype=torch.float64)
    with throughtime.record(layer, "*") as plain:
        layer(x)
    with throughtime.edit(layer, {"layer0.left": 0.75}), throughtime.record(layer, "*") as tape:
        output, _ = layer(x)
    both = plain["layer0.both"].clone()
    both[:, :, :HIDDEN] = 0.75
    left, right, middle = both[:, :, :HIDDEN], both[:, :, HIDDEN:], both[:, :, 1 : HIDDEN + 1]
    assert_close([tape["layer0.both"], tape["layer0.middle"]], [both, middle], 0.0)
    assert_close([output], [torch.tanh(right * middle + left) + 0.1 * left], 1e-15)


def test_concatenated_value_is_replaced_unless_its_parts_are_used_separately():
    layer = throughtime.Recurrent(joined, WIDTH, HIDDEN)
    x = torch.randn(1, ROWS, WIDTH)
    with throughtime.edit(layer, {"layer0.whole": 4.0}):
        assert (layer(x)[0] == 2).all()
    layer = throughtime.Recurrent(joined_and_apart, WIDTH, HIDDEN)
    with pytest.raises(UserError, match=r"'layer0.whole' is a concatenation of vectors that cell 'joined_and_apart'"):
        throughtime.edit(layer, {"layer0.whole": 4.0})


def test_edited_program_is_legal_and_keeps_its_names():
    program = cells.get("lstm").program(WIDTH, HIDDEN)
    edited = with_edits(program, [Edit("cell", None, (1,), "layer0.cell"), Edit("forget", 0.0, None, "")], True)
    assert edited.values.keys() == program.values.keys()
    assert [i.name for i in edited.inputs] == [program.inputs[0].name, "edit.0", "edit.1"]
    assert [i.width for i in edited.inputs[1:]] == [HIDDEN, 1]


# Arbitrary Python functions.


def test_reference_engine_accepts_any_python_function():
    layer = throughtime.LSTM(WIDTH, HIDDEN, dtype=torch.float64)
    x = torch.randn(STEPS, ROWS, WIDTH, dtype=torch.float64, requires_grad=True)
    changes = {"layer0.cell": lambda c: torch.sort(c, -1).values, "layer0.forget": lambda f: f.clamp(0.4, 0.6)}
    with pytest.raises(UserError, match=r"(?s)'sort'|sort.*module.engine = 'reference'"):
        throughtime.edit(layer, changes)
    layer.engine = "reference"
    with throughtime.edit(layer, changes, units=[0, 1, 2]):
        output, _ = layer(x)

    def replaced(name, t, value):
        new = changes[f"layer0.{name}"](value) if f"layer0.{name}" in changes else value
        return torch.cat([new[:, :3], value[:, 3:]], -1)

    by_hand = ByHand(layer, replaced)(x)
    leaves = [x, *layer.parameters()]
    assert_close([output, *gradients(output, leaves)], [by_hand, *gradients(by_hand, leaves)], 1e-13)
    with (
        throughtime.edit(layer, changes),
        throughtime.record(layer, "*", gradients=True),
        pytest.raises(UserError, match="can't record gradients"),
    ):
        layer(x)
    with (
        throughtime.edit(layer, {"layer0.cell": lambda c: c.sum()}),
        pytest.raises(UserError, match=r"got shape \[\]"),
    ):
        layer(x)


def test_compiled_model_is_edited_outside_its_graph():
    layer = throughtime.Recurrent("gru", WIDTH, HIDDEN)
    compiled, x = torch.compile(layer, backend="eager"), torch.randn(STEPS, ROWS, WIDTH)
    with torch.no_grad():
        plain, _ = compiled(x)
        with throughtime.edit(layer, {"layer0.hidden": 0.5}):
            assert (compiled(x)[0] == 0.5).all()
        assert torch.equal(compiled(x)[0], plain)
        with throughtime.edit(layer, {"layer0.hidden": 0.5}), pytest.raises(UserError, match="values can't be edited"):
            torch.export.export(layer, (x,))


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({}, {}, "a dictionary from names"),
        ({"layer0.forgte": 0.0}, {}, r"did you mean layer0.forget\?"),
        ({"layer0.forget": 0.0, "*.forget": 1.0}, {}, "both edit the value 'layer0.forget'"),
        ({"layer0.forget": float("nan")}, {}, "must not be NaN"),
        ({"layer0.forget": "open"}, {}, "got str 'open'"),
        ({"layer0.forget": None}, {}, "got NoneType None"),
        ({"layer0.forget": True}, {}, "got bool True"),
        ({"layer0.forget": torch.zeros(1, 1, 1, 6)}, {}, r"got shape \[1, 1, 1, 6\]"),
        ({"layer0.forget": torch.zeros(4)}, {}, r"\[4\], which must fit .* = \[5, 3, 6\]: H may be 6, or 1"),
        ({"layer0.forget": torch.zeros(4)}, {"units": [1, 2]}, r"H may be 6, 2 \(the selection\), or 1"),
        ({"layer0.forget": torch.zeros(2, 6)}, {}, "B may be 3, or 1"),
        ({"layer0.forget": 0.0}, {"units": [6]}, "units 6 of layer0.forget out of range: must be 0 to 5"),
        ({"layer0.forget": 0.0}, {"steps": [-6]}, "steps -6 of a run out of range: must be 0 to 4"),
        (
            {"layer0.forget": lambda f: torch.sigmoid(f)},
            {},
            "(?s)'layer0.forget' can't .*language.sigmoid.*'reference'",
        ),
        ({"layer0.forget": lambda f: f.clamp(0, 1)}, {}, "no attribute 'clamp'"),
        ({"layer0.forget": lambda f: torch.ones(6)}, {}, "It returned Tensor"),
        ({"layer0.forget": lambda f: f[:2]}, {}, "must have width 6, got 2"),
        ({"layer0.forget": lambda f: affine("more", f)}, {}, "only in a cell's equations"),
        ({"layer0.forget": lambda f, inptu: f}, {}, r"its layer has no value of that name .did you mean input\?"),
        ({"layer0.forget": lambda f, hidden: f}, {}, "computed after it"),
    ],
)
def test_invalid_arguments_raise(changes, options, message):
    layer = throughtime.LSTM(WIDTH, HIDDEN)
    with pytest.raises(UserError, match=message), throughtime.edit(layer, changes, **options):
        layer(torch.randn(STEPS, ROWS, WIDTH))
    assert layer.hooks == ()
