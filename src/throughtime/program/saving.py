"""Convert programs to and from plain data and JSON.

Loading doesn't run any code from the file, and every loaded program has passed the legality check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeVar

from throughtime.errors import ProgramError, VersionError
from throughtime.program.core import GateRows, Input, Instruction, Output, Parameter, Program, Reduction, State
from throughtime.program.legality import require_legal

FORMAT = 1

T = TypeVar("T")


def to_data(program: Program) -> dict[str, Any]:
    """Convert a program to JSON-compatible data."""
    return {
        "format": FORMAT,
        "name": program.name,
        "reverse": program.reverse,
        "inputs": [[i.name, i.width, *[True] * i.one_hot] for i in program.inputs],
        "states": [[s.name, s.width, s.initial, s.next] for s in program.states],
        "parameters": [
            [p.name, list(p.shape), [[q.gate, q.start, q.stop, q.initial] for q in p.parts]] for p in program.parameters
        ],
        "body": [[i.op, list(i.args), i.width, dict(i.attributes)] for i in program.body],
        "outputs": [[o.name, o.value] for o in program.outputs],
        "reductions": [[r.name, list(r.shape), [list(term) for term in r.terms]] for r in program.reductions],
        "names": [list(pair) for pair in program.names],
    }


def from_data(content: Any) -> Program:
    """Convert data from `to_data` back to a program.

    Raises:
        ProgramError: if the data are not a program, have another format version, or are not legal programs.
    """
    version = content.get("format") if isinstance(content, dict) else None
    if version != FORMAT:
        kind = VersionError if type(version) is int else ProgramError
        raise kind(f"expected a program of format {FORMAT}, got {version!r}. A newer format needs a newer throughtime")
    try:
        program = Program(
            name=_text(content["name"]),
            reverse=_flag(content["reverse"]),
            inputs=tuple(Input(_text(n), _whole(w), *map(_flag, one_hot)) for n, w, *one_hot in content["inputs"]),
            states=tuple(State(_text(n), _whole(w), _number(i), _whole(v)) for n, w, i, v in content["states"]),
            parameters=tuple(
                Parameter(_text(n), tuple(map(_whole, shape)), tuple(_part(*part) for part in parts))
                for n, shape, parts in content["parameters"]
            ),
            body=tuple(
                Instruction(_text(op), tuple(map(_whole, args)), _whole(width), tuple(attributes.items()))
                for op, args, width, attributes in content["body"]
            ),
            outputs=tuple(Output(_text(n), _whole(v)) for n, v in content["outputs"]),
            reductions=tuple(
                Reduction(_text(n), tuple(map(_whole, shape)), tuple(tuple(map(_whole, term)) for term in terms))
                for n, shape, terms in content["reductions"]
            ),
            names=tuple((_text(n), _whole(v)) for n, v in content["names"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise ProgramError(f"this is not a program: {type(error).__name__}: {error}") from None
    return require_legal(program)


def to_json(program: Program, indent: int | None = None) -> str:
    """Convert a program to JSON."""
    return json.dumps(to_data(program), indent=indent, allow_nan=True)


def from_json(text: str) -> Program:
    """Convert JSON back to a program.

    Raises:
        ProgramError: if the text is not JSON or not a program, has another format version, or is not legal.
    """
    return from_data(_parsed(text))


def list_to_json(programs: Iterable[Program]) -> str:
    """Convert several programs to a JSON list with one program per line."""
    return "[" + ",\n".join(map(to_json, programs)) + "]\n"


def list_from_json(text: str) -> tuple[Program, ...]:
    """Convert a JSON list back to programs.

    Raises:
        ProgramError: if the text is not a JSON list, or an element is not a program.
    """
    content = _parsed(text)
    if not isinstance(content, list):
        raise ProgramError(f"expected a list of programs, got {type(content).__name__}")
    return tuple(map(from_data, content))


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ProgramError(f"this is not a program: not JSON ({error})") from None


def _part(gate: Any, start: Any, stop: Any, initial: Any) -> GateRows:
    return GateRows(_text(gate), _whole(start), _whole(stop), None if initial is None else _number(initial))


def _text(value: Any) -> str:
    return _of_kind(value, str)


def _whole(value: Any) -> int:
    return _of_kind(value, int)


def _flag(value: Any) -> bool:
    return _of_kind(value, bool)


def _number(value: Any) -> float:
    return float(value if type(value) is int else _of_kind(value, float))


def _of_kind(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, got {type(value).__name__}")
    return value
