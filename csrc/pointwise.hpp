/// Runs operations over rows of values.
#pragma once

#include "kernels.hpp"
#include "operations.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Calls `visit(j)` for each whole vector of a row, then `tail(j, count)` for what is left.
template <class T, class Visit, class Tail>
THROUGHTIME_INLINE void along(int64_t width, Visit visit, Tail tail) {
    int64_t j = 0;
    for (; j + lanes<T> <= width; j += lanes<T>) visit(j);
    if (j < width) tail(j, static_cast<int>(width - j));
}

template <class T, auto operation, class... V>
void pointwise(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    constexpr int arity = sizeof...(V);
    bool together = to.stride == width;  // rows without gaps are one long row
    for (int i = 0; i < arity; ++i) together = together && from[i].stride == width;
    if (together) {
        width *= rows;
        rows = 1;
    }
    for (int64_t r = 0; r < rows; ++r) {
        T* out = to.at + r * to.stride;
        const T* in[arity];
        for (int i = 0; i < arity; ++i) in[i] = from[i].at + r * from[i].stride;
        auto apply = [&](auto read) THROUGHTIME_LAMBDA {
            if constexpr (arity == 1) return operation(read(in[0]));
            else if constexpr (arity == 2) return operation(read(in[0]), read(in[1]));
            else if constexpr (arity == 3) return operation(read(in[0]), read(in[1]), read(in[2]));
            else return operation(read(in[0]), read(in[1]), read(in[2]), read(in[3]));
        };
        along<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA {
                store(out + j, apply([&](const T* row) THROUGHTIME_LAMBDA { return load(row + j); }));
            },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA {
                auto read = [&](const T* row) THROUGHTIME_LAMBDA { return load_first(row + j, count); };
                store_first(out + j, apply(read), count);
            });
    }
}

/// The sum of a vector's lanes, halves first.
template <class T> THROUGHTIME_INLINE T sum_of_lanes(Vector<T> v) {
    T lane[lanes<T>];
    store(lane, v);
    for (int half = lanes<T> / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lane[i] += lane[i + half];
    return lane[0];
}

/// The sum of each row's elements, in an order fixed by the width.
template <class T> void row_sum(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = from->at + r * from->stride;
        Vector<T> sum{};
        along<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA { sum += load(in + j); },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA { sum += load_first(in + j, count); });
        to.at[r * to.stride] = sum_of_lanes<T>(sum);
    }
}

/// Each row's one element, again and again.
template <class T> void expand(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        T* out = to.at + r * to.stride;
        Vector<T> value = broadcast(from->at[r * from->stride]);
        along<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA { store(out + j, value); },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA { store_first(out + j, value, count); });
    }
}

/// A row of the table: how many vectors the operation takes is read from its type.
template <class T, auto operation, class... V>
constexpr OperationRow<T> row(std::string_view name, Vector<T> (*)(V...)) {
    static_assert(sizeof...(V) <= max_arity);
    return {name, sizeof...(V), Takes::same, pointwise<T, operation, V...>};
}

template <class T> struct OperationTable {
    using Of = Operations<Vector<T>>;
#define THROUGHTIME_ROW(name) row<T, &Of::name>(#name, &Of::name)
    static constexpr OperationRow<T> rows[] = {
        {"expand", 1, Takes::only, expand<T>}, {"row_sum", 1, Takes::all, row_sum<T>},
        THROUGHTIME_ROW(copy), THROUGHTIME_ROW(add), THROUGHTIME_ROW(sub), THROUGHTIME_ROW(mul),
        THROUGHTIME_ROW(div), THROUGHTIME_ROW(neg), THROUGHTIME_ROW(greater), THROUGHTIME_ROW(select),
        THROUGHTIME_ROW(max), THROUGHTIME_ROW(relu), THROUGHTIME_ROW(tanh), THROUGHTIME_ROW(sigmoid),
        THROUGHTIME_ROW(exp), THROUGHTIME_ROW(log), THROUGHTIME_ROW(sqrt), THROUGHTIME_ROW(softplus),
        THROUGHTIME_ROW(add3), THROUGHTIME_ROW(tanh_add), THROUGHTIME_ROW(tanh_add3),
        THROUGHTIME_ROW(tanh_add_mul), THROUGHTIME_ROW(mul_tanh), THROUGHTIME_ROW(blend),
        THROUGHTIME_ROW(sigmoid_add), THROUGHTIME_ROW(sigmoid_add3), THROUGHTIME_ROW(mul_add),
        THROUGHTIME_ROW(mul_add_mul), THROUGHTIME_ROW(mul_sub_mul), THROUGHTIME_ROW(tanh_gradient),
        THROUGHTIME_ROW(sigmoid_gradient), THROUGHTIME_ROW(mul_tanh_gradient),
        THROUGHTIME_ROW(mul_sigmoid_gradient), THROUGHTIME_ROW(mul_tanh_gradient_add),
    };
#undef THROUGHTIME_ROW
};

template <class T> void column_sum(T* to, Rows<const T> from, int64_t rows, int64_t width) {
    along<T>(
        width,
        [&](int64_t j) THROUGHTIME_LAMBDA {
            Vector<T> sum = load(to + j);
            for (int64_t r = 0; r < rows; ++r) sum += load(from.at + r * from.stride + j);
            store(to + j, sum);
        },
        [&](int64_t j, int count) THROUGHTIME_LAMBDA {
            Vector<T> sum = load_first(to + j, count);
            for (int64_t r = 0; r < rows; ++r) sum += load_first(from.at + r * from.stride + j, count);
            store_first(to + j, sum, count);
        });
}

}  // namespace throughtime::THROUGHTIME_ISA
