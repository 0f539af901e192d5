"""The C text of operations, and of the functions that the generated code calls.

The approximations of exp, tanh and sigmoid have no branches and no calls, so compilers vectorize them. Their
coefficients are minimax fits. Relative error in float32, over all finite arguments: exp 1.8e-7, sigmoid 2.5e-7 and tanh
4e-7. Below about 1e-38 exp and sigmoid may be 0.
"""

from __future__ import annotations

import re

# A pointwise operation on floats.
EXPRESSIONS = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "neg": "-{0}",
    "greater": "{0} > {1} ? 1.0f : 0.0f",
    "select": "{0} != 0.0f ? {1} : {2}",
    "max": "{0} > {1} || {0} != {0} ? {0} : {1}",  # NaN if either is
    "relu": "{0} < 0.0f ? 0.0f : {0}",
    "tanh": "tt_tanh({0})",
    "sigmoid": "tt_sigmoid({0})",
    "exp": "tt_exp({0})",
    "log": "logf({0})",
    "sqrt": "sqrtf({0})",
    "softplus": "tt_softplus({0})",
}

_EXP = """
#ifdef @_LIBM
#define tt_exp expf
#else
/* Relative error below 1.8e-7; 0 below -86.6. */
static float tt_exp(float x)
{
    const float low = x < -86.6f ? -86.6f : x;
    const float bounded = low > 88.72284f ? 88.72284f : low;
    const float power = (bounded > -86.6f ? bounded : -86.6f) * 1.442695041f; /* a number even where x is not */
    const int32_t n = (int32_t)(power + (power < 0.0f ? -0.5f : 0.5f));
    const float r = (bounded - (float)n * 0.693359375f) + (float)n * 2.12194440e-4f;
    union { uint32_t bits; float number; } half; /* half of 2 to the power n, which may be out of range itself */
    float p = 0.00138131f;
    half.bits = (uint32_t)(n + 126) << 23;
    p = p * r + 0.00836942f;
    p = p * r + 0.04166846f;
    p = p * r + 0.16666515f;
    p = p * r + 0.49999993f;
    p = ((p * r * r + r) + 1.0f) * 2.0f * half.number;
    p = x > 88.72284f ? HUGE_VALF : p;
    return x < -86.6f ? 0.0f : p;
}
#endif
"""

_SIGMOID = """
/* Relative error below 2.5e-7. */
static float tt_sigmoid(float x)
{
    return 1.0f / (1.0f + tt_exp(-x));
}
"""

_TANH = """
#ifdef @_LIBM
#define tt_tanh tanhf
#else
/* Relative error below 4e-7. */
static float tt_tanh(float x)
{
    const float low = x < -9.02f ? -9.02f : x;
    const float a = low > 9.02f ? 9.02f : low;
    const float u = a * a;
    float p = 1.33190658e-8f, q = 7.76201691e-7f, y;
    p = p * u + 2.05834767e-5f;
    p = p * u + 3.49403427e-3f;
    p = p * u + 1.33797177e-1f;
    p = p * u + 0.999999979f;
    q = q * u + 3.28309238e-4f;
    q = q * u + 2.58710721e-2f;
    q = q * u + 4.67130329e-1f;
    q = q * u + 1.0f;
    y = a * p / q;
    y = y < -1.0f ? -1.0f : y;
    return y > 1.0f ? 1.0f : y;
}
#endif
"""

_SOFTPLUS = """
static float tt_softplus(float x)
{
    return (x < 0.0f ? 0.0f : x) + log1pf(tt_exp(x < 0.0f ? x : -x));
}
"""

_MULTIPLY_ADD = """
/* y += W x; the columns of W one after the other, `stride` apart. */
static void tt_multiply_add(float *restrict y, const float *restrict w, int stride, const float *restrict x, int rows,
                            int columns)
{
    int i, j = 0;
    for (; j + 4 <= columns; j += 4) {
        const float x0 = x[j], x1 = x[j + 1], x2 = x[j + 2], x3 = x[j + 3];
        const float *restrict w1 = w + stride, *restrict w2 = w1 + stride, *restrict w3 = w2 + stride;
        for (i = 0; i < rows; i++)
            y[i] += (w[i] * x0 + w1[i] * x1) + (w2[i] * x2 + w3[i] * x3);
        w = w3 + stride;
    }
    for (; j < columns; j++) {
        for (i = 0; i < rows; i++)
            y[i] += w[i] * x[j];
        w += stride;
    }
}
"""

_MULTIPLY_ADD_INT8 = """
/* y += W x, where a row of W is int8 numbers times one float; the columns one after the other, `stride` apart. */
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

_FUNCTIONS = {  # in the order in which they are defined
    "tt_exp": _EXP,
    "tt_sigmoid": _SIGMOID,
    "tt_tanh": _TANH,
    "tt_softplus": _SOFTPLUS,
    "tt_multiply_add": _MULTIPLY_ADD,
    "tt_multiply_add_int8": _MULTIPLY_ADD_INT8,
}

NAMES = tuple(_FUNCTIONS)


def functions(code: str, prefix: str) -> str:
    """Return the definitions of the functions that a piece of code calls: an unused one would be a warning."""
    used: set[str] = set()
    pending = [code]
    while pending:
        for name in _called(pending.pop()) - used:
            used.add(name)
            pending.append(_FUNCTIONS[name])
    return "".join(_FUNCTIONS[name] for name in NAMES if name in used).replace("@", prefix.upper())


def _called(code: str) -> set[str]:
    return {name for name in re.findall(r"\btt_\w+", code) if name in _FUNCTIONS}
