#include "arrays.hpp"

#define NPY_NO_DEPRECATED_API NPY_2_0_API_VERSION
#include <numpy/arrayobject.h>

#include <algorithm>
#include <memory>
#include <string>

#include "memory.hpp"
#include "third_party/dlpack/dlpack.h"

namespace nb = nanobind;

namespace throughtime {
namespace {

/// Interned attribute names: looking them up dominates a call with few steps.
struct Names {
    PyObject* exchange = PyUnicode_InternFromString("__dlpack_c_exchange_api__");
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

/// The DLPack C exchange API of a type, or null if it has none, such as torch before 2.10.
const DLPackExchangeAPI* exchange_of(PyTypeObject* type) {
    PyObject* capsule = PyObject_GetAttr(reinterpret_cast<PyObject*>(type), names().exchange);
    if (!capsule) {
        PyErr_Clear();
        return nullptr;
    }
    const nb::object owner = nb::steal(capsule);
    const auto* found = static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule, "dlpack_exchange_api"));
    if (!found) PyErr_Clear();
    return found && found->header.version.major == DLPACK_MAJOR_VERSION && found->dltensor_from_py_object_no_sync
               ? found
               : nullptr;
}

bool is_contiguous(int axes, const int64_t* shape, const int64_t* strides) {
    int64_t next = 1;
    for (int k = axes - 1; k >= 0; next *= shape[k], --k) {
        if (shape[k] == 0) return true;
        if (shape[k] != 1 && strides[k] != next) return false;
    }
    return true;
}

/// A memory block owned by a tensor and freed with the tensor's storage. Creating a tensor this way is faster than a
/// call into Python, and torch never resizes such a tensor in place.
struct OwnedTensor {
    DLManagedTensorVersioned managed{};
    std::array<int64_t, 3> shape, strides;
    Block block;

    OwnedTensor(const Shape& sizes, int bits) {
        const int ndim = static_cast<int>(sizes.size());
        int64_t count = 1;
        for (int k = ndim - 1; k >= 0; --k) {
            shape[k] = sizes[k];
            strides[k] = count;
            count = checked_product(count, sizes[k]);
        }
        block = Block(checked_product(count, bits / 8));
        managed.version = {DLPACK_MAJOR_VERSION, 0};
        managed.manager_ctx = this;
        managed.deleter = [](DLManagedTensorVersioned* self) { delete static_cast<OwnedTensor*>(self->manager_ctx); };
        managed.dl_tensor = {block.memory(),  {kDLCPU, 0},    ndim, {kDLFloat, static_cast<uint8_t>(bits), 1},
                             shape.data(), strides.data(), 0};
    }
};

PyArrayObject* as_numpy(nb::handle array) { return reinterpret_cast<PyArrayObject*>(array.ptr()); }

std::string text(nb::handle object) { return nb::str(object).c_str(); }

}  // namespace

Arrays::Arrays(nb::handle like) : like_(nb::borrow(like)) {
    if (PyArray_API == nullptr && _import_array() < 0) throw nb::python_error();
    is_numpy_ = PyArray_Check(like.ptr());
    bits_ = inspect(like).bits;
    if (bits_ != 32 && bits_ != 64)
        throw ShapeMismatch("arrays must be float32 or float64 on the CPU, got " + text(like.attr("dtype")));
}

std::pair<nb::object, void*> Arrays::allocate(const Shape& shape) const {
    if (is_numpy_) {
        const std::vector<npy_intp> sizes(shape.begin(), shape.end());
        PyObject* array = PyArray_SimpleNew(static_cast<int>(sizes.size()), sizes.data(),
                                            is_double() ? NPY_DOUBLE : NPY_FLOAT);
        if (!array) throw nb::python_error();
        return {nb::steal(array), PyArray_DATA(as_numpy(array))};
    }
    if (const DLPackExchangeAPI* how = exchange(like_); how && how->managed_tensor_to_py_object_no_sync) {
        auto owned = std::make_unique<OwnedTensor>(shape, bits_);
        void* array = nullptr;
        if (how->managed_tensor_to_py_object_no_sync(&owned->managed, &array) != 0) throw nb::python_error();
        return {nb::steal(static_cast<PyObject*>(array)), owned.release()->block.memory()};
    }
    // Separate sizes: torch parses them faster than a tuple.
    std::vector<nb::object> sizes;
    std::vector<PyObject*> given{like_.ptr()};
    for (int64_t size : shape) {
        sizes.push_back(nb::steal(PyLong_FromLongLong(size)));
        if (!sizes.back().is_valid()) throw nb::python_error();
        given.push_back(sizes.back().ptr());
    }
    nb::object array = call(names().new_empty, given.data(), given.size());
    void* at = inspect_memory(array).data;
    return {std::move(array), at};
}

void* Arrays::read_data(nb::handle array, const Shape& shape, bool int64) {
    const ArrayInfo found = require_shape(array, shape, int64);
    alive_.push_back(found.contiguous ? nb::borrow(array) : contiguous_copy(array));
    return found.contiguous ? found.data : inspect(alive_.back()).data;
}

void* Arrays::writable_data(nb::handle array, const Shape& shape) {
    const ArrayInfo found = require_shape(array, shape);
    if (!found.contiguous) throw ShapeMismatch("an array that is written to must be contiguous");
    alive_.push_back(nb::borrow(array));
    return found.data;
}

int64_t Arrays::size(nb::handle array, int axis) const {
    const ArrayInfo found = inspect(array);
    if (axis >= found.ndim) throw ShapeMismatch("an array has too few axes: " + std::to_string(found.ndim));
    return found.shape[axis];
}

const DLPackExchangeAPI* Arrays::exchange(nb::handle array) const {
    PyTypeObject* type = Py_TYPE(array.ptr());
    if (type != type_) {
        type_ = type;
        exchange_ = exchange_of(type);
    }
    return exchange_;
}

bool Arrays::ArrayInfo::lacks_memory() const {
    const auto end = shape.begin() + std::min(ndim, 3);
    return !data && std::find(shape.begin(), end, 0) == end;
}

Arrays::ArrayInfo Arrays::inspect(nb::handle array) const {
    ArrayInfo found = inspect_memory(array);
    if (found.lacks_memory()) found.contiguous = false;
    // Memory of a negated view holds the negated values.
    if (found.contiguous && !PyArray_Check(array.ptr())) {
        PyObject* of = array.ptr();
        found.contiguous = call(names().is_neg, &of, 1).ptr() == Py_False;
    }
    return found;
}

Arrays::ArrayInfo Arrays::inspect_memory(nb::handle array) const {
    ArrayInfo found;
    if (PyArray_Check(array.ptr())) {
        PyArrayObject* of = as_numpy(array);
        const int type = PyArray_ISNOTSWAPPED(of) ? PyArray_TYPE(of) : NPY_VOID;
        found.data = PyArray_DATA(of);
        found.bits = type == NPY_FLOAT ? 32 : type == NPY_DOUBLE ? 64 : 0;
        found.is_int64 = PyTypeNum_ISSIGNED(type) && PyArray_ITEMSIZE(of) == sizeof(int64_t);
        found.ndim = PyArray_NDIM(of);
        std::copy_n(PyArray_DIMS(of), std::min(found.ndim, 3), found.shape.begin());
        found.contiguous = PyArray_ISCARRAY_RO(of);
        return found;
    }
    if (const DLPackExchangeAPI* how = exchange(array)) {
        DLTensor tensor;
        if (how->dltensor_from_py_object_no_sync(array.ptr(), &tensor) != 0) throw nb::python_error();
        found.data = static_cast<char*>(tensor.data) + tensor.byte_offset;
        const bool usable = tensor.device.device_type == kDLCPU && tensor.dtype.lanes == 1;
        found.bits = usable && tensor.dtype.code == kDLFloat ? tensor.dtype.bits : 0;
        found.is_int64 = usable && tensor.dtype.code == kDLInt && tensor.dtype.bits == 64;
        found.ndim = tensor.ndim;
        std::copy_n(tensor.shape, std::min(found.ndim, 3), found.shape.begin());
        found.contiguous = is_contiguous(tensor.ndim, tensor.shape, tensor.strides);
    } else {
        const std::string type = text(array.attr("dtype"));
        const bool usable = nb::cast<bool>(array.attr("is_cpu"));
        found.data = reinterpret_cast<void*>(nb::cast<uintptr_t>(array.attr("data_ptr")()));
        found.bits = !usable ? 0 : type == "torch.float32" ? 32 : type == "torch.float64" ? 64 : 0;
        found.is_int64 = usable && type == "torch.int64";
        const nb::tuple shape(array.attr("shape"));
        found.ndim = static_cast<int>(shape.size());
        for (int k = 0; k < std::min(found.ndim, 3); ++k) found.shape[k] = nb::cast<int64_t>(shape[k]);
        found.contiguous = nb::cast<bool>(array.attr("is_contiguous")());
    }
    return found;
}

Arrays::ArrayInfo Arrays::require_shape(nb::handle array, const Shape& shape, bool int64) const {
    if (PyArray_Check(array.ptr()) != is_numpy_) throw_mismatch(array, shape, int64);
    const ArrayInfo found = inspect(array);
    if ((int64 ? !found.is_int64 : found.bits != bits_) || found.ndim != static_cast<int>(shape.size()) ||
        !std::equal(shape.begin(), shape.end(), found.shape.begin()))
        throw_mismatch(array, shape, int64);
    return found;
}

nb::object Arrays::contiguous_copy(nb::handle array) const {
    if (!is_numpy_) {
        if (nb::cast<bool>(array.attr("_is_zerotensor")())) return array.attr("detach")().attr("clone")();
        if (inspect_memory(array).lacks_memory())
            throw ShapeMismatch("a tensor of shape " + text(array.attr("shape")) + " has no memory");
        return array.attr("detach")().attr("contiguous")().attr("resolve_neg")();
    }
    PyObject* copy = PyArray_NewCopy(as_numpy(array), NPY_CORDER);
    if (!copy) throw nb::python_error();
    return nb::steal(copy);
}

void Arrays::throw_mismatch(nb::handle array, const Shape& shape, bool int64) const {
    auto describe = [](nb::handle array) {
        const nb::object device = nb::getattr(array, "device", nb::str("cpu"));
        return text(nb::getattr(array, "dtype", nb::str("no type"))) + " of " + Py_TYPE(array.ptr())->tp_name +
               " on " + text(device);
    };
    nb::list wanted;
    for (int64_t size : shape) wanted.append(size);
    throw ShapeMismatch("expected an array of shape " + text(nb::tuple(wanted)) + (int64 ? " of int64" : "") +
                        " like the others (" + describe(like_) + "), got shape " +
                        text(nb::tuple(nb::getattr(array, "shape", nb::tuple()))) + ", " + describe(array));
}

}  // namespace throughtime
