#include "arrays.hpp"

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include <algorithm>
#include <memory>
#include <string>

#include "dlpack.hpp"
#include "memory.hpp"

namespace nb = nanobind;

namespace throughtime {
namespace {

/// The names that tensors are asked by, made once: a call with few steps is hardly more than such questions.
struct Names {
    PyObject* exchange = PyUnicode_InternFromString(dlpack::attribute);
    PyObject* is_neg = PyUnicode_InternFromString("is_neg");
    PyObject* new_empty = PyUnicode_InternFromString("new_empty");
};

const Names& names() {
    static const Names made;
    return made;
}

nb::object call(PyObject* name, PyObject* const* object_and_arguments, size_t count) {
    PyObject* found = PyObject_VectorcallMethod(name, object_and_arguments, count, nullptr);
    if (!found) throw nb::python_error();
    return nb::steal(found);
}

/// How a type's objects are looked at without Python; null if it does not say, as torch before 2.10.
const dlpack::Exchange* exchange_of(PyTypeObject* type) {
    PyObject* capsule = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange);
    if (!capsule) {
        PyErr_Clear();
        return nullptr;
    }
    const nb::object owner = nb::steal(capsule);
    const auto* found = static_cast<const dlpack::Exchange*>(PyCapsule_GetPointer(capsule, dlpack::capsule));
    if (!found) PyErr_Clear();
    return found && found->version.major == 1 && found->look ? found : nullptr;
}

bool one_after_the_other(int axes, const int64_t* shape, const int64_t* strides) {
    int64_t next = 1;
    for (int k = axes - 1; k >= 0; next *= shape[k], --k) {
        if (shape[k] == 0) return true;
        if (shape[k] != 1 && strides[k] != next) return false;
    }
    return true;
}

/// A block of memory that is handed over as a tensor, and is given back with the last tensor that has it. Made this way
/// it is there sooner than by a call of Python; torch makes none of these larger in place, as it does its own.
struct Lent {
    dlpack::Managed managed{};
    std::array<int64_t, 3> shape, strides;
    Block block;

    Lent(const Shape& sizes, int bits) {
        const int axes = static_cast<int>(sizes.size());
        int64_t count = 1;
        for (int k = axes - 1; k >= 0; --k) {
            shape[k] = sizes[k];
            strides[k] = count;
            count = checked_product(count, sizes[k]);
        }
        block = Block(checked_product(count, bits / 8));
        managed.version = {1, 0};
        managed.owner = this;
        managed.release = [](dlpack::Managed* self) { delete static_cast<Lent*>(self->owner); };
        managed.tensor = {block.memory(), {dlpack::cpu, 0}, axes, {dlpack::floating, static_cast<uint8_t>(bits), 1},
                          shape.data(), strides.data(), 0};
    }
};

PyArrayObject* numpys(nb::handle array) { return reinterpret_cast<PyArrayObject*>(array.ptr()); }

std::string text(nb::handle object) { return nb::str(object).c_str(); }

}  // namespace

Arrays::Arrays(nb::handle like) : like_(nb::borrow(like)) {
    if (PyArray_API == nullptr && _import_array() < 0) throw nb::python_error();
    is_numpy_ = PyArray_Check(like.ptr());
    bits_ = look(like).bits;
    if (bits_ != 32 && bits_ != 64)
        throw Misfit("arrays are of float32 or float64, and on the CPU, not " + text(like.attr("dtype")));
}

std::pair<nb::object, void*> Arrays::fresh(const Shape& shape) const {
    if (is_numpy_) {
        const std::vector<npy_intp> sizes(shape.begin(), shape.end());
        PyObject* array = PyArray_SimpleNew(static_cast<int>(sizes.size()), sizes.data(),
                                            is_double() ? NPY_DOUBLE : NPY_FLOAT);
        if (!array) throw nb::python_error();
        return {nb::steal(array), PyArray_DATA(numpys(array))};
    }
    if (const dlpack::Exchange* how = exchange(like_); how && how->to_python) {
        auto lent = std::make_unique<Lent>(shape, bits_);
        void* array = nullptr;
        if (how->to_python(&lent->managed, &array) != 0) throw nb::python_error();
        return {nb::steal(static_cast<PyObject*>(array)), lent.release()->block.memory()};
    }
    // The sizes one by one: torch reads them sooner than a tuple.
    std::vector<nb::object> sizes;
    std::vector<PyObject*> given{like_.ptr()};
    for (int64_t size : shape) {
        sizes.push_back(nb::steal(PyLong_FromLongLong(size)));
        if (!sizes.back().is_valid()) throw nb::python_error();
        given.push_back(sizes.back().ptr());
    }
    nb::object array = call(names().new_empty, given.data(), given.size());
    void* at = elements_of(array).at;
    return {std::move(array), at};
}

void* Arrays::read(nb::handle array, const Shape& shape, bool whole) {
    const Look found = fitting(array, shape, whole);
    alive_.push_back(found.straight ? nb::borrow(array) : straightened(array));
    return found.straight ? found.at : look(alive_.back()).at;
}

void* Arrays::written(nb::handle array, const Shape& shape) {
    const Look found = fitting(array, shape);
    if (!found.straight) throw Misfit("an array that is written to must be contiguous");
    alive_.push_back(nb::borrow(array));
    return found.at;
}

int64_t Arrays::size(nb::handle array, int axis) const {
    const Look found = look(array);
    if (axis >= found.axes) throw Misfit("an array has " + std::to_string(found.axes) + " axes, which are too few");
    return found.shape[axis];
}

const dlpack::Exchange* Arrays::exchange(nb::handle array) const {
    PyTypeObject* type = Py_TYPE(array.ptr());
    if (type != type_) {
        type_ = type;
        exchange_ = exchange_of(type);
    }
    return exchange_;
}

bool Arrays::Look::lacks_memory() const {
    const auto end = shape.begin() + std::min(axes, 3);
    return !at && std::find(shape.begin(), end, 0) == end;
}

Arrays::Look Arrays::look(nb::handle array) const {
    Look found = elements_of(array);
    if (found.lacks_memory()) found.straight = false;
    // The numbers of a negative view are the negatives of those in memory.
    if (found.straight && !PyArray_Check(array.ptr())) {
        PyObject* of = array.ptr();
        found.straight = call(names().is_neg, &of, 1).ptr() == Py_False;
    }
    return found;
}

Arrays::Look Arrays::elements_of(nb::handle array) const {
    Look found;
    if (PyArray_Check(array.ptr())) {
        PyArrayObject* of = numpys(array);
        const int type = PyArray_ISNOTSWAPPED(of) ? PyArray_TYPE(of) : NPY_VOID;
        found.at = PyArray_DATA(of);
        found.bits = type == NPY_FLOAT ? 32 : type == NPY_DOUBLE ? 64 : 0;
        found.whole = PyTypeNum_ISSIGNED(type) && PyArray_ITEMSIZE(of) == sizeof(int64_t);
        found.axes = PyArray_NDIM(of);
        std::copy_n(PyArray_DIMS(of), std::min(found.axes, 3), found.shape.begin());
        found.straight = PyArray_ISCARRAY_RO(of);
        return found;
    }
    if (const dlpack::Exchange* how = exchange(array)) {
        dlpack::Tensor tensor;
        if (how->look(array.ptr(), &tensor) != 0) throw nb::python_error();
        found.at = static_cast<char*>(tensor.data) + tensor.byte_offset;
        const bool usable = tensor.device.type == dlpack::cpu && tensor.type.lanes == 1;
        found.bits = usable && tensor.type.code == dlpack::floating ? tensor.type.bits : 0;
        found.whole = usable && tensor.type.code == dlpack::whole && tensor.type.bits == 64;
        found.axes = tensor.axes;
        std::copy_n(tensor.shape, std::min(found.axes, 3), found.shape.begin());
        found.straight = one_after_the_other(tensor.axes, tensor.shape, tensor.strides);
    } else {
        const std::string type = text(array.attr("dtype"));
        const bool usable = nb::cast<bool>(array.attr("is_cpu"));
        found.at = reinterpret_cast<void*>(nb::cast<uintptr_t>(array.attr("data_ptr")()));
        found.bits = !usable ? 0 : type == "torch.float32" ? 32 : type == "torch.float64" ? 64 : 0;
        found.whole = usable && type == "torch.int64";
        const nb::tuple shape(array.attr("shape"));
        found.axes = static_cast<int>(shape.size());
        for (int k = 0; k < std::min(found.axes, 3); ++k) found.shape[k] = nb::cast<int64_t>(shape[k]);
        found.straight = nb::cast<bool>(array.attr("is_contiguous")());
    }
    return found;
}

Arrays::Look Arrays::fitting(nb::handle array, const Shape& shape, bool whole) const {
    if (PyArray_Check(array.ptr()) != is_numpy_) refuse(array, shape, whole);
    const Look found = look(array);
    if ((whole ? !found.whole : found.bits != bits_) || found.axes != static_cast<int>(shape.size()) ||
        !std::equal(shape.begin(), shape.end(), found.shape.begin()))
        refuse(array, shape, whole);
    return found;
}

nb::object Arrays::straightened(nb::handle array) const {
    if (!is_numpy_) {
        if (nb::cast<bool>(array.attr("_is_zerotensor")())) return array.attr("detach")().attr("clone")();
        if (elements_of(array).lacks_memory()) throw Misfit("a tensor of shape " + text(array.attr("shape")) + " has no memory");
        return array.attr("detach")().attr("contiguous")().attr("resolve_neg")();
    }
    PyObject* copy = PyArray_NewCopy(numpys(array), NPY_CORDER);
    if (!copy) throw nb::python_error();
    return nb::steal(copy);
}

void Arrays::refuse(nb::handle array, const Shape& shape, bool whole) const {
    auto told = [](nb::handle array) {
        const nb::object device = nb::getattr(array, "device", nb::str("cpu"));
        return text(nb::getattr(array, "dtype", nb::str("no type"))) + " of " + Py_TYPE(array.ptr())->tp_name +
               " on " + text(device);
    };
    nb::list wanted;
    for (int64_t size : shape) wanted.append(size);
    throw Misfit("an array of shape " + text(nb::tuple(nb::getattr(array, "shape", nb::tuple()))) + ", " +
                 told(array) + ", was given where the program takes " + text(nb::tuple(wanted)) +
                 (whole ? " of int64" : "") + ", and others are " + told(like_));
}

}  // namespace throughtime
