#include "memory.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>

namespace throughtime {
namespace {

/// The system allocator is fast enough for smaller blocks.
constexpr int64_t min_pooled_bytes = int64_t{64} << 10;
/// Limit on the sum of all free blocks.
constexpr int64_t max_pooled_bytes = int64_t{256} << 20;
constexpr int max_pooled_blocks = max_pooled_bytes / min_pooled_bytes;

/// Rounds up to one of eight sizes per power of two, so that a free block fits requests of nearly its size.
int64_t size_class(int64_t bytes) {
    const int64_t eighth = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(bytes, 1))) / 8;
    return round_up(std::max<int64_t>(bytes, 1), std::max(eighth, cache_line));
}

struct FreeBlock {
    char* memory;
    int64_t bytes;
};

/// Free blocks. A caller that finds the pool locked uses the system allocator instead, so that no thread waits, and a
/// forked child whose parent held the lock still works. The array has a fixed size, so releasing a block can't allocate.
struct BlockPool {
    std::mutex mutex;
    std::array<FreeBlock, max_pooled_blocks> blocks;  // the most recently released last
    int count = 0;
    int64_t bytes = 0;

    char* acquire(int64_t size) {
        const std::unique_lock lock(mutex, std::try_to_lock);
        if (!lock) return nullptr;
        // The most recent block is the most likely to be in cache.
        for (int k = count - 1; k >= 0; --k) {
            if (blocks[k].bytes != size) continue;
            char* memory = blocks[k].memory;
            std::copy(blocks.begin() + k + 1, blocks.begin() + count, blocks.begin() + k);
            --count;
            bytes -= size;
            return memory;
        }
        return nullptr;
    }

    bool release(FreeBlock block) noexcept {
        const std::unique_lock lock(mutex, std::try_to_lock);
        if (!lock || block.bytes > max_pooled_bytes) return false;
        free_oldest(max_pooled_bytes - block.bytes);
        blocks[count++] = block;
        bytes += block.bytes;
        return true;
    }

    int64_t free_all() {
        const std::lock_guard lock(mutex);
        const int64_t freed = bytes;
        free_oldest(0);
        return freed;
    }

private:
    /// Frees the oldest blocks until the rest have at most `limit` bytes.
    void free_oldest(int64_t limit) noexcept {
        int freed = 0;
        for (; bytes > limit; ++freed) {
            std::free(blocks[freed].memory);
            bytes -= blocks[freed].bytes;
        }
        std::copy(blocks.begin() + freed, blocks.begin() + count, blocks.begin());
        count -= freed;
    }
};

BlockPool& block_pool() {
    static BlockPool* pool = new BlockPool;  // never destroyed: arrays may outlive static objects
    return *pool;
}

}  // namespace

Block::Block(int64_t bytes) : bytes_(size_class(bytes)) {
    if (bytes_ >= min_pooled_bytes) memory_ = block_pool().acquire(bytes_);
    if (!memory_) memory_ = static_cast<char*>(std::aligned_alloc(cache_line, bytes_));
    if (!memory_) throw std::bad_alloc();
}

Block::~Block() {
    if (bytes_ < min_pooled_bytes || !block_pool().release({memory_, bytes_})) std::free(memory_);
}

int64_t release_memory() { return block_pool().free_all(); }

}  // namespace throughtime
