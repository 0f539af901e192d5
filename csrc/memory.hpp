/// Memory, in blocks that are used again: pages that are fresh from the system cost more time than filling them does.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <utility>

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

/// Memory that begins at a cache line. At its end a large one goes to a stock that all threads share.
class Block {
public:
    Block() = default;
    /// From the stock if there is one of this size, else from the system.
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
    /// At least as many as were asked for.
    int64_t bytes() const { return bytes_; }

private:
    char* memory_ = nullptr;
    int64_t bytes_ = 0;
};

}  // namespace throughtime
