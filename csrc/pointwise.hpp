/// Kernels of the operations that are not matrix products.
#pragma once

#include <limits>

#include "kernels.hpp"
#include "operations.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Calls `visit(j)` for each whole vector of a row, then `tail(j, count)` for the remainder.
template <class T, class Visit, class Tail>
THROUGHTIME_INLINE void for_each_vector(int64_t width, Visit visit, Tail tail) {
    int64_t j = 0;
    for (; j + lanes<T> <= width; j += lanes<T>) visit(j);
    if (j < width) tail(j, static_cast<int>(width - j));
}

template <class T, auto operation, class... V>
void pointwise(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    constexpr int arity = sizeof...(V);
    bool contiguous = to.stride == width;  // then all rows are one long row
    for (int i = 0; i < arity; ++i) contiguous = contiguous && from[i].stride == width;
    if (contiguous) {
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
        for_each_vector<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA {
                store(out + j, apply([&](const T* row) THROUGHTIME_LAMBDA { return load(row + j); }));
            },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA {
                auto read = [&](const T* row) THROUGHTIME_LAMBDA { return load_first(row + j, count); };
                store_first(out + j, apply(read), count);
            });
    }
}

/// The sum of a vector's lanes, as a binary tree of halves.
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
        for_each_vector<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA { sum += load(in + j); },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA { sum += load_first(in + j, count); });
        to.at[r * to.stride] = sum_of_lanes<T>(sum);
    }
}

/// The largest of each row's elements; NaN if any is NaN.
template <class T> void row_max(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        const T* in = from->at + r * from->stride;
        Vector<T> largest = broadcast(-std::numeric_limits<T>::infinity());
        const auto take = [&](T value, int lane) THROUGHTIME_LAMBDA {
            if (value > largest[lane] || value != value) largest[lane] = value;
        };
        for_each_vector<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA { largest = maximum(largest, load(in + j)); },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA {
                for (int i = 0; i < count; ++i) take(in[j + i], i);
            });
        for (int i = 1; i < lanes<T>; ++i) take(largest[i], 0);
        to.at[r * to.stride] = largest[0];
    }
}

/// Broadcasts each row's only element.
template <class T> void expand(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        T* out = to.at + r * to.stride;
        Vector<T> value = broadcast(from->at[r * from->stride]);
        for_each_vector<T>(
            width, [&](int64_t j) THROUGHTIME_LAMBDA { store(out + j, value); },
            [&](int64_t j, int count) THROUGHTIME_LAMBDA { store_first(out + j, value, count); });
    }
}

/// The entry of an elementwise operation; its arity follows from its type.
template <class T, auto operation, class... V> constexpr OperationEntry<T> elementwise(Vector<T> (*)(V...)) {
    static_assert(sizeof...(V) <= max_arity);
    return {sizeof...(V), OperationKind::elementwise, pointwise<T, operation, V...>};
}

template <class T> constexpr OperationEntry<T> operation_entry(Opcode code) {
    using Of = Operations<Vector<T>>;
    switch (code) {
        case Opcode::expand: return {1, OperationKind::broadcast, expand<T>};
        case Opcode::row_sum: return {1, OperationKind::reduce, row_sum<T>};
        case Opcode::row_max: return {1, OperationKind::reduce, row_max<T>};
#define THROUGHTIME_OPERATION(name) \
    case Opcode::name: return elementwise<T, &Of::name>(&Of::name);
        THROUGHTIME_ELEMENTWISE_OPERATIONS(THROUGHTIME_OPERATION)
#undef THROUGHTIME_OPERATION
    }
    __builtin_unreachable();
}

/// The entries of all operations, indexed by opcode.
template <class T> constexpr std::array<OperationEntry<T>, operation_count> operation_entries() {
    std::array<OperationEntry<T>, operation_count> entries{};
    for (int code = 0; code < operation_count; ++code)
        entries[code] = operation_entry<T>(static_cast<Opcode>(code));
    return entries;
}

template <class T> void column_sum(T* to, Rows<const T> from, int64_t rows, int64_t width) {
    for_each_vector<T>(
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
