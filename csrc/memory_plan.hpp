/// The location of every buffer in memory during a run.
#pragma once

#include <algorithm>

#include "run.hpp"
#include "schedule.hpp"
#include "workspace.hpp"

namespace throughtime {

/// A buffer's memory: its first element, the stride between rows, and for a state the distance to its second copy.
template <class T> struct BufferMemory {
    T* at = nullptr;
    int64_t stride = 0, other = 0;
    const int64_t* token_ids = nullptr;  // instead of `at`
};

/// A buffer as a thread sees it in the current step.
template <class T> struct BufferView {
    T* at;
    int64_t stride;        // between rows
    int64_t block_stride;  // between the first rows of blocks, per row: 0 for scratch, which each block reuses
    const int64_t* token_ids;  // instead of `at`
};

/// A packed operand of outer products: its columns are the value's elements, its depth the rows of a chunk.
template <class T> struct PackedOperand {
    Place place;
    int64_t width;
    bool left;
    int64_t panels;
    T* memory;
};

struct Range {
    int64_t first, last;
};

/// The part of `n` items that belongs to one of several threads.
inline Range partition(int64_t n, int thread, int threads) {
    if (threads == 1) return {0, n};
    return {n * thread / threads, n * (thread + 1) / threads};
}

/// The intersection of two ranges; if empty, an empty range within `b`.
inline Range intersection(Range a, Range b) {
    return {std::clamp(a.first, b.first, b.last), std::clamp(a.last, b.first, b.last)};
}

template <class T> class MemoryPlan {
public:
    MemoryPlan(const Plan& plan, const Kernels<T>& kernels, const Arguments<T>& arguments, const Schedule& schedule,
               int threads)
        : chunk_rows_(checked_product(schedule.chunk_steps(), arguments.batch)), plan_(plan), kernels_(kernels),
          arguments_(arguments) {
        place_states();
        for (const Buffer& buffer : plan_.buffers) buffers.push_back(locate(buffer));
        place_scratch(threads);
        if (arguments_.weights) factors = arguments_.weights->factors();
        else if (is_used_once(threads)) place_unpacked(threads);
        else place_factors();
        place_reductions();
    }

    std::vector<BufferMemory<T>> buffers;    // scratch: the first thread's
    std::vector<std::array<T*, 2>> states;   // [B, stride] each; steps read one and write the other, alternately
    std::vector<const T*> factors;           // packed; empty if products read the parameters themselves
    std::vector<T*> to_pack;                 // factors that this run packs; empty if they are packed already
    std::vector<T*> unpacked_scratch;        // of each thread, for products with unpacked factors
    std::vector<PackedOperand<T>> operands;  // of outer products
    std::vector<std::array<int, 2>> operands_of_term;  // left, right
    std::vector<T*> sums;                    // of each term that is a sum, over a chunk
    std::vector<T*> by_token;                // of each reduction by token, transposed, over all steps
    int64_t scratch_per_thread = 0;          // elements

    int64_t state_stride(int64_t k) const { return stride(plan_.states[k]); }
    int64_t token_stride(int64_t reduction) const { return stride(plan_.reductions[reduction][0]); }
    int64_t panels(int64_t columns) const { return round_up(columns, kernels_.panel) / kernels_.panel; }

private:
    const int64_t chunk_rows_;  // at most
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Arguments<T>& arguments_;
    Workspace workspace_;

    T* allocate(int64_t count) { return workspace_.allocate<T>(count); }

    /// Between rows: whole cache lines, avoiding multiples of 2048 bytes, at which rows compete for one cache set.
    static int64_t stride(int64_t width) {
        constexpr int64_t line = cache_line / sizeof(T);
        const int64_t padded = round_up(std::max<int64_t>(width, 1), line);
        return padded * sizeof(T) % 2048 == 0 ? padded + line : padded;
    }

    void place_states() {
        for (int64_t width : plan_.states) {
            const int64_t size = checked_product(arguments_.batch, stride(width));
            T* both = allocate(checked_product(2, size));
            states.push_back({both, both + size});
        }
    }

    BufferMemory<T> locate(const Buffer& buffer) {
        const int64_t batch = arguments_.batch, width = buffer.width, padded = stride(width);
        switch (buffer.storage) {
            case Storage::input: return {const_cast<T*>(arguments_.inputs[buffer.index]), width};
            case Storage::token_ids: return {.stride = 1, .token_ids = arguments_.token_ids[buffer.index]};
            case Storage::output: return {arguments_.outputs[buffer.index], width};
            case Storage::previous:
            case Storage::next: {
                const auto& [first, second] = states[buffer.index];
                return {first, padded, second - first};
            }
            case Storage::parameter: return {const_cast<T*>(arguments_.parameters[buffer.index])};
            case Storage::constant: return {allocate(padded)};
            case Storage::per_chunk: return {allocate(checked_product(chunk_rows_, padded)), padded};
            case Storage::per_step: return {allocate(checked_product(batch, padded)), padded};
            case Storage::scratch: return {nullptr, padded};
        }
        __builtin_unreachable();
    }

    void place_scratch(int threads) {
        for (size_t k = 0; k < buffers.size(); ++k)
            if (plan_.buffers[k].storage == Storage::scratch)
                scratch_per_thread += block_rows(plan_.buffers[k].width) * buffers[k].stride;
        T* at = allocate(checked_product(scratch_per_thread, threads));
        for (size_t k = 0; k < buffers.size(); ++k)
            if (plan_.buffers[k].storage == Storage::scratch) {
                buffers[k].at = at;
                at += block_rows(plan_.buffers[k].width) * buffers[k].stride;
            }
    }

    /// Whether each factor is needed for one step only, and by one thread at a time: packing it would cost more than its
    /// product.
    bool is_used_once(int threads) const {
        const bool gathers = std::any_of(arguments_.token_ids.begin(), arguments_.token_ids.end(),
                                         [](const int64_t* ids) { return ids != nullptr; });
        return arguments_.steps == 1 && !gathers && (threads == 1 || arguments_.batch == 1);
    }

    void place_unpacked(int threads) {
        int64_t depth = 0;
        for (const Factor& factor : plan_.factors) depth = std::max(depth, factor.depth);
        for (int thread = 0; thread < threads; ++thread)
            unpacked_scratch.push_back(allocate(checked_product(unpacked_panels * kernels_.panel, depth)));
    }

    void place_factors() {
        for (const Factor& factor : plan_.factors)
            to_pack.push_back(allocate(checked_product(panels(factor.columns) * kernels_.panel, factor.depth)));
        factors.assign(to_pack.begin(), to_pack.end());
    }

    void place_reductions() {
        for (const Term& term : plan_.terms) {
            const auto [rows, columns] = plan_.reductions[term.reduction];
            const bool outer = term.kind == Term::Kind::outer;
            sums.push_back(term.kind == Term::Kind::sum ? allocate(rows) : nullptr);
            operands_of_term.push_back(outer ? std::array{operand(term.u, rows, true), operand(term.v, columns, false)}
                                             : std::array{-1, -1});
        }
        for (size_t k = 0; k < plan_.reductions.size(); ++k) {
            const auto [rows, columns] = plan_.reductions[k];
            by_token.push_back(plan_.by_token(k) ? allocate(checked_product(columns, stride(rows))) : nullptr);
        }
    }

    int operand(Place place, int64_t width, bool left) {
        for (size_t k = 0; k < operands.size(); ++k) {
            const PackedOperand<T>& known = operands[k];
            if (known.left == left && known.width == width && known.place.buffer == place.buffer &&
                known.place.offset == place.offset)
                return static_cast<int>(k);
        }
        const int64_t panel = left ? kernels_.tile_rows : kernels_.panel;
        const int64_t panels = round_up(width, panel) / panel;
        operands.push_back({place, width, left, panels, allocate(checked_product(panels * panel, chunk_rows_))});
        return static_cast<int>(operands.size()) - 1;
    }
};

}  // namespace throughtime
