/// Measures the machine's limits: multiply-adds per second and the latency between two threads.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <vector>

#include "kernels.hpp"
#include "threads.hpp"

namespace throughtime {

/// FLOP/s of a register tile on L1-resident data, summed over `threads` threads.
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
                kernels.gemm({to.data(), kernels.panel}, {nullptr, 0}, {left.data(), depth}, kernels.tile_rows,
                                right.data(), depth, kernels.panel, {0, 1});
        rates[thread] = 2.0 * depth * kernels.tile_rows * kernels.panel * products / passed.count();
    });
    double sum = 0;
    for (double rate : rates) sum += rate;
    return sum;
}

/// Seconds until a thread sees another's write, the best of several tries; 0 without a second thread.
inline double core_to_core_latency() {
    using Clock = std::chrono::steady_clock;
    constexpr int tries = 3, handoffs = 1000;
    struct alignas(64) Line {  // has a cache line to itself
        std::atomic<int> turn{0};
    };
    Team team(2);
    if (team.size() < 2) return 0;
    double best = 1;
    for (int i = 0; i < tries; ++i) {
        Line line;
        team.run([&](int thread) {
            std::atomic<int>& turn = line.turn;
            Clock::time_point start;
            for (int k = thread; k < handoffs; k += 2) {
                while (turn.load(std::memory_order_acquire) != k) {}
                if (k == 2) start = Clock::now();  // by now both threads are awake
                turn.store(k + 1, std::memory_order_release);
            }
            if (thread != 0) return;
            while (turn.load(std::memory_order_acquire) != handoffs) {}
            const std::chrono::duration<double> passed = Clock::now() - start;
            best = std::min(best, passed.count() / (handoffs - 2));
        });
    }
    return best;
}

}  // namespace throughtime
