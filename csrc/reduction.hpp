/// Sums over the rows of a chunk, added to the caller's arrays.
#pragma once

#include <algorithm>

#include "layout.hpp"

namespace throughtime {

template <class T> class Reductions {
public:
    Reductions(const Plan& plan, const Kernels<T>& kernels, const Call<T>& call, const Layout<T>& layout)
        : plan_(plan), kernels_(kernels), call_(call), layout_(layout) {}

    /// Begins all sums, each thread some.
    void begin(int thread, int threads) const {
        for (size_t k = 0; k < plan_.reductions.size(); ++k) {
            const auto [rows, columns] = plan_.reductions[k];
            if (layout_.by_symbol[k]) {
                each_by_symbol(k, thread, threads, [&](T& sum, const T& given) {
                    sum = call_.reductions_begun ? given : T(0);
                });
                continue;
            }
            if (call_.reductions_begun) continue;
            const Share mine = share(rows * std::max<int64_t>(columns, 1), thread, threads);
            std::fill_n(call_.reductions[k] + mine.first, mine.last - mine.first, T(0));
        }
    }

    /// Takes up some rows, of which `before` others of the chunk came first: values are summed, the sides of outer
    /// products packed.
    void take(const Now<T>* now, Share rows, int64_t before, const Chunk& chunk, int thread, int threads) const {
        for (const Side<T>& side : layout_.sides) {
            const Share panels = share(side.panels, thread, threads);
            const int64_t panel = side.left ? kernels_.tile_rows : kernels_.panel;
            (side.left ? kernels_.pack_left : kernels_.pack)(
                side.memory + before * panel, rows_at(now, side.place, rows), rows.last - rows.first, chunk.rows,
                side.width, panels.first, panels.last);
        }
        for (size_t k = 0; k < plan_.terms.size(); ++k) {
            const Term& term = plan_.terms[k];
            if (term.kind == Term::Kind::outer) continue;
            const Share columns = share(plan_.reductions[term.reduction][0], thread, threads);
            const int64_t width = columns.last - columns.first, count = rows.last - rows.first;
            const Rows<const T> from = rows_at(now, {term.u.buffer, term.u.offset + columns.first}, rows);
            if (term.kind == Term::Kind::alone) {
                T* sum = layout_.sums[k] + columns.first;
                if (before == 0) std::fill_n(sum, width, T(0));
                kernels_.column_sum(sum, from, count, width);
                continue;
            }
            T* sums = layout_.by_symbol[term.reduction] + columns.first;
            const int64_t stride = layout_.symbol_stride(term.reduction);
            const auto* symbols = reinterpret_cast<const int64_t*>(rows_at(now, term.v, rows).at);
            for (int64_t r = 0; r < count; ++r)
                kernels_.column_sum(sums + symbols[r] * stride, {from.at + r * from.stride, 0}, 1, width);
        }
    }

    /// Adds the sums of a chunk whose rows have all been taken up.
    void add(const Chunk& chunk, int thread, int threads) const {
        if (chunk.rows == 0) return;
        for (size_t k = 0; k < plan_.terms.size(); ++k) {
            const Term& term = plan_.terms[k];
            const auto [rows, columns] = plan_.reductions[term.reduction];
            T* to = call_.reductions[term.reduction];
            if (term.kind == Term::Kind::by_symbol) continue;  // all of it is done
            if (term.kind == Term::Kind::alone) {
                const Share mine = share(rows, thread, threads);
                for (int64_t j = mine.first; j < mine.last; ++j) to[j] += layout_.sums[k][j];
                continue;
            }
            const Side<T>&left = layout_.sides[layout_.sides_of_term[k][0]];
            const Side<T>&right = layout_.sides[layout_.sides_of_term[k][1]];
            const Share panels = share(left.panels, thread, threads);
            kernels_.add_product({to, columns}, left.memory, right.memory, chunk.rows, rows, columns, panels.first,
                                 panels.last);
        }
    }

    /// Hands out the sums that went by symbols, each thread some.
    void finish(int thread, int threads) const {
        for (size_t k = 0; k < plan_.reductions.size(); ++k)
            if (layout_.by_symbol[k])
                each_by_symbol(k, thread, threads, [](const T& sum, T& given) { given = sum; });
    }

private:
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Call<T>& call_;
    const Layout<T>& layout_;

    /// Visits a thread's sums by symbols, each with its place in the caller's array.
    template <class Visit> void each_by_symbol(int64_t reduction, int thread, int threads, Visit visit) const {
        const auto [rows, columns] = plan_.reductions[reduction];
        const Share mine = share(rows, thread, threads);
        for (int64_t j = mine.first; j < mine.last; ++j)
            for (int64_t symbol = 0; symbol < columns; ++symbol)
                visit(layout_.by_symbol[reduction][symbol * layout_.symbol_stride(reduction) + j],
                      call_.reductions[reduction][j * columns + symbol]);
    }

    static Rows<const T> rows_at(const Now<T>* now, Place place, Share rows) {
        const Now<T>& from = now[place.buffer];
        return {from.at + place.offset + rows.first * from.row, from.row};
    }
};

}  // namespace throughtime
