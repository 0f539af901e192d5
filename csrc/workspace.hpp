/// Scratch memory of a run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory.hpp"

namespace throughtime {

/// A bump allocator over a few blocks.
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    /// Memory for `count` elements and one spare cache line.
    template <class T> T* allocate(int64_t count) {
        const int64_t bytes = round_up(checked_product(count, sizeof(T)), cache_line) + cache_line;
        if (used_.empty() || free_ + bytes > used_.back().bytes()) {
            used_.emplace_back(std::max(bytes, smallest));
            free_ = 0;
        }
        T* at = reinterpret_cast<T*>(used_.back().memory() + free_);
        free_ += bytes;
        return at;
    }

private:
    static constexpr int64_t smallest = int64_t{1} << 18;

    std::vector<Block> used_;
    int64_t free_ = 0;  // offset of the last block's free part
};

}  // namespace throughtime
