#include "run.hpp"

#include <atomic>
#include <chrono>
#include <climits>
#include <utility>

#include "float_mode.hpp"
#include "reductions.hpp"
#include "threads.hpp"

namespace throughtime {
namespace {

/// How a step is split among threads.
enum class Parallelism {
    rows,   // each thread has its own rows; no barriers within a chunk
    units,  // each thread has its own hidden units; a barrier after each part of a step
    none,   // one thread runs the steps
};

using Clock = std::chrono::steady_clock;

/// The state of one thread of a run.
struct ThreadContext {
    int thread, threads;
    Clock::time_point start = Clock::now();
    Clock::duration waited{};
    int barriers_passed = 0;
};

/// Grace period before thread 0 considers proceeding alone.
constexpr std::chrono::microseconds grace_period{300};

/// Below these numbers of multiply-adds, a second thread costs more than it saves: in a whole run, and in a step that
/// ends with a barrier.
constexpr int64_t min_parallel_work = 2'500'000;
constexpr int64_t min_split_step = 15'000;
/// From this many multiply-adds on, the weights of a step exceed a core's private caches.
constexpr int64_t min_uncached_step = 500'000;

template <class T> class Run {
public:
    Run(const Plan& plan, const Kernels<T>& kernels, const Arguments<T>& arguments, int threads)
        : plan_(plan), kernels_(kernels), arguments_(arguments),
          schedule_(arguments.steps, arguments.batch, arguments.batch_sizes, arguments.packed, plan.reverse),
          team_(useful_threads(threads)), threads_(team_.size()),
          memory_(plan, kernels, arguments, schedule_, threads_),
          reductions_(plan, kernels, arguments, memory_), barrier_(threads_), parallelism_(choose_parallelism()),
          views_(threads_) {
        fill_constants();
        init_views();
    }

    void run() {
        team_.run([this](int thread) { work(thread); });
    }

private:
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Arguments<T>& arguments_;
    const Schedule schedule_;
    Team team_;
    const int threads_;
    MemoryPlan<T> memory_;
    const Reductions<T> reductions_;
    Barrier barrier_;
    const Parallelism parallelism_;
    std::vector<std::vector<BufferView<T>>> views_;  // of each thread, of each buffer
    // The buffers whose views move from step to step.
    std::vector<size_t> sequence_buffers_, token_id_buffers_, chunk_buffers_, state_buffers_;
    std::atomic<int> last_barrier_{INT_MAX};  // after this barrier thread 0 proceeds alone

    int useful_threads(int wanted) const {
        const int64_t per_row = plan_.cost(Phase::before) + plan_.cost(Phase::step) + plan_.cost(Phase::after) +
                              plan_.reduction_cost();
        const double total = static_cast<double>(per_row) * schedule_.active_before(arguments_.steps);
        return total < min_parallel_work ? 1 : wanted;
    }

    Parallelism choose_parallelism() const {
        const int64_t step = plan_.cost(Phase::step);
        // With fewer rows per thread, each would reload the weights for almost every row.
        const int64_t rows = step < 4 * min_split_step ? 2 : step < min_uncached_step ? 4 : 8;
        if (arguments_.batch >= rows * threads_) return Parallelism::rows;
        return step * arguments_.batch >= min_split_step ? Parallelism::units : Parallelism::none;
    }

    void fill_constants() {
        for (size_t k = 0; k < plan_.buffers.size(); ++k)
            if (const Buffer& buffer = plan_.buffers[k]; buffer.storage == Storage::constant)
                std::fill_n(memory_.buffers[k].at, buffer.width, static_cast<T>(buffer.value));
    }

    /// Waits for the other threads. Returns false if this thread is no longer needed.
    ///
    /// If other programs keep the cores busy, thread 0 may wait longer than it works. It then releases the other
    /// threads and finishes the run alone, which is faster.
    bool sync(ThreadContext& context) {
        if (context.threads == 1) return true;
        if (context.thread == 0) {
            const auto arrival = Clock::now();
            if (context.waited > grace_period && 2 * context.waited > arrival - context.start)
                last_barrier_.store(context.barriers_passed + 1, std::memory_order_relaxed);
            barrier_.wait();
            context.waited += Clock::now() - arrival;
        } else {
            barrier_.wait();
        }
        if (++context.barriers_passed < last_barrier_.load(std::memory_order_relaxed)) return true;
        context.threads = 1;
        return context.thread == 0;
    }

    void work(int thread) {
        FlushDenormals flush;
        ThreadContext context{thread, threads_};
        pack_weights(context);
        reductions_.begin(context.thread, context.threads);
        begin_states(context);
        if (!sync(context)) return;
        int64_t rows_active = 0;
        for (int64_t done = 0; done < arguments_.steps; done += schedule_.chunk_steps()) {
            const Chunk chunk = schedule_.chunk_after(done);
            clear_inactive_outputs(context, chunk);
            if (!plan_.phase(Phase::before).empty()) {
                run_phase(Phase::before, context, chunk);
                if (!sync(context)) return;
            }
            const Range own = rows_of(context, chunk);
            for (int64_t count = done; count < done + chunk.count; ++count) {
                const int64_t before = std::exchange(rows_active, schedule_.active(schedule_.time(count)));
                if (before != rows_active && !change_rows(context, count, before, rows_active, own)) return;
                if (!step(context, count, chunk, rows_active, own)) return;
            }
            if (!sync(context)) return;
            if (!plan_.phase(Phase::after).empty() || !plan_.terms.empty()) {
                run_phase(Phase::after, context, chunk);
                // The sums read the rows of all threads.
                if (!plan_.phase(Phase::after).empty() && !plan_.terms.empty() && !sync(context)) return;
                gather_rows(context, chunk);
                if (!sync(context)) return;
                reductions_.add(chunk, context.thread, context.threads);
            }
        }
        save_states(partition(rows_active, context.thread, context.threads), arguments_.steps);
        reductions_.finish(context.thread, context.threads);
    }


    void pack_weights(const ThreadContext& context) {
        for (size_t k = 0; k < memory_.to_pack.size(); ++k) {
            const Factor& factor = plan_.factors[k];
            const Range panels = partition(memory_.panels(factor.columns), context.thread, context.threads);
            pack_factor(factor, kernels_, arguments_.parameters, memory_.to_pack[k], panels.first, panels.last);
        }
    }

    /// The final states of rows that are never active are their initial states.
    void begin_states(const ThreadContext& context) {
        const int64_t ever = arguments_.steps ? schedule_.active(0) : 0;
        const Range part = partition(arguments_.batch - ever, context.thread, context.threads);
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            std::copy_n(arguments_.states[k] + (ever + part.first) * width, (part.last - part.first) * width,
                        arguments_.finals[k] + (ever + part.first) * width);
        }
    }

    /// Loads the states of rows that start at this step or saves those of rows that have ended. Returns false as `sync`
    /// does.
    bool change_rows(ThreadContext& context, int64_t count, int64_t before, int64_t now, Range own) {
        const Range changed{std::min(now, before), std::max(now, before)};
        auto change = [&](Range rows) { now > before ? load_states(rows, count) : save_states(rows, count); };
        if (parallelism_ == Parallelism::rows) {  // no other thread touches its rows
            change(intersection(changed, own));
            return true;
        }
        if (!sync(context)) return false;
        const Range part = partition(changed.last - changed.first, context.thread, context.threads);
        change({changed.first + part.first, changed.first + part.last});
        return sync(context);
    }

    /// The rows of a thread in a chunk, active or not.
    Range rows_of(const ThreadContext& context, const Chunk& chunk) const {
        if (parallelism_ != Parallelism::rows)
            return {0, parallelism_ == Parallelism::units || context.thread == 0 ? arguments_.batch : 0};
        return {first_row(chunk, context.thread, context.threads), first_row(chunk, context.thread + 1, context.threads)};
    }

    /// The first of a thread's rows, chosen so that all threads process equally many active rows.
    int64_t first_row(const Chunk& chunk, int thread, int threads) const {
        if (thread == threads) return arguments_.batch;
        const int64_t before = chunk.rows * thread / threads;  // active rows of the threads before
        int64_t row = 0, steps = chunk.count;  // in which this row is active
        for (int64_t done = 0; done < before; ++row) {
            while (schedule_.active(chunk.first + steps - 1) <= row) --steps;
            done += steps;
        }
        return row;
    }

    void load_states(Range rows, int64_t count) {
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            for (int64_t r = rows.first; r < rows.last; ++r)
                std::copy_n(arguments_.states[k] + r * width, width,
                            memory_.states[k][count % 2] + r * memory_.state_stride(k));
        }
    }

    void save_states(Range rows, int64_t count) {
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            for (int64_t r = rows.first; r < rows.last; ++r)
                std::copy_n(memory_.states[k][count % 2] + r * memory_.state_stride(k), width,
                            arguments_.finals[k] + r * width);
        }
    }

    void clear_inactive_outputs(const ThreadContext& context, const Chunk& chunk) {
        if (chunk.dense || context.thread != 0) return;
        for (size_t k = 0; k < plan_.outputs.size(); ++k)
            for (int64_t t = chunk.first; t < chunk.first + chunk.count; ++t) {
                const int64_t width = plan_.outputs[k], active = schedule_.active(t);
                std::fill_n(arguments_.outputs[k] + (schedule_.rows_before(t) + active) * width,
                            (arguments_.batch - active) * width, T(0));
            }
    }

    /// Sets up each thread's views and lists the buffers whose views move from step to step.
    void init_views() {
        for (size_t k = 0; k < plan_.buffers.size(); ++k) {
            const BufferMemory<T>& buffer = memory_.buffers[k];
            const Storage storage = plan_.buffers[k].storage;
            for (int thread = 0; thread < threads_; ++thread) {
                const bool own = storage == Storage::scratch;
                T* at = own ? buffer.at + thread * memory_.scratch_per_thread : buffer.at;
                views_[thread].push_back({at, buffer.stride, own ? 0 : buffer.stride, buffer.token_ids});
            }
            if (storage == Storage::input || storage == Storage::output) sequence_buffers_.push_back(k);
            if (storage == Storage::token_ids) token_id_buffers_.push_back(k);
            if (storage == Storage::per_chunk) chunk_buffers_.push_back(k);
            if (storage == Storage::previous || storage == Storage::next) state_buffers_.push_back(k);
        }
    }

    /// Moves a thread's views to step t of a chunk, the `count`-th step of the run.
    const BufferView<T>* views_at(int thread, int64_t t, int64_t count, const Chunk& chunk) {
        BufferView<T>* views = views_[thread].data();
        const int64_t rows = schedule_.rows_before(t), rows_of_chunk = rows - chunk.at;
        for (size_t k : sequence_buffers_) views[k].at = memory_.buffers[k].at + rows * views[k].stride;
        for (size_t k : token_id_buffers_) views[k].token_ids = memory_.buffers[k].token_ids + rows;
        for (size_t k : chunk_buffers_) views[k].at = memory_.buffers[k].at + rows_of_chunk * views[k].stride;
        for (size_t k : state_buffers_) {
            const bool other = (count % 2 != 0) == (plan_.buffers[k].storage == Storage::previous);
            views[k].at = memory_.buffers[k].at + (other ? memory_.buffers[k].other : 0);
        }
        return views;
    }

    /// Runs the stage's products for some rows, from the first panel to the last or `backward`. `choose(columns)`
    /// returns the panels of a factor to compute.
    template <class Choose>
    void multiply(const Stage& stage, int thread, Range rows, bool backward, Choose choose) {
        const BufferView<T>* views = views_[thread].data();
        const size_t gemms = stage.gemms.size();
        for (size_t k = 0; k < gemms; ++k) {
            const Gemm& gemm = stage.gemms[backward && stage.commutes ? gemms - 1 - k : k];
            const Factor& factor = plan_.factors[gemm.factor];
            auto locate = [&](Place place) {
                const BufferView<T>& view = views[place.buffer];
                return Rows<T>{view.at + place.offset + rows.first * view.stride, view.stride};
            };
            const Rows<T> to = locate(gemm.to), start = gemm.accumulate ? locate(gemm.start) : Rows<T>{nullptr, 0};
            const int64_t count = rows.last - rows.first;
            const T* right = memory_.factors.empty() ? nullptr : memory_.factors[gemm.factor];
            Panels panels = choose(factor.columns);
            panels.backward = backward;
            if (gemm.gather) {
                kernels_.gather_rows(to, {start.at, start.stride}, views[gemm.from.buffer].token_ids + rows.first, count,
                                     right, factor.depth, factor.columns, panels);
                continue;
            }
            const Rows<T> from = locate(gemm.from);
            if (!right) {
                kernels_.gemm_unpacked(to, {start.at, start.stride}, {from.at, from.stride}, count,
                                       unpacked(factor, arguments_.parameters), !factor.transposed, factor.depth,
                                       factor.columns, panels, memory_.unpacked_scratch[thread]);
                continue;
            }
            kernels_.gemm(to, {start.at, start.stride}, {from.at, from.stride}, count, right, factor.depth,
                          factor.columns, panels);
        }
    }
    void multiply(const Stage& stage, int thread, Range rows, bool backward = false) {
        multiply(stage, thread, rows, backward, [&](int64_t columns) { return Panels{0, memory_.panels(columns)}; });
    }

    /// Runs the stage's pointwise operations for some rows, and for some units only if the stage is splittable.
    void compute(const Stage& stage, const BufferView<T>* views, Range rows, Range units) {
        const int64_t block = stage.rows_per_block;
        for (int64_t row = rows.first; row < rows.last; row += block) {
            const int64_t count = std::min(block, rows.last - row);
            for (const Operation& operation : stage.operations) {
                auto locate = [&](Place place) {
                    const BufferView<T>& view = views[place.buffer];
                    return Rows<T>{view.at + place.offset + units.first + row * view.block_stride, view.stride};
                };
                Rows<const T> from[max_arity];
                for (int k = 0; k < operation.arity; ++k) {
                    const Rows<T> source = locate(operation.from[k]);
                    from[k] = {source.at, source.stride};
                }
                const Rows<T> to = locate(operation.to);
                const int64_t width = std::min(operation.width, units.last) - units.first;
                kernels_.operation(operation.code).run(to, from, count, width);
            }
        }
    }

    static constexpr Range all_units{0, INT64_MAX};

    /// Runs one step. Returns false as `sync` does.
    ///
    /// Steps alternate between traversing the matrices forward and backward, so each starts with the panels that are
    /// still in cache.
    bool step(ThreadContext& context, int64_t count, const Chunk& chunk, int64_t rows_active, Range own) {
        const Range rows = intersection(own, {0, rows_active});
        if (rows.first == rows.last) return true;
        const BufferView<T>* views = views_at(context.thread, schedule_.time(count), count, chunk);
        const bool backward = count % 2 != 0;
        for (const Stage& stage : plan_.phase(Phase::step)) {
            if (parallelism_ != Parallelism::units) {
                multiply(stage, context.thread, rows, backward);
                compute(stage, views, rows, all_units);
            } else if (!run_units(stage, views, context, rows, backward) || !sync(context)) {
                return false;
            }
        }
        return true;
    }

    /// Runs this thread's units of a stage. Returns false as `sync` does.
    bool run_units(const Stage& stage, const BufferView<T>* views, ThreadContext& context, Range rows, bool backward) {
        const int64_t panels = stage.widest / kernels_.panel;
        if (stage.separable && stage.widest % kernels_.panel == 0 && panels >= context.threads) {
            // The thread takes the same units of all gates, so it computes only with its own products.
            const Range part = partition(panels, context.thread, context.threads);
            multiply(stage, context.thread, rows, backward, [&](int64_t columns) {
                return Panels{part.first, part.last, columns / stage.widest, panels};
            });
            compute(stage, views, rows, {part.first * kernels_.panel, part.last * kernels_.panel});
            return true;
        }
        multiply(stage, context.thread, rows, backward, [&](int64_t columns) {
            const Range part = partition(memory_.panels(columns), context.thread, context.threads);
            return Panels{part.first, part.last};
        });
        if (stage.operations.empty()) return true;
        if (!stage.gemms.empty() && !sync(context)) return false;
        if (stage.splittable && rows.last - rows.first < context.threads)
            compute(stage, views, rows, partition(stage.widest, context.thread, context.threads));
        else
            compute(stage, views, partition(rows.last - rows.first, context.thread, context.threads), all_units);
        return true;
    }

    /// Calls `visit(t, rows)` for this part of a chunk's active rows, in order of time.
    template <class Visit> void for_each_step_range(const Chunk& chunk, int part, int parts, Visit visit) {
        const Range own = partition(chunk.rows, part, parts);
        if (chunk.dense) {  // as rows of its first step
            if (own.first < own.last) visit(chunk.first, own);
            return;
        }
        for (int64_t t = chunk.first; t < chunk.first + chunk.count; ++t) {
            const int64_t before = schedule_.active_before(t) - schedule_.active_before(chunk.first);
            const Range rows{std::max<int64_t>(own.first - before, 0),
                             std::min(own.last - before, schedule_.active(t))};
            if (rows.first < rows.last) visit(t, rows);
        }
    }

    void run_phase(Phase phase, const ThreadContext& context, const Chunk& chunk) {
        const auto& stages = plan_.phase(phase);
        if (stages.empty()) return;
        for_each_step_range(chunk, context.thread, context.threads, [&](int64_t t, Range rows) {
            const BufferView<T>* views = views_at(context.thread, t, 0, chunk);
            for (const Stage& stage : stages) {
                multiply(stage, context.thread, rows);
                compute(stage, views, rows, all_units);
            }
        });
    }

    void gather_rows(const ThreadContext& context, const Chunk& chunk) {
        int64_t before = 0;
        for_each_step_range(chunk, 0, 1, [&](int64_t t, Range rows) {
            reductions_.gather(views_at(context.thread, t, 0, chunk), rows, before, chunk, context.thread, context.threads);
            before += rows.last - rows.first;
        });
    }
};

}  // namespace

template <class T> void run(const Plan& plan, const Kernels<T>& kernels, const Arguments<T>& arguments, int threads) {
    Run<T>(plan, kernels, arguments, threads).run();
}

template <class T>
PackedWeights<T>::PackedWeights(const Plan& plan, const Kernels<T>& kernels, const std::vector<const T*>& parameters) {
    for (const Factor& factor : plan.factors) {
        const int64_t columns = round_up(factor.columns, kernels.panel);
        T* to = workspace_.allocate<T>(checked_product(columns, factor.depth));
        pack_factor(factor, kernels, parameters, to, 0, columns / kernels.panel);
        factors_.push_back(to);
    }
}

template void run(const Plan&, const Kernels<float>&, const Arguments<float>&, int);
template void run(const Plan&, const Kernels<double>&, const Arguments<double>&, int);
template class PackedWeights<float>;
template class PackedWeights<double>;

}  // namespace throughtime
