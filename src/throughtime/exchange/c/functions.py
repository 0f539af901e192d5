"""C functions that the generated code calls.

The approximations of exp, tanh and sigmoid have no branches or calls, so compilers can vectorize them. Their
coefficients are minimax fits. The relative errors in float32 over all finite arguments are 1.8e-7 for exp, 2.5e-7 for
sigmoid and 4e-7 for tanh. Results below about 1e-38 may be 0.
"""

from __future__ import annotations

import re

_INLINE = """
#if defined(__GNUC__) && !defined(__OPTIMIZE_SIZE__)
#define TT_INLINE static inline __attribute__((always_inline))
#else
#define TT_INLINE static inline
#endif
"""

_FLOAT = """
typedef union { float number; int32_t bits; } tt_float;
"""

_EXP = """
#ifdef @_LIBM
#define tt_exp expf
#else
/* Relative error below 2e-7; 0 below -86.9. Uses bit operations instead of branches, so that compilers
   vectorize it without -ffast-math. */
TT_INLINE float tt_exp(float x)
{
    tt_float given, bounded, half, power, result;
    int32_t magnitude, sign, infinite, n;
    float r, p = 0.00138131f;
    given.number = x;
    magnitude = given.bits & 0x7fffffff;
    sign = given.bits ^ magnitude;
    bounded.bits = sign | (magnitude > 0x42b17217 ? 0x42b17217 : magnitude); /* 88.72283 */
    half.bits = sign | 0x3f000000; /* 0.5 */
    n = (int32_t)(bounded.number * 1.442695041f + half.number);
    r = (bounded.number - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    p = p * r + 0.00836942f;
    p = p * r + 0.04166846f;
    p = p * r + 0.16666515f;
    p = p * r + 0.49999993f;
    n = n < -126 ? -126 : n;
    power.bits = (n + 126) * 0x800000; /* 2^n / 2, because 2^n may overflow; 0 if n is -126 */
    result.number = ((p * r * r + r) + 1.0f) * 2.0f * power.number;
    infinite = -(given.bits > 0x42b17217);
    result.bits = (result.bits & ~infinite) | (0x7f800000 & infinite);
    result.bits |= given.bits & -(magnitude > 0x7f800000); /* NaN */
    return result.number;
}
#endif
"""

_SIGMOID = """
/* Relative error below 2.5e-7. */
TT_INLINE float tt_sigmoid(float x)
{
    return 1.0f / (1.0f + tt_exp(-x));
}
"""

_TANH = """
#ifdef @_LIBM
#define tt_tanh tanhf
#else
/* Relative error below 4e-7. */
TT_INLINE float tt_tanh(float x)
{
    tt_float given, a, y;
    int32_t magnitude;
    float u, p = 1.33190658e-8f, q = 7.76201691e-7f;
    given.number = x;
    magnitude = given.bits & 0x7fffffff;
    a.bits = magnitude > 0x411051ec ? 0x411051ec : magnitude; /* 9.02 */
    u = a.number * a.number;
    p = p * u + 2.05834767e-5f;
    p = p * u + 3.49403427e-3f;
    p = p * u + 1.33797177e-1f;
    p = p * u + 0.999999979f;
    q = q * u + 3.28309238e-4f;
    q = q * u + 2.58710721e-2f;
    q = q * u + 4.67130329e-1f;
    q = q * u + 1.0f;
    y.number = a.number * p / q;
    y.bits = (y.bits > 0x3f800000 ? 0x3f800000 : y.bits) | (given.bits ^ magnitude); /* clamp to 1, restore the sign */
    y.bits |= given.bits & -(magnitude > 0x7f800000); /* NaN */
    return y.number;
}
#endif
"""

_SOFTPLUS = """
TT_INLINE float tt_softplus(float x)
{
    return (x < 0.0f ? 0.0f : x) + log1pf(tt_exp(x < 0.0f ? x : -x));
}
"""

_MULTIPLY_ADD = """
/* y += W x. W is stored by columns, `stride` elements apart. */
static void tt_multiply_add(float *restrict y, const float *restrict w, int stride, const float *restrict x, int rows,
                            int columns)
{
    const int whole = columns - columns % 4;
    int i, j;
    for (j = 0; j < whole; j += 4) {
        const float x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
        const float *restrict w1 = w + stride, *restrict w2 = w1 + stride, *restrict w3 = w2 + stride;
        for (i = 0; i < rows; i++)
            y[i] += (w[i] * x0 + w1[i] * x1) + (w2[i] * x2 + w3[i] * x3);
        w = w3 + stride;
    }
    for (j = whole; j < columns; j++) {
        for (i = 0; i < rows; i++)
            y[i] += w[i] * x[j];
        w += stride;
    }
}
"""

_MULTIPLY_ADD_INT8 = """
/* y += W x, where each row of W is int8 with a float scale. W is stored by columns, `stride` elements apart. */
static void tt_multiply_add_int8(float *restrict y, const int8_t *restrict w, const float *restrict scale, int stride,
                                 const float *restrict x, int rows, int columns)
{
    int first, i, j;
    for (first = 0; first < rows; first += 16) {
        const int count = rows - first < 16 ? rows - first : 16;
        const int8_t *restrict column = w + first;
        float sum[16] = {0.0f};
        for (j = 0; j < columns; j++) {
            for (i = 0; i < count; i++)
                sum[i] += (float)column[i] * x[j];
            column += stride;
        }
        for (i = 0; i < count; i++)
            y[first + i] += scale[first + i] * sum[i];
    }
}
"""

_FUNCTIONS = {  # in order of definition
    "TT_INLINE": _INLINE,
    "tt_float": _FLOAT,
    "tt_exp": _EXP,
    "tt_sigmoid": _SIGMOID,
    "tt_tanh": _TANH,
    "tt_softplus": _SOFTPLUS,
    "tt_multiply_add": _MULTIPLY_ADD,
    "tt_multiply_add_int8": _MULTIPLY_ADD_INT8,
}

NAMES = tuple(_FUNCTIONS)


def functions(code: str, prefix: str) -> str:
    """Return the definitions of the functions that a piece of code calls; an unused one would cause a warning."""
    used: set[str] = set()
    pending = [code]
    while pending:
        for name in _called(pending.pop()) - used:
            used.add(name)
            pending.append(_FUNCTIONS[name])
    return "".join(_FUNCTIONS[name] for name in NAMES if name in used).replace("@", prefix.upper())


def _called(code: str) -> set[str]:
    return {name for name in re.findall(r"\b[Tt][Tt]_\w+", code) if name in _FUNCTIONS}
