"""Error messages for names that the cell language lacks."""

from __future__ import annotations

from throughtime.errors import nearest

# Names of functions in other libraries -> their names in the cell language.
_ELSEWHERE = {
    "absolute": "abs",
    "amax": "row_max",
    "cat": "concat",
    "chunk": "split",
    "concatenate": "concat",
    "fabs": "abs",
    "layernorm": "layer_norm",
    "logistic": "sigmoid",
    "max": "row_max",
    "mean": "row_mean",
    "sum": "row_sum",
    "swish": "silu",
    "where": "select",
}
_ROWS = "concat(*(u[i] * v for i in range(n)))"
MATRIX_STATE = (
    "the state of a cell is a vector; matrix-valued states and outer products (fast weights, mLSTM) are unsupported. "
    f"For a small n, keep the n rows of the matrix in one state of width n * n: {_ROWS} is the outer product of u and "
    "v, and concat(*(row_sum(m[i * n : (i + 1) * n] * v) for i in range(n))) the matrix m times v"
)
_UNSUPPORTED = {"outer": MATRIX_STATE, "outer_product": MATRIX_STATE, "einsum": MATRIX_STATE, "matmul": MATRIX_STATE}


def word_for(name: str) -> str | None:
    """Return the name of the cell language's equivalent of a NumPy or torch function; None if there is none."""
    from throughtime import language

    word = _ELSEWHERE.get(name, name)
    return word if word in language.__all__ else None


def unknown_word(name: str, what: str = "") -> str:
    """Return the error message for an undefined name in a cell.

    Args:
        name: the name.
        what: the problem, such as "a vector has no attribute 'sum'"; by default, that the name is not defined.
    """
    from throughtime import language

    words = language.__all__
    if name in _UNSUPPORTED:
        return _UNSUPPORTED[name]
    if name in words and not what:
        return f"{name!r} is not imported; add `from throughtime.language import {name}`"
    what = what or f"{name!r} is neither a variable of the cell nor a function of throughtime.language"
    if word := word_for(name):
        return f"{what}; use throughtime.language.{word}"
    return f"{what}{nearest(name, words, 3)}"
