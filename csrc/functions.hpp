/// exp, log, tanh and related functions on vectors: the same formula for every lane; NaN propagates.
#pragma once

#include <type_traits>

#include "simd.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Constants of a floating-point format.
template <class T> struct Format;

template <> struct Format<float> {
    static constexpr int fraction_bits = 23, bias = 127;
    static constexpr float round_magic = 12582912.0f;              // 1.5 * 2^23: adding it rounds
    static constexpr float ln2_high = 0x1.62e4p-1f, ln2_low = 0x1.7f7d1cp-20f;
    static constexpr int exp_terms = 6, log_terms = 5;
    static constexpr float exp_highest = 89.0f, exp_lowest = -104.0f;
    static constexpr float tanh_highest = 10.0f;                   // tanh rounds to 1 above 9.02
    static constexpr int32_t root_half = 0x3f3504f3;               // bits of sqrt(1/2)
};

template <> struct Format<double> {
    static constexpr int fraction_bits = 52, bias = 1023;
    static constexpr double round_magic = 6755399441055744.0;      // 1.5 * 2^52
    static constexpr double ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;
    static constexpr int exp_terms = 12, log_terms = 11;
    static constexpr double exp_highest = 710.0, exp_lowest = -746.0;
    static constexpr double tanh_highest = 20.0;                   // tanh rounds to 1 above 19.07
    static constexpr int64_t root_half = 0x3fe6a09e667f3bcd;
};

/// The scalar type of a vector.
template <class V> using Scalar = std::remove_reference_t<decltype(V{}[0])>;

template <class V> THROUGHTIME_INLINE V constant(double value) {
    return broadcast<Scalar<V>>(static_cast<Scalar<V>>(value));
}

/// The maximum; NaN if either is NaN.
template <class V> THROUGHTIME_INLINE V maximum(V a, V b) { return a != a ? a : (a > b ? a : b); }
/// The minimum; NaN if either is NaN.
template <class V> THROUGHTIME_INLINE V minimum(V a, V b) { return a != a ? a : (a < b ? a : b); }
template <class V> THROUGHTIME_INLINE V absolute(V a) { return a < V{} ? -a : a; }

/// Clamps `value` to bounds; NaN stays NaN.
template <class V> THROUGHTIME_INLINE V clamp(V value, double lowest, double highest) {
    return clamp_min(clamp_max(value, constant<V>(highest)), constant<V>(lowest));
}

/// x = n ln 2 + r with integer n and |r| <= ln 2 / 2.
template <class V> struct Reduced {
    Integers<Scalar<V>> n;
    V r;
};

template <class V> THROUGHTIME_INLINE Reduced<V> reduce_by_ln2(V x) {
    using F = Format<Scalar<V>>;
    V magic = constant<V>(F::round_magic);
    V shifted = fma(x, constant<V>(1.4426950408889634), magic);
    V n = shifted - magic;
    V r = fma(n, constant<V>(-F::ln2_high), x);
    r = fma(n, constant<V>(-F::ln2_low), r);
    using I = Integers<Scalar<V>>;
    return {bits<I>(shifted) - bits<I>(magic), r};
}

/// 2^n for n from -bias+1 to bias; infinity for bias+1.
template <class V> THROUGHTIME_INLINE V power_of_two(Integers<Scalar<V>> n) {
    using F = Format<Scalar<V>>;
    return bits<V>((n + F::bias) << F::fraction_bits);
}

/// exp(r) - 1 by its Taylor series, for |r| <= ln 2 / 2.
template <class V> THROUGHTIME_INLINE V exp_minus_one_near_zero(V r) {
    constexpr double inverse_factorial[] = {1.0 / 2, 1.0 / 6, 1.0 / 24, 1.0 / 120, 1.0 / 720,
        1.0 / 5040, 1.0 / 40320, 1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600,
        1.0 / 6227020800};
    // Separate even and odd powers: two short dependency chains instead of one long one.
    constexpr int terms = Format<Scalar<V>>::exp_terms;
    static_assert(terms % 2 == 0);
    V square = r * r;
    V even = constant<V>(inverse_factorial[terms - 2]), odd = constant<V>(inverse_factorial[terms - 1]);
    for (int i = terms - 4; i >= 0; i -= 2) {
        even = fma(even, square, constant<V>(inverse_factorial[i]));
        odd = fma(odd, square, constant<V>(inverse_factorial[i + 1]));
    }
    return fma(square, fma(odd, r, even), r);
}

template <class V> THROUGHTIME_INLINE V exponential(V x) {
    using F = Format<Scalar<V>>;
    auto [n, r] = reduce_by_ln2(clamp(x, F::exp_lowest, F::exp_highest));
    auto half = n >> 1;  // two factors, because 2^n may overflow where the result does not
    V result = (exp_minus_one_near_zero(r) + constant<V>(1)) * power_of_two<V>(half);
    return result * power_of_two<V>(n - half);
}

/// 1 / (1 + exp(-x)).
template <class V> THROUGHTIME_INLINE V sigmoid(V x) {
    using F = Format<Scalar<V>>;
    constexpr double ln2 = 0.6931471805599453;
    auto [n, r] = reduce_by_ln2(clamp(-x, (1 - F::bias) * ln2, (1 + F::bias) * ln2));
    V exponential = (exp_minus_one_near_zero(r) + constant<V>(1)) * power_of_two<V>(n);
    return constant<V>(1) / (constant<V>(1) + exponential);
}

/// e / (e + 2) with e = exp(2|x|) - 1, which is accurate near zero.
template <class V> THROUGHTIME_INLINE V hyperbolic_tangent(V x) {
    using I = Integers<Scalar<V>>;
    I sign = bits<I>(x) & bits<I>(constant<V>(-0.0));
    V magnitude = bits<V>(bits<I>(x) ^ sign);
    magnitude = clamp_max(magnitude, constant<V>(Format<Scalar<V>>::tanh_highest));
    auto [n, r] = reduce_by_ln2(magnitude + magnitude);
    V power = power_of_two<V>(n);
    V e = fma(power, exp_minus_one_near_zero(r), power - constant<V>(1));
    return bits<V>(bits<I>(e / (e + constant<V>(2))) | sign);
}

/// Natural logarithm of a positive normal number: x = 2^k m, with m from sqrt(1/2) to sqrt(2).
template <class V> THROUGHTIME_INLINE V logarithm_of_normal(V x) {
    using F = Format<Scalar<V>>;
    using I = Integers<Scalar<V>>;
    I shifted = bits<I>(x) - F::root_half;
    I exponent = shifted >> F::fraction_bits;
    V magic = constant<V>(F::round_magic);
    V k = bits<V>(exponent + bits<I>(magic)) - magic;  // integer to floating point
    V m = bits<V>(bits<I>(x) - (exponent << F::fraction_bits));
    V f = m - constant<V>(1), s = f / (f + constant<V>(2)), z = s * s;
    V series = constant<V>(2.0 / (2 * F::log_terms + 1));
    for (int i = F::log_terms - 1; i >= 1; --i) series = fma(series, z, constant<V>(2.0 / (2 * i + 1)));
    V half_square = constant<V>(0.5) * f * f;
    V correction = fma(s, fma(series, z, half_square), k * constant<V>(F::ln2_low));
    return fma(k, constant<V>(F::ln2_high), f - (half_square - correction));
}

template <class V> THROUGHTIME_INLINE V logarithm(V x) {
    V infinity = constant<V>(__builtin_inf()), zero = V{};
    V result = logarithm_of_normal(x);
    result = x < infinity ? result : x;  // log(inf) = inf and log(NaN) = NaN
    result = x > zero ? result : (x == zero ? -infinity : x - x + constant<V>(__builtin_nan("")));
    return result;
}

/// log(1 + y) for 0 <= y <= 1, corrected for the rounding error of 1 + y.
template <class V> THROUGHTIME_INLINE V logarithm_of_one_plus(V y) {
    V u = constant<V>(1) + y;
    return logarithm_of_normal(u) + (y - (u - constant<V>(1))) / u;
}

/// log(1 + exp(x)).
template <class V> THROUGHTIME_INLINE V softplus(V x) {
    V y = logarithm_of_one_plus(exponential(-absolute(x)));
    return maximum(x, V{}) + y;
}

}  // namespace throughtime::THROUGHTIME_ISA
