/// A program made ready for the machine: where each value lives, and what is done in which order.
///
/// Built by calls that check every index, width and place, so that the machine can trust a plan.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace throughtime {

/// Where a value lives.
enum class Home {
    input,      // the caller's array [T, B, width]
    symbols,    // the caller's whole numbers [T, B]: of vectors of zeros the places of their only 1
    output,     // the caller's array [T, B, width]
    previous,   // a state before the step [B, width]
    next,       // a state after it [B, width]
    parameter,  // a vector parameter [width], the same for all rows
    constant,   // a vector of one number
    kept,       // for each step of a chunk [steps, B, width]
    passing,    // for the step that is being done [B, width]
    scratch,    // within one stage, for the rows that are being done
};

/// When something is done: for a whole chunk of steps before them, in each step, or after them.
enum class Phase { before, step, after };

struct Buffer {
    Home home;
    int64_t index;  // of the input, output, state or parameter
    int64_t width;
    double value;  // of a constant
};

/// Elements of a buffer, from `offset` on.
struct Place {
    int64_t buffer;
    int64_t offset;
};

/// A matrix parameter, or some of its rows, as a packed right factor.
struct Factor {
    int64_t parameter;
    bool transposed;  // whether the product is with the transposed parameter; then all of it
    int64_t first;    // of the parameter's rows
    int64_t depth, columns;
};

struct Linear {
    int64_t factor;
    Place to, from;
    bool begun;   // whether its sums begin at another value
    Place start;  // at which one
    bool looked_up;  // whether the left factor is given as symbols

    /// Whether one of two products touches what the other gives, so that it matters which comes first.
    bool touches(const Linear& other) const {
        auto takes = [](const Linear& one, int64_t buffer) {
            return one.from.buffer == buffer || (one.begun && one.start.buffer == buffer);
        };
        return to.buffer == other.to.buffer || takes(*this, other.to.buffer) || takes(other, to.buffer);
    }
};

struct Operation {
    int code;  // a row of the kernels' table
    int arity;
    bool by_unit;  // whether each element takes the same elements of the values
    int64_t width;
    Place to;
    std::array<Place, 4> from;
};

/// Rows that go through a pointwise stage together, so that what passes between operations stays near.
inline int64_t block_rows(int64_t width) { return std::clamp<int64_t>(1024 / std::max<int64_t>(width, 1), 1, 32); }

/// Products, then pointwise operations on them.
struct Stage {
    std::vector<Linear> linears;
    std::vector<Operation> operations;
    bool in_any_order = true;   // whether the products can be done so
    int64_t widest = 0;         // among the operations
    int64_t rows_together = block_rows(0);  // that go through all operations before others do
    int64_t narrowest = 0;
    bool splittable = true;     // whether each unit's operations can be done by themselves
    bool separable = true;      // and its products with them, of which every `widest`-th column is its own
    int64_t cost = 0;           // multiply-adds a row
};

/// Adds outer(u, v), or u alone, to a reduction; where v is given as symbols, u to the columns that they name.
struct Term {
    enum class Kind { alone, outer, by_symbol };
    int64_t reduction;
    Kind kind;
    Place u, v;
};

class Plan {
public:
    /// `reductions` and `parameters` are shapes: (n, 0) for a vector, (n, k) for a matrix; `one_hot` are the inputs
    /// that are given as symbols. `initial` is what each state starts with where nothing else is given.
    Plan(std::vector<int64_t> inputs, std::vector<int64_t> outputs, std::vector<int64_t> states,
         std::vector<std::array<int64_t, 2>> parameters, std::vector<std::array<int64_t, 2>> reductions, bool reverse,
         const std::vector<int64_t>& one_hot, std::vector<double> initial);

    /// Adds a buffer; `index` counts inputs, outputs, states or parameters, and is ignored for other homes.
    int64_t add_buffer(const std::string& home, int64_t index, int64_t width, double value);
    /// Begins the next stage of a phase.
    void add_stage(const std::string& phase);
    /// Adds a product; `start`, if given, is the value that its sums begin at, and `rows` are the first of the
    /// parameter's rows that take part and their number.
    void add_linear(int64_t parameter, bool transposed, Place to, Place from, std::optional<Place> start,
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
    /// Multiply-adds that a row costs in a phase.
    int64_t cost(Phase which) const;
    /// Multiply-adds of the reductions, a row.
    int64_t reduction_cost() const;
    /// Whether an input is given as symbols.
    bool one_hot(size_t input) const { return one_hot_[input]; }
    /// Whether what is added to a reduction goes by symbols.
    bool by_symbol(int64_t reduction) const;

private:
    Phase current_ = Phase::before;
    std::vector<bool> one_hot_;  // of each input

    Stage& stage();
    bool is_symbols(Place place) const;
    bool by_unit(const Stage& stage, const Operation& operation) const;
    bool with_products(const Stage& stage, const Operation& operation) const;
    void check(Place place, int64_t width, bool written) const;
    void check_kept(Place place, int64_t width) const;
    int64_t factor(int64_t parameter, bool transposed, std::optional<std::array<int64_t, 2>> rows);
};

}  // namespace throughtime
