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

constexpr int most_threads = 256;
constexpr std::chrono::microseconds longest_spin{100};

void pause() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

/// A thread that waits for its ticket to change, works, and counts itself off.
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

// Never destroyed, since its threads are never joined; replaced in a forked child, which has no such threads.
Pool* pool = nullptr;
bool forked = false;

Pool& the_pool() {
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

/// The OpenMP runtime that another library (torch) has brought into the process.
///
/// Its threads spin for milliseconds when their work is done, and two pools would fight for the cores: while
/// it is there, a team borrows its threads.
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

    /// Whether a parallel region would have just as many threads as are asked for.
    bool gives(int threads) const { return !in_parallel() && !get_dynamic() && thread_limit() >= threads; }

private:
    template <class F> static bool look_up(F& function, const char* name) {
        function = reinterpret_cast<F>(dlsym(RTLD_DEFAULT, name));
        return function != nullptr;
    }
};

/// Null where there is none, or in a forked child, where its threads are gone and it does not know.
const OpenMP* openmp() {
    static OpenMP found;
    static std::atomic<bool> known{false};
    if (forked) return nullptr;
    if (!known.load(std::memory_order_acquire)) {
        OpenMP runtime;
        if (!runtime.find()) return nullptr;
        found = runtime;  // every thread would write the same
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
    } while (std::chrono::steady_clock::now() - start < longest_spin);
    value.wait(old, std::memory_order_acquire);
}

Team::Team(int wanted) : size_(std::clamp(wanted, 1, most_threads)) {
    if (size_ == 1) return;
    if (!the_pool().in_use.try_lock()) {
        size_ = 1;
        return;
    }
    const OpenMP* runtime = openmp();
    borrowed_ = runtime && runtime->gives(size_);
    if (borrowed_) return;
    try {
        pool->grow(size_ - 1);
    } catch (const std::exception&) {  // the system gives no more threads
        size_ = static_cast<int>(pool->workers.size()) + 1;
        if (size_ == 1) pool->in_use.unlock();
    }
}

Team::~Team() {
    if (size_ > 1) pool->in_use.unlock();
}

void Team::run(const std::function<void(int)>& work) {
    if (size_ == 1) work(0);
    else if (borrowed_) run_borrowed(work);
    else run_own(work);
}

void Team::run_borrowed(const std::function<void(int)>& work) {
    openmp()->parallel(
        [](void* work) { (*static_cast<const std::function<void(int)>*>(work))(openmp()->thread_num()); },
        const_cast<std::function<void(int)>*>(&work), static_cast<unsigned>(size_), 0);
}

void Team::run_own(const std::function<void(int)>& work) {
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
