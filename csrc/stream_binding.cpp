#include "stream_binding.hpp"

#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string>

#include "isa.hpp"
#include "stream.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace throughtime {
namespace {

template <class T> constexpr int type_number = sizeof(T) == 4 ? NPY_FLOAT : NPY_DOUBLE;
template <class T> constexpr const char* type_name = sizeof(T) == 4 ? "float32" : "float64";

PyArrayObject* array_or_null(nb::handle object) {
    return PyArray_Check(object.ptr()) ? reinterpret_cast<PyArrayObject*>(object.ptr()) : nullptr;
}

/// A description of an object, for error messages.
std::string describe(nb::handle object) {
    if (PyArrayObject* array = array_or_null(object)) {
        std::string shape;
        for (int k = 0; k < PyArray_NDIM(array); ++k)
            shape += (k ? ", " : "") + std::to_string(PyArray_DIM(array, k));
        const nb::object type = object.attr("dtype");
        return std::string(nb::str(type).c_str()) + " [" + shape + "]";
    }
    return Py_TYPE(object.ptr())->tp_name;
}

[[noreturn]] void refuse(const std::string& wanted, nb::handle given) {
    throw std::invalid_argument(wanted + ", got " + describe(given));
}

/// A strided array of one row or of all rows.
struct Strided {
    char* at;
    int64_t row, element;  // in bytes
};

/// The elements of an array [rows, width], or [width] if there is one row.
template <class T> std::optional<Strided> find(PyArrayObject* array, int64_t rows, int64_t width) {
    if (array == nullptr || PyArray_TYPE(array) != type_number<T> || !PyArray_ISNOTSWAPPED(array)) return {};
    const int axes = PyArray_NDIM(array);
    if (axes == 2 && PyArray_DIM(array, 0) == rows && PyArray_DIM(array, 1) == width)
        return Strided{PyArray_BYTES(array), PyArray_STRIDE(array, 0), PyArray_STRIDE(array, 1)};
    if (axes == 1 && rows == 1 && PyArray_DIM(array, 0) == width)
        return Strided{PyArray_BYTES(array), 0, PyArray_STRIDE(array, 0)};
    return {};
}

template <class T> void read(Rows<T> to, Strided from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        T* out = to.at + r * to.stride;
        const char* in = from.at + r * from.row;
        if (from.element == sizeof(T)) std::memcpy(out, in, width * sizeof(T));
        else
            for (int64_t j = 0; j < width; ++j) std::memcpy(out + j, in + j * from.element, sizeof(T));
    }
}

template <class T> void write(Strided to, Rows<const T> from, int64_t rows, int64_t width) {
    for (int64_t r = 0; r < rows; ++r) {
        char* out = to.at + r * to.row;
        const T* in = from.at + r * from.stride;
        if (to.element == sizeof(T)) std::memcpy(out, in, width * sizeof(T));
        else
            for (int64_t j = 0; j < width; ++j) std::memcpy(out + j * to.element, in + j, sizeof(T));
    }
}

/// Reads an integer of any NumPy type.
bool read_integer(const char* at, int type, int64_t& value) {
    auto as = [&]<class N>(N number) {
        std::memcpy(&number, at, sizeof number);
        value = static_cast<int64_t>(number);  // values that are too large become negative, hence invalid
        return true;
    };
    switch (type) {
        case NPY_BYTE: return as(npy_byte{});
        case NPY_UBYTE: return as(npy_ubyte{});
        case NPY_SHORT: return as(npy_short{});
        case NPY_USHORT: return as(npy_ushort{});
        case NPY_INT: return as(npy_int{});
        case NPY_UINT: return as(npy_uint{});
        case NPY_LONG: return as(npy_long{});
        case NPY_ULONG: return as(npy_ulong{});
        case NPY_LONGLONG: return as(npy_longlong{});
        case NPY_ULONGLONG: return as(npy_ulonglong{});
        default: return false;
    }
}

/// A stream as Python sees it. The GIL protects it, and `busy_` does while a long step runs without the GIL.
template <class T> class PythonStream {
public:
    using Layers = std::vector<std::pair<std::shared_ptr<const Plan>, std::vector<nb::object>>>;

    PythonStream(const Layers& layers, int64_t rows, nb::handle embedding, const std::string& isa, bool skip)
        : stream_(read_layers(layers), rows, kernels<T>(isa)), skip_(skip) {
        if (skip && (!embedding.is_none() || stream_.input_width() < stream_.output_width()))
            throw std::invalid_argument("a skip connection needs an input of numbers, at least as wide as the output");
        if (embedding.is_none()) return;
        PyArrayObject* table = matrix(embedding);
        vocabulary_size_ = PyArray_DIM(table, 0);
        embedding_.resize(checked_product(vocabulary_size_, stream_.input_width()));
        read<T>({embedding_.data(), stream_.input_width()}, *find<T>(table, vocabulary_size_, stream_.input_width()), vocabulary_size_,
                stream_.input_width());
    }

    nb::object step(nb::handle x, nb::handle out) {
        require_idle();
        const bool row_axis = vocabulary_size_ ? read_token_ids(x) : read_input(x);
        nb::object result = out.is_none() ? result_array(row_axis) : nb::borrow(out);
        const auto to = find<T>(array_or_null(result), stream_.rows(), stream_.output_width());
        if (!to || !PyArray_ISWRITEABLE(array_or_null(result)))
            refuse("out must be a writable " + shape(stream_.output_width()) + "", out);
        if (stream_.cost() < min_cost_to_release_gil) {
            stream_.step();
        } else {
            busy_ = true;
            {
                nb::gil_scoped_release release;
                stream_.step();
            }
            busy_ = false;
        }
        write_output(*to);
        return result;
    }

    /// Runs the steps of a block [steps, width], [steps] where the width is 1, or token ids [steps].
    nb::object process(nb::handle x) {
        require_idle();
        if (stream_.rows() != 1)
            throw std::invalid_argument("process takes a block of one stream, but there are " +
                                        std::to_string(stream_.rows()) + " rows: make a stream with one row");
        PyArrayObject* array = array_or_null(x);
        const int axes = array ? PyArray_NDIM(array) : 0;
        const bool ids = vocabulary_size_ && axes == 1 && PyArray_ISNOTSWAPPED(array) &&
                         PyTypeNum_ISINTEGER(PyArray_TYPE(array));
        const int64_t steps = axes ? PyArray_DIM(array, 0) : 0, width = stream_.input_width();
        std::optional<Strided> from;
        if (ids) {
            from = Strided{PyArray_BYTES(array), PyArray_STRIDE(array, 0), 0};
            for (int64_t k = 0; k < steps; ++k) token_id(from->at + k * from->row, PyArray_TYPE(array));
        } else if (!vocabulary_size_ && axes == 1 && width == 1 && PyArray_TYPE(array) == type_number<T> &&
                   PyArray_ISNOTSWAPPED(array)) {
            from = Strided{PyArray_BYTES(array), PyArray_STRIDE(array, 0), sizeof(T)};
        } else if (!vocabulary_size_ && axes == 2) {
            from = find<T>(array, steps, width);
        }
        if (!from)
            refuse(vocabulary_size_ ? "a block of token ids must be an integer array [steps]"
                                    : std::string("a block must be a ") + type_name<T> + " array [steps, " +
                                          std::to_string(width) + "]" + (width == 1 ? " or [steps]" : ""),
                   x);
        const bool flat = axes == 1 && !ids && stream_.output_width() == 1;
        const npy_intp sizes[] = {steps, stream_.output_width()};
        nb::object result = nb::steal(PyArray_SimpleNew(flat ? 1 : 2, sizes, type_number<T>));
        if (!result.is_valid()) throw nb::python_error();
        Strided to{PyArray_BYTES(array_or_null(result)), 0, sizeof(T)};
        const int type = PyArray_TYPE(array);
        auto run = [&] {
            for (int64_t k = 0; k < steps; ++k) {
                Strided at = *from;
                at.at += k * from->row;
                if (ids) embed(0, token_id(at.at, type));
                else read<T>(stream_.input(), at, 1, width);
                stream_.step();
                write_output(to);
                to.at += stream_.output_width() * sizeof(T);
            }
        };
        if (stream_.cost() * static_cast<double>(steps) < min_cost_to_release_gil) {
            run();
        } else {
            busy_ = true;
            try {
                nb::gil_scoped_release release;
                run();
            } catch (...) {  // another thread changed the ids
                busy_ = false;
                throw;
            }
            busy_ = false;
        }
        return result;
    }

    nb::object state(int64_t k) const {
        require_idle();
        const int64_t width = stream_.state_widths().at(k);
        nb::object result = empty(width, true);
        const Rows<T> from = stream_.state(k);
        write<T>(*find<T>(array_or_null(result), stream_.rows(), width), {from.at, from.stride}, stream_.rows(), width);
        return result;
    }

    void set_state(int64_t k, nb::handle value) {
        require_idle();
        const int64_t width = stream_.state_widths().at(k);
        const auto from = find<T>(array_or_null(value), stream_.rows(), width);
        if (!from) refuse("a state must be a " + shape(width), value);
        read<T>(stream_.state(k), *from, stream_.rows(), width);
    }

private:
    /// Below this many multiply-adds per step, releasing the GIL costs more (about 2 microseconds) than other threads
    /// gain.
    static constexpr int64_t min_cost_to_release_gil = 100'000;

    Stream<T> stream_;
    bool skip_;  // whether the input is added to the output
    int64_t vocabulary_size_ = 0;       // 0: the input is vectors
    std::vector<T> embedding_;  // [vocabulary size, input width]
    bool busy_ = false;
    // The last two results: the caller often still holds the previous one during a step.
    nb::object results_[2];
    int next_result_ = 0;

    void require_idle() const {
        if (busy_) throw std::runtime_error("another thread is running a step of this stream");
    }

    static std::vector<StreamLayer<T>> read_layers(const Layers& layers) {
        if (PyArray_API == nullptr && _import_array() < 0) throw nb::python_error();
        std::vector<StreamLayer<T>> result;
        for (const auto& [plan, parameters] : layers) {
            if (parameters.size() != plan->parameters.size())
                throw std::invalid_argument("the number of a layer's parameters differs from its plan's");
            StreamLayer<T> layer{plan.get(), {}};
            for (size_t k = 0; k < parameters.size(); ++k) {
                const auto [rows, columns] = plan->parameters[k];
                PyArrayObject* array = array_or_null(parameters[k]);
                if (!find<T>(array, columns ? rows : 1, columns ? columns : rows) || !PyArray_ISCARRAY_RO(array))
                    refuse("a parameter must be a contiguous array of the plan's shape", parameters[k]);
                layer.parameters.push_back(static_cast<const T*>(PyArray_DATA(array)));
            }
            result.push_back(std::move(layer));
        }
        return result;
    }

    PyArrayObject* matrix(nb::handle embedding) const {
        PyArrayObject* table = array_or_null(embedding);
        if (!table || PyArray_NDIM(table) != 2 || !find<T>(table, PyArray_DIM(table, 0), stream_.input_width()))
            refuse("embedding must be a matrix as wide as the first layer's input", embedding);
        return table;
    }

    std::string shape(int64_t width) const {
        const std::string rows = std::to_string(stream_.rows()), columns = std::to_string(width);
        return std::string(type_name<T>) + " array [" + rows + ", " + columns + "]" +
               (stream_.rows() == 1 ? " or [" + columns + "]" : "");
    }

    /// An earlier result without other references, or a new array.
    nb::object result_array(bool row_axis) {
        nb::object& kept = results_[next_result_ ^= 1];
        PyArrayObject* array = reinterpret_cast<PyArrayObject*>(kept.ptr());
        const bool idle = array && Py_REFCNT(array) == 1 && PyArray_NDIM(array) == 1 + row_axis &&
                          PyArray_ISCARRAY(array) && find<T>(array, stream_.rows(), stream_.output_width());
        if (!idle) kept = empty(stream_.output_width(), row_axis);
        return kept;
    }

    nb::object empty(int64_t width, bool row_axis) const {
        const npy_intp sizes[] = {stream_.rows(), width};
        nb::object result = nb::steal(PyArray_SimpleNew(row_axis ? 2 : 1, sizes + !row_axis, type_number<T>));
        if (!result.is_valid()) throw nb::python_error();
        return result;
    }

    /// Reads a step's input. Returns whether it has an axis of rows.
    bool read_input(nb::handle x) {
        PyArrayObject* array = array_or_null(x);
        const auto from = find<T>(array, stream_.rows(), stream_.input_width());
        if (!from) refuse("a step takes a " + shape(stream_.input_width()), x);
        read<T>(stream_.input(), *from, stream_.rows(), stream_.input_width());
        return PyArray_NDIM(array) == 2;
    }

    /// Reads a step's token ids, an array [rows] or one integer. Returns whether it has an axis of rows.
    bool read_token_ids(nb::handle x) {
        PyArrayObject* array = array_or_null(x);
        if (!array && stream_.rows() == 1 && PyIndex_Check(x.ptr())) {
            const Py_ssize_t token = PyNumber_AsSsize_t(x.ptr(), nullptr);
            if (token == -1 && PyErr_Occurred()) throw nb::python_error();
            embed(0, token);
            return false;
        }
        const bool fits = array && PyArray_ISNOTSWAPPED(array) && PyTypeNum_ISINTEGER(PyArray_TYPE(array)) &&
                          ((PyArray_NDIM(array) == 1 && PyArray_DIM(array, 0) == stream_.rows()) ||
                           (PyArray_NDIM(array) == 0 && stream_.rows() == 1));
        if (!fits)
            refuse("a step takes token ids, an integer array [" + std::to_string(stream_.rows()) +
                       "]" + (stream_.rows() == 1 ? " or one integer" : ""),
                   x);
        const bool row_axis = PyArray_NDIM(array) == 1;
        for (int64_t r = 0; r < stream_.rows(); ++r) {
            embed(r, token_id(PyArray_BYTES(array) + (row_axis ? r * PyArray_STRIDE(array, 0) : 0),
                              PyArray_TYPE(array)));
        }
        return row_axis;
    }

    /// The token id at an address, of any integer type.
    int64_t token_id(const char* at, int type) const {
        int64_t token = -1;
        read_integer(at, type, token);
        require_token_id(token);
        return token;
    }

    void require_token_id(int64_t token) const {
        if (token < 0 || token >= vocabulary_size_)
            throw std::invalid_argument("token ids must be from 0 to " + std::to_string(vocabulary_size_ - 1) + ", got " +
                                        std::to_string(token));
    }

    /// Writes the output, with the input added to it where there is a skip connection.
    void write_output(Strided to) {
        write<T>(to, stream_.output(), stream_.rows(), stream_.output_width());
        if (!skip_) return;
        for (int64_t r = 0; r < stream_.rows(); ++r)
            for (int64_t j = 0; j < stream_.output_width(); ++j) {
                char* at = to.at + r * to.row + j * to.element;
                T sum;
                std::memcpy(&sum, at, sizeof sum);
                sum += stream_.input().at[r * stream_.input().stride + j];
                std::memcpy(at, &sum, sizeof sum);
            }
    }

    void embed(int64_t row, int64_t token) {
        require_token_id(token);
        const Rows<T> to = stream_.input();
        std::memcpy(to.at + row * to.stride, embedding_.data() + token * stream_.input_width(),
                    stream_.input_width() * sizeof(T));
    }
};

template <class T> void bind_stream(nb::module_& m, const char* name) {
    using Bound = PythonStream<T>;
    nb::class_<Bound>(m, name, "A stack of plans that runs one step at a time and keeps its state.")
        .def(nb::init<const typename Bound::Layers&, int64_t, nb::handle, const std::string&, bool>(), "layers"_a,
             "rows"_a, "embedding"_a.none(), "isa"_a, "skip"_a = false)
        .def("step", &Bound::step, "x"_a.none(), "out"_a.none(), "Run one step and return the last layer's output.")
        .def("process", &Bound::process, "x"_a.none(), "Run the steps of a block and return the output of each.")
        .def("state", &Bound::state, "k"_a, "A copy of state `k`, counted over all layers: [rows, width].")
        .def("set_state", &Bound::set_state, "k"_a, "value"_a);
}

}  // namespace

void bind_streams(nb::module_& m) {
    bind_stream<float>(m, "Stream32");
    bind_stream<double>(m, "Stream64");
}

}  // namespace throughtime
