/// Reads and allocates NumPy arrays and torch tensors. Only NumPy is needed to build.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace throughtime {

}  // namespace throughtime

struct DLPackExchangeAPI;

namespace throughtime {

/// An array whose shape, type or device differs from what the program expects.
struct ShapeMismatch : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

using Shape = std::vector<int64_t>;

/// The arrays of one call, all of one library and type. Keeps them alive.
class Arrays {
public:
    /// All other arrays must have the library, type and device of this one.
    explicit Arrays(nanobind::handle like);

    bool is_double() const { return bits_ == 64; }
    nanobind::handle like() const { return like_; }
    /// An uninitialized array and its data pointer.
    std::pair<nanobind::object, void*> allocate(const Shape& shape) const;
    /// The data of an array; of a contiguous copy if the array isn't contiguous.
    template <class T> const T* read(nanobind::handle array, const Shape& shape) {
        return static_cast<const T*>(read_data(array, shape, false));
    }
    /// The same for token ids, an array of int64.
    const int64_t* read_token_ids(nanobind::handle array, const Shape& shape) {
        return static_cast<const int64_t*>(read_data(array, shape, true));
    }
    /// The data of an array that is written to. Never copies: the array must be contiguous.
    void* writable_data(nanobind::handle array, const Shape& shape);
    /// The size of an array along one axis.
    int64_t size(nanobind::handle array, int axis) const;

private:
    struct ArrayInfo {
        void* data = nullptr;
        int bits = 0;           // 32 or 64 for floating point on the CPU in native byte order, else 0
        bool is_int64 = false;  // on the CPU in native byte order
        int ndim = 0;
        std::array<int64_t, 3> shape{};  // of the first axes
        bool contiguous = false;

        /// Whether there are elements but no memory: an efficient zero tensor, or storage that FSDP freed.
        bool lacks_memory() const;
    };

    nanobind::object like_;
    bool is_numpy_;
    int bits_;
    std::vector<nanobind::object> alive_;
    // The type whose exchange API was looked up last, and that API.
    mutable PyTypeObject* type_ = nullptr;
    mutable const DLPackExchangeAPI* exchange_ = nullptr;

    const DLPackExchangeAPI* exchange(nanobind::handle array) const;
    void* read_data(nanobind::handle array, const Shape& shape, bool int64);
    ArrayInfo inspect(nanobind::handle array) const;
    ArrayInfo inspect_memory(nanobind::handle array) const;
    ArrayInfo require_shape(nanobind::handle array, const Shape& shape, bool int64 = false) const;
    nanobind::object contiguous_copy(nanobind::handle array) const;
    [[noreturn]] void throw_mismatch(nanobind::handle array, const Shape& shape, bool int64) const;
};

}  // namespace throughtime
