"""What the parameters of a recurrent layer start with."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn

from throughtime.engines.base import Layout, Operands
from throughtime.engines.reference import ReferenceEngine
from throughtime.errors import UserError, nearest
from throughtime.program.core import CONSTANT, GateRows, Instruction, Parameter, Program
from throughtime.program.rewrite import input_weights, recurrent_weights

SCHEMES = ("uniform", "orthogonal", "identity", "glorot")
Scheme = float | str


def initialise(
    program: Program,
    tensors: Sequence[Tensor],
    hidden_size: int,
    scheme: Scheme = "uniform",
    forget_bias: float | None = None,
    *,
    chrono: float | None = None,
) -> None:
    """Sets a layer's parameters to what they start with, in place.

    What the cell declares stands, but for biases that are asked for; the rest is drawn.

    Args:
        program: the layer's program.
        tensors: its parameters, as they are stored.
        hidden_size: the layer's number of hidden units.
        scheme: "uniform" draws from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as torch does; a number a from
            U(-a, a). "orthogonal" gives each gate orthogonal matrices (Saxe et al. 2013, arXiv:1312.6120), the rest as
            "uniform". "identity" gives each gate the identity as its matrix over a state, N(0, 0.001^2) as those over
            the input, and biases of 0 (Le et al. 2015, arXiv:1504.00941). "glorot" is as Keras: U(-b, b) with
            b = sqrt(6 / (rows + columns)) for the matrices over the input (Glorot & Bengio 2010), orthogonal ones over
            a state, and biases of 0, of 1 for a gate called `forget`.
        forget_bias: what the bias of a gate called `forget` starts with (Jozefowicz et al. 2015 found 1 to help).
        chrono: the number of steps T that is to be spanned: the biases of the gates that keep a state are drawn from
            log(U(1, T - 1)), and an LSTM's input gate gets the opposite (Tallec & Ollivier 2018, arXiv:1804.11188).
            Which gates keep a state, and in which direction, is found by trying.

    Raises:
        UserError: if there is no such scheme, no gate called `forget`, or none that keeps a state.
    """
    if isinstance(scheme, str) and scheme not in SCHEMES:
        raise UserError(
            f"no initialisation is called {scheme!r}{nearest(scheme, SCHEMES)}: "
            f"give a number for a uniform range, or one of {', '.join(SCHEMES)}."
        )
    if chrono is not None and forget_bias is not None:
        raise UserError("forget_bias and chrono both say what a forget gate's bias starts with: give one of them.")
    if chrono is not None and not chrono > 2:
        raise UserError(f"chrono is a number of steps above 2; given {chrono!r}.")
    if forget_bias is not None and not forgets(program):
        raise UserError(f"forget_bias is of a gate called forget, and cell {program.name!r} has none with a bias.")
    if scheme == "glorot" and forget_bias is None and chrono is None:
        forget_bias = 1.0
    bound = scheme if isinstance(scheme, int | float) else 1 / math.sqrt(hidden_size)
    inputs, recurrent = input_weights(program), recurrent_weights(program)
    with torch.no_grad():
        for k, (parameter, tensor) in enumerate(zip(program.parameters, tensors, strict=True)):
            tensor.uniform_(-bound, bound)
            if isinstance(scheme, str) and scheme != "uniform":
                kind = "input" if k in inputs else "recurrent" if k in recurrent else "other"
                _draw(scheme, kind, parameter, tensor)
            for part in parameter.parts:
                rows = tensor[part.start : part.stop]
                if forget_bias is not None and _is_bias(parameter) and part.gate == "forget":
                    rows.fill_(forget_bias)
                elif part.initial is not None:
                    rows.fill_(part.initial)
        if chrono is not None:
            _spread(program, tensors, chrono)


def forgets(program: Program) -> bool:
    """Whether it has a gate called `forget` with a bias."""
    return any(part.gate == "forget" for _, part in _biases(program))


def _is_bias(parameter: Parameter) -> bool:
    return parameter.name == "bias"


def _draw(scheme: str, kind: str, parameter: Parameter, tensor: Tensor) -> None:
    """Fills a parameter as a scheme has it, but for what is drawn as `uniform`."""
    gates = [tensor[p.start : p.stop] for p in parameter.parts] or [tensor]
    if tensor.dim() == 1:
        if scheme != "orthogonal" and _is_bias(parameter):
            tensor.zero_()
    elif scheme == "identity" and kind == "recurrent":
        for gate in gates:
            nn.init.eye_(gate)
    elif scheme == "identity" and kind == "input":
        tensor.normal_(0.0, 0.001)
    elif scheme == "glorot" and kind == "recurrent":
        nn.init.orthogonal_(tensor)  # of all gates together, as Keras has it
    elif scheme == "glorot":
        nn.init.xavier_uniform_(tensor)
    else:
        for gate in gates:
            nn.init.orthogonal_(gate)


# Gates that keep.


def _spread(program: Program, tensors: Sequence[Tensor], steps: float) -> None:
    """Draws the biases of the gates that keep a state."""
    signs = keeping(program)
    if not signs:
        raise UserError(f"chrono is of gates that keep a state, and cell {program.name!r} has none with a bias.")
    drawn: dict[int, Tensor] = {}
    for k, part in _biases(program):
        if part.gate in signs:
            rows = tensors[k][part.start : part.stop]
            size = len(rows)
            if size not in drawn:  # gates of one unit belong together
                drawn[size] = torch.empty_like(rows).uniform_(1.0, steps - 1.0).log_()
            rows.copy_(signs[part.gate] * drawn[size])


@lru_cache(maxsize=64)
def keeping(program: Program) -> dict[str, float]:
    """The gates whose bias says whether a state is kept: 1 where a large bias keeps it, -1 where a small one does.

    Where there is neither input nor a weight a gate is its bias alone, and a state stays or falls.
    """
    signs: dict[str, float] = {}
    program = _without_weights(program)
    gates = [part.gate for _, part in _biases(program)]
    for k, part in _biases(program):
        function = program.body[program.values[part.gate]].op if part.gate in program.values else ""
        if function not in ("tanh", "relu"):  # these are no gates, but what is let in
            more = _passed_on(program, k, part, _FAR) - _passed_on(program, k, part, -_FAR)
            largest = float(max(more, key=abs))
            if abs(largest) > _FELT:
                signs[part.gate] = math.copysign(1.0, largest)
    if "forget" in signs and "input" in gates and "input" not in signs:
        signs["input"] = -signs["forget"]  # what is kept leaves as much less room for what comes in
    return signs


_FAR = 12.0  # a bias with which a gate is all but open, or shut
_FELT = 0.2  # of a state, that it keeps by one gate of several


def _without_weights(program: Program) -> Program:
    """The program as it is where all matrices are 0, without taking products with them."""
    zero = (("value", 0.0),)
    return replace(
        program,
        body=tuple(
            Instruction(CONSTANT, (), i.width, zero) if "weight" in dict(i.attributes) else i for i in program.body
        ),
    )


def _passed_on(program: Program, k: int, gate: GateRows, bias: float) -> Tensor:
    """How much of each state reaches the next step where a gate has that bias."""
    parameters = []
    for n, parameter in enumerate(program.parameters):
        if len(parameter.shape) == 2:
            parameters.append(torch.zeros((), dtype=torch.float64).expand(parameter.shape))
            continue
        tensor = torch.zeros(parameter.shape, dtype=torch.float64)
        for part in parameter.parts:
            tensor[part.start : part.stop] = (part.initial or 0.0) if n != k else bias if part == gate else 0.0
        parameters.append(tensor)
    x = [torch.zeros(1, 1, i.width, dtype=torch.float64) for i in program.inputs]

    def stepped(states: list[Tensor]) -> list[Tensor]:
        return ReferenceEngine().run(program, Operands(x, states, parameters), Layout(1, 1)).states

    before = stepped([torch.full((1, s.width), s.initial, dtype=torch.float64) for s in program.states])
    found = []
    for n, after in enumerate(stepped(before)):
        moved = stepped([state + 1.0 if n == m else state for m, state in enumerate(before)])[n]
        found.append((moved - after).mean())
    return torch.stack(found)


def _biases(program: Program) -> Iterator[tuple[int, GateRows]]:
    for k, parameter in enumerate(program.parameters):
        if _is_bias(parameter):
            yield from ((k, part) for part in parameter.parts)
