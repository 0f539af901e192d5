"""The vectorized functions are accurate to the last bits over the whole range, and correct at its ends."""

from __future__ import annotations

import numpy as np
import pytest
from native_cases import apply, row_max
from numpy.typing import NDArray

from throughtime.engines.native import NativeEngine

# Relative errors: 2e-7 is three float32 rounding errors, 1e-15 is nine in float64. Functions of two values are exact.
BOUND = {np.float32: 2e-7, np.float64: 1e-15}
DTYPES = (np.float32, np.float64)

Long = NDArray[np.longdouble]
EXACT = {
    "exp": np.exp,
    "log": np.log,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "softplus": lambda x: np.log1p(np.exp(-abs(x))) + np.maximum(x, 0),
    "sqrt": np.sqrt,
    "relu": lambda x: np.maximum(x, 0),
    "neg": np.negative,
    "abs": np.abs,
    "sin": np.sin,
    "cos": np.cos,
}
POSITIVE = ("log", "sqrt")


def sample(dtype: type, positive: bool) -> NDArray[np.floating]:
    """Draw numbers of all magnitudes, dense where functions curve and spread over all exponents."""
    generator = np.random.default_rng(0)
    dense = generator.uniform(-20, 20, 200_003)
    wide = generator.uniform(-90, 90, 50_000) if dtype is np.float32 else generator.uniform(-720, 720, 50_000)
    tiny = np.sign(generator.uniform(-1, 1, 50_000)) * np.exp(generator.uniform(-80, 0, 50_000))
    near_one = 1 + generator.uniform(-1, 1, 50_000) * np.exp(generator.uniform(-15, 0, 50_000))
    x = np.concatenate([dense, wide, tiny, near_one]).astype(dtype)
    return abs(x) if positive else x


ANGLE_BOUND = {np.float32: 2e-7, np.float64: 5e-16}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["sin", "cos"])
def test_sine_and_cosine_are_accurate(engine: NativeEngine, name: str, dtype: type) -> None:
    """Includes angles near multiples of pi/2, where most digits cancel, and large ones passed to the C library."""
    generator = np.random.default_rng(1)
    turns = generator.integers(-700_000, 700_000, 50_000) * np.longdouble("1.57079632679489661923132169163975144")
    wide = np.concatenate([generator.uniform(-(2**20), 2**20, 50_000), generator.uniform(-1e9, 1e9, 10_001)])
    x = np.concatenate([turns.astype(dtype), np.nextafter(turns.astype(dtype), dtype(0)), wide.astype(dtype)])
    error = abs(apply(engine, name, x) / EXACT[name](x.astype(np.longdouble)) - 1)
    assert error.max() <= ANGLE_BOUND[dtype], f"at {x[error.argmax()]!r}"


def test_row_max_matches_numpy(engine: NativeEngine) -> None:
    x = np.random.default_rng(0).standard_normal((5, 37)).astype(np.float32) - 9
    x[1, 33], x[2, 3], x[3] = np.nan, np.inf, -np.inf
    for width in (1, 2, 15, 16, 17, 37):
        np.testing.assert_array_equal(row_max(engine, x[:, :width]), x[:, :width].max(1, keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_errors_are_below_the_documented_bounds(engine: NativeEngine, name: str, dtype: type) -> None:
    x = sample(dtype, name in POSITIVE)
    with np.errstate(over="ignore"):
        exact = EXACT[name](x.astype(np.longdouble))
    found = apply(engine, name, x).astype(np.longdouble)
    normal = (abs(exact) >= np.finfo(dtype).tiny) & (abs(exact) <= np.finfo(dtype).max)
    error = abs(found[normal] / exact[normal] - 1)
    assert error.max() <= BOUND[dtype], f"at {x[normal][error.argmax()]!r}"
    # Results below the smallest normal number are flushed to zero, and those above the largest are infinite.
    assert np.all(abs(found[abs(exact) < np.finfo(dtype).tiny]) <= np.finfo(dtype).tiny)
    assert np.all(np.isinf(found[abs(exact) > np.finfo(dtype).max]))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_infinities_nan_and_zeros_have_the_right_results(engine: NativeEngine, name: str, dtype: type) -> None:
    x = np.array([np.inf, -np.inf, np.nan, 0.0, -0.0], dtype)
    with np.errstate(all="ignore"):
        wanted = {
            "sigmoid": np.array([1, 0, np.nan, 0.5, 0.5]),
            "softplus": np.array([np.inf, 0, np.nan, np.log(2), np.log(2)]),
        }.get(name)
        wanted = EXACT[name](x) if wanted is None else wanted
    np.testing.assert_allclose(apply(engine, name, x), wanted, rtol=BOUND[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", EXACT)
def test_full_vectors_and_row_tails_agree(engine: NativeEngine, name: str, dtype: type) -> None:
    x = sample(dtype, name in POSITIVE)[:67]
    whole = apply(engine, name, x)
    for width in (1, 2, 7, 15, 16, 17, 33):
        np.testing.assert_array_equal(apply(engine, name, x[:width]), whole[:width])


@pytest.mark.parametrize("dtype", DTYPES)
def test_binary_operations_are_exact(engine: NativeEngine, dtype: type) -> None:
    ends = np.array([1.5, -2.0, 0.0, -0.0, np.inf, -np.inf, np.nan], dtype)
    a, b = (v.reshape(-1) for v in np.meshgrid(ends, ends))
    with np.errstate(all="ignore"):
        for name, meaning in {
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "div": np.divide,
            "max": np.maximum,
            "greater": lambda a, b: (a > b).astype(dtype),
        }.items():
            np.testing.assert_array_equal(apply(engine, name, a, b), meaning(a, b))
    np.testing.assert_array_equal(apply(engine, "select", a, b, a), np.where(a != 0, b, a))
