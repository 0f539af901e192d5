"""Write a program's equations in LaTeX.

Every named value gets an equation of its own. Products with stacked matrices are split into one product per gate, and
every other value is written inline, so the result reads like the equations in a paper.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from throughtime.program.core import CONSTANT, INPUT, PARAMETER, PREVIOUS, Parameter, Program
from throughtime.program.operations import OPERATIONS

_LETTERS = {"hidden": "h", "cell": "c"}
_FUNCTIONS = {"tanh": r"\tanh", "sigmoid": r"\sigma", "exp": r"\exp", "log": r"\log", "max": r"\max",
              "sin": r"\sin", "cos": r"\cos", "row_sum": r"\mathrm{sum}", "row_max": r"\max"}  # fmt: skip
_ENDS = {"pre": r"\tilde{%s}", "gradient": r"\bar{%s}"}
# Operator precedence, so that parentheses appear only where needed.
_SUM, _PRODUCT, _ATOM = 1, 2, 3


class _Part(NamedTuple):
    """The elements `start` to `start + width` of a value."""

    id: int
    start: int
    width: int


class _Text(NamedTuple):
    text: str
    binds: int = _ATOM

    def within(self, level: int) -> str:
        return self.text if self.binds >= level else _in_parentheses(self.text)


def latex(program: Program) -> str:
    r"""Write a forward program's equations as LaTeX, one line per named value.

    The input is $x_t$, the states `hidden` and `cell` are $h_t$ and $c_t$, and every other value is shown under the
    name that `throughtime.record` takes. A tilde marks a pre-activation. $W$ multiplies the input, $R$ the output of
    the previous step, and $\odot$ is the element-wise product.

    Args:
        program: the program of a cell, as `Cell.program` returns it.

    Returns:
        An `aligned` environment, without dollar signs.
    """
    lines = _Equations(program).lines()
    return "\\begin{aligned}\n" + " \\\\\n".join(f"{left} &= {right}" for left, right in lines) + "\n\\end{aligned}"


class _Equations:
    def __init__(self, program: Program) -> None:
        self.program = program
        self.letters: dict[int, str] = {}
        self.pre: dict[int, str] = {}
        states = {state.next: state.name for state in program.states}
        for name, id in program.names:
            if program.body[id].op in (INPUT, PREVIOUS, PARAMETER, CONSTANT):
                continue
            (self.pre if name.endswith(".pre") else self.letters).setdefault(id, _at(name, "t"))
        self.letters.update({id: _at(name, "t") for id, name in states.items() if not self._is_leaf(id)})
        whole = {self._seen_through(self._whole(id)): text for id, text in self.pre.items() if id not in self.letters}
        self.tildes: dict[_Part, str] = whole
        self.temporary: dict[_Part, str] = {}

    def lines(self) -> list[tuple[str, str]]:
        """Return the left and right side of each equation, in program order."""
        roots = sorted({*self.letters, *(output.value for output in self.program.outputs)})
        used: Counter[_Part] = Counter()
        for root in roots:
            self._count(self._whole(root), used, top=True)
        shared = [part for part, uses in used.items() if uses > 1 and self._has_own_line(part)]
        for part in sorted(shared):
            number = sum(p not in self.tildes for p in self.temporary) + 1
            self.temporary[part] = self.tildes.get(part, f"u_{{{number},t}}")
        defined = [(part, text) for part, text in self.temporary.items()]
        defined += [(self._whole(id), text) for id, text in self.letters.items()]
        lines = [(text, self._right(part).text) for part, text in sorted(defined)]
        returned = {state.next for state in self.program.states}
        for output in self.program.outputs:
            if output.value not in returned and output.value not in self.letters:
                lines.append((_at(output.name, "t"), self._right(self._whole(output.value)).text))
        return lines

    def _whole(self, id: int) -> _Part:
        return _Part(id, 0, self.program.body[id].width)

    def _is_leaf(self, id: int) -> bool:
        return self.program.body[id].op in (INPUT, PREVIOUS, PARAMETER, CONSTANT)

    def _has_own_line(self, part: _Part) -> bool:
        return not self._is_leaf(part.id) and self.program.body[part.id].op not in ("linear", "expand")

    def _seen_through(self, part: _Part) -> _Part:
        """Resolve an unnamed slice to the part of the value that it is taken from."""
        instruction = self.program.body[part.id]
        if instruction.op != "slice" or part.id in self.letters:
            return part
        return self._seen_through(_Part(instruction.args[0], instruction["start"] + part.start, part.width))

    def _sources(self, part: _Part) -> list[_Part]:
        """Return the parts of other values from which a part is computed."""
        return [self._seen_through(source) for source in self._direct(part)]

    def _direct(self, part: _Part) -> list[_Part]:
        instruction = self.program.body[part.id]
        op, args = instruction.op, instruction.args
        if op == "slice":
            return [_Part(args[0], instruction["start"] + part.start, part.width)]
        if op == "expand":
            return [self._whole(args[0])]
        if op == "concat":
            return self._joined(part, args)
        row = OPERATIONS.get(op)
        if row is not None and row.pointwise:
            return [_Part(arg, part.start, part.width) for arg in args]
        return [self._whole(arg) for arg in args]

    def _joined(self, part: _Part, args: Sequence[int]) -> list[_Part]:
        found, first = [], 0
        for arg in args:
            width = self.program.body[arg].width
            start, stop = max(part.start, first), min(part.start + part.width, first + width)
            if start < stop:
                found.append(_Part(arg, start - first, stop - start))
            first += width
        return found

    def _count(self, part: _Part, used: Counter[_Part], top: bool = False) -> None:
        if not top:
            if part.id in self.letters:
                return
            used[part] += 1
            if used[part] > 1:
                return
        for source in self._sources(part):
            self._count(source, used)

    def _text(self, part: _Part) -> _Text:
        """Return a part as written inline: its name if it has one, otherwise its expression."""
        if part in self.temporary:
            return _Text(self.temporary[part])
        if part.id in self.letters:
            return _Text(self.letters[part.id] + self._place(part))
        return self._right(part)

    def _place(self, part: _Part) -> str:
        if part == self._whole(part.id):
            return ""
        if part.start % part.width == 0:
            return f"^{{({part.start // part.width + 1})}}"
        return rf"[{part.start + 1}{{:}}{part.start + part.width}]"

    def _right(self, part: _Part) -> _Text:
        instruction = self.program.body[part.id]
        op = instruction.op
        if op == INPUT:
            return _Text(_at(self.program.inputs[instruction["index"]].name, "t") + self._place(part))
        if op == PREVIOUS:
            return _Text(_at(self.program.states[instruction["index"]].name, "t-1") + self._place(part))
        if op == CONSTANT:
            return _number(instruction["value"])
        if op == PARAMETER:
            return _Text(_vector(self.program.parameters[instruction["index"]], part))
        values = self._sources(part)
        if op in ("slice", "expand"):
            return self._text(values[0])
        if op in ("linear", "linear_transposed"):
            return self._product(part, instruction["weight"], values[0], op)
        return self._WRITERS.get(op, _Equations._function)(self, part, values)

    def _product(self, part: _Part, weight: int, value: _Part, op: str) -> _Text:
        matrix = self._matrix(self.program.parameters[weight], part)
        turned = r"^{\top}" if op == "linear_transposed" else ""
        return _Text(rf"{matrix}{turned} \, {self._text(value).within(_ATOM)}", _PRODUCT)

    def _matrix(self, parameter: Parameter, part: _Part) -> str:
        gates = _gates(parameter, part)
        letter = "W" if parameter.name == "weight_x" else "R"
        source = parameter.name.removeprefix("weight_")
        others = [
            p for p in self.program.parameters if p.name not in ("weight_x", parameter.name) and len(p.shape) == 2
        ]
        other_gates = {_escaped(q.gate) for p in others for q in p.parts}
        over = "" if source in ("x", "h") or gates not in other_gates else rf"^{{\mathrm{{{_escaped(source)}}}}}"
        return rf"{letter}_{{\mathrm{{{gates}}}}}{over}"

    def _function(self, part: _Part, values: list[_Part]) -> _Text:
        op = self.program.body[part.id].op
        name = _FUNCTIONS.get(op, rf"\mathrm{{{_escaped(op)}}}")
        inside = ", ".join(self._text(value).text for value in values)
        return _Text(name + _in_parentheses(inside))

    def _absolute(self, part: _Part, values: list[_Part]) -> _Text:
        return _Text(rf"\left|{self._text(values[0]).text}\right|")

    def _sum(self, part: _Part, values: list[_Part]) -> _Text:
        terms = self._terms(part)
        # A bias is written last, as in papers.
        terms.sort(key=lambda term: self._only_a_parameter(term[1]))
        text = ""
        for sign, term in terms:
            one = self._text(term)
            shown = one.within(_PRODUCT)
            if one.text.startswith("-") and one.binds < _ATOM:
                sign, shown = -sign, one.text[1:].lstrip()
            text += (" - " if sign < 0 else " + ") + shown
        text = text.removeprefix(" + ")
        return _Text("-" + text[3:] if text.startswith(" - ") else text, _SUM)

    def _terms(self, part: _Part, sign: int = 1, top: bool = True) -> list[tuple[int, _Part]]:
        """Return the terms of a sum, with unnamed sums expanded."""
        op = self.program.body[part.id].op
        if not top and (part.id in self.letters or part in self.temporary):
            return [(sign, part)]
        if op not in ("add", "sub"):
            return [(sign, part)]
        left, right = self._sources(part)
        return self._terms(left, sign, False) + self._terms(right, -sign if op == "sub" else sign, False)

    def _only_a_parameter(self, part: _Part) -> bool:
        return self.program.body[part.id].op == PARAMETER

    def _multiplied(self, part: _Part, values: list[_Part]) -> _Text:
        mean = self._mean_of(part, values)
        if mean is not None:
            return _Text(r"\mathrm{mean}" + _in_parentheses(self._text(mean).text))
        left, right = (self._text(value) for value in values)
        if left == right:
            return _Text(f"{{{left.within(_ATOM)}}}^2")
        scalar = [self._is_scalar(value) for value in values]
        if scalar[1] and not scalar[0]:
            left, right = right, left
        if left.text.startswith("-") and any(scalar):
            left = _Text(left.text)
        return _Text(
            left.within(_PRODUCT) + (r" \, " if any(scalar) else r" \odot ") + right.within(_PRODUCT), _PRODUCT
        )

    def _is_scalar(self, part: _Part) -> bool:
        return self.program.body[part.id].op in (CONSTANT, "expand")

    def _mean_of(self, part: _Part, values: list[_Part]) -> _Part | None:
        first, second = (self.program.body[value.id] for value in values)
        if first.op != "row_sum" or second.op != CONSTANT:
            return None
        source = self._whole(first.args[0])
        return source if abs(second["value"] * source.width - 1) < 1e-9 else None

    def _fraction(self, part: _Part, values: list[_Part]) -> _Text:
        top, bottom = (self._text(value).text for value in values)
        return _Text(rf"\frac{{{top}}}{{{bottom}}}")

    def _negative(self, part: _Part, values: list[_Part]) -> _Text:
        inside = self.program.body[values[0].id]
        if inside.op == "max" and values[0] not in self.temporary:
            both = ", ".join(self._negated(value) for value in self._sources(values[0]))
            return _Text(r"\min" + _in_parentheses(both))
        return _Text("-" + self._text(values[0]).within(_PRODUCT), _SUM)

    def _negated(self, part: _Part) -> str:
        instruction = self.program.body[part.id]
        if instruction.op == CONSTANT:
            return _number(-instruction["value"]).text
        if instruction.op == "neg":
            return self._text(self._sources(part)[0]).text
        return "-" + self._text(part).within(_PRODUCT)

    def _root(self, part: _Part, values: list[_Part]) -> _Text:
        return _Text(rf"\sqrt{{{self._text(values[0]).text}}}")

    def _greater(self, part: _Part, values: list[_Part]) -> _Text:
        left, right = (self._text(value).text for value in values)
        return _Text(rf"\left[{left} > {right}\right]")

    def _selected(self, part: _Part, values: list[_Part]) -> _Text:
        mask, first, second = (self._text(value).text for value in values)
        condition = mask.removeprefix(r"\left[").removesuffix(r"\right]") if "left[" in mask else rf"{mask} \ne 0"
        return _Text(rf"\begin{{cases}} {first} & {condition} \\ {second} & \text{{else}} \end{{cases}}")

    def _side_by_side(self, part: _Part, values: list[_Part]) -> _Text:
        return _Text(rf"\left[{', '.join(self._text(value).text for value in values)}\right]")

    _WRITERS: dict[str, Callable[..., _Text]] = {  # noqa: RUF012
        "add": _sum, "sub": _sum, "mul": _multiplied, "div": _fraction, "neg": _negative, "sqrt": _root,
        "abs": _absolute, "greater": _greater, "select": _selected, "concat": _side_by_side,
    }  # fmt: skip


def _in_parentheses(text: str) -> str:
    return rf"\left({text}\right)" if "\\frac" in text or "\\sqrt" in text else f"({text})"


def _escaped(name: str) -> str:
    return name.replace("_", r"\_")


def _word(name: str) -> str:
    if name in _LETTERS:
        return _LETTERS[name]
    return name if len(name) == 1 else rf"\mathrm{{{_escaped(name)}}}"


def _at(name: str, time: str) -> str:
    base, _, end = name.rpartition(".")
    if base and end in _ENDS:
        return _ENDS[end] % _word(base) + f"_{{{time}}}"
    return f"{_word(name)}_{{{time}}}"


def _number(value: float) -> _Text:
    mantissa, _, exponent = f"{value:.4g}".partition("e")
    text = mantissa + (rf" \cdot 10^{{{int(exponent)}}}" if exponent else "")
    text = text.removeprefix(r"1 \cdot ")
    return _Text(text, _SUM if value < 0 else _PRODUCT if exponent else _ATOM)


def _gates(parameter: Parameter, part: _Part) -> str:
    inside = [p.gate for p in parameter.parts if p.start < part.start + part.width and part.start < p.stop]
    return ", ".join(_escaped(gate) for gate in inside)


def _vector(parameter: Parameter, part: _Part) -> str:
    if parameter.name.startswith("bias"):
        return rf"b_{{\mathrm{{{_gates(parameter, part)}}}}}"
    return rf"\mathrm{{{_escaped(parameter.name)}}}" if len(parameter.name) > 1 else parameter.name
