/// The Python module throughtime._native: plans, and runs on arrays that Python owns.
///
/// Arrays come as addresses, since that is a tenth of the cost of any exchange protocol; the Python side (one
/// function) has checked type, shape and layout. What a plan does with them is checked here, in plan.cpp.
#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>

#include "calendar.hpp"
#include "isa.hpp"
#include "peak.hpp"
#include "plan.hpp"
#include "run.hpp"
#include "stream_binding.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace throughtime {
namespace {

using PlacePair = std::pair<int64_t, int64_t>;
using Addresses = std::vector<uintptr_t>;

Place place(PlacePair p) { return {p.first, p.second}; }

template <class T> std::vector<T*> pointers(const Addresses& addresses, size_t wanted, const char* what) {
    if (addresses.size() != wanted)
        throw std::invalid_argument("the plan has " + std::to_string(wanted) + " " + what + "; given " +
                                    std::to_string(addresses.size()));
    std::vector<T*> result;
    for (uintptr_t address : addresses) {
        if (address % alignof(T) != 0) throw std::invalid_argument(std::string(what) + " are not aligned");
        result.push_back(reinterpret_cast<T*>(address));
    }
    return result;
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

/// The weights of a plan, packed once for many runs on one instruction set.
template <class T> struct PackedWeights {
    PackedWeights(std::shared_ptr<const Plan> plan_, const Addresses& parameters, const std::string& isa)
        : plan(std::move(plan_)), used(kernels<T>(isa)),
          weights(*plan, used, pointers<const T>(parameters, plan->parameters.size(), "parameters")) {}

    std::shared_ptr<const Plan> plan;
    const Kernels<T>& used;
    Weights<T> weights;
};

template <class T>
void run_plan(const std::shared_ptr<const Plan>& plan, int64_t steps, int64_t batch, const Addresses& inputs,
              const Addresses& states, const Addresses& parameters, const Addresses& outputs, const Addresses& finals,
              const Addresses& reductions, const std::optional<std::vector<int64_t>>& batch_sizes, int threads,
              const std::string& isa, const PackedWeights<T>* weights, bool packed, bool reductions_begun) {
    if (steps < 0 || batch < 0) throw std::invalid_argument("there are less than no steps or rows");
    if (batch_sizes) check_batch_sizes(*batch_sizes, steps, batch);
    else if (packed) throw std::invalid_argument("packed arrays come with batch sizes");
    const Kernels<T>& used = kernels<T>(isa);
    if (weights && (weights->plan != plan || &weights->used != &used))
        throw std::invalid_argument("these weights were packed for another plan or instruction set");
    const Call<T> call{steps,
                       batch,
                       batch_sizes ? batch_sizes->data() : nullptr,
                       packed,
                       reductions_begun,
                       pointers<const T>(inputs, plan->inputs.size(), "inputs"),
                       pointers<const T>(states, plan->states.size(), "states"),
                       pointers<const T>(parameters, plan->parameters.size(), "parameters"),
                       pointers<T>(outputs, plan->outputs.size(), "outputs"),
                       pointers<T>(finals, plan->states.size(), "final states"),
                       pointers<T>(reductions, plan->reductions.size(), "reductions")};
    nb::gil_scoped_release release;
    run(*plan, used, call, weights ? &weights->weights : nullptr, threads);
}

void add_linear(Plan& plan, int64_t parameter, bool transposed, PlacePair to, PlacePair from,
                std::optional<PlacePair> start) {
    plan.add_linear(parameter, transposed, place(to), place(from), start ? std::optional(place(*start)) : std::nullopt);
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

template <class T> void bind_scalar(nb::module_& m, const char* weights, const char* run_name) {
    nb::class_<PackedWeights<T>>(m, weights, "The weights of a plan, packed once for many runs.")
        .def(nb::init<std::shared_ptr<const Plan>, const Addresses&, const std::string&>(), "plan"_a, "parameters"_a,
             "isa"_a = "");
    m.def(run_name, &run_plan<T>, "plan"_a, "steps"_a, "batch"_a, "inputs"_a, "states"_a, "parameters"_a, "outputs"_a,
          "finals"_a, "reductions"_a, "batch_sizes"_a = nb::none(), "threads"_a = 1, "isa"_a = "",
          "weights"_a = nb::none(), "packed"_a = false, "reductions_begun"_a = false,
          "Runs a plan on contiguous arrays at these addresses; writes outputs, final states and reductions.");
}

}  // namespace
}  // namespace throughtime

NB_MODULE(_native, m) {
    using namespace throughtime;
    m.doc() = "The native engine: runs plans of programs on the CPU.";
    using Shapes = std::vector<std::array<int64_t, 2>>;
    using Widths = std::vector<int64_t>;
    nb::class_<Plan>(m, "Plan", "A program made ready for the machine; every call checks what it is given.")
        .def(nb::init<Widths, Widths, Widths, Shapes, Shapes, bool>(), "inputs"_a, "outputs"_a, "states"_a,
             "parameters"_a, "reductions"_a, "reverse"_a)
        .def("add_buffer", &Plan::add_buffer, "home"_a, "index"_a, "width"_a, "value"_a)
        .def("add_stage", &Plan::add_stage, "phase"_a)
        .def("add_linear", &add_linear, "parameter"_a, "transposed"_a, "to"_a, "source"_a, "start"_a)
        .def("add_operation", &add_operation, "name"_a, "width"_a, "to"_a, "sources"_a)
        .def("add_term", &add_term, "reduction"_a, "values"_a);
    bind_scalar<float>(m, "Weights32", "run32");
    bind_scalar<double>(m, "Weights64", "run64");
    bind_streams(m);
    m.def("steps_together", &steps_together, "rows"_a,
          "How many steps of so many rows make a chunk, of which each has sums of its own.");
    m.def("instruction_sets", &instruction_sets, "The instruction sets of this machine, best first.");
    m.def("operations", &operations, "The names of the pointwise operations that the machine has.");
    m.def("fma_peak", [](int threads, double seconds, const std::string& isa) {
        nb::gil_scoped_release release;
        return fma_peak(kernels<float>(isa), threads, seconds);
    }, "threads"_a, "seconds"_a = 0.2, "isa"_a = "", "32-bit FLOP a second that the multiply-add units can do.");
}
