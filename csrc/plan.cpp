#include "plan.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "isa.hpp"

namespace throughtime {
namespace {

// Limits on widths and element counts that keep index arithmetic far from overflow.
constexpr int64_t max_width = int64_t{1} << 31;
constexpr int64_t max_elements = int64_t{1} << 40;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument("the plan is not valid: " + why); }

int64_t width_at(const std::vector<int64_t>& widths, int64_t index) {
    if (index < 0 || index >= static_cast<int64_t>(widths.size())) refuse("an index is out of range");
    return widths[index];
}

Storage storage_named(const std::string& name) {
#define THROUGHTIME_NAME(storage) \
    if (name == #storage) return Storage::storage;
    THROUGHTIME_STORAGES(THROUGHTIME_NAME)
#undef THROUGHTIME_NAME
    refuse("no storage named " + name);
}

/// Returns the opcode of a name. Nothing else converts names to opcodes.
Opcode opcode_named(const std::string& name) {
#define THROUGHTIME_NAME(operation) \
    if (name == #operation) return Opcode::operation;
    THROUGHTIME_OPERATIONS(THROUGHTIME_NAME)
#undef THROUGHTIME_NAME
    refuse("no operation named " + name);
}

bool writable(Storage storage) {
    switch (storage) {
        case Storage::output:
        case Storage::next:
        case Storage::per_chunk:
        case Storage::per_step:
        case Storage::scratch: return true;
        default: return false;
    }
}

/// Whether a value is available for each step of a chunk.
bool outlives_step(Storage storage) {
    switch (storage) {
        case Storage::input:
        case Storage::token_ids:
        case Storage::output:
        case Storage::parameter:
        case Storage::constant:
        case Storage::per_chunk: return true;
        default: return false;
    }
}

void check_widths(const std::vector<int64_t>& widths) {
    for (int64_t width : widths)
        if (width < 0 || width > max_width) refuse("a width is out of range");
}

void check_shapes(const std::vector<std::array<int64_t, 2>>& shapes) {
    for (const auto& [rows, columns] : shapes)
        if (rows < 0 || columns < 0 || rows > max_width || columns > max_width || rows * columns > max_elements)
            refuse("a shape is out of range");
}

}  // namespace

Plan::Plan(std::vector<int64_t> inputs_, std::vector<int64_t> outputs_, std::vector<int64_t> states_,
           std::vector<std::array<int64_t, 2>> parameters_, std::vector<std::array<int64_t, 2>> reductions_,
           bool reverse_, const std::vector<int64_t>& one_hot, std::vector<double> initial_)
    : inputs(std::move(inputs_)), outputs(std::move(outputs_)), states(std::move(states_)),
      parameters(std::move(parameters_)), reductions(std::move(reductions_)), reverse(reverse_),
      initial(std::move(initial_)), one_hot_(inputs.size(), false) {
    for (const auto* widths : {&inputs, &outputs, &states}) check_widths(*widths);
    check_shapes(parameters);
    check_shapes(reductions);
    if (initial.size() != states.size()) refuse("each state starts with one number");
    for (int64_t k : one_hot) {
        width_at(inputs, k);
        one_hot_[k] = true;
    }
}

int64_t Plan::add_buffer(const std::string& storage_name, int64_t index, int64_t width, double value) {
    const Storage storage = storage_named(storage_name);
    check_widths({width});
    switch (storage) {
        case Storage::input:
        case Storage::token_ids:
            if (width_at(inputs, index) != width) refuse("an input has a different width");
            if (one_hot(index) != (storage == Storage::token_ids)) refuse("an input must be token ids exactly if it is one-hot");
            break;
        case Storage::output: if (width_at(outputs, index) != width) refuse("an output has a different width"); break;
        case Storage::previous:
        case Storage::next: if (width_at(states, index) != width) refuse("a state has a different width"); break;
        case Storage::parameter:
            if (index < 0 || index >= static_cast<int64_t>(parameters.size()) || parameters[index][1] != 0 ||
                parameters[index][0] != width)
                refuse("a vector parameter has a different shape");
            break;
        default: break;
    }
    buffers.push_back({storage, index, width, value});
    return static_cast<int64_t>(buffers.size()) - 1;
}

void Plan::add_stage(const std::string& phase) {
    if (phase == "before") current_ = Phase::before;
    else if (phase == "step") current_ = Phase::step;
    else if (phase == "after") current_ = Phase::after;
    else refuse("no phase named " + phase);
    phases[static_cast<int>(current_)].emplace_back();
}

Stage& Plan::stage() {
    auto& stages = phases[static_cast<int>(current_)];
    if (stages.empty()) refuse("no stage has been added");
    return stages.back();
}

void Plan::check(Place place, int64_t width, bool written) const {
    if (place.buffer < 0 || place.buffer >= static_cast<int64_t>(buffers.size())) refuse("a buffer does not exist");
    const Buffer& buffer = buffers[place.buffer];
    if (width < 0 || place.offset < 0 || width > buffer.width || place.offset > buffer.width - width)
        refuse("elements outside a buffer");
    if (written && !writable(buffer.storage)) refuse("a read-only buffer is written");
    if (buffer.storage == Storage::token_ids && width != buffer.width) refuse("a slice of a one-hot vector");
    if (current_ != Phase::step && buffer.storage != Storage::scratch && !outlives_step(buffer.storage))
        refuse("a value of one step is used outside the step");
}

/// Whether a place is token ids, which only products and reductions can read, and only whole.
bool Plan::is_token_ids(Place place) const {
    return place.buffer >= 0 && place.buffer < static_cast<int64_t>(buffers.size()) &&
           buffers[place.buffer].storage == Storage::token_ids;
}

void Plan::check_outlives_step(Place place, int64_t width) const {
    check(place, width, false);
    if (!outlives_step(buffers[place.buffer].storage)) refuse("a reduction of a value that does not outlive its step");
}

int64_t Plan::factor(int64_t parameter, bool transposed, std::optional<std::array<int64_t, 2>> rows) {
    if (parameter < 0 || parameter >= static_cast<int64_t>(parameters.size()) || parameters[parameter][1] == 0)
        refuse("a product with a parameter that is not a matrix");
    const auto [height, width] = parameters[parameter];
    const auto [first, count] = rows.value_or(std::array<int64_t, 2>{0, height});
    if (first < 0 || count < 1 || count > height || first > height - count) refuse("rows outside a matrix");
    if (transposed && count != height) refuse("a product with some rows of a transposed matrix");
    for (size_t k = 0; k < factors.size(); ++k) {
        const Factor& known = factors[k];
        if (known.parameter == parameter && known.transposed == transposed && known.first == first &&
            (transposed ? known.depth : known.columns) == count)
            return static_cast<int64_t>(k);
    }
    factors.push_back({parameter, transposed, first, transposed ? height : width, transposed ? width : count});
    return static_cast<int64_t>(factors.size()) - 1;
}

void Plan::add_gemm(int64_t parameter, bool transposed, Place to, Place from, std::optional<Place> start,
                      std::optional<std::array<int64_t, 2>> rows) {
    const int64_t index = factor(parameter, transposed, rows);
    const Factor& used = factors[index];
    check(to, used.columns, true);
    check(from, used.depth, false);
    if (start) check(*start, used.columns, false);
    for (Place place : {to, from, start.value_or(to)})
        if (buffers[place.buffer].storage == Storage::scratch) refuse("a product with scratch");
    if (start && is_token_ids(*start)) refuse("a product accumulated onto token ids");
    const bool gather = is_token_ids(from);
    if (!stage().operations.empty()) refuse("a product after the pointwise part of its stage");
    const Gemm gemm{index, to, from, start.has_value(), start.value_or(Place{}), gather};
    Stage& current = stage();
    for (const Gemm& earlier : current.gemms)
        current.commutes = current.commutes && !gemm.conflicts(earlier);
    current.gemms.push_back(gemm);
    current.cost += gather ? used.columns : used.depth * used.columns;
}

void Plan::add_operation(const std::string& name, int64_t width, Place to, const std::vector<Place>& from) {
    const Opcode code = opcode_named(name);
    const auto& entry = kernels<float>("baseline").operation(code);  // arity and kind are the same for all
    Operation operation{.code = code,
                        .arity = entry.arity,
                        .elementwise = entry.kind == OperationKind::elementwise,
                        .width = width,
                        .to = to,
                        .from = {}};
    const int64_t to_width = entry.kind == OperationKind::reduce ? 1 : width;
    const int64_t from_width = entry.kind == OperationKind::broadcast ? 1 : width;
    if (static_cast<int>(from.size()) != operation.arity) refuse("an operation has the wrong number of operands");
    check(to, to_width, true);
    for (size_t k = 0; k < from.size(); ++k) {
        check(from[k], from_width, false);
        if (is_token_ids(from[k])) refuse("an operation on token ids");
        operation.from[k] = from[k];
    }
    Stage& current = stage();
    current.narrowest = current.operations.empty() ? width : std::min(current.narrowest, width);
    current.widest = std::max(current.widest, width);
    current.rows_per_block = std::min(current.rows_per_block, block_rows(width));
    // A scratch buffer holds the block of rows that its own width allows, even if an operation uses a slice of it.
    auto keep_within = [&](Place place) {
        const Buffer& buffer = buffers[place.buffer];
        if (buffer.storage == Storage::scratch)
            current.rows_per_block = std::min(current.rows_per_block, block_rows(buffer.width));
    };
    keep_within(to);
    for (Place place : from) keep_within(place);
    current.splittable = current.splittable && current.narrowest == current.widest && splits_by_unit(current, operation);
    current.separable = current.separable && current.splittable && aligned_with_gemms(current, operation);
    current.cost += 8 * width;  // the multiply-adds that take about as long
    current.operations.push_back(operation);
}

/// Whether each unit of an operation touches only the same unit of the buffers that the stage's earlier operations
/// touch. A slice reads other units, which another thread may be computing.
bool Plan::splits_by_unit(const Stage& stage, const Operation& operation) const {
    if (!operation.elementwise) return false;
    auto apart = [&](Place written, Place other) {
        return written.buffer != other.buffer || written.offset == other.offset ||
               std::abs(written.offset - other.offset) >= operation.width;
    };
    for (const Operation& earlier : stage.operations) {
        for (int k = 0; k < operation.arity; ++k)
            if (!apart(earlier.to, operation.from[k])) return false;
        for (int k = 0; k < earlier.arity; ++k)
            if (!apart(operation.to, earlier.from[k])) return false;
        if (!apart(operation.to, earlier.to)) return false;
    }
    return true;
}

/// Whether each unit of an operation reads only the products' columns of that unit, so that a thread that computes some
/// units of all of them need not wait for the others.
bool Plan::aligned_with_gemms(const Stage& stage, const Operation& operation) const {
    const int64_t units = operation.width;
    auto aligned = [&](Place place, const Gemm& gemm) {
        return place.buffer != gemm.to.buffer || (place.offset - gemm.to.offset) % units == 0;
    };
    for (const Gemm& gemm : stage.gemms) {
        if (units == 0 || factors[gemm.factor].columns % units != 0) return false;
        if (operation.to.buffer == gemm.from.buffer) return false;  // other threads may still read it
        if (!aligned(operation.to, gemm)) return false;
        for (int k = 0; k < operation.arity; ++k)
            if (!aligned(operation.from[k], gemm)) return false;
        for (const Gemm& other : stage.gemms)
            if (gemm.from.buffer == other.to.buffer || (gemm.accumulate && !aligned(gemm.start, other))) return false;
    }
    return true;
}

void Plan::add_term(int64_t reduction, Place u) {
    if (reduction < 0 || reduction >= static_cast<int64_t>(reductions.size())) refuse("a reduction does not exist");
    if (reductions[reduction][1] != 0) refuse("a matrix is reduced from a vector");
    check_outlives_step(u, reductions[reduction][0]);
    if (is_token_ids(u)) refuse("a sum of token ids");
    terms.push_back({reduction, Term::Kind::sum, u, u});
}

void Plan::add_outer(int64_t reduction, Place u, Place v) {
    if (reduction < 0 || reduction >= static_cast<int64_t>(reductions.size())) refuse("a reduction does not exist");
    if (reductions[reduction][1] == 0) refuse("a vector is reduced from an outer product");
    check_outlives_step(u, reductions[reduction][0]);
    check_outlives_step(v, reductions[reduction][1]);
    if (is_token_ids(u)) refuse("an outer product with token ids on the left");
    const Term::Kind kind = is_token_ids(v) ? Term::Kind::by_token : Term::Kind::outer;
    for (const Term& term : terms)
        if (term.reduction == reduction && term.kind != kind) refuse("a reduction that mixes terms with and without token ids");
    terms.push_back({reduction, kind, u, v});
}

bool Plan::by_token(int64_t reduction) const {
    return std::any_of(terms.begin(), terms.end(), [&](const Term& term) {
        return term.reduction == reduction && term.kind == Term::Kind::by_token;
    });
}

int64_t Plan::cost(Phase which) const {
    int64_t sum = 0;
    for (const Stage& stage : phase(which)) sum += stage.cost;
    return sum;
}

int64_t Plan::reduction_cost() const {
    int64_t sum = 0;
    for (const Term& term : terms) {
        const auto [rows, columns] = reductions[term.reduction];
        sum += term.kind == Term::Kind::outer ? rows * columns : rows;
    }
    return sum;
}

}  // namespace throughtime
