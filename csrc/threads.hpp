/// A small pool of threads that wait by spinning for a bounded time, then sleep.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>

namespace throughtime {

/// Waits until `value` is no longer `old`: spins for some microseconds, then sleeps.
void wait_while(const std::atomic<int>& value, int old);

/// Where a fixed number of threads wait for each other.
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

/// The use of the pool by one caller; while it lasts, other callers run on their own thread alone.
class Team {
public:
    /// Asks for `wanted` threads, the caller's included.
    explicit Team(int wanted);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;

    /// How many threads there are: as many as wanted, or one.
    int size() const { return size_; }

    /// Calls `work(0)` on this thread and `work(1)` to `work(size - 1)` on others; returns when all are done.
    void run(const std::function<void(int)>& work);

private:
    int size_;
    bool borrowed_ = false;  // whether the threads are another library's

    void run_own(const std::function<void(int)>& work);
    void run_borrowed(const std::function<void(int)>& work);
};

}  // namespace throughtime
