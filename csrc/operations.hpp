/// The elementwise operations of operations_list.hpp, named as in the Python table of operations.
#pragma once

#include "trigonometry.hpp"

namespace throughtime::THROUGHTIME_ISA {

template <class V> struct Operations {
    static THROUGHTIME_INLINE V copy(V a) { return a; }
    static THROUGHTIME_INLINE V add(V a, V b) { return a + b; }
    static THROUGHTIME_INLINE V sub(V a, V b) { return a - b; }
    static THROUGHTIME_INLINE V mul(V a, V b) { return a * b; }
    static THROUGHTIME_INLINE V div(V a, V b) { return a / b; }
    static THROUGHTIME_INLINE V neg(V a) { return -a; }
    static THROUGHTIME_INLINE V greater(V a, V b) { return a > b ? constant<V>(1) : V{}; }
    static THROUGHTIME_INLINE V select(V mask, V b, V c) { return mask != V{} ? b : c; }
    static THROUGHTIME_INLINE V max(V a, V b) { return maximum(a, b); }
    static THROUGHTIME_INLINE V relu(V a) { return a < V{} ? V{} : a; }
    static THROUGHTIME_INLINE V abs(V a) { return split_sign(a).magnitude; }
    static THROUGHTIME_INLINE V tanh(V a) { return hyperbolic_tangent(a); }
    static THROUGHTIME_INLINE V sigmoid(V a) { return THROUGHTIME_ISA::sigmoid(a); }
    static THROUGHTIME_INLINE V exp(V a) { return exponential(a); }
    static THROUGHTIME_INLINE V log(V a) { return logarithm(a); }
    static THROUGHTIME_INLINE V sqrt(V a) { return square_root(a); }
    static THROUGHTIME_INLINE V sin(V a) { return sine(a); }
    static THROUGHTIME_INLINE V cos(V a) { return cosine(a); }
    static THROUGHTIME_INLINE V softplus(V a) { return THROUGHTIME_ISA::softplus(a); }

    // Fused combinations of the above: one pass over memory, with the same rounding as separate operations.
    static THROUGHTIME_INLINE V add3(V a, V b, V c) { return a + b + c; }
    static THROUGHTIME_INLINE V tanh_add(V a, V b) { return tanh(a + b); }
    static THROUGHTIME_INLINE V tanh_add3(V a, V b, V c) { return tanh(a + b + c); }
    static THROUGHTIME_INLINE V tanh_add_mul(V a, V b, V c) { return tanh(a + b * c); }
    static THROUGHTIME_INLINE V mul_tanh(V a, V b) { return a * tanh(b); }
    static THROUGHTIME_INLINE V sigmoid_add(V a, V b) { return sigmoid(a + b); }
    static THROUGHTIME_INLINE V sigmoid_add3(V a, V b, V c) { return sigmoid(a + b + c); }
    static THROUGHTIME_INLINE V mul_add(V a, V b, V c) { return a * b + c; }
    static THROUGHTIME_INLINE V blend(V z, V a, V b) { return (constant<V>(1) - z) * a + z * b; }
    static THROUGHTIME_INLINE V mul_add_mul(V a, V b, V c, V d) { return a * b + c * d; }
    static THROUGHTIME_INLINE V mul_sub_mul(V a, V b, V c, V d) { return a * b - c * d; }
    static THROUGHTIME_INLINE V tanh_gradient(V g, V y) { return g * (constant<V>(1) - y * y); }
    static THROUGHTIME_INLINE V sigmoid_gradient(V g, V y) { return g * (y * (constant<V>(1) - y)); }
    static THROUGHTIME_INLINE V mul_tanh_gradient(V a, V b, V y) { return tanh_gradient(a * b, y); }
    static THROUGHTIME_INLINE V mul_sigmoid_gradient(V a, V b, V y) { return sigmoid_gradient(a * b, y); }
    static THROUGHTIME_INLINE V mul_tanh_gradient_add(V a, V b, V y, V c) { return tanh_gradient(a * b, y) + c; }
};

}  // namespace throughtime::THROUGHTIME_ISA
