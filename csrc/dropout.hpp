/// Dropout: zeroes random elements and scales the others.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Applies dropout to the elements `first` to `last`: each is kept with probability `threshold` / 2^16 and scaled.
///
/// Whether element k is kept depends only on k and the seed: one number of SplitMix64 (Steele et al. 2014) decides for
/// four neighbors. `first` is a multiple of `dropout_block`.
template <class T>
void dropout(T* to, const T* from, int64_t first, int64_t last, uint64_t seed, uint32_t threshold, T scale) {
    constexpr int per_draw = 4, draws = dropout_block / per_draw;
    for (int64_t k = first; k < last; k += dropout_block) {
        uint64_t drawn[draws];
        for (int j = 0; j < draws; ++j) {
            uint64_t z = seed + static_cast<uint64_t>(k / per_draw + j + 1) * 0x9e3779b97f4a7c15;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
            drawn[j] = z ^ (z >> 31);
        }
        uint16_t chances[dropout_block];
        std::memcpy(chances, drawn, sizeof drawn);
        const int64_t left = last - k;
        if (left >= dropout_block)
            for (int j = 0; j < dropout_block; ++j) to[k + j] = chances[j] < threshold ? from[k + j] * scale : T(0);
        else
            for (int j = 0; j < left; ++j) to[k + j] = chances[j] < threshold ? from[k + j] * scale : T(0);
    }
}

}  // namespace throughtime::THROUGHTIME_ISA
