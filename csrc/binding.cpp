/// The Python module throughtime._native: plans, and runs on arrays that Python owns.
///
/// Every array is checked for its type and shape here, and what a plan does with them in plan.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>

#include "arrays.hpp"
#include "calendar.hpp"
#include "isa.hpp"
#include "layout.hpp"
#include "peak.hpp"
#include "plan.hpp"
#include "run.hpp"
#include "stream_binding.hpp"
#include "threads.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace throughtime {
namespace {

using PlacePair = std::pair<int64_t, int64_t>;
using Objects = std::vector<nb::object>;
void check_count(const Objects& given, size_t wanted, const char* what) {
    if (given.size() != wanted)
        throw std::invalid_argument("the program takes " + std::to_string(wanted) + " " + what + "; given " +
                                    std::to_string(given.size()));
}

void check_batch_sizes(const std::vector<int64_t>& sizes, int64_t steps, int64_t batch) {
    if (static_cast<int64_t>(sizes.size()) != steps)
        throw std::invalid_argument("there must be a batch size for each step");
    int64_t before = batch;
    for (int64_t size : sizes) {
        if (size < 0 || size > before)
            throw std::invalid_argument("batch sizes go down from the number of rows, none below 0");
        before = size;
    }
}

Shape shape_of(const std::array<int64_t, 2>& rows_and_columns) {
    const auto [rows, columns] = rows_and_columns;
    return columns ? Shape{rows, columns} : Shape{rows};
}

/// The parameters of a plan where the machine finds them.
template <class T> std::vector<const T*> read_parameters(Arrays& arrays, const Plan& plan, const Objects& parameters) {
    std::vector<const T*> found;
    for (size_t k = 0; k < plan.parameters.size(); ++k)
        found.push_back(static_cast<const T*>(arrays.read(parameters[k], shape_of(plan.parameters[k]))));
    return found;
}

/// A plan with parameters that stay as they are: looked at and packed once, for many runs.
class FrozenPlan {
public:
    FrozenPlan(std::shared_ptr<const Plan> plan, const Objects& parameters, const std::string& isa)
        : plan_(std::move(plan)), isa_(isa) {
        check_count(parameters, plan_->parameters.size(), "parameters");
        if (parameters.empty()) throw std::invalid_argument("a plan without parameters has nothing to freeze");
        arrays_.emplace(parameters.front());
        if (arrays_->is_double()) freeze<double>(parameters);
        else freeze<float>(parameters);
    }

    const Plan& plan() const { return *plan_; }
    const std::string& isa() const { return isa_; }
    nb::handle like() const { return arrays_->like(); }

    /// Gives a run of this type what it needs.
    template <class T> void lend(Call<T>& call) const {
        const auto* held = std::get_if<Held<T>>(&held_);
        if (!held) throw Misfit("the parameters are of another type than what they are to be used on");
        call.parameters = held->parameters;
        call.weights = &*held->weights;
    }

private:
    template <class T> struct Held {
        std::vector<const T*> parameters;
        std::unique_ptr<Weights<T>> weights;
    };

    std::shared_ptr<const Plan> plan_;
    std::string isa_;
    std::optional<Arrays> arrays_;  // keeps the parameters alive
    std::variant<Held<float>, Held<double>> held_;

    template <class T> void freeze(const Objects& parameters) {
        Held<T> held{read_parameters<T>(*arrays_, *plan_, parameters), nullptr};
        held.weights = std::make_unique<Weights<T>>(*plan_, kernels<T>(isa_), held.parameters);
        held_ = std::move(held);
    }
};

/// What a run is given in Python.
struct Given {
    const Plan& plan;
    int64_t steps;
    const Objects& inputs;
    const Objects* states;  // or null; then they start as the plan says
    const Objects& parameters;
    const FrozenPlan* frozen;  // or null; instead of parameters
    const std::optional<std::vector<int64_t>>& batch_sizes;
    bool packed;
    const std::optional<Objects>& onto;

    /// An array of floating-point numbers, as all but symbols are.
    nb::handle like() const {
        if (states && !states->empty()) return states->front();
        for (size_t k = 0; k < inputs.size(); ++k)
            if (!plan.one_hot(k)) return inputs[k];
        if (frozen) return frozen->like();
        if (!parameters.empty()) return parameters.front();
        throw std::invalid_argument("a program that takes no numbers gives nothing");
    }

    /// The number of rows, by the arrays that there are.
    int64_t rows(const Arrays& arrays) const {
        if (states && !states->empty()) return arrays.size(states->front(), 0);
        if (packed) return batch_sizes->empty() ? 0 : batch_sizes->front();
        return inputs.empty() ? 0 : arrays.size(inputs[0], 1);
    }
};

/// An input that is given as symbols where the machine finds it; those of rows that are not active may be anything.
template <class T> const T* read_symbols(Arrays& arrays, const Given& given, int64_t rows, size_t input) {
    const Calendar calendar(given.steps, rows, given.batch_sizes ? given.batch_sizes->data() : nullptr, given.packed,
                            false);
    const Shape shape = given.packed ? Shape{calendar.active_before(given.steps)} : Shape{given.steps, rows};
    const auto* symbols = static_cast<const int64_t*>(arrays.read(given.inputs[input], shape, true));
    const int64_t width = given.plan.inputs[input];
    for (int64_t t = 0; t < given.steps; ++t)
        for (int64_t row = 0; row < calendar.active(t); ++row) {
            const int64_t symbol = symbols[calendar.rows_before(t) + row];
            if (symbol < 0 || symbol >= width)
                throw Misfit("a symbol is " + std::to_string(symbol) + " where the program takes 0 to " +
                             std::to_string(width - 1));
        }
    return reinterpret_cast<const T*>(symbols);
}

template <class T> nb::tuple run_on(Arrays& arrays, const Given& given, int threads, const std::string& isa) {
    const Plan& plan = given.plan;
    const int64_t rows = given.rows(arrays);
    if (given.batch_sizes) check_batch_sizes(*given.batch_sizes, given.steps, rows);
    Shape sequence{given.steps, rows, 0};
    if (given.packed) sequence = {std::accumulate(given.batch_sizes->begin(), given.batch_sizes->end(), int64_t{0}), 0};
    auto of_steps = [&](int64_t width) {
        sequence.back() = width;
        return sequence;
    };
    Call<T> call{given.steps, rows, given.batch_sizes ? given.batch_sizes->data() : nullptr, given.packed,
                 given.onto.has_value(), {}, {}, {}, {}, {}, {}, nullptr};
    auto read = [&](std::vector<const T*>& to, nb::handle array, const Shape& shape) {
        to.push_back(static_cast<const T*>(arrays.read(array, shape)));
    };
    for (size_t k = 0; k < plan.inputs.size(); ++k) {
        if (plan.one_hot(k)) call.inputs.push_back(read_symbols<T>(arrays, given, rows, k));
        else read(call.inputs, given.inputs[k], of_steps(plan.inputs[k]));
    }
    std::vector<std::vector<T>> begun;
    for (size_t k = 0; k < plan.states.size(); ++k) {
        if (given.states) {
            read(call.states, (*given.states)[k], {rows, plan.states[k]});
            continue;
        }
        begun.emplace_back(checked_product(rows, plan.states[k]), static_cast<T>(plan.initial[k]));
        call.states.push_back(begun.back().data());
    }
    if (given.frozen) given.frozen->lend(call);
    else call.parameters = read_parameters<T>(arrays, plan, given.parameters);
    nb::list outputs, finals, reductions;
    auto write = [&](std::vector<T*>& to, nb::list& list, const Shape& shape) {
        const auto [array, at] = arrays.fresh(shape);
        to.push_back(static_cast<T*>(at));
        list.append(array);
    };
    for (int64_t width : plan.outputs) write(call.outputs, outputs, of_steps(width));
    for (int64_t width : plan.states) write(call.finals, finals, {rows, width});
    for (size_t k = 0; k < plan.reductions.size(); ++k) {
        const Shape shape = shape_of(plan.reductions[k]);
        if (!given.onto) {
            write(call.reductions, reductions, shape);
            continue;
        }
        call.reductions.push_back(static_cast<T*>(arrays.written((*given.onto)[k], shape)));
        reductions.append((*given.onto)[k]);
    }
    const Kernels<T>& used = kernels<T>(isa);
    {
        nb::gil_scoped_release release;
        run(plan, used, call, threads);
    }
    return nb::make_tuple(outputs, finals, reductions);
}

nb::tuple run_given(const Given& given, int threads, const std::string& isa) {
    const Plan& plan = given.plan;
    if (given.steps < 0) throw std::invalid_argument("there are less than no steps");
    if (given.packed && !given.batch_sizes) throw std::invalid_argument("packed arrays come with batch sizes");
    check_count(given.inputs, plan.inputs.size(), "inputs");
    if (given.states) check_count(*given.states, plan.states.size(), "states");
    else if (given.inputs.empty()) throw std::invalid_argument("without inputs the states must be given");
    if (!given.frozen) check_count(given.parameters, plan.parameters.size(), "parameters");
    if (given.onto) check_count(*given.onto, plan.reductions.size(), "sums to add to");
    Arrays arrays(given.like());
    return arrays.is_double() ? run_on<double>(arrays, given, threads, isa)
                              : run_on<float>(arrays, given, threads, isa);
}

nb::tuple run_plan(const Plan& plan, int64_t steps, const Objects& inputs, const std::optional<Objects>& states,
                   const Objects& parameters, const std::optional<std::vector<int64_t>>& batch_sizes, bool packed,
                   const std::optional<Objects>& onto, int threads, const std::string& isa) {
    return run_given({plan, steps, inputs, states ? &*states : nullptr, parameters, nullptr, batch_sizes, packed, onto},
                     threads, isa);
}

nb::tuple run_frozen(const FrozenPlan& frozen, int64_t steps, const Objects& inputs,
                     const std::optional<Objects>& states,
                     const std::optional<std::vector<int64_t>>& batch_sizes, bool packed,
                     const std::optional<Objects>& onto, int threads) {
    return run_given(
        {frozen.plan(), steps, inputs, states ? &*states : nullptr, {}, &frozen, batch_sizes, packed, onto}, threads,
        frozen.isa());
}

template <class T>
nb::object thinned_on(Arrays& arrays, nb::handle x, uint64_t seed, double kept, double scale, int threads,
                      const std::string& isa) {
    const int64_t count = arrays.size(x, 0);
    const auto* from = static_cast<const T*>(arrays.read(x, {count}));
    const auto [result, elements] = arrays.fresh({count});
    T* to = static_cast<T*>(elements);
    const auto below = static_cast<uint32_t>(std::lround(kept * 65536));
    const Kernels<T>& used = kernels<T>(isa);
    {
        nb::gil_scoped_release release;
        constexpr int64_t least_to_share = 100'000;
        Team team(count < least_to_share ? 1 : threads);
        const int64_t blocks = (count + elements_together - 1) / elements_together;
        team.run([&](int thread) {
            const Share mine = share(blocks, thread, team.size());
            used.thin(to, from, mine.first * elements_together, std::min(mine.last * elements_together, count), seed,
                      below, static_cast<T>(scale));
        });
    }
    return result;
}

nb::object thinned(nb::handle x, uint64_t seed, double kept, double scale, int threads, const std::string& isa) {
    if (!(kept >= 0 && kept <= 1)) throw std::invalid_argument("a chance is 0 to 1");
    Arrays arrays(x);
    return arrays.is_double() ? thinned_on<double>(arrays, x, seed, kept, scale, threads, isa)
                              : thinned_on<float>(arrays, x, seed, kept, scale, threads, isa);
}

Place place(PlacePair p) { return {p.first, p.second}; }

void add_linear(Plan& plan, int64_t parameter, bool transposed, PlacePair to, PlacePair from,
                std::optional<PlacePair> start, std::optional<std::array<int64_t, 2>> rows) {
    plan.add_linear(parameter, transposed, place(to), place(from), start ? std::optional(place(*start)) : std::nullopt,
                    rows);
}

void add_operation(Plan& plan, const std::string& name, int64_t width, PlacePair to,
                   const std::vector<PlacePair>& from) {
    std::vector<Place> sources;
    for (const PlacePair& p : from) sources.push_back(place(p));
    plan.add_operation(name, width, place(to), sources);
}

void add_term(Plan& plan, int64_t reduction, const std::vector<PlacePair>& values) {
    if (values.size() == 1) plan.add_term(reduction, place(values[0]));
    else if (values.size() == 2) plan.add_outer(reduction, place(values[0]), place(values[1]));
    else throw std::invalid_argument("a term has one value or two");
}

std::vector<std::string> operations() {
    std::vector<std::string> names;
    const auto& table = kernels<float>("baseline");
    for (int k = 0; k < table.operation_count; ++k) names.emplace_back(table.operations[k].name);
    return names;
}

}  // namespace
}  // namespace throughtime

NB_MODULE(_native, m) {
    using namespace throughtime;
    nb::set_leak_warnings(false);  // plans are kept in caches to the end of the process, and users would read of them
    m.doc() = "The native engine: runs plans of programs on the CPU.";
    using Shapes = std::vector<std::array<int64_t, 2>>;
    using Widths = std::vector<int64_t>;
    nb::class_<Plan>(m, "Plan", "A program made ready for the machine; every call checks what it is given.")
        .def(nb::init<Widths, Widths, Widths, Shapes, Shapes, bool, const Widths&, std::vector<double>>(), "inputs"_a,
             "outputs"_a, "states"_a, "parameters"_a, "reductions"_a, "reverse"_a, "one_hot"_a, "initial"_a)
        .def("add_buffer", &Plan::add_buffer, "home"_a, "index"_a, "width"_a, "value"_a)
        .def("add_stage", &Plan::add_stage, "phase"_a)
        .def("add_linear", &add_linear, "parameter"_a, "transposed"_a, "to"_a, "source"_a, "start"_a,
             "rows"_a = nb::none())
        .def("add_operation", &add_operation, "name"_a, "width"_a, "to"_a, "sources"_a)
        .def("add_term", &add_term, "reduction"_a, "values"_a);
    nb::exception<Misfit>(m, "Misfit", PyExc_ValueError);
    m.def("run", &run_plan, "plan"_a, "steps"_a, "inputs"_a, "states"_a.none(), "parameters"_a,
          "batch_sizes"_a = nb::none(), "packed"_a = false, "onto"_a = nb::none(), "threads"_a = 1, "isa"_a = "",
          "Runs a plan on arrays of one library; gives outputs, final states and reductions.");
    nb::class_<FrozenPlan>(m, "FrozenPlan", "A plan with parameters that stay as they are, made ready for many runs.")
        .def(nb::init<std::shared_ptr<const Plan>, const Objects&, const std::string&>(), "plan"_a, "parameters"_a,
             "isa"_a = "")
        .def("run", &run_frozen, "steps"_a, "inputs"_a, "states"_a.none(), "batch_sizes"_a = nb::none(),
             "packed"_a = false, "onto"_a = nb::none(), "threads"_a = 1, "The same as `run` of its plan.");
    m.def("thinned", &thinned, "x"_a, "seed"_a, "kept"_a, "scale"_a, "threads"_a = 1, "isa"_a = "",
          "A vector whose elements are each kept with a chance, and scaled, or else 0.");
    bind_streams(m);
    m.def("steps_together", &steps_together, "rows"_a,
          "How many steps of so many rows make a chunk, of which each has sums of its own.");
    m.def("instruction_sets", &instruction_sets, "The instruction sets of this machine, best first.");
    m.def("operations", &operations, "The names of the operations that the machine has, products aside.");
    m.def("fma_peak", [](int threads, double seconds, const std::string& isa) {
        nb::gil_scoped_release release;
        return fma_peak(kernels<float>(isa), threads, seconds);
    }, "threads"_a, "seconds"_a = 0.2, "isa"_a = "", "32-bit FLOP a second that the multiply-add units can do.");
    m.def("handover", &handover, nb::call_guard<nb::gil_scoped_release>(),
          "Seconds until one of two threads sees what the other has written; 0 where there is no second one.");
}
