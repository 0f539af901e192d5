/// One vector type per scalar type, as wide as the instruction set this file is compiled for.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#ifndef THROUGHTIME_ISA
#error "define THROUGHTIME_ISA: the namespace of the instruction set"
#endif

#if defined(__AVX512F__)
#define THROUGHTIME_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define THROUGHTIME_VECTOR_BYTES 32
#else
#define THROUGHTIME_VECTOR_BYTES 16
#endif

#define THROUGHTIME_INLINE inline __attribute__((always_inline))
#define THROUGHTIME_LAMBDA __attribute__((always_inline))

// Everything that depends on the instruction set is in its namespace, so that the linker can't merge two compilations
// of one function.
namespace throughtime::THROUGHTIME_ISA {

typedef float F32 __attribute__((vector_size(THROUGHTIME_VECTOR_BYTES)));
typedef double F64 __attribute__((vector_size(THROUGHTIME_VECTOR_BYTES)));
typedef int32_t I32 __attribute__((vector_size(THROUGHTIME_VECTOR_BYTES)));
typedef int64_t I64 __attribute__((vector_size(THROUGHTIME_VECTOR_BYTES)));

template <class T> struct VectorOf;
template <> struct VectorOf<float> { using type = F32; using integers = I32; using integer = int32_t; };
template <> struct VectorOf<double> { using type = F64; using integers = I64; using integer = int64_t; };

/// The vector of scalars T.
template <class T> using Vector = typename VectorOf<T>::type;
/// The vector of integers of the same width as T.
template <class T> using Integers = typename VectorOf<T>::integers;
/// The number of T in a vector.
template <class T> constexpr int lanes = THROUGHTIME_VECTOR_BYTES / sizeof(T);

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int vector_registers = 32;
#else
constexpr int vector_registers = 16;
#endif

/// Broadcasts a value to all lanes.
template <class T> THROUGHTIME_INLINE Vector<T> broadcast(T value) { return value - Vector<T>{}; }

template <class T> THROUGHTIME_INLINE Vector<T> load(const T* from) {
    Vector<T> v;
    std::memcpy(&v, from, sizeof v);
    return v;
}

template <class T> THROUGHTIME_INLINE void store(T* to, Vector<T> v) { std::memcpy(to, &v, sizeof v); }

#if defined(__AVX2__) && !defined(__AVX512F__)
/// All bits set in the first `count` lanes, none in the rest.
template <class T> THROUGHTIME_INLINE Integers<T> first_lanes(int count) {
    Integers<T> lane;
#pragma GCC unroll 8
    for (int i = 0; i < lanes<T>; ++i) lane[i] = i;
    return lane < count;
}
#endif

// None of these may compile to a memcpy call: it would spill the caller's vectors.

/// Loads the first `count` lanes; the rest are zero.
template <class T> THROUGHTIME_INLINE Vector<T> load_first(const T* from, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) return (F32)_mm512_maskz_loadu_ps((1u << count) - 1, from);
    else return (F64)_mm512_maskz_loadu_pd((1u << count) - 1, from);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) return (F32)_mm256_maskload_ps(from, (__m256i)first_lanes<T>(count));
    else return (F64)_mm256_maskload_pd(from, (__m256i)first_lanes<T>(count));
#else
    Vector<T> v = {};
#pragma GCC unroll 4
    for (int i = 0; i < lanes<T>; ++i)
        if (i < count) v[i] = from[i];
    return v;
#endif
}

/// Stores the first `count` lanes.
template <class T> THROUGHTIME_INLINE void store_first(T* to, Vector<T> v, int count) {
#if defined(__AVX512F__)
    if constexpr (sizeof(T) == 4) _mm512_mask_storeu_ps(to, (1u << count) - 1, (__m512)v);
    else _mm512_mask_storeu_pd(to, (1u << count) - 1, (__m512d)v);
#elif defined(__AVX2__)
    if constexpr (sizeof(T) == 4) _mm256_maskstore_ps(to, (__m256i)first_lanes<T>(count), (__m256)v);
    else _mm256_maskstore_pd(to, (__m256i)first_lanes<T>(count), (__m256d)v);
#else
#pragma GCC unroll 4
    for (int i = 0; i < lanes<T>; ++i)
        if (i < count) to[i] = v[i];
#endif
}

/// One of the two results of exchanging every other block of `width` lanes between two vectors.
template <class T, int width, bool second, int... lane>
THROUGHTIME_INLINE Vector<T> swapped_half(Vector<T> a, Vector<T> b, std::integer_sequence<int, lane...>) {
    // Lane numbers past the vector's lanes select from b.
    return __builtin_shufflevector(
        a, b, ((lane & width) == 0 ? (second ? lane + width : lane) : lanes<T> + (second ? lane : lane - width))...);
}

/// Transposes a square of vectors in place: exchanges blocks of one lane, then of two, and so on.
template <class T, int width = 1> THROUGHTIME_INLINE void transpose(Vector<T> (&row)[lanes<T>]) {
    using Lanes = std::make_integer_sequence<int, lanes<T>>;
#pragma GCC unroll 16
    for (int i = 0; i < lanes<T>; ++i) {
        if (i & width) continue;
        const Vector<T> a = row[i], b = row[i + width];
        row[i] = swapped_half<T, width, false>(a, b, Lanes{});
        row[i + width] = swapped_half<T, width, true>(a, b, Lanes{});
    }
    if constexpr (2 * width < lanes<T>) transpose<T, 2 * width>(row);
}

/// a * b + c, rounded once if the instruction set has FMA. The choice is never the compiler's.
THROUGHTIME_INLINE F32 fma(F32 a, F32 b, F32 c) {
#if defined(__AVX512F__)
    return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (F32)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

THROUGHTIME_INLINE F64 fma(F64 a, F64 b, F64 c) {
#if defined(__AVX512F__)
    return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
    return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#elif defined(__aarch64__)
    return (F64)vfmaq_f64((float64x2_t)c, (float64x2_t)a, (float64x2_t)b);
#else
    return a * b + c;
#endif
}

THROUGHTIME_INLINE F32 square_root(F32 a) {
#if defined(__AVX512F__)
    return (F32)_mm512_maskz_sqrt_ps(0xffff, (__m512)a);
#elif defined(__AVX2__)
    return (F32)_mm256_sqrt_ps((__m256)a);
#elif defined(__aarch64__)
    return (F32)vsqrtq_f32((float32x4_t)a);
#else
    return (F32)_mm_sqrt_ps((__m128)a);
#endif
}

THROUGHTIME_INLINE F64 square_root(F64 a) {
#if defined(__AVX512F__)
    return (F64)_mm512_maskz_sqrt_pd(0xff, (__m512d)a);
#elif defined(__AVX2__)
    return (F64)_mm256_sqrt_pd((__m256d)a);
#elif defined(__aarch64__)
    return (F64)vsqrtq_f64((float64x2_t)a);
#else
    return (F64)_mm_sqrt_pd((__m128d)a);
#endif
}

// The processor's min and max return their second operand if either is NaN, so a NaN value stays NaN. From plain C++
// the compiler would emit a comparison and a blend if the bound is a constant.

/// min(value, bound); a NaN value stays NaN.
THROUGHTIME_INLINE F32 clamp_max(F32 value, F32 bound) {
#if defined(__AVX512F__)
    return (F32)_mm512_maskz_min_ps(0xffff, (__m512)bound, (__m512)value);
#elif defined(__AVX2__)
    return (F32)_mm256_min_ps((__m256)bound, (__m256)value);
#else
    return bound < value ? bound : value;
#endif
}

THROUGHTIME_INLINE F64 clamp_max(F64 value, F64 bound) {
#if defined(__AVX512F__)
    return (F64)_mm512_maskz_min_pd(0xff, (__m512d)bound, (__m512d)value);
#elif defined(__AVX2__)
    return (F64)_mm256_min_pd((__m256d)bound, (__m256d)value);
#else
    return bound < value ? bound : value;
#endif
}

/// max(value, bound); a NaN value stays NaN.
THROUGHTIME_INLINE F32 clamp_min(F32 value, F32 bound) {
#if defined(__AVX512F__)
    return (F32)_mm512_maskz_max_ps(0xffff, (__m512)bound, (__m512)value);
#elif defined(__AVX2__)
    return (F32)_mm256_max_ps((__m256)bound, (__m256)value);
#else
    return bound > value ? bound : value;
#endif
}

THROUGHTIME_INLINE F64 clamp_min(F64 value, F64 bound) {
#if defined(__AVX512F__)
    return (F64)_mm512_maskz_max_pd(0xff, (__m512d)bound, (__m512d)value);
#elif defined(__AVX2__)
    return (F64)_mm256_max_pd((__m256d)bound, (__m256d)value);
#else
    return bound > value ? bound : value;
#endif
}

/// Reinterprets the bits as another type.
template <class To, class From> THROUGHTIME_INLINE To bits(From from) {
    static_assert(sizeof(To) == sizeof(From));
    return (To)from;
}

}  // namespace throughtime::THROUGHTIME_ISA
