#include "run.hpp"

#include <atomic>
#include <chrono>
#include <climits>
#include <utility>

#include "float_mode.hpp"
#include "reduction.hpp"
#include "threads.hpp"

namespace throughtime {
namespace {

/// How the steps are shared among threads.
enum class Sharing {
    rows,   // each thread has rows of its own: no waiting within a chunk
    units,  // each thread has some of the hidden units: waiting after each part of a step
    alone,  // one thread does the steps
};

using Clock = std::chrono::steady_clock;

/// One of the threads of a run.
struct Member {
    int thread, threads;
    Clock::time_point start = Clock::now();
    Clock::duration waited{};
    int meetings = 0;
};

/// Waiting that is not held against the other threads.
constexpr std::chrono::microseconds patience{300};

/// Below this many multiply-adds a second thread costs more than it does: in a whole run, and in a step in which it
/// is waited for.
constexpr int64_t least_work_to_share = 2'500'000;
constexpr int64_t least_step_to_split = 15'000;
/// From here on a core's own caches do not hold the weights of a step.
constexpr int64_t least_step_past_caches = 500'000;

template <class T> class Run {
public:
    Run(const Plan& plan, const Kernels<T>& kernels, const Call<T>& call, int threads)
        : plan_(plan), kernels_(kernels), call_(call),
          calendar_(call.steps, call.batch, call.batch_sizes, call.packed, plan.reverse),
          team_(useful_threads(threads)), threads_(team_.size()),
          layout_(plan, kernels, call, calendar_, threads_),
          reductions_(plan, kernels, call, layout_), barrier_(threads_), sharing_(choose_sharing()),
          now_(threads_) {
        fill_constants();
        look_around();
    }

    void run() {
        team_.run([this](int thread) { work(thread); });
    }

private:
    const Plan& plan_;
    const Kernels<T>& kernels_;
    const Call<T>& call_;
    const Calendar calendar_;
    Team team_;
    const int threads_;
    Layout<T> layout_;
    const Reductions<T> reductions_;
    Barrier barrier_;
    const Sharing sharing_;
    std::vector<std::vector<Now<T>>> now_;  // of each thread, of each buffer
    std::vector<size_t> of_sequence_, of_chunk_, of_state_;  // buffers
    std::atomic<int> last_meeting_{INT_MAX};  // after which the first thread goes on alone

    int useful_threads(int wanted) const {
        const int64_t a_row = plan_.cost(Phase::before) + plan_.cost(Phase::step) + plan_.cost(Phase::after) +
                              plan_.reduction_cost();
        const double all = static_cast<double>(a_row) * calendar_.active_before(call_.steps);
        return all < least_work_to_share ? 1 : wanted;
    }

    Sharing choose_sharing() const {
        const int64_t step = plan_.cost(Phase::step);
        // With fewer rows each thread would read the weights for nearly every row anew.
        const int64_t rows = step < 4 * least_step_to_split ? 2 : step < least_step_past_caches ? 4 : 8;
        if (call_.batch >= rows * threads_) return Sharing::rows;
        return step * call_.batch >= least_step_to_split ? Sharing::units : Sharing::alone;
    }

    void fill_constants() {
        for (size_t k = 0; k < plan_.buffers.size(); ++k)
            if (const Buffer& buffer = plan_.buffers[k]; buffer.home == Home::constant)
                std::fill_n(layout_.buffers[k].at, buffer.width, static_cast<T>(buffer.value));
    }

    /// Waits for the other threads; false if this one is not needed any more.
    ///
    /// Where other programs keep the cores busy, the first thread may wait longer than it works. Then it is
    /// quicker alone, and lets the others go.
    bool meet(Member& me) {
        if (me.threads == 1) return true;
        if (me.thread == 0) {
            const auto arrival = Clock::now();
            if (me.waited > patience && 2 * me.waited > arrival - me.start)
                last_meeting_.store(me.meetings + 1, std::memory_order_relaxed);
            barrier_.wait();
            me.waited += Clock::now() - arrival;
        } else {
            barrier_.wait();
        }
        if (++me.meetings < last_meeting_.load(std::memory_order_relaxed)) return true;
        me.threads = 1;
        return me.thread == 0;
    }

    void work(int thread) {
        FlushDenormals flush;
        Member me{thread, threads_};
        pack_weights(me);
        reductions_.begin(me.thread, me.threads);
        begin_states(me);
        if (!meet(me)) return;
        int64_t rows_active = 0;
        for (int64_t done = 0; done < call_.steps; done += calendar_.steps_together()) {
            const Chunk chunk = calendar_.chunk_after(done);
            clear_inactive_outputs(me, chunk);
            if (!plan_.phase(Phase::before).empty()) {
                run_phase(Phase::before, me, chunk);
                if (!meet(me)) return;
            }
            const Share own = rows_of(me, chunk);
            for (int64_t count = done; count < done + chunk.count; ++count) {
                const int64_t before = std::exchange(rows_active, calendar_.active(calendar_.time(count)));
                if (before != rows_active && !change_rows(me, count, before, rows_active, own)) return;
                if (!step(me, count, chunk, rows_active, own)) return;
            }
            if (!meet(me)) return;
            if (!plan_.phase(Phase::after).empty() || !plan_.terms.empty()) {
                run_phase(Phase::after, me, chunk);
                // The sums take all rows of what each thread computed for its own.
                if (!plan_.phase(Phase::after).empty() && !plan_.terms.empty() && !meet(me)) return;
                take_rows(me, chunk);
                if (!meet(me)) return;
                reductions_.add(chunk, me.thread, me.threads);
            }
        }
        save_states(share(rows_active, me.thread, me.threads), call_.steps);
        reductions_.finish(me.thread, me.threads);
    }

    // Before the first step.

    void pack_weights(const Member& me) {
        for (size_t k = 0; k < layout_.to_pack.size(); ++k) {
            const Factor& factor = plan_.factors[k];
            const Share panels = share(layout_.panels(factor.columns), me.thread, me.threads);
            pack_factor(factor, kernels_, call_.parameters, layout_.to_pack[k], panels.first, panels.last);
        }
    }

    /// Rows that are never active end as they began.
    void begin_states(const Member& me) {
        const int64_t ever = call_.steps ? calendar_.active(0) : 0;
        const Share mine = share(call_.batch - ever, me.thread, me.threads);
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            std::copy_n(call_.states[k] + (ever + mine.first) * width, (mine.last - mine.first) * width,
                        call_.finals[k] + (ever + mine.first) * width);
        }
    }

    // Which rows are active.

    /// Loads the rows that begin at this step, saves those that have ended; false as from `meet`.
    bool change_rows(Member& me, int64_t count, int64_t before, int64_t now, Share own) {
        const Share changed{std::min(now, before), std::max(now, before)};
        auto change = [&](Share rows) { now > before ? load_states(rows, count) : save_states(rows, count); };
        if (sharing_ == Sharing::rows) {  // each thread knows its own rows alone
            change(common(changed, own));
            return true;
        }
        if (!meet(me)) return false;
        const Share mine = share(changed.last - changed.first, me.thread, me.threads);
        change({changed.first + mine.first, changed.first + mine.last});
        return meet(me);
    }

    /// The rows that a thread does in the steps of a chunk, as far as they are active.
    Share rows_of(const Member& me, const Chunk& chunk) const {
        if (sharing_ != Sharing::rows)
            return {0, sharing_ == Sharing::units || me.thread == 0 ? call_.batch : 0};
        return {first_row(chunk, me.thread, me.threads), first_row(chunk, me.thread + 1, me.threads)};
    }

    /// Where a thread's rows begin, so that all threads do as many rows of steps.
    int64_t first_row(const Chunk& chunk, int thread, int threads) const {
        if (thread == threads) return call_.batch;
        const int64_t before = chunk.rows * thread / threads;  // rows of steps, which are other threads'
        int64_t row = 0, steps = chunk.count;  // at which this row is active
        for (int64_t done = 0; done < before; ++row) {
            while (calendar_.active(chunk.first + steps - 1) <= row) --steps;
            done += steps;
        }
        return row;
    }

    void load_states(Share rows, int64_t count) {
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            for (int64_t r = rows.first; r < rows.last; ++r)
                std::copy_n(call_.states[k] + r * width, width,
                            layout_.states[k][count % 2] + r * layout_.state_stride(k));
        }
    }

    void save_states(Share rows, int64_t count) {
        for (size_t k = 0; k < plan_.states.size(); ++k) {
            const int64_t width = plan_.states[k];
            for (int64_t r = rows.first; r < rows.last; ++r)
                std::copy_n(layout_.states[k][count % 2] + r * layout_.state_stride(k), width,
                            call_.finals[k] + r * width);
        }
    }

    void clear_inactive_outputs(const Member& me, const Chunk& chunk) {
        if (chunk.dense || me.thread != 0) return;
        for (size_t k = 0; k < plan_.outputs.size(); ++k)
            for (int64_t t = chunk.first; t < chunk.first + chunk.count; ++t) {
                const int64_t width = plan_.outputs[k], active = calendar_.active(t);
                std::fill_n(call_.outputs[k] + (calendar_.rows_before(t) + active) * width,
                            (call_.batch - active) * width, T(0));
            }
    }

    // One stage.

    /// Where each thread finds what is always in one place, and which buffers are elsewhere at each step.
    void look_around() {
        for (size_t k = 0; k < plan_.buffers.size(); ++k) {
            const Located<T>& buffer = layout_.buffers[k];
            const Home home = plan_.buffers[k].home;
            for (int thread = 0; thread < threads_; ++thread) {
                const bool own = home == Home::scratch;  // its rows are those that are being done
                T* at = own ? buffer.at + thread * layout_.scratch_a_thread : buffer.at;
                now_[thread].push_back({at, buffer.row, own ? 0 : buffer.row});
            }
            if (home == Home::input || home == Home::symbols || home == Home::output) of_sequence_.push_back(k);
            if (home == Home::kept) of_chunk_.push_back(k);
            if (home == Home::previous || home == Home::next) of_state_.push_back(k);
        }
    }

    /// Finds every buffer at step t of a chunk, the `count`-th that is done.
    const Now<T>* look(int thread, int64_t t, int64_t count, const Chunk& chunk) {
        Now<T>* now = now_[thread].data();
        const int64_t rows = calendar_.rows_before(t), rows_of_chunk = rows - chunk.at;
        for (size_t k : of_sequence_) now[k].at = layout_.buffers[k].at + rows * now[k].row;
        for (size_t k : of_chunk_) now[k].at = layout_.buffers[k].at + rows_of_chunk * now[k].row;
        for (size_t k : of_state_) {
            const bool other = (count % 2 != 0) == (plan_.buffers[k].home == Home::previous);
            now[k].at = layout_.buffers[k].at + (other ? layout_.buffers[k].other : 0);
        }
        return now;
    }

    /// The stage's products for some rows, from the first column to the last or `backward`; `choose(columns)` are the
    /// panels of a factor that are to be done.
    template <class Choose>
    void multiply(const Stage& stage, const Now<T>* now, Share rows, bool backward, Choose choose) {
        const size_t count = stage.linears.size();
        for (size_t k = 0; k < count; ++k) {
            const Linear& linear = stage.linears[backward && stage.in_any_order ? count - 1 - k : k];
            const Factor& factor = plan_.factors[linear.factor];
            auto locate = [&](Place place) {
                const Now<T>& at = now[place.buffer];
                return Rows<T>{at.at + place.offset + rows.first * at.row, at.row};
            };
            const Rows<T> to = locate(linear.to), from = locate(linear.from);
            const Rows<T> start = linear.begun ? locate(linear.start) : Rows<T>{nullptr, 0};
            Panels panels = choose(factor.columns);
            panels.backward = backward;
            (linear.looked_up ? kernels_.look_up : kernels_.product)(
                to, {start.at, start.stride}, {from.at, from.stride}, rows.last - rows.first,
                layout_.factors[linear.factor], factor.depth, factor.columns, panels);
        }
    }
    void multiply(const Stage& stage, const Now<T>* now, Share rows, bool backward = false) {
        multiply(stage, now, rows, backward, [&](int64_t columns) { return Panels{0, layout_.panels(columns)}; });
    }

    /// The stage's pointwise part for some rows, and of those for some units if the stage can be split so.
    void compute(const Stage& stage, const Now<T>* now, Share rows, Share units) {
        const int64_t block = stage.rows_together;
        for (int64_t row = rows.first; row < rows.last; row += block) {
            const int64_t count = std::min(block, rows.last - row);
            for (const Operation& operation : stage.operations) {
                auto locate = [&](Place place) {
                    const Now<T>& at = now[place.buffer];
                    return Rows<T>{at.at + place.offset + units.first + row * at.block, at.row};
                };
                Rows<const T> from[max_arity];
                for (int k = 0; k < operation.arity; ++k) {
                    const Rows<T> source = locate(operation.from[k]);
                    from[k] = {source.at, source.stride};
                }
                const Rows<T> to = locate(operation.to);
                const int64_t width = std::min(operation.width, units.last) - units.first;
                kernels_.operations[operation.code].run(to, from, count, width);
            }
        }
    }

    static constexpr Share all_units{0, INT64_MAX};

    /// One step; false as from `meet`.
    ///
    /// Its products take the matrices by turns forward and backward, and so begin with what caches still hold.
    bool step(Member& me, int64_t count, const Chunk& chunk, int64_t rows_active, Share own) {
        const Share rows = common(own, {0, rows_active});
        if (rows.first == rows.last) return true;
        const Now<T>* now = look(me.thread, calendar_.time(count), count, chunk);
        const bool backward = count % 2 != 0;
        for (const Stage& stage : plan_.phase(Phase::step)) {
            if (sharing_ != Sharing::units) {
                multiply(stage, now, rows, backward);
                compute(stage, now, rows, all_units);
            } else if (!do_units(stage, now, me, rows, backward) || !meet(me)) {
                return false;
            }
        }
        return true;
    }

    /// A thread's part of a stage; false as from `meet`.
    bool do_units(const Stage& stage, const Now<T>* now, Member& me, Share rows, bool backward) {
        const int64_t panels = stage.widest / kernels_.panel;
        if (stage.separable && stage.widest % kernels_.panel == 0 && panels >= me.threads) {
            // Its units of all gates, so that what it computes with is what it has multiplied itself.
            const Share mine = share(panels, me.thread, me.threads);
            multiply(stage, now, rows, backward, [&](int64_t columns) {
                return Panels{mine.first, mine.last, columns / stage.widest, panels};
            });
            compute(stage, now, rows, {mine.first * kernels_.panel, mine.last * kernels_.panel});
            return true;
        }
        multiply(stage, now, rows, backward, [&](int64_t columns) {
            const Share mine = share(layout_.panels(columns), me.thread, me.threads);
            return Panels{mine.first, mine.last};
        });
        if (stage.operations.empty()) return true;
        if (!stage.linears.empty() && !meet(me)) return false;
        if (stage.splittable && rows.last - rows.first < me.threads)
            compute(stage, now, rows, share(stage.widest, me.thread, me.threads));
        else
            compute(stage, now, share(rows.last - rows.first, me.thread, me.threads), all_units);
        return true;
    }

    // Before and after the steps of a chunk.

    /// Calls `visit(t, rows)` for the active rows of a chunk that are this part's, in order of time.
    template <class Visit> void each_run(const Chunk& chunk, int part, int parts, Visit visit) {
        const Share mine = share(chunk.rows, part, parts);
        if (chunk.dense) {  // as if they were rows of its first step
            if (mine.first < mine.last) visit(chunk.first, mine);
            return;
        }
        for (int64_t t = chunk.first; t < chunk.first + chunk.count; ++t) {
            const int64_t before = calendar_.active_before(t) - calendar_.active_before(chunk.first);
            const Share rows{std::max<int64_t>(mine.first - before, 0),
                             std::min(mine.last - before, calendar_.active(t))};
            if (rows.first < rows.last) visit(t, rows);
        }
    }

    void run_phase(Phase phase, const Member& me, const Chunk& chunk) {
        const auto& stages = plan_.phase(phase);
        if (stages.empty()) return;
        each_run(chunk, me.thread, me.threads, [&](int64_t t, Share rows) {
            const Now<T>* now = look(me.thread, t, 0, chunk);
            for (const Stage& stage : stages) {
                multiply(stage, now, rows);
                compute(stage, now, rows, all_units);
            }
        });
    }

    void take_rows(const Member& me, const Chunk& chunk) {
        int64_t before = 0;
        each_run(chunk, 0, 1, [&](int64_t t, Share rows) {
            reductions_.take(look(me.thread, t, 0, chunk), rows, before, chunk, me.thread, me.threads);
            before += rows.last - rows.first;
        });
    }
};

}  // namespace

template <class T> void run(const Plan& plan, const Kernels<T>& kernels, const Call<T>& call, int threads) {
    Run<T>(plan, kernels, call, threads).run();
}

template <class T>
Weights<T>::Weights(const Plan& plan, const Kernels<T>& kernels, const std::vector<const T*>& parameters) {
    for (const Factor& factor : plan.factors) {
        const int64_t columns = round_up(factor.columns, kernels.panel);
        T* to = memory_.room<T>(checked_product(columns, factor.depth));
        pack_factor(factor, kernels, parameters, to, 0, columns / kernels.panel);
        factors_.push_back(to);
    }
}

template void run(const Plan&, const Kernels<float>&, const Call<float>&, int);
template void run(const Plan&, const Kernels<double>&, const Call<double>&, int);
template class Weights<float>;
template class Weights<double>;

}  // namespace throughtime
