/// Where everything lies in memory during a run.
#pragma once

#include <algorithm>

#include "calendar.hpp"
#include "run.hpp"
#include "workspace.hpp"

namespace throughtime {

/// A buffer's memory: its first element, how far the next row is, and of a state how far its other half is.
template <class T> struct Located {
    T* at = nullptr;
    int64_t row = 0, other = 0;
};

/// What a thread needs to find a buffer's values at the step that it is doing.
template <class T> struct Now {
    T* at;
    int64_t row;    // from row to row
    int64_t block;  // from row to row when a block of rows begins: 0 for scratch
};

/// A packed side of outer products: the value's elements as columns, the rows of a chunk as depth.
template <class T> struct Side {
    Place place;
    int64_t width;
    bool left;
    int64_t panels;
    T* memory;
};

/// The share of `n` things that falls to one of several threads: from first to last.
struct Share {
    int64_t first, last;
};
inline Share share(int64_t n, int thread, int threads) {
    if (threads == 1) return {0, n};
    return {n * thread / threads, n * (thread + 1) / threads};
}

/// What two shares of the same things have in common; where that is nothing, an empty one within the second.
inline Share common(Share a, Share b) {
    return {std::clamp(a.first, b.first, b.last), std::clamp(a.last, b.first, b.last)};
}

template <class T> class Layout {
public:
    Layout(const Plan& plan, const Kernels<T>& kernels, const Call<T>& call, const Calendar& calendar,
           int threads)
        : most_rows_(checked_product(calendar.steps_together(), call.batch)), plan_(plan), kernels_(kernels),
          call_(call) {
        place_states();
        for (const Buffer& buffer : plan_.buffers) buffers.push_back(locate(buffer));
        place_scratch(threads);
        if (call_.weights) factors = call_.weights->factors();
        else place_factors();
        place_sides();
    }

    std::vector<Located<T>> buffers;               // scratch: the first thread's
    std::vector<std::array<T*, 2>> states;         // [B, stride], before and after the step by turns
    std::vector<const T*> factors;                 // packed
    std::vector<T*> to_pack;                       // where this run packs them; none if they are packed already
    std::vector<Side<T>> sides;
    std::vector<std::array<int, 2>> sides_of_term; // left, right
    std::vector<T*> sums;                          // of each term that is one value, over a chunk
    std::vector<T*> by_symbol;                     // of each reduction by symbols, transposed, over all steps
    int64_t scratch_a_thread = 0;                  // elements

    int64_t state_stride(int64_t k) const { return stride(plan_.states[k]); }
    int64_t symbol_stride(int64_t reduction) const { return stride(plan_.reductions[reduction][0]); }
    int64_t panels(int64_t columns) const { return round_up(columns, kernels_.panel) / kernels_.panel; }

private:
    const int64_t most_rows_;  // of a chunk
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Call<T>& call_;
    Workspace workspace_;

    T* room(int64_t count) { return workspace_.room<T>(count); }

    /// From row to row: whole cache lines, and no power of two at which rows would fight for one cache set.
    static int64_t stride(int64_t width) {
        constexpr int64_t line = cache_line / sizeof(T);
        const int64_t padded = round_up(std::max<int64_t>(width, 1), line);
        return padded * sizeof(T) % 2048 == 0 ? padded + line : padded;
    }

    void place_states() {
        for (int64_t width : plan_.states) {
            const int64_t size = checked_product(call_.batch, stride(width));
            T* both = room(checked_product(2, size));
            states.push_back({both, both + size});
        }
    }

    Located<T> locate(const Buffer& buffer) {
        const int64_t batch = call_.batch, width = buffer.width, row = stride(width);
        switch (buffer.home) {
            case Home::input: return {const_cast<T*>(call_.inputs[buffer.index]), width};
            // Whole numbers of 8 bytes, of which each is a row.
            case Home::symbols: return {const_cast<T*>(call_.inputs[buffer.index]), sizeof(int64_t) / sizeof(T)};
            case Home::output: return {call_.outputs[buffer.index], width};
            case Home::previous:
            case Home::next: {
                const auto& [first, second] = states[buffer.index];
                return {first, row, second - first};
            }
            case Home::parameter: return {const_cast<T*>(call_.parameters[buffer.index])};
            case Home::constant: return {room(row)};
            case Home::kept: return {room(checked_product(most_rows_, row)), row};
            case Home::passing: return {room(checked_product(batch, row)), row};
            case Home::scratch: return {nullptr, row};
        }
        __builtin_unreachable();
    }

    void place_scratch(int threads) {
        for (size_t k = 0; k < buffers.size(); ++k)
            if (plan_.buffers[k].home == Home::scratch)
                scratch_a_thread += block_rows(plan_.buffers[k].width) * buffers[k].row;
        T* at = room(checked_product(scratch_a_thread, threads));
        for (size_t k = 0; k < buffers.size(); ++k)
            if (plan_.buffers[k].home == Home::scratch) {
                buffers[k].at = at;
                at += block_rows(plan_.buffers[k].width) * buffers[k].row;
            }
    }

    void place_factors() {
        for (const Factor& factor : plan_.factors)
            to_pack.push_back(room(checked_product(panels(factor.columns) * kernels_.panel, factor.depth)));
        factors.assign(to_pack.begin(), to_pack.end());
    }

    void place_sides() {
        for (const Term& term : plan_.terms) {
            const auto [rows, columns] = plan_.reductions[term.reduction];
            const bool outer = term.kind == Term::Kind::outer;
            sums.push_back(term.kind == Term::Kind::alone ? room(rows) : nullptr);
            sides_of_term.push_back(outer ? std::array{side(term.u, rows, true), side(term.v, columns, false)}
                                          : std::array{-1, -1});
        }
        for (size_t k = 0; k < plan_.reductions.size(); ++k) {
            const auto [rows, columns] = plan_.reductions[k];
            by_symbol.push_back(plan_.by_symbol(k) ? room(checked_product(columns, stride(rows))) : nullptr);
        }
    }

    int side(Place place, int64_t width, bool left) {
        for (size_t k = 0; k < sides.size(); ++k) {
            const Side<T>& known = sides[k];
            if (known.left == left && known.width == width && known.place.buffer == place.buffer &&
                known.place.offset == place.offset)
                return static_cast<int>(k);
        }
        const int64_t panel = left ? kernels_.tile_rows : kernels_.panel;
        const int64_t panels = round_up(width, panel) / panel;
        sides.push_back({place, width, left, panels, room(checked_product(panels * panel, most_rows_))});
        return static_cast<int>(sides.size()) - 1;
    }
};

}  // namespace throughtime
