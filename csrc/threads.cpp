#include "threads.hpp"

#include <dlfcn.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

namespace throughtime {
namespace {

constexpr int max_threads = 256;
constexpr std::chrono::microseconds spin_time{100};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// A thread that waits for its ticket to change, works, then decrements `pending`.
struct Worker {
    alignas(64) std::atomic<int> ticket{0};
};

struct Pool {
    std::mutex in_use;
    std::vector<std::unique_ptr<Worker>> workers;  // worker k is thread k + 1 of a team
    const std::function<void(int)>* work = nullptr;
    alignas(64) std::atomic<int> pending{0};

    void grow(int count) {
        while (static_cast<int>(workers.size()) < count) {
            const int thread = static_cast<int>(workers.size()) + 1;
            // Nothing may throw once the thread runs, or it would be left with a freed worker.
            workers.reserve(workers.size() + 1);
            auto worker = std::make_unique<Worker>();
            std::thread(&Pool::serve, this, worker.get(), thread).detach();
            workers.push_back(std::move(worker));
        }
    }

    void serve(Worker* self, int thread) {
        for (int ticket = 0;;) {
            wait_while(self->ticket, ticket);
            ticket = self->ticket.load(std::memory_order_acquire);
            (*work)(thread);
            if (pending.fetch_sub(1, std::memory_order_acq_rel) == 1) pending.notify_one();
        }
    }
};

// Never destroyed, because its threads are never joined. Replaced in a forked child, which has no threads.
Pool* pool = nullptr;
bool forked = false;

Pool& thread_pool() {
    static const bool made = [] {
        pool = new Pool;
        pthread_atfork(nullptr, nullptr, [] {
            pool = new Pool;
            forked = true;
        });
        return true;
    }();
    (void)made;
    return *pool;
}

/// The OpenMP runtime that another library, such as torch, has loaded.
///
/// Its threads spin for milliseconds after their work, so a second pool would compete with them for the cores. If the
/// runtime is loaded, a team uses its threads instead.
struct OpenMP {
    void (*parallel)(void (*)(void*), void*, unsigned, unsigned);
    int (*thread_num)();
    int (*in_parallel)();
    int (*get_dynamic)();
    int (*thread_limit)();

    bool find() {
        return look_up(parallel, "GOMP_parallel") && look_up(thread_num, "omp_get_thread_num") &&
               look_up(in_parallel, "omp_in_parallel") && look_up(get_dynamic, "omp_get_dynamic") &&
               look_up(thread_limit, "omp_get_thread_limit");
    }

    /// Whether a parallel region would have exactly this many threads.
    bool supports(int threads) const { return !in_parallel() && !get_dynamic() && thread_limit() >= threads; }

private:
    template <class F> static bool look_up(F& function, const char* name) {
        function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
        return function != nullptr;
    }
};

/// Null if none is loaded, or in a forked child, where its threads no longer exist.
const OpenMP* openmp() {
    static OpenMP found;
    static std::mutex mutex;
    static std::atomic<bool> known{false};
    if (forked) return nullptr;
    if (!known.load(std::memory_order_acquire)) {
        const std::lock_guard lock(mutex);
        if (known.load(std::memory_order_relaxed)) return &found;
        if (!found.find()) return nullptr;
        known.store(true, std::memory_order_release);
    }
    return &found;
}

}  // namespace

void wait_while(const std::atomic<int>& value, int old) {
    const auto start = std::chrono::steady_clock::now();
    do {
        for (int i = 0; i < 64; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause();
        }
    } while (std::chrono::steady_clock::now() - start < spin_time);
    value.wait(old, std::memory_order_acquire);
}

Team::Team(int wanted) : size_(std::clamp(wanted, 1, max_threads)) {
    if (size_ == 1) return;
    if (!thread_pool().in_use.try_lock()) {
        size_ = 1;
        return;
    }
    const OpenMP* runtime = openmp();
    uses_openmp_ = runtime && runtime->supports(size_);
    if (uses_openmp_) return;
    try {
        pool->grow(size_ - 1);
    } catch (const std::exception&) {  // the system's limit on threads
        size_ = static_cast<int>(pool->workers.size()) + 1;
        if (size_ == 1) pool->in_use.unlock();
    }
}

Team::~Team() {
    if (size_ > 1) pool->in_use.unlock();
}

void Team::run(const std::function<void(int)>& work) {
    if (size_ == 1) work(0);
    else if (uses_openmp_) run_openmp(work);
    else run_pool(work);
}

void Team::run_openmp(const std::function<void(int)>& work) {
    openmp()->parallel(
        [](void* work) { (*static_cast<const std::function<void(int)>*>(work))(openmp()->thread_num()); },
        const_cast<std::function<void(int)>*>(&work), static_cast<unsigned>(size_), 0);
}

void Team::run_pool(const std::function<void(int)>& work) {
    pool->work = &work;
    pool->pending.store(size_ - 1, std::memory_order_release);
    for (int k = 0; k < size_ - 1; ++k) {
        pool->workers[k]->ticket.fetch_add(1, std::memory_order_acq_rel);
        pool->workers[k]->ticket.notify_one();
    }
    work(0);
    for (int left; (left = pool->pending.load(std::memory_order_acquire)) != 0;) wait_while(pool->pending, left);
}

}  // namespace throughtime
