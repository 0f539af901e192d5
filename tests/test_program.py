"""A program is plain data: immutable, compared by content, printable, and convertible to JSON and back."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import Any

import pytest
from helpers import REFERENCE, random_arguments, run_on
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import COLLECTING, Outcomes
from random_programs import programs

from throughtime import cells
from throughtime.errors import ProgramError
from throughtime.language import affine, cell, tanh
from throughtime.program.core import GateRows, Parameter, Program
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS
from throughtime.program.saving import FORMAT, from_json, to_json


def gradient_of(program: Program) -> Program:
    augmented = with_residuals(program, everything_wanted(program))
    return gradient(augmented, everything_given(augmented), everything_wanted(augmented)).program


every_program = [
    pytest.param(program, id=program.name)
    for cell_program in (cells.get(name).program(3, 4) for name in cells.names())
    for program in (cell_program, gradient_of(cell_program))
]


# Immutability and equality.


def test_a_program_is_immutable():
    program = cells.lstm.program(3, 4)
    for part in (program, program.body[0], program.inputs[0], program.states[0], program.parameters[0]):
        for attribute in fields(part):
            with pytest.raises(FrozenInstanceError):
                setattr(part, attribute.name, None)
    with pytest.raises(TypeError):
        program.values["hidden"] = 0
    hash(program)


@pytest.mark.parametrize("program", every_program)
def test_a_copy_is_equal_and_has_the_same_hash(program):
    for other in (copy.copy(program), copy.deepcopy(program), pickle.loads(pickle.dumps(program)), replace(program)):
        assert other == program
        assert hash(other) == hash(program)
        assert other.equivalent(program)


def test_a_pickled_program_is_equal_in_a_process_with_another_hash_seed():
    program = cells.gru.program(3, 4)
    code = (
        "import pickle, sys; from throughtime import cells; "
        "program = pickle.loads(sys.stdin.buffer.read()); "
        "assert program in {cells.gru.program(3, 4): None}"
    )
    for seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)}
        subprocess.run([sys.executable, "-c", code], input=pickle.dumps(program), env=environment, check=True)


CHANGES = {
    "name": lambda p: replace(p, name="other"),
    "names": lambda p: replace(p, names=p.names[1:]),
    "input's name": lambda p: replace(p, inputs=(replace(p.inputs[0], name="u"),)),
    "state's name": lambda p: replace(p, states=(replace(p.states[0], name="s"), *p.states[1:])),
    "parameter's name": lambda p: replace(p, parameters=(replace(p.parameters[0], name="w"), *p.parameters[1:])),
    "parts": lambda p: replace(p, parameters=(replace(p.parameters[0], parts=()), *p.parameters[1:])),
    "output's name": lambda p: replace(p, outputs=(replace(p.outputs[0], name="o"),)),
}
CHANGES_OF_MEANING = {
    "direction": lambda p: replace(p, reverse=True),
    "operation": lambda p: replace(p, body=(*p.body[:-1], replace(p.body[-1], op="sub"))),
    "initial value": lambda p: replace(p, states=(replace(p.states[0], initial=1.0), *p.states[1:])),
    "next value": lambda p: replace(p, states=(replace(p.states[0], next=p.states[1].next), *p.states[1:])),
    "output": lambda p: replace(p, outputs=()),
    "order of states": lambda p: replace(p, states=p.states[::-1]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_programs_with_different_names_differ_but_are_equivalent(change):
    program = cells.lstm.program(3, 4)
    other = CHANGES[change](program)
    assert other != program
    assert other.equivalent(program)
    assert program.equivalent(other)


@pytest.mark.parametrize("change", CHANGES_OF_MEANING)
def test_programs_that_compute_different_things_are_not_equivalent(change):
    program = cells.lstm.program(3, 4)
    other = CHANGES_OF_MEANING[change](program)
    assert other != program
    assert not other.equivalent(program)


def test_a_program_differs_from_other_types():
    program = cells.rnn.program(3, 4)
    assert program != "rnn"
    assert program != None  # noqa: E711


def test_equations_with_different_variable_names_are_equivalent():
    @cell
    def elman(entry, memory):
        return tanh(affine("unit", entry, memory))

    assert elman.program(3, 4).equivalent(cells.rnn.program(3, 4))
    assert not elman.program(3, 5).equivalent(cells.rnn.program(3, 4))
    assert not elman.program(3, 4, bias=False).equivalent(cells.rnn.program(3, 4))


def test_flipped_reverses_the_direction_of_time():
    program = cells.rnn.program(3, 4)
    assert program.flipped.reverse
    assert program.flipped.flipped == program


# Printing.


def test_the_plain_rnn_prints_as_its_equation():
    assert str(cells.rnn.program(3, 4)) == (
        "program rnn\n"
        "input:\n"
        "  x [3]\n"
        "state:\n"
        "  hidden [4], starts at 0\n"
        "parameter:\n"
        "  weight_x [4, 3] = hidden\n"
        "  weight_h [4, 4] = hidden\n"
        "  bias     [4] = hidden\n"
        "each step:\n"
        "  v2         = weight_x @ x                [4]\n"
        "  v3         = weight_h @ hidden.previous  [4]\n"
        "  v5         = v2 + bias                   [4]\n"
        "  hidden.pre = v5 + v3                     [4]\n"
        "  hidden     = tanh(hidden.pre)            [4]\n"
        "next:\n"
        "  hidden = hidden\n"
        "output:\n"
        "  y = hidden"
    )


def test_an_lstm_prints_its_equations_with_names():
    lines = [" ".join(line.split()) for line in str(cells.lstm.program(3, 4)).splitlines()]
    assert "weight_h [16, 4] = input, forget, candidate, output" in lines
    assert "forget = sigmoid(forget.pre) [4]" in lines
    assert "cell [4], starts at 0" in lines
    assert any(line.startswith("hidden = output * ") for line in lines)


def test_a_gradient_program_prints_its_reductions_and_direction():
    text = str(gradient_of(cells.lstm.program(3, 4)))
    assert text.startswith("program lstm.gradient (time runs backward)\n")
    assert "sum over steps and rows:" in text
    assert "weight_h.T @ " in text
    assert " outer residual.hidden.previous" in text


@given(programs())
def test_every_program_prints_each_operation_on_one_line(program):
    for shown in (program, gradient_of(program)):
        operations = [i for i in shown.body if i.op in OPERATIONS]
        text = str(shown)
        assert text.isprintable() or "\n" in text
        section = text.split("each step:\n")[1].split("\nnext:")[0]
        assert len(section.splitlines()) == len(operations) or not operations


# JSON.


@pytest.mark.parametrize("program", every_program)
@pytest.mark.parametrize("indent", [None, 1])
def test_named_programs_survive_json(program, indent):
    assert from_json(to_json(program, indent)) == program


@given(programs())
def test_random_programs_survive_json(program):
    for saved in (program, program.flipped, gradient_of(program)):
        back = from_json(to_json(saved))
        assert back == saved
        assert str(back) == str(saved)


def test_initial_values_survive_json():
    program = cells.rnn.program(3, 4)
    started = Parameter("bias", (4,), (GateRows("first", 0, 2, 1.0), GateRows("second", 2, 4, None)))
    program = replace(program, parameters=(*program.parameters[:2], started))
    assert from_json(to_json(program)).parameters[2] == started


def test_infinite_constants_survive_json():
    program = cells.gru.program(3, 4)
    k = next(k for k, i in enumerate(program.body) if i.op == "constant")
    infinite = replace(program.body[k], attributes=(("value", float("inf")),))
    program = replace(program, body=(*program.body[:k], infinite, *program.body[k + 1 :]))
    assert from_json(to_json(program)) == program


def test_a_program_in_format_1_can_be_loaded():
    # Saved runs must stay loadable. The literal text makes this test fail if the format changes.
    text = """{"format": 1, "name": "rnn", "reverse": false, "inputs": [["x", 3]],
        "states": [["hidden", 4, 0.0, 7]],
        "parameters": [["weight_x", [4, 3], [["hidden", 0, 4, null]]], ["weight_h", [4, 4], [["hidden", 0, 4, null]]],
                       ["bias", [4], [["hidden", 0, 4, null]]]],
        "body": [["input", [], 3, {"index": 0}], ["previous", [], 4, {"index": 0}], ["linear", [0], 4, {"weight": 0}],
                 ["linear", [1], 4, {"weight": 1}], ["parameter", [], 4, {"index": 2}], ["add", [2, 4], 4, {}],
                 ["add", [5, 3], 4, {}], ["tanh", [6], 4, {}]],
        "outputs": [["y", 7]], "reductions": [],
        "names": [["hidden.pre", 6], ["hidden", 7], ["hidden.previous", 1]]}"""
    assert from_json(text) == cells.rnn.program(3, 4)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ("1" * 5000, "not JSON"),
        ("null", f"format {FORMAT}, got None"),
        ("[]", "got None"),
        ("{}", "got None"),
        ('{"format": 2}', "got 2. A newer format needs a newer throughtime"),
        ('{"format": "1"}', "got '1'"),
        ('{"format": 1}', "KeyError: 'name'"),
    ],
    ids=lambda text: text[:20],
)
def test_invalid_json_raises(text, message):
    with pytest.raises(ProgramError, match=message):
        from_json(text)


def test_nesting_that_exceeds_pythons_recursion_limit_raises():
    good = to_json(cells.rnn.program(3, 4))
    for depth in range(10, 1200, 7):
        nested = "[" * depth + "]" * depth
        for place in ('"name": "rnn"', '"inputs": [["x", 3]]'):
            key = place.split(":")[0]
            with pytest.raises(ProgramError):
                from_json(good.replace(place, f"{key}: {nested}"))


def test_a_duplicate_in_a_long_list_of_names_is_found_quickly():
    content = json.loads(to_json(cells.rnn.program(3, 4)))
    content["names"] = [[f"v{k}", 0] for k in range(60_000)] + [["v0", 1]]
    with pytest.raises(ProgramError, match="two values are named v0"):
        from_json(json.dumps(content))


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-3, 12)
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from([*OPERATIONS, "input", "previous", "parameter", "constant", "index", "weight", "start", "value"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@st.composite
def damaged(draw: st.DrawFn) -> Any:
    """Draw the JSON of a legal program with some random changes."""
    program = draw(programs(operations=5))
    content = json.loads(to_json(gradient_of(program) if draw(st.booleans()) else program))
    if draw(st.booleans()):  # other operations with as many arguments, since most other changes are rejected
        for instruction in content["body"]:
            if instruction[0] in OPERATIONS and OPERATIONS[instruction[0]].pointwise and draw(st.booleans()):
                arity = OPERATIONS[instruction[0]].arity
                alike = [name for name, of in OPERATIONS.items() if of.pointwise and of.arity == arity]
                instruction[0] = draw(st.sampled_from(alike))
        return content
    for _ in range(draw(st.integers(1, 3))):
        place, key = None, None
        inner = content
        while isinstance(inner, list | dict) and inner and (place is None or draw(st.integers(0, 4))):
            place, key = inner, draw(st.sampled_from(sorted(inner) if isinstance(inner, dict) else range(len(inner))))
            inner = place[key]
        match draw(st.integers(0, 3)):
            case 0 if isinstance(place, list):
                place.append(inner)
            case 1:
                del place[key]
            case 2 if type(inner) is int:
                place[key] = inner + draw(st.sampled_from([-1, 1]))
            case _:
                place[key] = draw(anything)
        if not content:
            break
    return content


@settings(COLLECTING, max_examples=200)
@given(content=damaged())
def test_a_damaged_program_raises_or_is_legal_and_runs(outcomes: Outcomes, content: Any) -> None:
    program = outcomes.of(from_json, json.dumps(content), refusal=ProgramError)
    if program is None:
        return
    require_legal(program)
    assert from_json(to_json(program)) == program
    sizes = [i.width for i in (*program.inputs, *program.states, *program.body)]
    if max([*sizes, *(n for p in program.parameters for n in p.shape)]) > 1000:
        return  # legal, but too large for a test
    result = run_on(REFERENCE, program, 2, *random_arguments(program, 2, 2))
    assert [tuple(o.shape) for o in result.outputs] == [(2, 2, program.body[o.value].width) for o in program.outputs]
    assert [tuple(s.shape) for s in result.states] == [(2, s.width) for s in program.states]
    assert [tuple(r.shape) for r in result.reductions] == [r.shape for r in program.reductions]


@given(anything)
def test_arbitrary_json_raises(content):
    with pytest.raises(ProgramError):
        from_json(json.dumps(content))


@given(st.text())
def test_arbitrary_text_raises(text):
    with pytest.raises(ProgramError):
        from_json(text)


def test_programs_work_without_torch_and_numpy():
    code = (
        "import sys; from throughtime import cells; from throughtime.program.saving import from_json, to_json; "
        "from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals; "
        "p = cells.lstm.program(3, 4); w = everything_wanted(p); t = with_residuals(p, w); "
        "g = gradient(t, everything_given(p), w).program; assert from_json(to_json(g)) == g and str(g); "
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}, check=True)
