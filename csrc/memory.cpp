#include "memory.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

namespace throughtime {
namespace {

/// Smaller ones the system has at hand as well.
constexpr int64_t least_kept = int64_t{64} << 10;
/// Of all that nobody uses.
constexpr int64_t most_kept = int64_t{256} << 20;

/// One of eight sizes between each two powers of two, so that a block fits for what is nearly as large.
int64_t common_size(int64_t bytes) {
    const int64_t eighth = std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(bytes, 1))) / 8;
    return round_up(std::max<int64_t>(bytes, 1), std::max(eighth, cache_line));
}

struct Unused {
    char* memory;
    int64_t bytes;
};

/// Who finds it taken goes to the system instead: so nobody waits, and a forked child, in which nobody may be left to
/// open it again, goes on without.
struct Stock {
    std::mutex mutex;
    std::vector<Unused> blocks;  // those that came last at the end
    int64_t bytes = 0;

    char* take(int64_t size) {
        const std::unique_lock lock(mutex, std::try_to_lock);
        if (!lock) return nullptr;
        // The one that came last, of which caches may hold something.
        const auto found = std::find_if(blocks.rbegin(), blocks.rend(), [&](Unused b) { return b.bytes == size; });
        if (found == blocks.rend()) return nullptr;
        char* memory = found->memory;
        blocks.erase(std::next(found).base());
        bytes -= size;
        return memory;
    }

    bool give(Unused block) {
        const std::unique_lock lock(mutex, std::try_to_lock);
        if (!lock || block.bytes > most_kept) return false;
        blocks.push_back(block);
        bytes += block.bytes;
        size_t gone = 0;
        for (; bytes > most_kept; ++gone) {
            std::free(blocks[gone].memory);
            bytes -= blocks[gone].bytes;
        }
        blocks.erase(blocks.begin(), blocks.begin() + gone);
        return true;
    }
};

Stock& stock() {
    static Stock* stock = new Stock;  // never destroyed: arrays may outlive static objects
    return *stock;
}

}  // namespace

Block::Block(int64_t bytes) : bytes_(common_size(bytes)) {
    if (bytes_ >= least_kept) memory_ = stock().take(bytes_);
    if (!memory_) memory_ = static_cast<char*>(std::aligned_alloc(cache_line, bytes_));
    if (!memory_) throw std::bad_alloc();
}

Block::~Block() {
    if (bytes_ < least_kept || !stock().give({memory_, bytes_})) std::free(memory_);
}

}  // namespace throughtime
