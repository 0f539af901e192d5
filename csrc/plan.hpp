/// A program compiled for the engine: where each value is stored and the order of the operations.
///
/// The methods that build a plan check every index, width and place, so that running it needs no checks.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "operations_list.hpp"

namespace throughtime {

/// X(name) for each kind of storage of a buffer's values.
#define THROUGHTIME_STORAGES(X)                                        \
    X(input)     /* the caller's array [T, B, width] */                \
    X(token_ids) /* the caller's int64 [T, B], for one-hot vectors */  \
    X(output)    /* the caller's array [T, B, width] */                \
    X(previous)  /* a state before the step [B, width] */              \
    X(next)      /* a state after the step [B, width] */               \
    X(parameter) /* a vector parameter [width], the same for all rows */ \
    X(constant)  /* a vector of one repeated number */                 \
    X(per_chunk) /* each step of a chunk [steps, B, width] */          \
    X(per_step)  /* the current step [B, width] */                     \
    X(scratch)   /* the current block of rows, within one stage */

#define THROUGHTIME_NAME(name) name,
enum class Storage { THROUGHTIME_STORAGES(THROUGHTIME_NAME) };
#undef THROUGHTIME_NAME

/// When a stage runs: before the steps of a chunk, in each step, or after them.
enum class Phase { before, step, after };

struct Buffer {
    Storage storage;
    int64_t index;  // of the input, output, state or parameter
    int64_t width;
    double value;  // of a constant
};

/// Elements of a buffer from `offset` on.
struct Place {
    int64_t buffer;
    int64_t offset;
};

/// A matrix parameter, or some of its rows, as a packed right factor.
struct Factor {
    int64_t parameter;
    bool transposed;  // then all rows
    int64_t first;    // of the parameter's rows
    int64_t depth, columns;
};

/// A matrix product: to = from * factor, or to = start + from * factor.
struct Gemm {
    int64_t factor;
    Place to, from;
    bool accumulate;  // whether to add to `start`
    Place start;
    bool gather;  // whether `from` is token ids, so that rows of the factor are gathered

    /// Whether the order of two products matters, because one accesses memory that the other writes.
    bool conflicts(const Gemm& other) const {
        auto reads = [](const Gemm& gemm, int64_t buffer) {
            return gemm.from.buffer == buffer || (gemm.accumulate && gemm.start.buffer == buffer);
        };
        return to.buffer == other.to.buffer || reads(*this, other.to.buffer) || reads(other, to.buffer);
    }
};

struct Operation {
    Opcode code;
    int arity;
    bool elementwise;
    int64_t width;
    Place to;
    std::array<Place, 4> from;
};

/// Rows that run through a pointwise stage together, so that intermediate values stay in cache.
inline int64_t block_rows(int64_t width) { return std::clamp<int64_t>(1024 / std::max<int64_t>(width, 1), 1, 32); }

/// Matrix products, then pointwise operations on them.
struct Stage {
    std::vector<Gemm> gemms;
    std::vector<Operation> operations;
    bool commutes = true;                    // whether the products may run in any order
    int64_t widest = 0, narrowest = 0;       // among the operations
    int64_t rows_per_block = block_rows(0);  // rows that run through all operations together
    bool splittable = true;                  // whether the operations of different units are independent
    bool separable = true;  // and those of the products; unit j then has every `widest`-th column from j on
    int64_t cost = 0;       // multiply-adds per row
};

/// Adds u to a vector reduction or outer(u, v) to a matrix one. If v is token ids, u is added to the columns they name.
struct Term {
    enum class Kind { sum, outer, by_token };
    int64_t reduction;
    Kind kind;
    Place u, v;
};

class Plan {
public:
    /// `reductions` and `parameters` are shapes: (n, 0) for a vector, (n, k) for a matrix. `one_hot` lists the inputs
    /// that are token ids. `initial` is the default initial value of each state.
    Plan(std::vector<int64_t> inputs, std::vector<int64_t> outputs, std::vector<int64_t> states,
         std::vector<std::array<int64_t, 2>> parameters, std::vector<std::array<int64_t, 2>> reductions, bool reverse,
         const std::vector<int64_t>& one_hot, std::vector<double> initial);

    /// Adds a buffer. `index` is that of the input, output, state or parameter, and unused for other storage.
    int64_t add_buffer(const std::string& storage, int64_t index, int64_t width, double value);
    /// Starts the next stage of a phase.
    void add_stage(const std::string& phase);
    /// Adds a product, accumulated onto `start` if given. `rows` selects rows of the parameter: (first, count).
    void add_gemm(int64_t parameter, bool transposed, Place to, Place from, std::optional<Place> start,
                  std::optional<std::array<int64_t, 2>> rows);
    void add_operation(const std::string& name, int64_t width, Place to, const std::vector<Place>& from);
    void add_term(int64_t reduction, Place u);
    void add_outer(int64_t reduction, Place u, Place v);

    const std::vector<int64_t> inputs, outputs, states;
    const std::vector<std::array<int64_t, 2>> parameters, reductions;
    const bool reverse;
    const std::vector<double> initial;  // of each state
    std::vector<Buffer> buffers;
    std::vector<Factor> factors;
    std::array<std::vector<Stage>, 3> phases;
    std::vector<Term> terms;

    const std::vector<Stage>& phase(Phase which) const { return phases[static_cast<int>(which)]; }
    /// Multiply-adds per row of a phase.
    int64_t cost(Phase which) const;
    /// Multiply-adds per row of the reductions.
    int64_t reduction_cost() const;
    /// Whether an input is token ids.
    bool one_hot(size_t input) const { return one_hot_[input]; }
    /// Whether a reduction adds to columns named by token ids.
    bool by_token(int64_t reduction) const;

private:
    Phase current_ = Phase::before;
    std::vector<bool> one_hot_;  // of each input

    Stage& stage();
    bool is_token_ids(Place place) const;
    bool splits_by_unit(const Stage& stage, const Operation& operation) const;
    bool aligned_with_gemms(const Stage& stage, const Operation& operation) const;
    void check(Place place, int64_t width, bool written) const;
    void check_outlives_step(Place place, int64_t width) const;
    int64_t factor(int64_t parameter, bool transposed, std::optional<std::array<int64_t, 2>> rows);
};

}  // namespace throughtime
