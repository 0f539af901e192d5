"""A program that breaks a rule of legality is rejected, and the message names the violation."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from random_programs import programs

from throughtime import cells
from throughtime.errors import ProgramError
from throughtime.program import legality
from throughtime.program.core import GateRows, Input, Instruction, Output, Parameter, Program, Reduction, State
from throughtime.program.gradient import everything_given, everything_wanted, gradient, with_residuals
from throughtime.program.legality import require_legal
from throughtime.program.operations import OPERATIONS


def instruction(op: str, *args: Any, width: Any = 2, **attributes: Any) -> Instruction:
    return Instruction(op, args, width, tuple(attributes.items()))


# A legal program with every kind of instruction. Each test changes one part of it.
X, H, P, ONE, PRODUCT, BACK, SUM, PIECE, JOINED, TOTAL, WIDE, NEXT = range(12)
LEGAL = Program(
    name="legal",
    inputs=(Input("x", 3),),
    states=(State("h", 2, 0.0, NEXT),),
    parameters=(Parameter("w", (2, 3), (GateRows("gate", 0, 2, 1.0),)), Parameter("p", (2,))),
    body=(
        instruction("input", width=3, index=0),
        instruction("previous", index=0),
        instruction("parameter", index=1),
        instruction("constant", value=1.0),
        instruction("linear", X, weight=0),
        instruction("linear_transposed", H, width=3, weight=0),
        instruction("add", PRODUCT, H),
        instruction("slice", BACK, start=1),
        instruction("concat", SUM, X, width=5),
        instruction("row_sum", JOINED, width=1),
        instruction("expand", TOTAL),
        instruction("tanh", WIDE),
    ),
    outputs=(Output("y", SUM), Output("z", X)),
    reductions=(Reduction("w.gradient", (2, 3), ((SUM, X), (H, BACK))), Reduction("p.gradient", (2,), ((PIECE,),))),
    names=(("sum", SUM), ("piece", PIECE)),
)


# A legal program with a one-hot input, which is passed as token ids.
MULTIPLIED, OTHER, AGAIN = range(2, 5)
TOKENS = Program(
    name="tokens",
    inputs=(Input("x", 3, one_hot=True),),
    states=(State("h", 2, 0.0, AGAIN),),
    parameters=(Parameter("w", (2, 3)), Parameter("u", (2, 3))),
    body=(
        instruction("input", width=3, index=0),
        instruction("previous", index=0),
        instruction("linear", X, weight=0),
        instruction("linear_transposed", MULTIPLIED, width=3, weight=1),
        instruction("linear", OTHER, weight=1),
    ),
    outputs=(Output("y", MULTIPLIED),),
    reductions=(Reduction("w.gradient", (2, 3), ((H, X), (MULTIPLIED, X))),),
)


def body(id: int, **changes: Any) -> dict[str, Any]:
    """Return the body with one changed instruction. Attributes are passed as a dict."""
    attributes = changes.pop("attributes", None)
    changed = replace(LEGAL.body[id], **changes)
    if attributes is not None:
        changed = replace(changed, attributes=tuple(attributes.items()))
    return {"body": (*LEGAL.body[:id], changed, *LEGAL.body[id + 1 :])}


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    # inputs, states and parameters
    "no state": ({"states": ()}, "it must have at least one state"),
    "input of no width": ({"inputs": (Input("x", 0),)}, "x has the invalid width 0"),
    "input of a negative width": ({"inputs": (Input("x", -3),)}, "x has the invalid width -3"),
    "input of half a width": ({"inputs": (Input("x", 3.0),)}, "x has the invalid width 3.0"),
    "width that is a truth value": ({"inputs": (Input("x", True),)}, "x has the invalid width True"),
    "width beyond all reason": ({"inputs": (Input("x", legality.MAX_WIDTH + 1),)}, "invalid width"),
    "inputs of one name": ({"inputs": (Input("x", 3), Input("x", 3))}, "two inputs are named x"),
    "states of one name": ({"states": LEGAL.states * 2}, "two states are named h"),
    "parameters of one name": ({"parameters": (*LEGAL.parameters, LEGAL.parameters[1])}, "two parameters are named p"),
    "outputs of one name": ({"outputs": LEGAL.outputs * 2}, "two outputs are named y, z"),
    "reductions of one name": ({"reductions": LEGAL.reductions * 2}, "two reductions are named"),
    "values of one name": ({"names": (("sum", SUM), ("sum", PIECE))}, "two values are named sum"),
    "a name that a terminal would obey": ({"inputs": (Input("x\x1b[2J", 3),)}, "not a valid name"),
    "a name that cannot be encoded": ({"outputs": (Output("\ud800", SUM),)}, "not a valid name"),
    "a program's name over two lines": ({"name": "a\nb"}, "its name cannot be printed"),
    "state of another width": ({"states": (State("h", 3, 0.0, NEXT),)}, "h"),
    "state that starts infinite": (
        {"states": (State("h", 2, math.inf, NEXT),)},
        "the initial value of state h must be finite, got inf",
    ),
    "parameter of three axes": ({"parameters": (Parameter("w", (2, 3, 1)),)}, "w has the invalid shape"),
    "parameter of no axes": ({"parameters": (Parameter("w", ()),)}, "w has the invalid shape"),
    "parameter with an empty axis": ({"parameters": (Parameter("w", (2, 0)),)}, "w has the invalid width 0"),
    "parameter beyond all reason": ({"parameters": (Parameter("w", (1 << 18, 1 << 18)),)}, "w has the invalid shape"),
    "part beyond the rows": (
        {"parameters": (Parameter("w", (2, 3), (GateRows("g", 1, 3),)),)},
        "part g .* rows 1 to 3",
    ),
    "part before the rows": (
        {"parameters": (Parameter("w", (2, 3), (GateRows("g", -1, 2),)),)},
        "part g .* rows -1 to 2",
    ),
    "part of no rows": ({"parameters": (Parameter("w", (2, 3), (GateRows("g", 1, 1),)),)}, "part g .* rows 1 to 1"),
    "part that starts as NaN": (
        {"parameters": (Parameter("w", (2, 3), (GateRows("g", 0, 2, math.nan),)),)},
        "the initial value of part g .* must be finite, got nan",
    ),
    # instructions
    "an operation that is not in the table": (body(NEXT, op="erf"), "unknown operation 'erf'"),
    "a value of itself": (body(NEXT, args=(NEXT,)), "takes value 11, which is not an earlier value"),
    "a later value": (body(SUM, args=(PRODUCT, NEXT)), "takes value 11"),
    "a value that is not there": (body(SUM, args=(PRODUCT, 99)), "takes value 99"),
    "a negative value": (body(SUM, args=(PRODUCT, -1)), "takes value -1"),
    "a value that is no whole number": (body(SUM, args=(PRODUCT, 1.0)), "takes value 1.0"),
    "too few values": (body(SUM, args=(PRODUCT,)), "wrong number of arguments, 1"),
    "too many values": (body(NEXT, args=(WIDE, WIDE)), "wrong number of arguments, 2"),
    "a concat of nothing": (body(JOINED, args=()), "wrong number of arguments, 0"),
    "a leaf that takes a value": (body(H, args=(X,)), "leaf"),
    "result of no width": (body(SUM, width=0), "invalid width 0"),
    "pointwise on another width": (body(NEXT, args=(X,)), r"of width 2 has arguments of widths \[3\]"),
    "pointwise of two widths": (body(SUM, args=(PRODUCT, X)), r"has arguments of widths \[2, 3\]"),
    "missing attribute": (body(PRODUCT, attributes={}), r"needs the attributes \['weight'\]"),
    "further attribute": (body(PRODUCT, attributes={"weight": 0, "start": 0}), r"needs the attributes \['weight'\]"),
    "attribute twice": (body(PRODUCT, attributes={"weight": 0}), ""),
    "attribute where none belongs": (body(NEXT, attributes={"start": 0}), r"needs the attributes \[\]"),
    "attribute of another type": (body(PRODUCT, attributes={"weight": 0.0}), "needs the attributes"),
    "index that is a truth value": (body(X, attributes={"index": False}), "needs the attributes"),
    "constant that is a whole number": (body(ONE, attributes={"value": 1}), "needs the attributes"),
    "constant that is NaN": (body(ONE, attributes={"value": math.nan}), "not a number"),
    "an input that is not there": (body(X, attributes={"index": 1}), "index 1, which is out of range for 1"),
    "a negative input": (body(X, attributes={"index": -1}), "index -1, which is out of range for 1"),
    "a state that is not there": (body(H, attributes={"index": 1}), "index 1, which is out of range for 1"),
    "a parameter that is not there": (body(P, attributes={"index": 2}), "index 2, which is out of range for 2"),
    "an input of another width": (body(X, width=4), "of width 4 reads a input of shape"),
    "a matrix as a vector": (body(P, attributes={"index": 0}), "reads a parameter of shape"),
    "a weight that is not there": (body(PRODUCT, attributes={"weight": 2}), "reads parameter 2, which does not exist"),
    "a negative weight": (body(PRODUCT, attributes={"weight": -1}), "reads parameter -1, which does not exist"),
    "a vector as a matrix": (
        body(PRODUCT, attributes={"weight": 1}),
        r"needs a parameter of shape \(2, 3\), got \(2,\)",
    ),
    "linear on another width": (body(PRODUCT, args=(H,)), r"needs a parameter of shape \(2, 2\), got \(2, 3\)"),
    "linear to another width": (body(PRODUCT, width=3), r"needs a parameter of shape \(3, 3\)"),
    "transposed on another width": (body(BACK, args=(X,)), r"needs a parameter of shape \(3, 3\)"),
    "slice before the start": (body(PIECE, attributes={"start": -1}), "out of range for a vector"),
    "slice beyond the end": (body(PIECE, attributes={"start": 2}), "out of range for a vector"),
    "concat of another width": (body(JOINED, width=4), "must have width 5, got 4"),
    "expand of a vector": (body(WIDE, args=(H,)), "takes a vector of width 1, got 2"),
    "row_sum to a vector": (body(TOTAL, width=2), "returns a vector of width 1, got 2"),
    # states, outputs and reductions
    "next value that is not there": (
        {"states": (State("h", 2, 0.0, 12),)},
        "next value of state h has the value 12, which is out of range for 12",
    ),
    "negative next value": ({"states": (State("h", 2, 0.0, -1),)}, "next value of state h has the value -1"),
    "next value of another width": (
        {"states": (State("h", 2, 0.0, X),)},
        "state h has width 2, but its next value has width 3",
    ),
    "output that is not there": (
        {"outputs": (Output("y", 12),)},
        "output y has the value 12, which is out of range for 12",
    ),
    "negative output": ({"outputs": (Output("y", -1),)}, "output y has the value -1"),
    "name of nothing": ({"names": (("sum", 12),)}, "named sum has the value 12"),
    "sum of a value that is not there": (
        {"reductions": (Reduction("r", (2,), ((12,),)),)},
        "reduction r has the value 12",
    ),
    "sum of another width": (
        {"reductions": (Reduction("r", (2,), ((X,),)),)},
        r"reduction r .* has a term of shape \(3,\)",
    ),
    "sum of another shape": (
        {"reductions": (Reduction("r", (2, 3), ((X, H),)),)},
        r"reduction r .* has a term of shape \(3, 2\)",
    ),
    "vector added to a matrix": (
        {"reductions": (Reduction("r", (2, 3), ((H,),)),)},
        r"reduction r .* has a term of shape \(2,\)",
    ),
    "outer product of nothing": (
        {"reductions": (Reduction("r", (2,), ((),)),)},
        r"reduction r .* has a term of shape \(\)",
    ),
    "sum without a shape": ({"reductions": (Reduction("r", (), ()),)}, "r has the invalid shape"),
}
del BROKEN["attribute twice"]  # a dict can't express it; it has a separate test


def test_the_unchanged_program_is_legal():
    assert require_legal(LEGAL) is LEGAL


OF_ONE_HOT: dict[str, tuple[dict[str, Any], str]] = {
    "a truth value that is a number": ({"inputs": (Input("x", 3, 1),)}, "one_hot of input x must be a bool, got 1"),  # type: ignore[arg-type]
    "an operation on tokens": (
        {"body": (*TOKENS.body, instruction("tanh", X, width=3))},
        r"instruction 5 \(tanh\) takes a one-hot input",
    ),
    "a matrix of tokens and of others": (
        {"body": (*TOKENS.body, instruction("linear", OTHER, weight=0))},
        r"instruction 5 \(linear\) uses a matrix that multiplies both",
    ),
    "the transpose of tokens' matrix": (
        {"body": (*TOKENS.body, instruction("linear_transposed", H, width=3, weight=0))},
        r"instruction 5 \(linear_transposed\) uses a matrix that multiplies both",
    ),
    "tokens as an output": ({"outputs": (Output("y", X),)}, "output y is a one-hot input"),
    "tokens as a state": ({"states": (State("h", 3, 0.0, X),), "body": TOKENS.body[:1]}, "h is a one-hot input"),
    "a sum of tokens": ({"reductions": (Reduction("r", (3,), ((X,),)),)}, "r may take a one-hot input"),
    "tokens on the left": ({"reductions": (Reduction("r", (3, 2), ((X, H),)),)}, "r may take a one-hot input"),
    "tokens on both sides": ({"reductions": (Reduction("r", (3, 3), ((X, X),)),)}, "r may take a one-hot input"),
    "a sum in part of tokens": (
        {"reductions": (Reduction("r", (2, 3), ((H, X), (H, OTHER))),)},
        "r may take a one-hot",
    ),
}


def test_the_unchanged_program_with_a_one_hot_input_is_legal():
    assert require_legal(TOKENS) is TOKENS


def test_an_empty_reduction_in_a_program_with_a_one_hot_input_is_legal():
    more = replace(TOKENS, reductions=(*TOKENS.reductions, Reduction("u.gradient", (2, 3), ())))
    assert require_legal(more) is more


@pytest.mark.parametrize("rule", OF_ONE_HOT)
def test_a_program_that_misuses_a_one_hot_input_is_rejected(rule):
    changes, message = OF_ONE_HOT[rule]
    changed = replace(TOKENS, **({"outputs": (), "reductions": ()} if "states" in changes else {}), **changes)
    with pytest.raises(ProgramError, match=message):
        require_legal(changed)


@pytest.mark.parametrize("rule", BROKEN)
def test_a_program_that_breaks_a_rule_is_rejected(rule):
    changes, message = BROKEN[rule]
    with pytest.raises(ProgramError, match=message) as caught:
        require_legal(replace(LEGAL, **changes))
    assert str(caught.value).startswith("the program ")
    assert str(caught.value).isprintable()


def test_a_duplicate_attribute_is_rejected():
    twice = replace(LEGAL.body[PRODUCT], attributes=(("weight", 0), ("weight", 0)))
    with pytest.raises(ProgramError, match="needs the attributes"):
        require_legal(replace(LEGAL, body=(*LEGAL.body[:PRODUCT], twice, *LEGAL.body[PRODUCT + 1 :])))


def test_too_many_instructions_are_rejected():
    more = (instruction("previous", index=0),) * (legality.MAX_INSTRUCTIONS + 1)
    with pytest.raises(ProgramError, match="at most 65,536 instructions, got 65,537"):
        require_legal(replace(LEGAL, body=more, outputs=(), reductions=(), names=(), states=(State("h", 2, 0.0, 0),)))


def test_an_operation_without_a_rule_is_rejected(monkeypatch: pytest.MonkeyPatch):
    # An operation that is not pointwise must define which widths it accepts.
    monkeypatch.setitem(OPERATIONS, "reverse", replace(OPERATIONS["row_sum"], name="reverse", mismatch=None))
    with pytest.raises(ProgramError, match="has no width rule"):
        require_legal(replace(LEGAL, **body(NEXT, op="reverse")))


@pytest.mark.parametrize("op", [name for name, row in OPERATIONS.items() if row.pointwise])
def test_every_pointwise_operation_checks_the_number_and_width_of_its_arguments(op):
    arity = OPERATIONS[op].arity
    require_legal(replace(LEGAL, **body(NEXT, op=op, args=(SUM,) * arity)))
    for args in ((SUM,) * (arity + 1), (SUM,) * (arity - 1), (X,) * arity):
        with pytest.raises(ProgramError):
            require_legal(replace(LEGAL, **body(NEXT, op=op, args=args)))


@pytest.mark.parametrize("name", cells.names())
def test_named_cells_and_their_first_and_second_gradients_are_legal(name):
    program = cells.get(name).program(3, 4)
    for _ in range(3):
        require_legal(program)
        augmented = with_residuals(program, everything_wanted(program))
        program = gradient(augmented, everything_given(augmented), everything_wanted(augmented)).program


@given(programs())
def test_random_programs_are_legal(program):
    assert require_legal(program) is program
