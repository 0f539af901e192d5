/// The Python module throughtime._native: plans, and runs on arrays owned by Python.
///
/// This file checks the type and shape of every array; plan.cpp checks what a plan does with them.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <optional>
#include <stdexcept>
#include <utility>
#include <variant>

#include "arrays.hpp"
#include "schedule.hpp"
#include "isa.hpp"
#include "memory_plan.hpp"
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
void check_count(const Objects& request, size_t wanted, const char* what) {
    if (request.size() != wanted)
        throw std::invalid_argument("expected " + std::to_string(wanted) + " " + what + ", got " +
                                    std::to_string(request.size()));
}

void check_batch_sizes(const std::vector<int64_t>& sizes, int64_t steps, int64_t batch) {
    if (static_cast<int64_t>(sizes.size()) != steps)
        throw std::invalid_argument("batch_sizes must have one entry per step");
    int64_t before = batch;
    for (int64_t size : sizes) {
        if (size < 0 || size > before)
            throw std::invalid_argument("batch_sizes must be non-increasing, from 0 to the number of rows");
        before = size;
    }
}

Shape shape_of(const std::array<int64_t, 2>& rows_and_columns) {
    const auto [rows, columns] = rows_and_columns;
    return columns ? Shape{rows, columns} : Shape{rows};
}

/// A piece of a vector parameter: its length, and the arrays that are summed, each as an index and a first element.
using Piece = std::pair<int64_t, std::vector<std::pair<int64_t, int64_t>>>;

/// Assembles a vector from a tuple of pieces and arrays.
template <class T> std::vector<T> assemble(Arrays& arrays, const nb::tuple& parameter, int64_t size) {
    const auto pieces = nb::cast<std::vector<Piece>>(parameter[0]);
    const auto sources = nb::cast<Objects>(parameter[1]);
    std::vector<T> found(size);
    int64_t at = 0;
    for (const auto& [count, terms] : pieces) {
        if (count < 0 || count > size - at) throw std::invalid_argument("the pieces of a parameter exceed its size");
        for (const auto& [index, first] : terms) {
            const nb::object& source = sources.at(index);
            const int64_t available = arrays.size(source, 0);
            if (first < 0 || first > available - count)
                throw ShapeMismatch("a piece of a parameter ends after its array");
            const T* from = arrays.read<T>(source, {available}) + first;
            if (&terms.front().second == &first) std::copy_n(from, count, found.begin() + at);
            else
                for (int64_t k = 0; k < count; ++k) found[at + k] += from[k];
        }
        at += count;
    }
    if (at != size) throw std::invalid_argument("the pieces of a parameter are shorter than the parameter");
    return found;
}

/// The data of a plan's parameters; `assembled` owns the vectors that are passed in pieces.
template <class T>
std::vector<const T*> read_parameters(Arrays& arrays, const Plan& plan, const Objects& parameters,
                                      std::vector<std::vector<T>>& assembled) {
    std::vector<const T*> found;
    for (size_t k = 0; k < plan.parameters.size(); ++k) {
        if (nb::isinstance<nb::tuple>(parameters[k]) && plan.parameters[k][1] == 0) {
            assembled.push_back(assemble<T>(arrays, nb::borrow<nb::tuple>(parameters[k]), plan.parameters[k][0]));
            found.push_back(assembled.back().data());
        } else {
            found.push_back(arrays.read<T>(parameters[k], shape_of(plan.parameters[k])));
        }
    }
    return found;
}

/// A plan with constant parameters: checked and packed once, for many runs.
class FrozenPlan {
public:
    FrozenPlan(std::shared_ptr<const Plan> plan, const Objects& parameters, const std::string& isa)
        : plan_(std::move(plan)), isa_(isa) {
        check_count(parameters, plan_->parameters.size(), "parameters");
        if (parameters.empty()) throw std::invalid_argument("a plan without parameters can't be frozen");
        arrays_.emplace(parameters.front());
        if (arrays_->is_double()) freeze<double>(parameters);
        else freeze<float>(parameters);
    }

    const Plan& plan() const { return *plan_; }
    const std::string& isa() const { return isa_; }
    nb::handle like() const { return arrays_->like(); }

    /// Adds the parameters to the arguments of a run.
    template <class T> void bind(Arguments<T>& arguments) const {
        const auto* packed = std::get_if<Packed<T>>(&packed_);
        if (!packed) throw ShapeMismatch("the parameters' type differs from the inputs' type");
        arguments.parameters = packed->parameters;
        arguments.weights = &*packed->weights;
    }

private:
    template <class T> struct Packed {
        std::vector<const T*> parameters;
        std::vector<std::vector<T>> assembled;
        std::unique_ptr<PackedWeights<T>> weights;
    };

    std::shared_ptr<const Plan> plan_;
    std::string isa_;
    std::optional<Arrays> arrays_;  // keeps the parameters alive
    std::variant<Packed<float>, Packed<double>> packed_;

    template <class T> void freeze(const Objects& parameters) {
        Packed<T> packed;
        packed.parameters = read_parameters<T>(*arrays_, *plan_, parameters, packed.assembled);
        packed.weights = std::make_unique<PackedWeights<T>>(*plan_, kernels<T>(isa_), packed.parameters);
        packed_ = std::move(packed);
    }
};

/// The arguments of a run from Python.
struct RunRequest {
    const Plan& plan;
    int64_t steps;
    const Objects& inputs;
    const Objects* states;  // null: the plan's initial values
    const Objects& parameters;
    const FrozenPlan* frozen;  // null, or used instead of `parameters`
    const std::optional<std::vector<int64_t>>& batch_sizes;
    bool packed;
    const std::optional<Objects>& accumulate_into;
    bool layer_axis;  // whether initial and final states are [1, rows, width]

    /// Any array of floating-point numbers.
    nb::handle like() const {
        if (states && !states->empty()) return states->front();
        for (size_t k = 0; k < inputs.size(); ++k)
            if (!plan.one_hot(k)) return inputs[k];
        if (frozen) return frozen->like();
        if (!parameters.empty()) return parameters.front();
        throw std::invalid_argument("a program needs at least one floating-point array");
    }

    /// The number of rows, from the arrays' shapes.
    int64_t rows(const Arrays& arrays) const {
        if (states && !states->empty()) return arrays.size(states->front(), layer_axis ? 1 : 0);
        if (packed) return batch_sizes->empty() ? 0 : batch_sizes->front();
        return inputs.empty() ? 0 : arrays.size(inputs[0], 1);
    }
};

/// The token ids of an input. Those of inactive rows are not checked.
const int64_t* read_token_ids(Arrays& arrays, const RunRequest& request, int64_t rows, size_t input) {
    const Schedule schedule(request.steps, rows, request.batch_sizes ? request.batch_sizes->data() : nullptr,
                            request.packed, false);
    const Shape shape = request.packed ? Shape{schedule.active_before(request.steps)} : Shape{request.steps, rows};
    const int64_t* token_ids = arrays.read_token_ids(request.inputs[input], shape);
    const int64_t width = request.plan.inputs[input];
    for (int64_t t = 0; t < request.steps; ++t)
        for (int64_t row = 0; row < schedule.active(t); ++row) {
            const int64_t id = token_ids[schedule.rows_before(t) + row];
            if (id < 0 || id >= width)
                throw ShapeMismatch("token ids must be from 0 to " + std::to_string(width - 1) + ", got " +
                                    std::to_string(id));
        }
    return token_ids;
}

template <class T> nb::tuple run_on(Arrays& arrays, const RunRequest& request, int threads, const std::string& isa) {
    const Plan& plan = request.plan;
    const int64_t rows = request.rows(arrays);
    if (request.batch_sizes) check_batch_sizes(*request.batch_sizes, request.steps, rows);
    Shape sequence{request.steps, rows, 0};
    if (request.packed) sequence = {std::accumulate(request.batch_sizes->begin(), request.batch_sizes->end(), int64_t{0}), 0};
    auto of_steps = [&](int64_t width) {
        sequence.back() = width;
        return sequence;
    };
    Arguments<T> arguments{.steps = request.steps,
                           .batch = rows,
                           .batch_sizes = request.batch_sizes ? request.batch_sizes->data() : nullptr,
                           .packed = request.packed,
                           .accumulate = request.accumulate_into.has_value(),
                           .inputs = std::vector<const T*>(plan.inputs.size()),
                           .token_ids = std::vector<const int64_t*>(plan.inputs.size()),
                           .states = {}, .parameters = {}, .outputs = {}, .finals = {}, .reductions = {}};
    for (size_t k = 0; k < plan.inputs.size(); ++k) {
        if (plan.one_hot(k)) arguments.token_ids[k] = read_token_ids(arrays, request, rows, k);
        else arguments.inputs[k] = arrays.read<T>(request.inputs[k], of_steps(plan.inputs[k]));
    }
    auto of_state = [&](size_t k) {
        return request.layer_axis ? Shape{1, rows, plan.states[k]} : Shape{rows, plan.states[k]};
    };
    std::vector<std::vector<T>> initial, assembled;
    for (size_t k = 0; k < plan.states.size(); ++k) {
        if (request.states) {
            arguments.states.push_back(arrays.read<T>((*request.states)[k], of_state(k)));
            continue;
        }
        initial.emplace_back(checked_product(rows, plan.states[k]), static_cast<T>(plan.initial[k]));
        arguments.states.push_back(initial.back().data());
    }
    if (request.frozen) request.frozen->bind(arguments);
    else arguments.parameters = read_parameters<T>(arrays, plan, request.parameters, assembled);
    nb::list outputs, finals, reductions;
    auto write = [&](std::vector<T*>& to, nb::list& list, const Shape& shape) {
        const auto [array, at] = arrays.allocate(shape);
        to.push_back(static_cast<T*>(at));
        list.append(array);
    };
    for (int64_t width : plan.outputs) write(arguments.outputs, outputs, of_steps(width));
    for (size_t k = 0; k < plan.states.size(); ++k) write(arguments.finals, finals, of_state(k));
    for (size_t k = 0; k < plan.reductions.size(); ++k) {
        const Shape shape = shape_of(plan.reductions[k]);
        if (!request.accumulate_into) {
            write(arguments.reductions, reductions, shape);
            continue;
        }
        arguments.reductions.push_back(static_cast<T*>(arrays.writable_data((*request.accumulate_into)[k], shape)));
        reductions.append((*request.accumulate_into)[k]);
    }
    const Kernels<T>& used = kernels<T>(isa);
    {
        nb::gil_scoped_release release;
        run(plan, used, arguments, threads);
    }
    return nb::make_tuple(outputs, finals, reductions);
}

nb::tuple run_request(const RunRequest& request, int threads, const std::string& isa) {
    const Plan& plan = request.plan;
    if (request.steps < 0) throw std::invalid_argument("steps must be >= 0, got " + std::to_string(request.steps) + "");
    if (request.packed && !request.batch_sizes) throw std::invalid_argument("packed arrays need batch_sizes");
    check_count(request.inputs, plan.inputs.size(), "inputs");
    if (request.states) check_count(*request.states, plan.states.size(), "states");
    else if (request.inputs.empty()) throw std::invalid_argument("states are required if there are no inputs");
    if (!request.frozen) check_count(request.parameters, plan.parameters.size(), "parameters");
    if (request.accumulate_into) check_count(*request.accumulate_into, plan.reductions.size(), "arrays to accumulate into");
    Arrays arrays(request.like());
    return arrays.is_double() ? run_on<double>(arrays, request, threads, isa)
                              : run_on<float>(arrays, request, threads, isa);
}

nb::tuple run_plan(const Plan& plan, int64_t steps, const Objects& inputs, const std::optional<Objects>& states,
                   const Objects& parameters, const std::optional<std::vector<int64_t>>& batch_sizes, bool packed,
                   const std::optional<Objects>& accumulate_into, int threads, const std::string& isa, bool layer_axis) {
    return run_request({plan, steps, inputs, states ? &*states : nullptr, parameters, nullptr, batch_sizes, packed,
                        accumulate_into, layer_axis},
                       threads, isa);
}

nb::tuple run_frozen(const FrozenPlan& frozen, int64_t steps, const Objects& inputs,
                     const std::optional<Objects>& states,
                     const std::optional<std::vector<int64_t>>& batch_sizes, bool packed,
                     const std::optional<Objects>& accumulate_into, int threads, bool layer_axis) {
    return run_request({frozen.plan(), steps, inputs, states ? &*states : nullptr, {}, &frozen, batch_sizes, packed,
                        accumulate_into, layer_axis},
                       threads, frozen.isa());
}

template <class T>
nb::object dropout_on(Arrays& arrays, nb::handle x, uint64_t seed, double keep_probability, double scale, int threads,
                      const std::string& isa) {
    const int64_t count = arrays.size(x, 0);
    const T* from = arrays.read<T>(x, {count});
    const auto [result, elements] = arrays.allocate({count});
    T* to = static_cast<T*>(elements);
    const auto threshold = static_cast<uint32_t>(std::lround(keep_probability * 65536));
    const Kernels<T>& used = kernels<T>(isa);
    {
        nb::gil_scoped_release release;
        constexpr int64_t min_parallel_elements = 100'000;
        Team team(count < min_parallel_elements ? 1 : threads);
        const int64_t blocks = (count + dropout_block - 1) / dropout_block;
        team.run([&](int thread) {
            const Range mine = partition(blocks, thread, team.size());
            used.dropout(to, from, mine.first * dropout_block, std::min(mine.last * dropout_block, count), seed,
                      threshold, static_cast<T>(scale));
        });
    }
    return result;
}

nb::object dropout(nb::handle x, uint64_t seed, double keep_probability, double scale, int threads, const std::string& isa) {
    if (!(keep_probability >= 0 && keep_probability <= 1)) throw std::invalid_argument("keep_probability must be from 0 to 1");
    Arrays arrays(x);
    return arrays.is_double() ? dropout_on<double>(arrays, x, seed, keep_probability, scale, threads, isa)
                              : dropout_on<float>(arrays, x, seed, keep_probability, scale, threads, isa);
}

Place place(PlacePair p) { return {p.first, p.second}; }

void add_gemm(Plan& plan, int64_t parameter, bool transposed, PlacePair to, PlacePair from,
                std::optional<PlacePair> start, std::optional<std::array<int64_t, 2>> rows) {
    plan.add_gemm(parameter, transposed, place(to), place(from), start ? std::optional(place(*start)) : std::nullopt,
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
    else throw std::invalid_argument("a term must have one or two values");
}

std::vector<std::string> operations() { return {std::begin(operation_names), std::end(operation_names)}; }

}  // namespace
}  // namespace throughtime

NB_MODULE(_native, m) {
    using namespace throughtime;
    // Off by default: an interpreter may exit with plans still cached, which is harmless.
    nb::set_leak_warnings(std::getenv("THROUGHTIME_LEAK_WARNINGS") != nullptr);
    m.doc() = "The native engine: runs compiled programs on the CPU.";
    using Shapes = std::vector<std::array<int64_t, 2>>;
    using Widths = std::vector<int64_t>;
    nb::class_<Plan>(m, "Plan", "A program compiled for the native engine. Every method checks its arguments.")
        .def(nb::init<Widths, Widths, Widths, Shapes, Shapes, bool, const Widths&, std::vector<double>>(), "inputs"_a,
             "outputs"_a, "states"_a, "parameters"_a, "reductions"_a, "reverse"_a, "one_hot"_a, "initial"_a)
        .def("add_buffer", &Plan::add_buffer, "storage"_a, "index"_a, "width"_a, "value"_a)
        .def("add_stage", &Plan::add_stage, "phase"_a)
        .def("add_gemm", &add_gemm, "parameter"_a, "transposed"_a, "to"_a, "source"_a, "start"_a,
             "rows"_a = nb::none())
        .def("add_operation", &add_operation, "name"_a, "width"_a, "to"_a, "sources"_a)
        .def("add_term", &add_term, "reduction"_a, "values"_a);
    nb::exception<ShapeMismatch>(m, "ShapeMismatch", PyExc_ValueError);
    m.def("run", &run_plan, "plan"_a, "steps"_a, "inputs"_a, "states"_a.none(), "parameters"_a,
          "batch_sizes"_a = nb::none(), "packed"_a = false, "accumulate_into"_a = nb::none(), "threads"_a = 1, "isa"_a = "",
          "layer_axis"_a = false,
          "Run a plan on arrays of one library. Returns outputs, final states and reductions.\n\n"
          "A vector parameter may be given in pieces: a tuple of pieces, each a count and the terms of its sum, and of "
          "arrays. A term is the position of an array and its first element. With `layer_axis`, states are "
          "[1, rows, width].");
    nb::class_<FrozenPlan>(m, "FrozenPlan", "A plan with constant parameters, packed once for many runs.")
        .def(nb::init<std::shared_ptr<const Plan>, const Objects&, const std::string&>(), "plan"_a, "parameters"_a,
             "isa"_a = "")
        .def("run", &run_frozen, "steps"_a, "inputs"_a, "states"_a.none(), "batch_sizes"_a = nb::none(),
             "packed"_a = false, "accumulate_into"_a = nb::none(), "threads"_a = 1, "layer_axis"_a = false,
             "Run the plan; see `run`.");
    m.def("dropout", &dropout, "x"_a, "seed"_a, "keep_probability"_a, "scale"_a, "threads"_a = 1, "isa"_a = "",
          "Apply dropout to a vector: keep each element with a probability and scale it, or zero it.");
    bind_streams(m);
    m.def("chunk_steps", &chunk_steps, "rows"_a,
          "The number of steps in a chunk of this many rows. Sums restart with each chunk.");
    m.def("instruction_sets", &instruction_sets, "The instruction sets of this machine, best first.");
    m.def("operations", &operations, "The names of the supported operations except matrix products.");
    m.def("fma_peak", [](int threads, double seconds, const std::string& isa) {
        nb::gil_scoped_release release;
        return fma_peak(kernels<float>(isa), threads, seconds);
    }, "threads"_a, "seconds"_a = 0.2, "isa"_a = "", "Peak float32 FLOP/s of the multiply-add units.");
    m.def("release_memory", &release_memory, "Free pooled memory that is not in use. Returns the number of bytes.");
    m.def("core_to_core_latency", &core_to_core_latency, nb::call_guard<nb::gil_scoped_release>(),
          "Seconds until a thread sees another's write; 0 without a second thread.");
}
