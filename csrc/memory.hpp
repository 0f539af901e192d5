/// Pooled memory blocks: a page fault on a fresh page costs more time than filling the page.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>

namespace throughtime {

constexpr int64_t cache_line = 64;

inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

/// a * b, or an error on overflow.
inline int64_t checked_product(int64_t a, int64_t b) {
    int64_t product;
    if (__builtin_mul_overflow(a, b, &product) || product > (int64_t{1} << 56))
        throw std::invalid_argument("the arrays would not fit into memory");
    return product;
}

/// Memory aligned to a cache line. A large block returns to a pool shared by all threads.
class Block {
public:
    Block() = default;
    explicit Block(int64_t bytes);
    ~Block();
    Block(Block&& other) noexcept
        : memory_(std::exchange(other.memory_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
    Block& operator=(Block&& other) noexcept {
        std::swap(memory_, other.memory_);
        std::swap(bytes_, other.bytes_);
        return *this;
    }

    char* memory() const { return memory_; }
    /// At least the requested size.
    int64_t bytes() const { return bytes_; }

private:
    char* memory_ = nullptr;
    int64_t bytes_ = 0;
};

/// Frees all pooled memory that is not in use; returns the number of bytes.
int64_t release_memory();

}  // namespace throughtime
