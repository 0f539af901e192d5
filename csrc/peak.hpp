/// How fast the machine can multiply and add.
#pragma once

#include <atomic>
#include <chrono>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace throughtime {

/// FLOP a second of a register tile that never leaves the first-level cache, on `threads` threads at once.
inline double fma_peak(const Kernels<float>& kernels, int threads, double seconds) {
    Team team(threads);
    constexpr int64_t depth = 128;
    std::vector<double> rates(team.size());
    team.run([&](int thread) {
        using Clock = std::chrono::steady_clock;
        std::vector<float> left(kernels.tile_rows * depth, 1.0f), right(kernels.panel * depth, 1.0f),
            to(kernels.tile_rows * kernels.panel);
        const auto start = Clock::now();
        std::chrono::duration<double> passed{};
        int64_t products = 0;
        for (; passed.count() < seconds; passed = Clock::now() - start)
            for (int k = 0; k < 100; ++k, ++products)
                kernels.product({to.data(), kernels.panel}, {nullptr, 0}, {left.data(), depth}, kernels.tile_rows,
                                right.data(), depth, kernels.panel, {0, 1});
        rates[thread] = 2.0 * depth * kernels.tile_rows * kernels.panel * products / passed.count();
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

}  // namespace throughtime
