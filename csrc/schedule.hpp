/// The order of the steps, the active rows of each and where they are in the caller's arrays.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace throughtime {

/// Consecutive steps processed together: `count` of them from step `first`.
struct Chunk {
    int64_t first, count;
    int64_t at;    // rows of the caller's arrays before the chunk's first
    int64_t rows;  // active rows over all its steps
    bool dense;    // whether these are contiguous
};

/// The number of steps of a chunk. Depends on the rows alone, because sums over rows restart with each chunk and must
/// not depend on the number of threads.
inline int64_t chunk_steps(int64_t rows) {
    constexpr int64_t rows_per_chunk = 512;
    return std::max<int64_t>(rows_per_chunk / std::max<int64_t>(rows, 1), 1);
}

class Schedule {
public:
    /// `batch_sizes` is the number of active rows of each step, or null if all rows are always active. Packed arrays
    /// hold the active rows only.
    Schedule(int64_t steps, int64_t batch, const int64_t* batch_sizes, bool packed, bool reverse)
        : steps_(steps), batch_(batch), batch_sizes_(batch_sizes), packed_(packed), reverse_(reverse),
          chunk_steps_(std::min(throughtime::chunk_steps(batch), std::max<int64_t>(steps, 1))) {
        if (!batch_sizes) return;
        active_before_.resize(steps + 1, 0);
        for (int64_t t = 0; t < steps; ++t) active_before_[t + 1] = active_before_[t] + batch_sizes[t];
    }

    /// The number of active rows of step t.
    int64_t active(int64_t t) const { return batch_sizes_ ? batch_sizes_[t] : batch_; }
    /// The number of active rows of all steps before t.
    int64_t active_before(int64_t t) const { return batch_sizes_ ? active_before_[t] : t * batch_; }
    /// The number of rows of the caller's arrays before those of step t.
    int64_t rows_before(int64_t t) const { return packed_ ? active_before(t) : t * batch_; }
    /// The step that runs after `count` others.
    int64_t time(int64_t count) const { return reverse_ ? steps_ - 1 - count : count; }

    /// The largest number of steps in a chunk.
    int64_t chunk_steps() const { return chunk_steps_; }

    /// The chunk that runs after `done` steps.
    Chunk chunk_after(int64_t done) const {
        const int64_t count = std::min(chunk_steps_, steps_ - done);
        const int64_t first = reverse_ ? steps_ - done - count : done;
        const int64_t rows = active_before(first + count) - active_before(first);
        return {first, count, rows_before(first), rows, packed_ || rows == count * batch_};
    }

private:
    const int64_t steps_, batch_;
    const int64_t* const batch_sizes_;
    const bool packed_, reverse_;
    const int64_t chunk_steps_;
    std::vector<int64_t> active_before_;
};

}  // namespace throughtime
