/// Memory that a run needs for itself, kept for the next run.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <vector>

namespace throughtime {

constexpr int64_t cache_line = 64;

/// a * b, or an error where it does not fit.
inline int64_t checked_product(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product) || product > (int64_t{1} << 56))
        throw std::invalid_argument("the arrays would be larger than memory can be");
    return product;
}

/// An aligned block of memory that is returned to a shared stock, since fresh pages cost time.
class Workspace {
public:
    explicit Workspace(int64_t bytes) {
        {
            std::lock_guard lock(stock().mutex);
            auto& blocks = stock().blocks;
            for (size_t k = 0; k < blocks.size(); ++k)
                if (blocks[k].bytes >= bytes) {
                    block_ = std::move(blocks[k]);
                    blocks.erase(blocks.begin() + k);
                    return;
                }
        }
        const int64_t whole = (bytes + cache_line) / cache_line * cache_line;
        block_ = {std::unique_ptr<char, Free>(static_cast<char*>(std::aligned_alloc(cache_line, whole))), whole};
        if (!block_.memory) throw std::bad_alloc();
    }

    ~Workspace() {
        if (block_.bytes > most_kept) return;
        std::lock_guard lock(stock().mutex);
        if (stock().blocks.size() >= most_blocks) stock().blocks.erase(stock().blocks.begin());
        stock().blocks.push_back(std::move(block_));
    }

    Workspace(const Workspace&) = delete;
    Workspace& operator=(const Workspace&) = delete;

    char* memory() const { return block_.memory.get(); }

private:
    static constexpr int64_t most_kept = int64_t{256} << 20;
    static constexpr size_t most_blocks = 4;

    struct Free {
        void operator()(char* memory) const { std::free(memory); }
    };
    struct Block {
        std::unique_ptr<char, Free> memory;
        int64_t bytes = 0;
    };
    struct Stock {
        std::mutex mutex;
        std::vector<Block> blocks;
    };
    static Stock& stock() {
        static Stock* stock = new Stock;  // never destroyed: a run may outlive static objects
        return *stock;
    }

    Block block_;
};

/// Hands out pieces of a block of memory whose size is not known yet: first as offsets.
class Pieces {
public:
    /// Room for `count` elements of `size` bytes; where it begins.
    int64_t add(int64_t count, int64_t size) {
        const int64_t at = bytes_;
        const int64_t more = checked_product(count, size);
        bytes_ = checked_product(1, bytes_ + (more + 2 * cache_line - 1) / cache_line * cache_line);
        return at;
    }
    int64_t bytes() const { return bytes_; }

private:
    int64_t bytes_ = 0;
};

}  // namespace throughtime
