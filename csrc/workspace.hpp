/// Memory that a run needs for itself.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "memory.hpp"

namespace throughtime {

/// Hands out pieces of few blocks of memory.
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    /// Room for `count` elements, with a cache line to spare behind them.
    template <class T> T* room(int64_t count) {
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
    int64_t free_ = 0;  // where the last block's free part begins
};

}  // namespace throughtime
