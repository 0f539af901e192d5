/// A thread pool. Waiting threads spin for a bounded time, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace throughtime {

/// Waits until `value` is no longer `old`: spins for some microseconds, then sleeps.
void wait_while(const std::atomic<int>& value, int old);

/// A reusable barrier for a fixed number of threads.
class Barrier {
public:
    explicit Barrier(int count) : count_(count) {}

    void wait() {
        if (count_ == 1) return;
        const int round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == count_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1, std::memory_order_release);
            round_.notify_all();
        } else {
            wait_while(round_, round);
        }
    }

private:
    const int count_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<int> round_{0};
};

/// Exclusive use of the pool by one caller. Meanwhile other callers run single-threaded.
class Team {
public:
    /// Requests `wanted` threads, including the caller's.
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    /// The number of threads available; may be fewer than requested.
    int size() const { return size_; }

    /// Calls `work(0)` on this thread and `work(1)` to `work(size - 1)` on others; returns when all have finished.
    void run(const std::function<void(int)>& work);

private:
    int size_;
    bool uses_openmp_ = false;  // run on the threads of an OpenMP runtime already in the process

    void run_pool(const std::function<void(int)>& work);
    void run_openmp(const std::function<void(int)>& work);
};

}  // namespace throughtime
