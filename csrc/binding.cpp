/// The Python module throughtime._native: plans, and runs on arrays that Python owns.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
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

#include "isa.hpp"
#include "peak.hpp"
#include "plan.hpp"
#include "run.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace throughtime {
namespace {

using PlacePair = std::pair<int64_t, int64_t>;
Place place(PlacePair p) { return {p.first, p.second}; }

template <class T> using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T> using Arrays = std::vector<Array<T>>;
template <class T> using Given = Arrays<const T>;

/// The array's data, if it has the shape that is wanted.
template <class T> T* data(const Array<T>& array, std::initializer_list<int64_t> shape, const char* what) {
    bool fits = array.ndim() == shape.size();
    size_t axis = 0;
    for (int64_t size : shape) fits = fits && static_cast<int64_t>(array.shape(axis++)) == size;
    if (!fits) throw std::invalid_argument(std::string("an array of ") + what + " does not have the shape it must have");
    return array.data();
}

void check_count(size_t given, size_t wanted, const char* what) {
    if (given != wanted)
        throw std::invalid_argument("the program has " + std::to_string(wanted) + " " + what + "; given " +
                                    std::to_string(given));
}

template <class T>
std::vector<T*> sequences(const Arrays<T>& arrays, const std::vector<int64_t>& widths, int64_t steps, int64_t batch,
                          const char* what) {
    check_count(arrays.size(), widths.size(), what);
    std::vector<T*> result;
    for (size_t k = 0; k < widths.size(); ++k) result.push_back(data(arrays[k], {steps, batch, widths[k]}, what));
    return result;
}

template <class T>
std::vector<T*> rows(const Arrays<T>& arrays, const std::vector<int64_t>& widths, int64_t batch, const char* what) {
    check_count(arrays.size(), widths.size(), what);
    std::vector<T*> result;
    for (size_t k = 0; k < widths.size(); ++k) result.push_back(data(arrays[k], {batch, widths[k]}, what));
    return result;
}

template <class T>
std::vector<T*> shaped(const Arrays<T>& arrays, const std::vector<std::array<int64_t, 2>>& shapes, const char* what) {
    check_count(arrays.size(), shapes.size(), what);
    std::vector<T*> result;
    for (size_t k = 0; k < shapes.size(); ++k)
        result.push_back(shapes[k][1] == 0 ? data(arrays[k], {shapes[k][0]}, what)
                                           : data(arrays[k], {shapes[k][0], shapes[k][1]}, what));
    return result;
}

void check_batch_sizes(const std::vector<int64_t>& sizes, int64_t steps, int64_t batch) {
    check_count(sizes.size(), static_cast<size_t>(steps), "batch sizes");
    int64_t before = batch;
    for (int64_t size : sizes) {
        if (size < 0 || size > before)
            throw std::invalid_argument("batch sizes go down from the number of rows, none below 0");
        before = size;
    }
}

/// The weights of a plan, packed for one instruction set.
template <class T> struct PackedWeights {
    std::shared_ptr<const Plan> plan;
    std::string instruction_set;
    Weights<T> weights;
};

template <class T>
std::shared_ptr<PackedWeights<T>> pack(std::shared_ptr<const Plan> plan, const Given<T>& parameters,
                                       const std::string& isa) {
    const auto pointers = shaped(parameters, plan->parameters, "parameters");
    return std::make_shared<PackedWeights<T>>(
        PackedWeights<T>{plan, isa, Weights<T>(*plan, kernels<T>(isa), pointers)});
}

template <class T>
void run_plan(std::shared_ptr<const Plan> plan, int64_t steps, int64_t batch, const Given<T>& inputs,
              const Given<T>& states, const Given<T>& parameters, const Arrays<T>& outputs, const Arrays<T>& finals,
              const Arrays<T>& reductions, const std::optional<std::vector<int64_t>>& batch_sizes, int threads,
              const std::string& isa, const PackedWeights<T>* packed) {
    if (steps < 0 || batch < 0) throw std::invalid_argument("there are less than no steps or rows");
    if (batch_sizes) check_batch_sizes(*batch_sizes, steps, batch);
    if (packed && (packed->plan != plan || packed->instruction_set != isa))
        throw std::invalid_argument("these weights were packed for another plan or instruction set");
    Call<T> call{steps, batch, batch_sizes ? batch_sizes->data() : nullptr,
                 sequences(inputs, plan->inputs, steps, batch, "inputs"), rows(states, plan->states, batch, "states"),
                 shaped(parameters, plan->parameters, "parameters"),
                 sequences(outputs, plan->outputs, steps, batch, "outputs"),
                 rows(finals, plan->states, batch, "final states"),
                 shaped(reductions, plan->reductions, "reductions")};
    const Kernels<T>& used = kernels<T>(isa);
    nb::gil_scoped_release release;
    run(*plan, used, call, packed ? &packed->weights : nullptr, threads);
}

template <class T> void bind_scalar(nb::module_& m, const char* weights_name) {
    nb::class_<PackedWeights<T>>(m, weights_name, "The weights of a plan, packed once for many runs.");
    m.def("pack", &pack<T>, "plan"_a, "parameters"_a.noconvert(), "isa"_a = "",
          "Packs a plan's matrix parameters.");
    m.def("run", &run_plan<T>, "plan"_a, "steps"_a, "batch"_a, "inputs"_a.noconvert(), "states"_a.noconvert(),
          "parameters"_a.noconvert(), "outputs"_a.noconvert(), "finals"_a.noconvert(), "reductions"_a.noconvert(),
          "batch_sizes"_a = nb::none(), "threads"_a = 1, "isa"_a = "", "weights"_a = nb::none(),
          "Runs a plan; writes to outputs, final states and reductions.");
}

}  // namespace
}  // namespace throughtime

NB_MODULE(_native, m) {
    using namespace throughtime;
    m.doc() = "The native engine: runs plans of programs on the CPU.";
    nb::class_<Plan>(m, "Plan", "A program made ready for the machine; every call checks what it is given.")
        .def(nb::init<std::vector<int64_t>, std::vector<int64_t>, std::vector<int64_t>,
                      std::vector<std::array<int64_t, 2>>, std::vector<std::array<int64_t, 2>>, bool>(),
             "inputs"_a, "outputs"_a, "states"_a, "parameters"_a, "reductions"_a, "reverse"_a)
        .def("add_buffer", &Plan::add_buffer, "home"_a, "index"_a, "width"_a, "value"_a = 0.0)
        .def("add_stage", &Plan::add_stage, "phase"_a)
        .def("add_linear", [](Plan& plan, int64_t parameter, bool transposed, PlacePair to, PlacePair from) {
                plan.add_linear(parameter, transposed, place(to), place(from));
            }, "parameter"_a, "transposed"_a, "to"_a, "source"_a)
        .def("add_operation", [](Plan& plan, const std::string& name, int64_t width, PlacePair to,
                                 const std::vector<PlacePair>& from) {
                std::vector<Place> sources;
                for (const PlacePair& p : from) sources.push_back(place(p));
                plan.add_operation(name, width, place(to), sources);
            }, "name"_a, "width"_a, "to"_a, "sources"_a)
        .def("add_term", [](Plan& plan, int64_t reduction, const std::vector<PlacePair>& values) {
                if (values.size() == 1) plan.add_term(reduction, place(values[0]));
                else if (values.size() == 2) plan.add_outer(reduction, place(values[0]), place(values[1]));
                else throw std::invalid_argument("a term has one value or two");
            }, "reduction"_a, "values"_a);
    bind_scalar<float>(m, "Weights32");
    bind_scalar<double>(m, "Weights64");
    m.def("instruction_sets", &instruction_sets, "The instruction sets of this machine, best first.");
    m.def("operations", [] {
        std::vector<std::string> names;
        const auto& table = kernels<float>("baseline");
        for (int k = 0; k < table.operation_count; ++k) names.emplace_back(table.operations[k].name);
        return names;
    }, "The names of the pointwise operations that the machine has.");
    m.def("fma_peak", [](int threads, double seconds, const std::string& isa) {
        nb::gil_scoped_release release;
        return fma_peak(kernels<float>(isa), threads, seconds);
    }, "threads"_a, "seconds"_a = 0.2, "isa"_a = "", "Multiply-adds that the machine can do, as 32-bit FLOP a second.");
}
