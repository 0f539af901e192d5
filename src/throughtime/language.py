"""The words that a cell's equations are written in; `+ - * / > <`, `**` and slicing work on vectors as they are.

A gate's name means its activated value: `sigmoid(affine("forget", x, h))` makes `forget.pre`, the sum, and `forget`,
the sigmoid of it. When something is added to a gate's sum before the function is applied, `forget.pre` is the whole.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import wraps
from typing import NoReturn

from throughtime.errors import CellError, nearest
from throughtime.program.builder import Number, Symbol, cell_error, of
from throughtime.program.cell import cell
from throughtime.program.declarations import inputs, state
from throughtime.program.trace import Matrix, Trace, active_trace
from throughtime.program.words import unknown_word

__all__ = [
    "ACTIVATIONS", "abs", "activate", "activation", "affine", "bias", "cell", "concat", "cos", "elu", "exp", "gate",
    "gelu", "hard_sigmoid", "hard_tanh", "identity", "inputs", "layer_norm", "leaky_relu", "linear", "log",
    "matrix", "maximum", "minimum", "named", "parameter", "relu", "row_max", "row_mean", "row_sum", "select",
    "sigmoid", "silu", "sin", "softmax", "softplus", "softsign", "split", "sqrt", "state", "tanh",
]  # fmt: skip


def affine(name: str, *sources: Symbol, width: int | None = None, bias: bool | float = True) -> Symbol:
    """A gate's pre-activation: the sum of a matrix times each source, and a bias.

    Args:
        name: the gate's name.
        *sources: the vectors, each multiplied by a matrix of its own `[width, width of the source]`.
        width: the number of elements of the result; the hidden size if not given.
        bias: whether there is one; a number is what the bias starts with.
    """
    return active_trace().affine(name, sources, width, bias)


def linear(name: str, source: Symbol, width: int | None = None) -> Symbol:
    """A matrix parameter times a vector: an affine map without a bias."""
    return affine(name, source, width=width, bias=False)


def bias(name: str, initial: float | None = None, width: int | None = None) -> Symbol:
    """A gate's bias by itself, for one whose pre-activation is no `affine`; 0 in a layer without biases.

    Args:
        name: the gate's name.
        initial: what each element starts with; drawn as the weights are if not given.
        width: its number of elements; the hidden size if not given.
    """
    return active_trace().bias(name, width, initial)


def parameter(name: str, width: int | None = None, initial: float | None = None) -> Symbol:
    """A vector parameter, the same at each step.

    Args:
        name: its name.
        width: its number of elements (1 for a scalar); the hidden size if not given.
        initial: what each element starts with; drawn as the weights are if not given.
    """
    return active_trace().own_vector(name, width, initial)


def matrix(name: str, rows: int | None = None, columns: int | None = None) -> Matrix:
    """A matrix parameter by itself, for one matrix on several vectors (tied weights) or in a loop: `w @ x`, `w.T @ y`.

    The products have no gate's name; `gate` gives one. Where each matrix has one vector, `affine` is faster: it joins
    the products of all gates.

    Args:
        name: its name.
        rows: the number of elements of a product; the hidden size if not given.
        columns: the number of elements of a vector that it multiplies; the hidden size if not given.
    """
    return active_trace().own_matrix(name, rows, columns)


def named(name: str, value: Symbol) -> Symbol:
    """Gives a value a name, by which it is recorded and edited."""
    of(value).name_value(name, value)
    return value


def gate(name: str, value: Symbol) -> Symbol:
    """Makes a vector that is no `affine` the pre-activation of a gate: what is applied to it next is the gate's value.

    Args:
        name: the gate's name.
        value: what the gate's function will be applied to.
    """
    trace = active_trace()
    of(value)
    trace.withdraw(value)
    trace.promise(value, name)
    return value


def identity(a: Symbol) -> Symbol:
    """The vector as it is, where a function could be chosen."""
    return a


def tanh(a: Symbol) -> Symbol:
    """The hyperbolic tangent."""
    return of(a).pointwise("tanh", a)


def sigmoid(a: Symbol) -> Symbol:
    """1 / (1 + exp(-a))."""
    return of(a).pointwise("sigmoid", a)


def relu(a: Symbol) -> Symbol:
    """a where it is positive, else 0."""
    return of(a).pointwise("relu", a)


def exp(a: Symbol) -> Symbol:
    """The exponential."""
    return of(a).pointwise("exp", a)


def log(a: Symbol) -> Symbol:
    """The natural logarithm."""
    return of(a).pointwise("log", a)


def sqrt(a: Symbol) -> Symbol:
    """The square root."""
    return of(a).pointwise("sqrt", a)


def softplus(a: Symbol) -> Symbol:
    """log(1 + exp(a)); the logarithm of a sigmoid is `-softplus(-a)`."""
    return of(a).pointwise("softplus", a)


def abs(a: Symbol) -> Symbol:
    """The absolute value; Python's own `abs` does the same."""
    return builtins.abs(a)


def sin(a: Symbol) -> Symbol:
    """The sine of an angle in radians."""
    return of(a).pointwise("sin", a)


def cos(a: Symbol) -> Symbol:
    """The cosine of an angle in radians."""
    return of(a).pointwise("cos", a)


def maximum(a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """The larger of two, element by element."""
    return of(a, b).pointwise("max", a, b)


def minimum(a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """The smaller of two, element by element."""
    return -maximum(-a, -b)


def select(mask: Symbol, a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """a where the mask is not 0, else b; a comparison such as `x > 0` is a mask."""
    return of(mask, a, b).pointwise("select", mask, a, b)


def concat(*values: Symbol) -> Symbol:
    """The vectors one after the other."""
    return of(*values).concat(*values)


def split(value: Symbol, parts: int) -> tuple[Symbol, ...]:
    """A vector cut into `parts` of equal width."""
    of(value)
    if parts < 1 or value.width % parts:
        raise cell_error(f"a vector of width {value.width} cannot be cut into {parts} equal parts.")
    width = value.width // parts
    return tuple(value[k * width : (k + 1) * width] for k in range(parts))


def row_sum(value: Symbol) -> Symbol:
    """The sum of a vector's elements, as a vector of one element."""
    return of(value).row_sum(value)


def row_max(value: Symbol) -> Symbol:
    """The largest of a vector's elements, as a vector of one element; equal ones share the gradient."""
    return of(value).row_max(value)


def row_mean(value: Symbol) -> Symbol:
    """The mean of a vector's elements, as a vector of one element."""
    return row_sum(value) * (1.0 / value.width)


def layer_norm(name: str, value: Symbol, *, epsilon: float = 1e-5) -> Symbol:
    """Layer normalisation with a gain and a shift (Ba, Kiros & Hinton 2016, arXiv:1607.06450).

    Args:
        name: of its parameters, `name.gain` (starts at 1) and `name.shift` (starts at 0).
        value: the vector; where it is a gate's pre-activation, the result is.
        epsilon: added to the variance.
    """
    trace = active_trace()
    gate = trace.withdraw(value)
    centred = value - row_mean(value)
    scale = 1.0 / sqrt(row_mean(centred * centred) + epsilon)  # a number for each row, so that it is the one division
    gain = parameter(f"{name}.gain", value.width, 1.0)
    shift = parameter(f"{name}.shift", value.width, 0.0)
    result = centred * scale * gain + shift
    trace.promise(result, gate)
    return result


def __getattr__(name: str) -> NoReturn:
    if name.startswith("_"):
        raise AttributeError(name)
    raise cell_error(unknown_word(name, f"the cell language has no word {name!r}"))


# Activations of several operations. The gate to whose sum one is applied is its result, not what comes up on the way.


def _activation(function: Callable[..., Symbol]) -> Callable[..., Symbol]:
    @wraps(function)
    def applied(a: Symbol, *constants: float) -> Symbol:
        trace = of(a)
        gate = trace.withdraw(a) if isinstance(trace, Trace) else None
        result = function(a, *constants)
        if gate is not None:
            trace.name_value(f"{gate}.pre", a)
            trace.name_value(gate, result)
        return result

    return applied


@_activation
def leaky_relu(a: Symbol, slope: float = 0.01) -> Symbol:
    """a where it is positive, else `slope` of it (Maas et al. 2013)."""
    return select(a < 0.0, a * slope, a)


@_activation
def elu(a: Symbol, alpha: float = 1.0) -> Symbol:
    """a where it is positive, else `alpha (exp(a) - 1)` (Clevert et al. 2016, arXiv:1511.07289)."""
    # exp does not see what it is not asked for, as it would be infinite there, and its gradient 0 times that
    return select(a < 0.0, (exp(minimum(a, 0.0)) - 1.0) * alpha, a)


@_activation
def silu(a: Symbol) -> Symbol:
    """a sigmoid(a), also called swish (Ramachandran et al. 2017, arXiv:1710.05941)."""
    return a * sigmoid(a)


@_activation
def gelu(a: Symbol) -> Symbol:
    """a times the normal distribution's function, by tanh (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * a * (1.0 + tanh(math.sqrt(2.0 / math.pi) * (a + 0.044715 * a**3)))


@_activation
def softsign(a: Symbol) -> Symbol:
    """a / (1 + |a|)."""
    return a / (maximum(a, -a) + 1.0)


@_activation
def softmax(a: Symbol) -> Symbol:
    """exp(a) over the sum of exp(a) over all elements; no element overflows, as the largest is subtracted first."""
    weights = exp(a - row_max(a))
    return weights * (1.0 / row_sum(weights))


@_activation
def hard_sigmoid(a: Symbol, slope: float = 1 / 6, shift: float = 0.5) -> Symbol:
    """`slope a + shift`, held between 0 and 1 (Courbariaux et al. 2015, arXiv:1511.00363; slope and shift of torch)."""
    return minimum(maximum(a * slope + shift, 0.0), 1.0)


@_activation
def hard_tanh(a: Symbol) -> Symbol:
    """a, held between -1 and 1."""
    return minimum(maximum(a, -1.0), 1.0)


ACTIVATIONS: dict[str, Callable[..., Symbol]] = {
    f.__name__: f
    for f in (
        tanh, sigmoid, relu, softplus, identity, leaky_relu, elu, silu, gelu, softsign, hard_sigmoid, hard_tanh
    )
}  # fmt: skip


def activation(name: str) -> Callable[..., Symbol]:
    """The function of that name.

    Raises:
        CellError: if there is none, with the nearest one.
    """
    if name not in ACTIVATIONS:
        raise CellError(_unknown(name))
    return ACTIVATIONS[name]


def activate(name: str, a: Symbol) -> Symbol:
    """The function of that name (a hyper-parameter, say) applied to a vector."""
    if name not in ACTIVATIONS:
        raise cell_error(_unknown(name))
    return ACTIVATIONS[name](a)


def _unknown(name: object) -> str:
    return f"no activation is called {name!r}{nearest(str(name), ACTIVATIONS)} (there are: {', '.join(ACTIVATIONS)})."
