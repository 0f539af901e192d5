"""Check a cell's gradient program against finite differences."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from throughtime import cells
from throughtime.errors import CellError
from throughtime.program.cell import Cell
from throughtime.program.core import Parameter, Program
from throughtime.tables import html_table

if TYPE_CHECKING:
    from torch import Generator, Tensor

_STEPS, _ROWS = 4, 2
# The truncation error is about 1e-10 times the third derivative, and the rounding error about as large.
_DISTANCE = 1e-5
_ROUNDING = 1e-15


@dataclass(frozen=True, repr=False)
class GradcheckReport:
    """The result of `gradcheck`.

    Attributes:
        cell: the cell's name.
        tolerance: the largest relative error that passes.
        errors: the largest relative error of each argument of the program, by names such as `"parameter weight_h"`.
    """

    cell: str
    tolerance: float
    errors: Mapping[str, float]

    @property
    def failed(self) -> list[str]:
        """The arguments whose gradient is wrong."""
        return [name for name, error in self.errors.items() if not error <= self.tolerance]

    @property
    def passed(self) -> bool:
        """Whether every gradient is correct."""
        return not self.failed

    def __str__(self) -> str:
        width = max(map(len, self.errors))
        lines = [f"cell {self.cell}: gradient against finite differences, largest relative error"]
        lines += [
            f"  {name:<{width}}  {error:.1e}{'  wrong' if name in self.failed else ''}"
            for name, error in self.errors.items()
        ]
        return "\n".join([*lines, self._verdict])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        rows = [(name, f"{error:.1e}", "wrong" if name in self.failed else "") for name, error in self.errors.items()]
        return html_table(("gradient of", "largest relative error", ""), rows, f"cell {self.cell}, {self._verdict}")

    @property
    def _verdict(self) -> str:
        return f"{'passed' if self.passed else 'failed'}: tolerance {self.tolerance:.0e}"


def gradcheck(
    cell: str | Cell,
    input_size: int = 3,
    hidden_size: int = 4,
    *,
    bias: bool = True,
    tolerance: float = 1e-6,
    **hyper: object,
) -> GradcheckReport:
    """Check a cell's gradient at a random point in float64, over a few steps and sequences.

    Args:
        cell: the cell, or a named cell's name.
        input_size: the width of x.
        hidden_size: the number of hidden units; keep it small, as every element of every argument is perturbed
            separately.
        bias: whether gates have a bias.
        tolerance: the largest relative error that passes, relative to the largest element of an argument's gradient.
        **hyper: hyper-parameters other than the cell's defaults.

    Returns:
        A report with the largest relative error for each input, initial state and parameter.

    Raises:
        CellError: if the equations are wrong, a result is not finite, or a gradient is wrong.
    """
    import torch

    cell = cells.get(cell)
    every = [declaration.name for _, declaration in cell.inputs]
    program = cell.program(input_size, hidden_size, bias=bias, inputs=every, **hyper)
    arguments = _random_arguments(program, torch.Generator().manual_seed(0))
    weights, gradients = _by_program(program, list(arguments.values()))
    if weights is None:
        raise CellError(f"the results of cell {cell.name} are not finite for random inputs and parameters")
    errors = {
        name: _error(gradient, *_by_differences(program, list(arguments.values()), k, weights), tolerance)
        for k, (name, gradient) in enumerate(zip(arguments, gradients, strict=True))
    }
    report = GradcheckReport(cell.name, tolerance, errors)
    if not report.passed:
        raise CellError(
            f"the gradient of cell {cell.name} differs from finite differences for {', '.join(report.failed)}. "
            "If its values are very large, raise `tolerance`; otherwise a gradient in the operations table is "
            f"wrong.\n{report}"
        )
    return report


def _random_arguments(program: Program, generator: Generator) -> dict[str, Tensor]:
    import torch

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def drawn(parameter: Parameter) -> Tensor:
        result: Tensor = normal(*parameter.shape) / parameter.shape[-1] ** 0.5
        for part in parameter.parts:
            result[part.start : part.stop] += part.initial or 0.0
        return result

    inputs = {f"input {i.name}": normal(_STEPS, _ROWS, i.width) for i in program.inputs}
    states = {f"state {s.name}": s.initial + 0.3 * normal(_ROWS, s.width) for s in program.states}
    return inputs | states | {f"parameter {p.name}": drawn(p) for p in program.parameters}


def _by_program(program: Program, arguments: list[Tensor]) -> tuple[list[Tensor] | None, list[Tensor]]:
    """Draw random weights and compute the gradients of the weighted sum of all results.

    Returns:
        The weights, or None if a result isn't finite, and the gradients.
    """
    import torch

    from throughtime.engines.autograd import Pass
    from throughtime.engines.base import Layout, Operands
    from throughtime.engines.reference import ReferenceEngine

    class Opaque(ReferenceEngine):
        """An engine that autograd can't trace, so that the gradient comes from the gradient program."""

        traceable = False

    leaves = [a.clone().requires_grad_() for a in arguments]
    n, m = len(program.inputs), len(program.inputs) + len(program.states)
    operands = Operands(leaves[:n], leaves[n:m], leaves[m:])
    result = Pass(Opaque(), program, Layout(_STEPS, _ROWS)).run(operands)
    results = [*result.outputs, *result.states]
    if not all(r.isfinite().all() for r in results):
        return None, []
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(r.shape, generator=generator, dtype=r.dtype) for r in results]
    found = torch.autograd.grad(results, leaves, weights, allow_unused=True, materialize_grads=True)
    return weights, list(found)


def _by_differences(program: Program, arguments: list[Tensor], k: int, weights: list[Tensor]) -> tuple[Tensor, float]:
    """Return the gradient of one argument by central differences, and a bound on its rounding error."""
    import torch

    from throughtime.engines.base import Layout, Operands
    from throughtime.engines.reference import ReferenceEngine

    n, m = len(program.inputs), len(program.inputs) + len(program.states)

    def terms(change: Tensor) -> Tensor:
        moved = [a + change.view(a.shape) if j == k else a for j, a in enumerate(arguments)]
        operands = Operands(moved[:n], moved[n:m], moved[m:])
        result = ReferenceEngine().run(program, operands, Layout(_STEPS, _ROWS))
        results = [*result.outputs, *result.states]
        return torch.cat([(r * w).flatten() for r, w in zip(results, weights, strict=True)])

    def difference(change: Tensor) -> Tensor:
        return (terms(change) - terms(-change)).sum() / (2 * _DISTANCE)

    moves = _DISTANCE * torch.eye(arguments[k].numel(), dtype=torch.float64)
    found: Tensor = torch.func.vmap(difference, chunk_size=256)(moves)
    noise = _ROUNDING * float(terms(torch.zeros_like(moves[0])).abs().sum()) / _DISTANCE
    return found.view(arguments[k].shape), noise


def _error(gradient: Tensor, wanted: Tensor, noise: float, tolerance: float) -> float:
    # A gradient below the rounding error counts as correct, and NaN as wrong.
    scale = max(float(gradient.abs().max()), float(wanted.abs().max()), noise / tolerance)
    error = float((gradient - wanted).abs().max()) / scale
    return error if math.isfinite(error) else math.inf
