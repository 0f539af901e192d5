"""The C source and the header of a network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from throughtime import __version__
from throughtime.exchange.c import functions
from throughtime.exchange.c.layer import Layer
from throughtime.exchange.c.spelling import Names, number, prefix_of
from throughtime.exchange.c.weights import Matrix, Weights
from throughtime.outputs import Bernoulli, Categorical, Normal, Output, Point, Quantiles, StudentT
from throughtime.streaming.network import Network

Array = NDArray[Any]


class Source:
    """A network as C.

    Args:
        network: the network.
        stem: the files' name without its ending.
        int8: whether matrices are rounded to int8.

    Attributes:
        prefix: what public names begin with.
        weights: the bytes of the weights.
        state: the bytes of one stream's state.
        scratch: the bytes of a step's buffers.
    """

    def __init__(self, network: Network, stem: str, *, int8: bool) -> None:
        self.network, self.stem, self.int8 = network, stem, int8
        self.prefix = prefix_of(stem)
        public = [f"{self.prefix}_{name}" for name in ("step", "reset", "state")]
        self._names = Names(*public, *functions.NAMES, "main", "state", "x", "inputs", "y")
        self._weights = Weights(self._names, int8=int8)
        self._fields = self._state_fields()
        self._layers: list[Layer] = []
        of_layers = zip(network.layers, self._fields, strict=True)
        for depth, ((program, parameters), fields) in enumerate(of_layers):
            name = self._names.new(f"layer{depth}")
            self._layers.append(Layer(name, program, parameters, fields, self._weights))
        self._buffers: dict[str, int] = {}
        step = self._step()
        self._code = "\n".join([*(layer.definition for layer in self._layers), self._reset(), step])
        self.weights = self._weights.bytes
        self.state = 4 * sum(state.width for program, _ in network.layers for state in program.states)
        columns = 4 * 16 if "tt_multiply_add_int8" in self._code else 0  # the sums of one product
        self.scratch = 4 * sum(self._buffers.values()) + max(layer.scratch for layer in self._layers) + columns

    @property
    def inputs(self) -> int:
        """The numbers that a step takes."""
        return sum(given.width for given in self.network.layers[0][0].inputs)

    @property
    def outputs(self) -> int:
        """The numbers that a step gives."""
        return _width(self.network) if self.network.head is None else len(self.network.head[1])

    @property
    def header(self) -> str:
        """The header."""
        upper = self.prefix.upper()
        table = self.network.embedding
        sizes = (
            [f"#define {upper}_TOKENS {len(table)}"] if table is not None else [f"#define {upper}_INPUTS {self.inputs}"]
        )
        fields = [
            f"    float {field}[{state.width}];"
            for (program, _), of_layer in zip(self.network.layers, self._fields, strict=True)
            for state, field in zip(program.states, of_layer, strict=True)
        ]
        return "\n".join(
            [
                f"/* Written by throughtime {__version__}: {self._about()}. */",
                f"#ifndef {upper}_H",
                f"#define {upper}_H",
                "",
                "#include <stdint.h>",
                "",
                *sizes,
                f"#define {upper}_OUTPUTS {self.outputs}",
                "",
                "#ifdef __cplusplus",
                'extern "C" {',
                "#endif",
                "",
                "/* One stream. There may be any number of them; the caller owns the memory. */",
                "typedef struct {",
                *fields,
                f"}} {self.prefix}_state;",
                "",
                "/* Start a sequence. */",
                f"void {self.prefix}_reset({self.prefix}_state *state);",
                "",
                *self._step_comment(),
                f"{self._declaration('')};",
                "",
                "#ifdef __cplusplus",
                "}",
                "#endif",
                "",
                "#endif",
                "",
            ]
        )

    @property
    def source(self) -> str:
        """The source."""
        helpers = functions.functions(self._code, self.prefix)
        return "\n".join(
            [
                f"/* Written by throughtime {__version__}: {self._about()}.",
                f"   Define {self.prefix.upper()}_LIBM to use expf and tanhf of the C library, and",
                f"   {self.prefix.upper()}_MAIN for a program that reads a sequence from standard input. */",
                f'#include "{self.stem}.h"',
                "",
                "#include <math.h>",
                helpers,
                *self._weights.declarations,
                self._code.replace("@_state", f"{self.prefix}_state"),
                self._main(),
            ]
        )

    def _about(self) -> str:
        cells = ", ".join(dict.fromkeys(_plain(program.name) for program, _ in self.network.layers))
        return f"{len(self._layers)} layers of {cells}" if len(self._layers) > 1 else f"a layer of {cells}"

    def _state_fields(self) -> list[list[str]]:
        names = Names()
        return [
            [names.new(f"layer{depth}", state.name) for state in program.states]
            for depth, (program, _) in enumerate(self.network.layers)
        ]

    def _declaration(self, restrict: str) -> str:
        tokens = self.network.embedding is not None
        given = "int32_t token" if tokens else f"const float *{restrict}x"
        kind = "int" if tokens else "void"
        return f"{kind} {self.prefix}_step({self.prefix}_state *{restrict}state, {given}, float *{restrict}y)"

    def _step_comment(self) -> list[str]:
        upper = self.prefix.upper()
        lines = [f"/* Take one step. y has {upper}_OUTPUTS numbers: {_meaning(self.network.output)}."]
        if self.network.embedding is None:
            first, *further = self.network.layers[0][0].inputs
            named = "".join(f", then {given.width} of {given.name}" for given in further)
            return [*lines, f"   x has {upper}_INPUTS numbers{f': {first.width} of x{named}' if named else ''}. */"]
        return [
            *lines,
            f"   token is from 0 to {upper}_TOKENS - 1; for another one -1 is returned and nothing is changed,",
            "   otherwise 0. */",
        ]

    def _reset(self) -> str:
        lines: list[str] = []
        for of_layer, starts in zip(self._fields, self.network.starts, strict=True):
            for field, start in zip(of_layer, starts, strict=True):
                if (start == start[0]).all():
                    value = number(float(start[0]))
                else:
                    value = f"{self._weights.vector('weights_initial', field, start)}[i]"
                lines += [f"    for (i = 0; i < {len(start)}; i++)", f"        state->{field}[i] = {value};"]
        return "\n".join([f"void {self.prefix}_reset(@_state *state)", "{", "    int i;", *lines, "}", ""])

    def _step(self) -> str:
        lines: list[str] = []
        x = "x"
        head: Matrix | None = None
        if self.network.head is not None:
            head = self._weights.matrix("weights_head", "", self.network.head[0])
        if self.network.embedding is not None:
            lines += self._embedding(self.network.embedding, head)
            x = "embedded" if lines[-1].endswith("}") else lines.pop().strip()
        last = len(self._layers) - 1
        first, *further = self.network.layers[0][0].inputs
        inputs = f", x + {first.width}" if further else ""
        for depth, layer in enumerate(self._layers):
            if layer.output is not None:
                lines.append(f"    {layer.name}(state, {x}{inputs});")
                x = layer.output
                continue
            y = "y"
            if depth < last or head is not None:
                y = f"y{depth}"
                self._buffers[y] = _output_width(layer)
            lines.append(f"    {layer.name}(state, {x}{inputs}, {y});")
            x = y
        if head is not None and self.network.head is not None:
            rows, columns = self.network.head[0].shape
            bias = self._weights.vector("weights_head", "bias", self.network.head[1])
            lines += _loop(rows, f"y[i] = {bias}[i];")
            lines.append(f"    {head.multiply_add('y', x, rows, columns)}")
        elif x != "y":
            lines += _loop(self.outputs, f"y[i] = {x}[i];")
        tokens = self.network.embedding is not None
        buffers = [f"    float {name}[{size}];" for name, size in self._buffers.items()]
        index = ["    int i;"] if any("i++" in line for line in lines) else []
        check = [f"    if (token < 0 || token >= {self.prefix.upper()}_TOKENS)", "        return -1;"] if tokens else []
        ending = ["    return 0;"] if tokens else []
        return "\n".join([self._declaration("restrict "), "{", *buffers, *index, *check, *lines, *ending, "}", ""])

    def _embedding(self, table: Array, head: Matrix | None) -> list[str]:
        """The lines that read a token's row; the last is the row itself where it can be read in place."""
        tokens, width = table.shape
        tied = head is not None and self.network.head is not None and np.array_equal(self.network.head[0], table)
        if tied and head is not None:
            element, scale = f"{head.name}[(int32_t)i * {tokens} + token]", head.scale
        else:
            matrix = self._weights.table("weights_embedding", table)
            if matrix.scale is None:
                return [f"    {matrix.name}[token]"]
            element, scale = f"{matrix.name}[token][i]", matrix.scale
        self._buffers["embedded"] = width
        return _loop(
            width, f"embedded[i] = {element};" if scale is None else f"embedded[i] = {scale}[token] * (float){element};"
        )

    def _main(self) -> str:
        upper, prefix = self.prefix.upper(), self.prefix
        if self.network.embedding is not None:
            declared = "    long token;"
            read = [
                '    while (scanf("%ld", &token) == 1) {',
                f"        if ({prefix}_step(&state, (int32_t)token, y) != 0)",
                "            return 1;",
            ]
        else:
            declared = f"    float x[{upper}_INPUTS];"
            read = [
                '    while (scanf("%f", &x[n]) == 1) {',
                f"        if (++n < {upper}_INPUTS)",
                "            continue;",
                "        n = 0;",
                f"        {prefix}_step(&state, x, y);",
            ]
        return "\n".join(
            [
                f"#ifdef {upper}_MAIN",
                "#include <stdio.h>",
                "",
                "/* Read a sequence from standard input and print each step's outputs in a line. */",
                "int main(void)",
                "{",
                f"    static {prefix}_state state;",
                f"    static float y[{upper}_OUTPUTS];",
                declared,
                "    int i;" if self.network.embedding is not None else "    int i, n = 0;",
                f"    {prefix}_reset(&state);",
                *read,
                f"        for (i = 0; i < {upper}_OUTPUTS; i++)",
                f"            printf(\"%.9g%c\", (double)y[i], i + 1 < {upper}_OUTPUTS ? ' ' : '\\n');",
                "    }",
                "    return 0;",
                "}",
                "#endif",
                "",
            ]
        )


def _loop(width: int, statement: str) -> list[str]:
    return [f"    for (i = 0; i < {width}; i++) {{", f"        {statement}", "    }"]


def _width(network: Network) -> int:
    program = network.layers[-1][0]
    return program.body[program.outputs[0].value].width


def _output_width(layer: Layer) -> int:
    return layer.program.body[layer.program.outputs[0].value].width


def _plain(name: str) -> str:
    """A name that can't end a comment."""
    return "".join(c for c in name if c.isascii() and (c.isalnum() or c in "_-. ")) or "a cell"


def _meaning(output: Output | None) -> str:
    match output:
        case Categorical():
            return "the scores (logits) of the classes, of which the largest is the most likely"
        case Bernoulli():
            return "the log-odds (logits) of bits that are 1"
        case Point():
            return "the predicted values"
        case Quantiles():
            levels: Sequence[float] = output.levels
            return f"for each target its quantiles {', '.join(f'{level:g}' for level in levels)}"
        case Normal():
            return "all means, then all scales before softplus"
        case StudentT():
            return "all locations, then all scales, then all degrees of freedom less 2, both before softplus"
    return "the last layer's output"
