/// Which rows are active at each step, where the rows of a step lie, and which steps are done together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace throughtime {

/// Steps that are done together: `count` of them from step `first` on.
struct Chunk {
    int64_t first, count;
    int64_t at;    // how many rows of the caller's arrays lie before its own
    int64_t rows;  // active, over all its steps
    bool dense;    // whether these lie behind each other
};

/// How many steps make a chunk: fixed by the rows alone, since sums over rows are begun anew for each chunk.
inline int64_t steps_together(int64_t rows) {
    constexpr int64_t rows_together = 512;
    return std::max<int64_t>(rows_together / std::max<int64_t>(rows, 1), 1);
}

class Calendar {
public:
    /// `batch_sizes` has the number of active rows of each step, or is null where all are. Of packed arrays
    /// only active rows are there, else all of each step.
    Calendar(int64_t steps, int64_t batch, const int64_t* batch_sizes, bool packed, bool reverse)
        : steps_(steps), batch_(batch), batch_sizes_(batch_sizes), packed_(packed), reverse_(reverse),
          steps_together_(std::min(throughtime::steps_together(batch), std::max<int64_t>(steps, 1))) {
        if (!batch_sizes) return;
        active_before_.resize(steps + 1, 0);
        for (int64_t t = 0; t < steps; ++t) active_before_[t + 1] = active_before_[t] + batch_sizes[t];
    }

    int64_t steps() const { return steps_; }
    int64_t batch() const { return batch_; }
    bool packed() const { return packed_; }

    /// The active rows of step t.
    int64_t active(int64_t t) const { return batch_sizes_ ? batch_sizes_[t] : batch_; }
    /// The active rows of all steps before t.
    int64_t active_before(int64_t t) const { return batch_sizes_ ? active_before_[t] : t * batch_; }
    /// How many rows of the caller's arrays lie before those of step t.
    int64_t rows_before(int64_t t) const { return packed_ ? active_before(t) : t * batch_; }
    /// The step that is done after `count` others.
    int64_t time(int64_t count) const { return reverse_ ? steps_ - 1 - count : count; }

    /// The most steps of a chunk.
    int64_t steps_together() const { return steps_together_; }

    /// The chunk that is done after `done` steps.
    Chunk chunk_after(int64_t done) const {
        const int64_t count = std::min(steps_together_, steps_ - done);
        const int64_t first = reverse_ ? steps_ - done - count : done;
        const int64_t rows = active_before(first + count) - active_before(first);
        return {first, count, rows_before(first), rows, packed_ || rows == count * batch_};
    }

private:
    const int64_t steps_, batch_;
    const int64_t* const batch_sizes_;
    const bool packed_, reverse_;
    const int64_t steps_together_;
    std::vector<int64_t> active_before_;
};

}  // namespace throughtime
