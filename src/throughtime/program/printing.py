"""Print programs as readable text."""

from __future__ import annotations

from throughtime.program.core import CONSTANT, INPUT, LEAVES, PARAMETER, PREVIOUS, Program
from throughtime.program.operations import OPERATIONS


def printed(program: Program) -> str:
    """Format a program's inputs, states, parameters, instructions and results, one per line."""
    labels = _labels(program)
    lines = [f"program {program.name}" + (" (time runs backward)" if program.reverse else "")]
    lines += _section("input", [(i.name, f"[{i.width}]{', one-hot' * i.one_hot}") for i in program.inputs])
    lines += _section("state", [(s.name, f"[{s.width}], starts at {s.initial:g}") for s in program.states])
    lines += _section(
        "parameter",
        [
            (p.name, f"{list(p.shape)}" + (f" = {', '.join(part.gate for part in p.parts)}" if p.parts else ""))
            for p in program.parameters
        ],
    )
    steps = [
        (labels[id], f"{_right_side(program, id, labels)}", f"[{instruction.width}]")
        for id, instruction in enumerate(program.body)
        if instruction.op not in LEAVES
    ]
    name_width = max((len(name) for name, _, _ in steps), default=0)
    text_width = min(72, max((len(text) for _, text, _ in steps), default=0))
    lines += ["each step:", *(f"  {n:<{name_width}} = {t:<{text_width}}  {w}" for n, t, w in steps)]
    lines += _section("next", [(s.name, f"= {labels[s.next]}") for s in program.states])
    lines += _section("output", [(o.name, f"= {labels[o.value]}") for o in program.outputs])
    lines += _section(
        "sum over steps and rows",
        [
            (r.name, "= " + (" + ".join(" outer ".join(labels[v] for v in term) for term in r.terms) or "0"))
            for r in program.reductions
        ],
    )
    return "\n".join(lines)


def _section(title: str, rows: list[tuple[str, str]]) -> list[str]:
    width = max((len(name) for name, _ in rows), default=0)
    return [f"{title}:", *(f"  {name:<{width}} {rest}" for name, rest in rows)] if rows else []


def _labels(program: Program) -> list[str]:
    labels = [f"v{id}" for id in range(len(program.body))]
    for id, instruction in enumerate(program.body):
        if instruction.op == INPUT:
            labels[id] = program.inputs[instruction["index"]].name
        elif instruction.op == PREVIOUS:
            labels[id] = f"{program.states[instruction['index']].name}.previous"
        elif instruction.op == PARAMETER:
            labels[id] = program.parameters[instruction["index"]].name
        elif instruction.op == CONSTANT:
            labels[id] = f"{instruction['value']:g}"
    for name, id in reversed(program.names):  # if a value has several names, the first is shown
        if program.body[id].op not in LEAVES:
            labels[id] = name
    return labels


def _right_side(program: Program, id: int, labels: list[str]) -> str:
    instruction = program.body[id]
    values = [labels[arg] for arg in instruction.args]
    attributes = dict(instruction.attributes)
    if "weight" in attributes:
        attributes["weight"] = program.parameters[instruction["weight"]].name
    if "start" in attributes:
        attributes["stop"] = instruction["start"] + instruction.width
    text = OPERATIONS[instruction.op].text.replace("{*}", ", ".join(values))
    return text.format(*values, **attributes)
