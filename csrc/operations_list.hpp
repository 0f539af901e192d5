/// The list of operations that the kernels implement. The opcodes, the names and the kernel tables all come from it.
#pragma once

#include <string_view>

/// X(name) for each operation that computes element j of its result from element j of its operands. Each is a function
/// of the same name in operations.hpp.
#define THROUGHTIME_ELEMENTWISE_OPERATIONS(X)                                                                       \
    X(copy) X(add) X(sub) X(mul) X(div) X(neg) X(greater) X(select) X(max) X(relu) X(abs) X(tanh) X(sigmoid) X(exp) \
    X(log) X(sqrt) X(softplus) X(sin) X(cos) X(add3) X(tanh_add) X(tanh_add3) X(tanh_add_mul) X(mul_tanh) X(blend)  \
    X(sigmoid_add) X(sigmoid_add3) X(mul_add) X(mul_add_mul) X(mul_sub_mul) X(tanh_gradient) X(sigmoid_gradient)    \
    X(mul_tanh_gradient) X(mul_sigmoid_gradient) X(mul_tanh_gradient_add)

/// X(name) for every operation.
#define THROUGHTIME_OPERATIONS(X) X(expand) X(row_sum) X(row_max) THROUGHTIME_ELEMENTWISE_OPERATIONS(X)

namespace throughtime {

#define THROUGHTIME_NAME(name) name,
enum class Opcode { THROUGHTIME_OPERATIONS(THROUGHTIME_NAME) };
#undef THROUGHTIME_NAME

#define THROUGHTIME_NAME(name) #name,
constexpr std::string_view operation_names[] = {THROUGHTIME_OPERATIONS(THROUGHTIME_NAME)};
#undef THROUGHTIME_NAME

#define THROUGHTIME_COUNT(name) +1
constexpr int operation_count = THROUGHTIME_OPERATIONS(THROUGHTIME_COUNT);
#undef THROUGHTIME_COUNT

}  // namespace throughtime
