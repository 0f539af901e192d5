/// Arrays of Python's libraries: NumPy's, and tensors of torch. NumPy alone is built against.
#pragma once

#include <nanobind/nanobind.h>

#include <array>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <vector>

namespace throughtime {

namespace dlpack {
struct Exchange;
}

/// An array is not what the program takes.
struct Misfit : std::invalid_argument {
    using std::invalid_argument::invalid_argument;
};

using Shape = std::vector<int64_t>;

/// The arrays of one call: of one library and type, kept alive as long as this is.
class Arrays {
public:
    /// All are to be like this one.
    explicit Arrays(nanobind::handle like);

    bool is_double() const { return bits_ == 64; }
    nanobind::handle like() const { return like_; }
    /// An array with nothing in it yet, and where its elements begin.
    std::pair<nanobind::object, void*> fresh(const Shape& shape) const;
    /// Where the elements of an array begin, one after the other: of a copy if they don't lie so. It is of the others'
    /// type, or of whole numbers of 8 bytes.
    void* read(nanobind::handle array, const Shape& shape, bool whole = false);
    /// The same of an array that is written to, which is never copied.
    void* written(nanobind::handle array, const Shape& shape);
    /// The size of an array along one axis.
    int64_t size(nanobind::handle array, int axis) const;

private:
    /// What there is to know of an array.
    struct Look {
        void* at = nullptr;
        int bits = 0;  // of a floating-point number in the processor's memory and order; 0 for anything else
        bool whole = false;  // whether they are whole numbers of 8 bytes there
        int axes = 0;
        std::array<int64_t, 3> shape{};  // of the first axes
        bool straight = false;  // whether the elements lie one after the other

        /// Whether there are elements and nowhere to read them: an efficient zero tensor, or storage that FSDP freed.
        bool lacks_memory() const;
    };

    nanobind::object like_;
    bool is_numpy_;
    int bits_;
    std::vector<nanobind::object> alive_;
    mutable PyTypeObject* type_ = nullptr;                // that was looked at last
    mutable const dlpack::Exchange* exchange_ = nullptr;  // and how

    const dlpack::Exchange* exchange(nanobind::handle array) const;
    Look look(nanobind::handle array) const;
    Look elements_of(nanobind::handle array) const;
    Look fitting(nanobind::handle array, const Shape& shape, bool whole = false) const;
    nanobind::object straightened(nanobind::handle array) const;
    [[noreturn]] void refuse(nanobind::handle array, const Shape& shape, bool whole) const;
};

}  // namespace throughtime
