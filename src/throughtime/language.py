"""The functions of the cell language; `+ - * / > <`, `**` and slicing work on its vectors directly.

A gate's name refers to its activated value: `sigmoid(affine("forget", x, h))` creates `forget.pre`, the pre-activation,
and `forget`, its sigmoid. Terms added to the affine map before the function is applied are part of `forget.pre`.
"""

from __future__ import annotations

import builtins
import math
from collections.abc import Callable
from functools import wraps
from typing import NoReturn

from throughtime.errors import CellError, nearest
from throughtime.program.cell import cell
from throughtime.program.cell_errors import cell_error
from throughtime.program.declarations import inputs, state
from throughtime.program.symbols import Number, Symbol, of
from throughtime.program.trace import Matrix, Trace, active_trace
from throughtime.program.words import unknown_word

__all__ = [
    "ACTIVATIONS", "abs", "activate", "activation", "affine", "bias", "cell", "concat", "cos", "elu", "exp", "gate",
    "gelu", "hard_sigmoid", "hard_tanh", "identity", "inputs", "layer_norm", "leaky_relu", "linear", "log",
    "matrix", "maximum", "minimum", "named", "parameter", "relu", "row_max", "row_mean", "row_sum", "select",
    "sigmoid", "silu", "sin", "softmax", "softplus", "softsign", "split", "sqrt", "state", "tanh",
]  # fmt: skip


def affine(name: str, *sources: Symbol, width: int | None = None, bias: bool | float = True) -> Symbol:
    """Compute a gate's pre-activation: the sum over sources of a matrix times the source, plus a bias.

    Args:
        name: the gate's name.
        *sources: the vectors, each multiplied by its own matrix `[width, width of the source]`.
        width: the number of elements of the result; default: the hidden size.
        bias: whether to add a bias; a number is the bias's initial value.
    """
    return active_trace().affine(name, sources, width, bias)


def linear(name: str, source: Symbol, width: int | None = None) -> Symbol:
    """Multiply a matrix parameter by a vector: an affine map without a bias."""
    return affine(name, source, width=width, bias=False)


def bias(name: str, initial: float | None = None, width: int | None = None) -> Symbol:
    """Create the bias of a gate whose pre-activation isn't a single `affine`; it is 0 in a layer without biases.

    Args:
        name: the gate's name.
        initial: the initial value of each element; default: random, like the weights.
        width: the number of elements; default: the hidden size.
    """
    return active_trace().bias(name, width, initial)


def parameter(name: str, width: int | None = None, initial: float | None = None) -> Symbol:
    """Create a vector parameter, shared by all steps.

    Args:
        name: the parameter's name.
        width: the number of elements (1 for a scalar); default: the hidden size.
        initial: the initial value of each element; default: random, like the weights.
    """
    return active_trace().own_vector(name, width, initial)


def matrix(name: str, rows: int | None = None, columns: int | None = None) -> Matrix:
    """Create a matrix parameter that several products share (tied weights, or a loop): `w @ x`, `w.T @ y`.

    The products don't belong to a gate; use `gate` to assign them to one. If each matrix multiplies only one vector,
    use `affine`, which is faster because it fuses the products of all gates.

    Args:
        name: the parameter's name.
        rows: the number of rows, which is the width of a product; default: the hidden size.
        columns: the number of columns, which is the width of the vector it multiplies; default: the hidden size.
    """
    return active_trace().own_matrix(name, rows, columns)


def named(name: str, value: Symbol) -> Symbol:
    """Name a value for recording and editing, and return it."""
    of(value).name_value(name, value)
    return value


def gate(name: str, value: Symbol) -> Symbol:
    """Mark a vector as a gate's pre-activation; the function applied to it next computes the gate's value.

    Args:
        name: the gate's name.
        value: the vector that the gate's function will be applied to.
    """
    trace = active_trace()
    of(value)
    trace.unmark_gate(value)
    trace.mark_gate(value, name)
    return value


def identity(a: Symbol) -> Symbol:
    """Return the vector unchanged; a choice of activation."""
    return a


def tanh(a: Symbol) -> Symbol:
    """Compute the hyperbolic tangent."""
    return of(a).pointwise("tanh", a)


def sigmoid(a: Symbol) -> Symbol:
    """Compute the logistic sigmoid, 1 / (1 + exp(-a))."""
    return of(a).pointwise("sigmoid", a)


def relu(a: Symbol) -> Symbol:
    """Compute the rectified linear unit, max(a, 0)."""
    return of(a).pointwise("relu", a)


def exp(a: Symbol) -> Symbol:
    """Compute the exponential."""
    return of(a).pointwise("exp", a)


def log(a: Symbol) -> Symbol:
    """Compute the natural logarithm."""
    return of(a).pointwise("log", a)


def sqrt(a: Symbol) -> Symbol:
    """Compute the square root."""
    return of(a).pointwise("sqrt", a)


def softplus(a: Symbol) -> Symbol:
    """Compute log(1 + exp(a)); the logarithm of a sigmoid is `-softplus(-a)`."""
    return of(a).pointwise("softplus", a)


def abs(a: Symbol) -> Symbol:
    """Compute the absolute value; Python's built-in `abs` works too."""
    return builtins.abs(a)


def sin(a: Symbol) -> Symbol:
    """Compute the sine of an angle in radians."""
    return of(a).pointwise("sin", a)


def cos(a: Symbol) -> Symbol:
    """Compute the cosine of an angle in radians."""
    return of(a).pointwise("cos", a)


def maximum(a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """Compute the element-wise maximum."""
    return of(a, b).pointwise("max", a, b)


def minimum(a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """Compute the element-wise minimum."""
    return -maximum(-a, -b)


def select(mask: Symbol, a: Symbol | Number, b: Symbol | Number) -> Symbol:
    """Choose between a where the mask is nonzero and b elsewhere; comparisons such as `x > 0` return masks."""
    return of(mask, a, b).pointwise("select", mask, a, b)


def concat(*values: Symbol) -> Symbol:
    """Concatenate vectors."""
    return of(*values).concat(*values)


def split(value: Symbol, parts: int) -> tuple[Symbol, ...]:
    """Split a vector into `parts` vectors of equal width."""
    of(value)
    if parts < 1 or value.width % parts:
        raise cell_error(f"a vector of width {value.width} can't be split into {parts} equal parts")
    width = value.width // parts
    return tuple(value[k * width : (k + 1) * width] for k in range(parts))


def row_sum(value: Symbol) -> Symbol:
    """Return the sum of a vector's elements, as a vector of width 1."""
    return of(value).row_sum(value)


def row_max(value: Symbol) -> Symbol:
    """Return the largest of a vector's elements, as a vector of width 1; equal elements share the gradient."""
    return of(value).row_max(value)


def row_mean(value: Symbol) -> Symbol:
    """Return the mean of a vector's elements, as a vector of width 1."""
    return row_sum(value) * (1.0 / value.width)


def layer_norm(name: str, value: Symbol, *, epsilon: float = 1e-5) -> Symbol:
    """Apply layer normalization with a gain and a shift (Ba, Kiros & Hinton 2016, arXiv:1607.06450).

    Args:
        name: the prefix of its parameters, `name.gain` (initially 1) and `name.shift` (initially 0).
        value: the vector; if it is a gate's pre-activation, so is the result.
        epsilon: added to the variance.
    """
    trace = active_trace()
    gate = trace.unmark_gate(value)
    centered = value - row_mean(value)
    scale = 1.0 / sqrt(row_mean(centered * centered) + epsilon)  # one division per row
    gain = parameter(f"{name}.gain", value.width, 1.0)
    shift = parameter(f"{name}.shift", value.width, 0.0)
    result = centered * scale * gain + shift
    trace.mark_gate(result, gate)
    return result


def __getattr__(name: str) -> NoReturn:
    if name.startswith("_"):
        raise AttributeError(name)
    raise cell_error(unknown_word(name, f"the cell language has no function {name!r}"))


# Activations composed of several operations. A gate's value is their result, not an intermediate value.


def _activation(function: Callable[..., Symbol]) -> Callable[..., Symbol]:
    @wraps(function)
    def applied(a: Symbol, *constants: float) -> Symbol:
        trace = of(a)
        gate = trace.unmark_gate(a) if isinstance(trace, Trace) else None
        result = function(a, *constants)
        if gate is not None:
            trace.name_value(f"{gate}.pre", a)
            trace.name_value(gate, result)
        return result

    return applied


@_activation
def leaky_relu(a: Symbol, slope: float = 0.01) -> Symbol:
    """Compute the leaky ReLU: a where it is positive, else `slope * a` (Maas et al. 2013)."""
    return select(a < 0.0, a * slope, a)


@_activation
def elu(a: Symbol, alpha: float = 1.0) -> Symbol:
    """Compute the ELU: a where positive, else `alpha * (exp(a) - 1)` (Clevert et al. 2016, arXiv:1511.07289)."""
    # The minimum keeps exp from overflowing in the branch not taken, where its gradient would be 0 times infinity.
    return select(a < 0.0, (exp(minimum(a, 0.0)) - 1.0) * alpha, a)


@_activation
def silu(a: Symbol) -> Symbol:
    """Compute the SiLU or swish, a * sigmoid(a) (Ramachandran et al. 2017, arXiv:1710.05941)."""
    return a * sigmoid(a)


@_activation
def gelu(a: Symbol) -> Symbol:
    """Compute the tanh approximation of the GELU (Hendrycks & Gimpel 2016, arXiv:1606.08415)."""
    return 0.5 * a * (1.0 + tanh(math.sqrt(2.0 / math.pi) * (a + 0.044715 * a**3)))


@_activation
def softsign(a: Symbol) -> Symbol:
    """Compute the softsign, a / (1 + |a|)."""
    return a / (maximum(a, -a) + 1.0)


@_activation
def softmax(a: Symbol) -> Symbol:
    """Compute the softmax over a vector's elements; the largest is subtracted first to avoid overflow."""
    weights = exp(a - row_max(a))
    return weights * (1.0 / row_sum(weights))


@_activation
def hard_sigmoid(a: Symbol, slope: float = 1 / 6, shift: float = 0.5) -> Symbol:
    """Clip `slope * a + shift` to [0, 1] (Courbariaux et al. 2015, arXiv:1511.00363; the defaults are torch's)."""
    return minimum(maximum(a * slope + shift, 0.0), 1.0)


@_activation
def hard_tanh(a: Symbol) -> Symbol:
    """Clip `a` to [-1, 1]."""
    return minimum(maximum(a, -1.0), 1.0)


ACTIVATIONS: dict[str, Callable[..., Symbol]] = {
    f.__name__: f
    for f in (
        tanh, sigmoid, relu, softplus, identity, leaky_relu, elu, silu, gelu, softsign, hard_sigmoid, hard_tanh
    )
}  # fmt: skip


def activation(name: str) -> Callable[..., Symbol]:
    """Look up an activation function by name.

    Raises:
        CellError: if there is no such function; the message suggests the most similar one.
    """
    if name not in ACTIVATIONS:
        raise CellError(_unknown(name))
    return ACTIVATIONS[name]


def activate(name: str, a: Symbol) -> Symbol:
    """Apply the activation function with a given name, such as the value of a hyper-parameter, to a vector."""
    if name not in ACTIVATIONS:
        raise cell_error(_unknown(name))
    return ACTIVATIONS[name](a)


def _unknown(name: object) -> str:
    return f"no activation named {name!r}{nearest(str(name), ACTIVATIONS)}; choose from {', '.join(ACTIVATIONS)}"
