/// Memory that a run needs for itself, kept for the next run.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <vector>

namespace throughtime {

constexpr int64_t cache_line = 64;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/// a * b, or an error where it does not fit.
inline int64_t checked_product(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product) || product > (int64_t{1} << 56))
        throw std::invalid_argument("the arrays would be larger than memory can be");
    return product;
}

/// Memory that begins at a cache line.
class Block {
public:
    Block() = default;
    explicit Block(int64_t bytes)
        : bytes_(round_up(bytes, cache_line)), memory_(static_cast<char*>(std::aligned_alloc(cache_line, bytes_))) {
        if (!memory_) throw std::bad_alloc();
    }
    int64_t bytes() const { return bytes_; }
    char* memory() const { return memory_.get(); }

private:
    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    int64_t bytes_ = 0;
    std::unique_ptr<char, Free> memory_;
};

/// Hands out memory, from blocks that go back to a shared stock at the end, since fresh pages cost time.
class Workspace {
public:
    Workspace() = default;
    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    ~Workspace() {
        std::lock_guard lock(stock().mutex);
        for (Block& block : used_) {
            if (block.bytes() > most_kept) continue;
            auto& kept = stock().blocks;
            kept.push_back(std::move(block));
            if (kept.size() > most_blocks) kept.erase(kept.begin());
        }
    }

    /// Room for `count` elements, with a cache line to spare behind them.
    template <class T> T* room(int64_t count) {
        const int64_t bytes = round_up(checked_product(count, sizeof(T)), cache_line) + cache_line;
        if (used_.empty() || free_ + bytes > used_.back().bytes()) {
            used_.push_back(take(std::max(bytes, smallest)));
            free_ = 0;
        }
        T* at = reinterpret_cast<T*>(used_.back().memory() + free_);
        free_ += bytes;
        return at;
    }

private:
    static constexpr int64_t smallest = int64_t{1} << 18, most_kept = int64_t{64} << 20;
    static constexpr size_t most_blocks = 16;

    struct Stock {
        std::mutex mutex;
        std::vector<Block> blocks;
    };
    static Stock& stock() {
        static Stock* stock = new Stock;  // never destroyed: a run may outlive static objects
        return *stock;
    }

    /// The smallest block of the stock that is large enough, or a new one.
    static Block take(int64_t bytes) {
        {
            std::lock_guard lock(stock().mutex);
            auto& blocks = stock().blocks;
            auto best = blocks.end();
            for (auto block = blocks.begin(); block != blocks.end(); ++block)
                if (block->bytes() >= bytes && (best == blocks.end() || block->bytes() < best->bytes())) best = block;
            if (best != blocks.end()) {
                Block found = std::move(*best);
                blocks.erase(best);
                return found;
            }
        }
        return Block(bytes);
    }

    std::vector<Block> used_;
    int64_t free_ = 0;  // where the last block's free part begins
};

}  // namespace throughtime
