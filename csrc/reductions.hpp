/// Sums over the rows of a chunk, added to the caller's arrays.
#pragma once

#include <algorithm>

#include "memory_plan.hpp"

namespace throughtime {

template <class T> class Reductions {
public:
    Reductions(const Plan& plan, const Kernels<T>& kernels, const Arguments<T>& arguments, const MemoryPlan<T>& memory)
        : plan_(plan), kernels_(kernels), arguments_(arguments), memory_(memory) {}

    /// Initializes this thread's part of all sums.
    void begin(int thread, int threads) const {
        for (size_t k = 0; k < plan_.reductions.size(); ++k) {
            const auto [rows, columns] = plan_.reductions[k];
            if (memory_.by_token[k]) {
                for_each_by_token(k, thread, threads, [&](T& sum, const T& result) {
                    sum = arguments_.accumulate ? result : T(0);
                });
                continue;
            }
            if (arguments_.accumulate) continue;
            const Range part = partition(rows * std::max<int64_t>(columns, 1), thread, threads);
            std::fill_n(arguments_.reductions[k] + part.first, part.last - part.first, T(0));
        }
    }

    /// Processes rows of a chunk, after `before` earlier ones: sums values and packs the operands of outer products.
    void gather(const BufferView<T>* views, Range rows, int64_t before, const Chunk& chunk, int thread,
                int threads) const {
        for (const PackedOperand<T>& operand : memory_.operands) {
            const Range panels = partition(operand.panels, thread, threads);
            const int64_t panel = operand.left ? kernels_.tile_rows : kernels_.panel;
            (operand.left ? kernels_.pack_left : kernels_.pack)(
                operand.memory + before * panel, rows_at(views, operand.place, rows), rows.last - rows.first,
                chunk.rows, operand.width, panels.first, panels.last);
        }
        for (size_t k = 0; k < plan_.terms.size(); ++k) {
            const Term& term = plan_.terms[k];
            if (term.kind == Term::Kind::outer) continue;
            const Range columns = partition(plan_.reductions[term.reduction][0], thread, threads);
            const int64_t width = columns.last - columns.first, count = rows.last - rows.first;
            const Rows<const T> from = rows_at(views, {term.u.buffer, term.u.offset + columns.first}, rows);
            if (term.kind == Term::Kind::sum) {
                T* sum = memory_.sums[k] + columns.first;
                if (before == 0) std::fill_n(sum, width, T(0));
                kernels_.column_sum(sum, from, count, width);
                continue;
            }
            T* sums = memory_.by_token[term.reduction] + columns.first;
            const int64_t stride = memory_.token_stride(term.reduction);
            const int64_t* token_ids = views[term.v.buffer].token_ids + rows.first;
            for (int64_t r = 0; r < count; ++r)
                kernels_.column_sum(sums + token_ids[r] * stride, {from.at + r * from.stride, 0}, 1, width);
        }
    }

    /// Adds the sums of a chunk once all its rows have been gathered.
    void add(const Chunk& chunk, int thread, int threads) const {
        if (chunk.rows == 0) return;
        for (size_t k = 0; k < plan_.terms.size(); ++k) {
            const Term& term = plan_.terms[k];
            const auto [rows, columns] = plan_.reductions[term.reduction];
            T* to = arguments_.reductions[term.reduction];
            if (term.kind == Term::Kind::by_token) continue;  // `gather` has added them
            if (term.kind == Term::Kind::sum) {
                const Range part = partition(rows, thread, threads);
                for (int64_t j = part.first; j < part.last; ++j) to[j] += memory_.sums[k][j];
                continue;
            }
            const PackedOperand<T>& left = memory_.operands[memory_.operands_of_term[k][0]];
            const PackedOperand<T>& right = memory_.operands[memory_.operands_of_term[k][1]];
            const Range panels = partition(left.panels, thread, threads);
            kernels_.gemm_accumulate({to, columns}, left.memory, right.memory, chunk.rows, rows, columns, panels.first,
                                     panels.last);
        }
    }

    /// Writes this thread's part of the sums by token to the caller's arrays.
    void finish(int thread, int threads) const {
        for (size_t k = 0; k < plan_.reductions.size(); ++k)
            if (memory_.by_token[k])
                for_each_by_token(k, thread, threads, [](const T& sum, T& result) { result = sum; });
    }

private:
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Arguments<T>& arguments_;
    const MemoryPlan<T>& memory_;

    /// Calls `visit(sum, result)` for this thread's part of a reduction by token.
    template <class Visit> void for_each_by_token(int64_t reduction, int thread, int threads, Visit visit) const {
        const auto [rows, columns] = plan_.reductions[reduction];
        const Range part = partition(rows, thread, threads);
        for (int64_t j = part.first; j < part.last; ++j)
            for (int64_t token = 0; token < columns; ++token)
                visit(memory_.by_token[reduction][token * memory_.token_stride(reduction) + j],
                      arguments_.reductions[reduction][j * columns + token]);
    }

    static Rows<const T> rows_at(const BufferView<T>* views, Place place, Range rows) {
        const BufferView<T>& view = views[place.buffer];
        return {view.at + place.offset + rows.first * view.stride, view.stride};
    }
};

}  // namespace throughtime
