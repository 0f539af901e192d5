/// Dropout: some elements at random are 0, the others larger by as much.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Writes the elements `first` to `last`, of which each is kept with a chance of `below` in 2^16 and scaled.
///
/// Whether the k-th is kept depends on k and the seed alone: a number of SplitMix64 (Steele et al. 2014) tells it of
/// four neighbours. `first` is a multiple of `elements_together`.
template <class T>
void thin(T* to, const T* from, int64_t first, int64_t last, uint64_t seed, uint32_t below, T scale) {
    constexpr int a_draw = 4, draws = elements_together / a_draw;
    for (int64_t k = first; k < last; k += elements_together) {
        uint64_t drawn[draws];
        for (int j = 0; j < draws; ++j) {
            uint64_t z = seed + static_cast<uint64_t>(k / a_draw + j + 1) * 0x9e3779b97f4a7c15;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
            z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
            drawn[j] = z ^ (z >> 31);
        }
        uint16_t chances[elements_together];
        std::memcpy(chances, drawn, sizeof drawn);
        const int64_t left = last - k;
        if (left >= elements_together)
            for (int j = 0; j < elements_together; ++j) to[k + j] = chances[j] < below ? from[k + j] * scale : T(0);
        else
            for (int j = 0; j < left; ++j) to[k + j] = chances[j] < below ? from[k + j] * scale : T(0);
    }
}

}  // namespace throughtime::THROUGHTIME_ISA
