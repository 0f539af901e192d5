"""Parameter initialization for recurrent layers."""

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


def initialize(
    program: Program,
    tensors: Sequence[Tensor],
    hidden_size: int,
    scheme: Scheme = "uniform",
    forget_bias: float | None = None,
    *,
    chrono: float | None = None,
) -> None:
    """Initialize a layer's parameters in place.

    Values declared by the cell take precedence, except over `forget_bias` and `chrono`; the rest are drawn.

    Args:
        program: the layer's program.
        tensors: the layer's parameters, as stored.
        hidden_size: the layer's number of hidden units.
        scheme: "uniform" draws from U(-1/sqrt(hidden_size), 1/sqrt(hidden_size)), as torch does; a number `a`, from
            U(-a, a). "orthogonal" makes each gate's matrices orthogonal (Saxe et al. 2013, arXiv:1312.6120) and draws
            the rest as "uniform" does. "identity" sets each gate's recurrent matrix to the identity, draws its input
            matrices from N(0, 0.001^2) and sets biases to 0 (Le et al. 2015, arXiv:1504.00941). "glorot" matches Keras:
            input matrices from U(-b, b) with b = sqrt(6 / (rows + columns)) (Glorot & Bengio 2010), orthogonal
            recurrent matrices, and biases of 0, or 1 for a gate named `forget`.
        forget_bias: the initial bias of a gate named `forget` (Jozefowicz et al. 2015 recommend 1).
        chrono: the longest dependency T to capture, in steps: biases of gates that keep a state are drawn from
            log(U(1, T - 1)), and an LSTM's input gate gets the negative (Tallec & Ollivier 2018, arXiv:1804.11188).
            Which gates keep a state, and with which sign, is determined numerically.

    Raises:
        UserError: if the scheme is unknown, or no gate is named `forget` or keeps a state.
    """
    if isinstance(scheme, str) and scheme not in SCHEMES:
        raise UserError(
            f"no initialization named {scheme!r}{nearest(scheme, SCHEMES)}; "
            f"pass a number for a uniform range, or one of {', '.join(SCHEMES)}"
        )
    if chrono is not None and forget_bias is not None:
        raise UserError("forget_bias and chrono both set the forget gate's bias; pass only one of them")
    if chrono is not None and not chrono > 2:
        raise UserError(f"chrono must be a number of steps greater than 2, got {chrono!r}")
    if forget_bias is not None and not forgets(program):
        raise UserError(f"forget_bias needs a gate named forget with a bias; cell {program.name!r} has none")
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
            _draw_chrono_biases(program, tensors, chrono)


def forgets(program: Program) -> bool:
    """Return whether a program has a gate named `forget` with a bias."""
    return any(part.gate == "forget" for _, part in _biases(program))


def _is_bias(parameter: Parameter) -> bool:
    return parameter.name == "bias"


def _draw(scheme: str, kind: str, parameter: Parameter, tensor: Tensor) -> None:
    """Fill a parameter as the scheme prescribes, unless the scheme leaves it to `uniform`."""
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
        nn.init.orthogonal_(tensor)  # all gates together, as in Keras
    elif scheme == "glorot":
        nn.init.xavier_uniform_(tensor)
    else:
        for gate in gates:
            nn.init.orthogonal_(gate)


# Finding the gates that keep a state.


def _draw_chrono_biases(program: Program, tensors: Sequence[Tensor], steps: float) -> None:
    """Draw the biases of the gates that keep a state."""
    signs = gates_that_keep(program)
    if not signs:
        raise UserError(f"chrono needs a gate that keeps a state and has a bias; cell {program.name!r} has none")
    drawn: dict[int, Tensor] = {}
    for k, part in _biases(program):
        if part.gate in signs:
            rows = tensors[k][part.start : part.stop]
            size = len(rows)
            if size not in drawn:  # gates of equal size share a draw, so a unit's gates match
                drawn[size] = torch.empty_like(rows).uniform_(1.0, steps - 1.0).log_()
            rows.copy_(signs[part.gate] * drawn[size])


@lru_cache(maxsize=64)
def gates_that_keep(program: Program) -> dict[str, float]:
    """Find the gates whose bias controls whether a state is kept: 1 if a large bias keeps it, -1 if a small one does.

    Without input and weights, a gate depends only on its bias, and a state either persists or decays.
    """
    signs: dict[str, float] = {}
    program = _without_weights(program)
    gates = [part.gate for _, part in _biases(program)]
    for k, part in _biases(program):
        function = program.body[program.values[part.gate]].op if part.gate in program.values else ""
        if function not in ("tanh", "relu"):  # candidate values, not gates
            more = _kept_fractions(program, k, part, _SATURATING) - _kept_fractions(program, k, part, -_SATURATING)
            largest = float(max(more, key=abs))
            if abs(largest) > _MIN_EFFECT:
                signs[part.gate] = math.copysign(1.0, largest)
    if "forget" in signs and "input" in gates and "input" not in signs:
        signs["input"] = -signs["forget"]  # an LSTM that keeps more of its state writes less to it
    return signs


_SATURATING = 12.0  # a bias that saturates a gate
_MIN_EFFECT = 0.2  # the minimum change in the kept fraction that counts as a gate's effect


def _without_weights(program: Program) -> Program:
    """Return the program with all matrices 0, without computing products with them."""
    zero = (("value", 0.0),)
    return replace(
        program,
        body=tuple(
            Instruction(CONSTANT, (), i.width, zero) if "weight" in dict(i.attributes) else i for i in program.body
        ),
    )


def _kept_fractions(program: Program, k: int, gate: GateRows, bias: float) -> Tensor:
    """Compute the fraction of each state that reaches the next step when a gate has the given bias."""
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
