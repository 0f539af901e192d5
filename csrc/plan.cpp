#include "plan.hpp"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>

#include "isa.hpp"

namespace throughtime {
namespace {

// No width, and no count of elements of a matrix or in one row of anything, may come near where indices overflow.
constexpr int64_t most_width = int64_t{1} << 31;
constexpr int64_t most_elements = int64_t{1} << 40;

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument("the plan is not valid: " + why); }

int64_t width_at(const std::vector<int64_t>& widths, int64_t index) {
    if (index < 0 || index >= static_cast<int64_t>(widths.size())) refuse("an index is out of range");
    return widths[index];
}

Home home_named(const std::string& name) {
    static const std::string names[] = {"input", "symbols", "output", "previous", "next", "parameter",
                                        "constant", "kept", "passing", "scratch"};
    const auto* found = std::find(std::begin(names), std::end(names), name);
    if (found == std::end(names)) refuse("no home is called " + name);
    return static_cast<Home>(found - names);
}

bool writable(Home home) {
    return home == Home::output || home == Home::next || home >= Home::kept;
}

/// Whether a value there is to be had for each step of a chunk.
bool outlives_step(Home home) {
    return home == Home::input || home == Home::symbols || home == Home::output || home == Home::parameter ||
           home == Home::constant || home == Home::kept;
}

void check_widths(const std::vector<int64_t>& widths) {
    for (int64_t width : widths)
        if (width < 0 || width > most_width) refuse("a width is out of range");
}

void check_shapes(const std::vector<std::array<int64_t, 2>>& shapes) {
    for (const auto& [rows, columns] : shapes)
        if (rows < 0 || columns < 0 || rows > most_width || columns > most_width || rows * columns > most_elements)
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

int64_t Plan::add_buffer(const std::string& home_name, int64_t index, int64_t width, double value) {
    const Home home = home_named(home_name);
    check_widths({width});
    switch (home) {
        case Home::input:
        case Home::symbols:
            if (width_at(inputs, index) != width) refuse("an input has another width");
            if (one_hot(index) != (home == Home::symbols)) refuse("an input is given in another way");
            break;
        case Home::output: if (width_at(outputs, index) != width) refuse("an output has another width"); break;
        case Home::previous:
        case Home::next: if (width_at(states, index) != width) refuse("a state has another width"); break;
        case Home::parameter:
            if (index < 0 || index >= static_cast<int64_t>(parameters.size()) || parameters[index][1] != 0 ||
                parameters[index][0] != width)
                refuse("a vector parameter has another shape");
            break;
        default: break;
    }
    buffers.push_back({home, index, width, value});
    return static_cast<int64_t>(buffers.size()) - 1;
}

void Plan::add_stage(const std::string& phase) {
    if (phase == "before") current_ = Phase::before;
    else if (phase == "step") current_ = Phase::step;
    else if (phase == "after") current_ = Phase::after;
    else refuse("no phase is called " + phase);
    phases[static_cast<int>(current_)].emplace_back();
}

Stage& Plan::stage() {
    auto& stages = phases[static_cast<int>(current_)];
    if (stages.empty()) refuse("there is no stage yet");
    return stages.back();
}

void Plan::check(Place place, int64_t width, bool written) const {
    if (place.buffer < 0 || place.buffer >= static_cast<int64_t>(buffers.size())) refuse("a buffer is not there");
    const Buffer& buffer = buffers[place.buffer];
    if (width < 0 || place.offset < 0 || width > buffer.width || place.offset > buffer.width - width)
        refuse("elements outside a buffer");
    if (written && !writable(buffer.home)) refuse("a buffer that cannot be written is");
    if (buffer.home == Home::symbols && width != buffer.width) refuse("a part of what symbols stand for");
    if (current_ != Phase::step && buffer.home != Home::scratch && !outlives_step(buffer.home))
        refuse("a value of one step is used outside it");
}

/// Whether a place has symbols, which only products and reductions can do with, and only with all of the vector.
bool Plan::is_symbols(Place place) const {
    return place.buffer >= 0 && place.buffer < static_cast<int64_t>(buffers.size()) &&
           buffers[place.buffer].home == Home::symbols;
}

void Plan::check_kept(Place place, int64_t width) const {
    check(place, width, false);
    if (!outlives_step(buffers[place.buffer].home)) refuse("a reduction of a value that is not kept");
}

int64_t Plan::factor(int64_t parameter, bool transposed, std::optional<std::array<int64_t, 2>> rows) {
    if (parameter < 0 || parameter >= static_cast<int64_t>(parameters.size()) || parameters[parameter][1] == 0)
        refuse("a product with what is no matrix parameter");
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

void Plan::add_linear(int64_t parameter, bool transposed, Place to, Place from, std::optional<Place> start,
                      std::optional<std::array<int64_t, 2>> rows) {
    const int64_t index = factor(parameter, transposed, rows);
    const Factor& used = factors[index];
    check(to, used.columns, true);
    check(from, used.depth, false);
    if (start) check(*start, used.columns, false);
    for (Place place : {to, from, start.value_or(to)})
        if (buffers[place.buffer].home == Home::scratch) refuse("a product with scratch");
    if (start && is_symbols(*start)) refuse("sums that begin at symbols");
    const bool looked_up = is_symbols(from);
    if (!stage().operations.empty()) refuse("a product after the pointwise part of its stage");
    const Linear linear{index, to, from, start.has_value(), start.value_or(Place{}), looked_up};
    Stage& current = stage();
    for (const Linear& earlier : current.linears)
        current.in_any_order = current.in_any_order && !linear.touches(earlier);
    current.linears.push_back(linear);
    current.cost += looked_up ? used.columns : used.depth * used.columns;
}

void Plan::add_operation(const std::string& name, int64_t width, Place to, const std::vector<Place>& from) {
    const Kernels<float>& table = kernels<float>("baseline");  // the table is the same for all
    const auto* end = table.operations + table.operation_count;
    const auto* found = std::find_if(table.operations, end, [&](const auto& row) { return row.name == name; });
    if (found == end) refuse("no operation is called " + name);
    Operation operation{.code = static_cast<int>(found - table.operations),
                        .arity = found->arity,
                        .by_unit = found->takes == Takes::same,
                        .width = width,
                        .to = to,
                        .from = {}};
    const int64_t to_width = found->takes == Takes::all ? 1 : width;
    const int64_t from_width = found->takes == Takes::only ? 1 : width;
    if (static_cast<int>(from.size()) != operation.arity) refuse("the operation takes another number of values");
    check(to, to_width, true);
    for (size_t k = 0; k < from.size(); ++k) {
        check(from[k], from_width, false);
        if (is_symbols(from[k])) refuse("an operation on symbols");
        operation.from[k] = from[k];
    }
    Stage& current = stage();
    current.narrowest = current.operations.empty() ? width : std::min(current.narrowest, width);
    current.widest = std::max(current.widest, width);
    current.rows_together = std::min(current.rows_together, block_rows(width));
    // Scratch has room for as many rows as its own width allows, though an operation may take a part of it alone.
    auto keep_within = [&](Place place) {
        const Buffer& buffer = buffers[place.buffer];
        if (buffer.home == Home::scratch)
            current.rows_together = std::min(current.rows_together, block_rows(buffer.width));
    };
    keep_within(to);
    for (Place place : from) keep_within(place);
    current.splittable = current.splittable && current.narrowest == current.widest && by_unit(current, operation);
    current.separable = current.separable && current.splittable && with_products(current, operation);
    current.cost += 8 * width;  // the multiply-adds that would take as long, roughly
    current.operations.push_back(operation);
}

/// Whether each unit of an operation takes only its own unit of what the stage's earlier operations touched.
///
/// A slice of what was computed in the stage takes other units, which another thread may be computing.
bool Plan::by_unit(const Stage& stage, const Operation& operation) const {
    if (!operation.by_unit) return false;
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

/// Whether each unit of an operation takes of what the stage's products give only what belongs to that unit, so that
/// a thread which does some units of all of them need not wait for others.
bool Plan::with_products(const Stage& stage, const Operation& operation) const {
    const int64_t units = operation.width;
    auto aligned = [&](Place place, const Linear& linear) {
        return place.buffer != linear.to.buffer || (place.offset - linear.to.offset) % units == 0;
    };
    for (const Linear& linear : stage.linears) {
        if (units == 0 || factors[linear.factor].columns % units != 0) return false;
        if (operation.to.buffer == linear.from.buffer) return false;  // which other threads may still read
        if (!aligned(operation.to, linear)) return false;
        for (int k = 0; k < operation.arity; ++k)
            if (!aligned(operation.from[k], linear)) return false;
        for (const Linear& other : stage.linears)
            if (linear.from.buffer == other.to.buffer || (linear.begun && !aligned(linear.start, other))) return false;
    }
    return true;
}

void Plan::add_term(int64_t reduction, Place u) {
    if (reduction < 0 || reduction >= static_cast<int64_t>(reductions.size())) refuse("a reduction is not there");
    if (reductions[reduction][1] != 0) refuse("a matrix is reduced from a vector");
    check_kept(u, reductions[reduction][0]);
    if (is_symbols(u)) refuse("a sum of symbols");
    terms.push_back({reduction, Term::Kind::alone, u, u});
}

void Plan::add_outer(int64_t reduction, Place u, Place v) {
    if (reduction < 0 || reduction >= static_cast<int64_t>(reductions.size())) refuse("a reduction is not there");
    if (reductions[reduction][1] == 0) refuse("a vector is reduced from an outer product");
    check_kept(u, reductions[reduction][0]);
    check_kept(v, reductions[reduction][1]);
    if (is_symbols(u)) refuse("a reduction with symbols on the left");
    const Term::Kind kind = is_symbols(v) ? Term::Kind::by_symbol : Term::Kind::outer;
    for (const Term& term : terms)
        if (term.reduction == reduction && term.kind != kind) refuse("a reduction in part by symbols");
    terms.push_back({reduction, kind, u, v});
}

bool Plan::by_symbol(int64_t reduction) const {
    return std::any_of(terms.begin(), terms.end(), [&](const Term& term) {
        return term.reduction == reduction && term.kind == Term::Kind::by_symbol;
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
