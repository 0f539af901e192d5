/// sin and cos on vectors: range reduction by a multiple of pi/2, then a Taylor series.
#pragma once

#include <cmath>

#include "functions.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Angles up to this size are reduced by the code below, within 2 ulp; larger ones are passed to the C library.
constexpr double angle_highest = 1 << 20;

/// pi/2 as a sum. The first three terms have 33 bits, so their products with the multiples below are exact.
constexpr double half_pi[] = {0x1.921fb544p+0, 0x1.0b4611a6p-34, 0x1.3198a2ep-69, 0x1.b839a252049c1p-104};
/// pi/2 - half_pi[0].
constexpr double half_pi_rest = 0x1.0b4611a626331p-34;

/// Magnitude and sign bit of a value.
template <class V> struct Signed {
    V magnitude;
    Integers<Scalar<V>> sign;
};

template <class V> THROUGHTIME_INLINE Signed<V> split_sign(V x) {
    using I = Integers<Scalar<V>>;
    I sign = bits<I>(x) & bits<I>(constant<V>(-0.0));
    return {bits<V>(bits<I>(x) ^ sign), sign};
}

/// x = n pi/2 + r with integer n and |r| <= pi/4.
template <class V> struct ReducedAngle {
    V n, r;
};

THROUGHTIME_INLINE ReducedAngle<F64> reduce_angle(F64 x) {
    F64 magic = constant<F64>(Format<double>::round_magic);
    F64 n = (x * constant<F64>(0x1.45f306dc9c883p-1) + magic) - magic;
    F64 high = x - n * constant<F64>(half_pi[0]);
    F64 low{};
    // Subtracts two more terms and collects the rounding errors, because `high` may cancel almost completely.
#pragma GCC unroll 2
    for (int k = 1; k <= 2; ++k) {
        F64 term = n * constant<F64>(half_pi[k]), difference = high - term, change = difference - high;
        low += (high - (difference - change)) - (term + change);
        high = difference;
    }
    return {n, high + (low - n * constant<F64>(half_pi[3]))};
}

THROUGHTIME_INLINE ReducedAngle<F32> reduce_angle(F32 x) {
    typedef double Wide __attribute__((vector_size(2 * THROUGHTIME_VECTOR_BYTES)));
    Wide wide = __builtin_convertvector(x, Wide);
    Wide n = (wide * 0x1.45f306dc9c883p-1 + Format<double>::round_magic) - Format<double>::round_magic;
    Wide r = (wide - n * half_pi[0]) - n * half_pi_rest;
    return {__builtin_convertvector(n, F32), __builtin_convertvector(r, F32)};
}

/// sin and cos by their Taylor series, for |r| <= pi/4.
template <class V> struct SineCosine {
    V sine, cosine;
};

template <class V> THROUGHTIME_INLINE SineCosine<V> series_near_zero(V r) {
    constexpr double of_sine[] = {-1.0 / 6, 1.0 / 120, -1.0 / 5040, 1.0 / 362880, -1.0 / 39916800, 1.0 / 6227020800,
        -1.0 / 1307674368000, 1.0 / 355687428096000};
    constexpr double of_cosine[] = {1.0 / 24, -1.0 / 720, 1.0 / 40320, -1.0 / 3628800, 1.0 / 479001600,
        -1.0 / 87178291200, 1.0 / 20922789888000, -1.0 / 6402373705728000};
    constexpr int terms = sizeof(Scalar<V>) == 4 ? 4 : 8;
    V square = r * r;
    V sine = constant<V>(of_sine[terms - 1]), cosine = constant<V>(of_cosine[terms - 1]);
    for (int i = terms - 2; i >= 0; --i) {
        sine = fma(sine, square, constant<V>(of_sine[i]));
        cosine = fma(cosine, square, constant<V>(of_cosine[i]));
    }
    V half = constant<V>(0.5) * square, rest = constant<V>(1) - half;
    V error = (constant<V>(1) - rest) - half;
    return {fma(r * square, sine, r), rest + fma(square * square, cosine, error)};
}

/// Replaces the results for angles above angle_highest, including infinity.
template <bool cosine, class V> __attribute__((noinline)) void replace_far(V& result, const V& magnitude) {
    for (int i = 0; i < lanes<Scalar<V>>; ++i) {
        const double angle = magnitude[i];
        if (angle > angle_highest) result[i] = static_cast<Scalar<V>>(cosine ? std::cos(angle) : std::sin(angle));
    }
}

template <class I> THROUGHTIME_INLINE bool any_lane(I mask) {
    int64_t words[THROUGHTIME_VECTOR_BYTES / 8], any = 0;
    std::memcpy(words, &mask, sizeof words);
    for (int64_t word : words) any |= word;
    return any != 0;
}

/// sin(magnitude), or cos(magnitude), for magnitude >= 0.
template <bool cosine, class V> THROUGHTIME_INLINE V sine_or_cosine(V magnitude) {
    using F = Format<Scalar<V>>;
    using I = Integers<Scalar<V>>;
    const auto [n, r] = reduce_angle(magnitude);
    const V magic = constant<V>(F::round_magic);
    const I quadrant = bits<I>(n + magic) - bits<I>(magic) + (cosine ? 1 : 0);
    const auto [of_sine, of_cosine] = series_near_zero(r);
    const I odd = -(quadrant & 1);
    const I chosen = (bits<I>(of_cosine) & odd) | (bits<I>(of_sine) & ~odd);
    V result = bits<V>(chosen ^ ((quadrant >> 1) << (8 * sizeof(Scalar<V>) - 1)));
    if (any_lane(magnitude > constant<V>(angle_highest))) [[unlikely]] replace_far<cosine>(result, magnitude);
    return result;
}

template <class V> THROUGHTIME_INLINE V sine(V x) {
    const auto [magnitude, sign] = split_sign(x);
    return bits<V>(bits<Integers<Scalar<V>>>(sine_or_cosine<false>(magnitude)) ^ sign);
}

template <class V> THROUGHTIME_INLINE V cosine(V x) { return sine_or_cosine<true>(split_sign(x).magnitude); }

}  // namespace throughtime::THROUGHTIME_ISA
