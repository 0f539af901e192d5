/// What an instruction set offers: the inner loops, behind function pointers.
#pragma once

#include <cstdint>
#include <string_view>

namespace throughtime {

/// Rows of values in memory: the first element, and how far the next row is (0: each row the same).
template <class T> struct Rows {
    T* at;
    int64_t stride;
};

/// Computes rows from the sources' rows, of which the wider have `width` elements.
template <class T>
using OperationKernel = void (*)(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width);

/// Packs rows 0 to `rows` of the panels `first` to `last` of a matrix of `depth` rows and `columns` columns.
template <class T>
using PackKernel = void (*)(T* to, Rows<const T> from, int64_t rows, int64_t depth, int64_t columns, int64_t first,
                            int64_t last);

/// Which panels of a factor take part: `first` to `last`, and the same of further stretches, each `apart` panels
/// behind the one before. The panels of several stretches end where the factor does, or before. They are taken from
/// the last to the first if `backward`.
struct Panels {
    int64_t first, last;
    int64_t stretches = 1, apart = 0;
    bool backward = false;
};

template <class T>
using ProductKernel = void (*)(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, const T* right,
                               int64_t depth, int64_t columns, Panels panels);

/// What an operation's result takes of its values: each element the same element, all elements, or the only one.
enum class Takes { same, all, only };

template <class T> struct OperationRow {
    std::string_view name;
    int arity;
    Takes takes;
    OperationKernel<T> run;
};

constexpr int max_arity = 4;

/// Of a dropout: elements whose chances are drawn at once.
constexpr int elements_together = 32;

/// The inner loops of one instruction set for one scalar type.
///
/// A packed matrix is a row of panels, each `panel` columns wide: panel p holds, for k = 0, 1 ...,
/// the elements (k, p * panel) to (k, (p + 1) * panel - 1), zero where the matrix has ended.
template <class T> struct Kernels {
    int tile_rows;  // rows of a register tile; also the panel width of a packed left factor
    int panel;      // columns of a register tile

    const OperationRow<T>* operations;
    int operation_count;

    /// Adds from[r][j] to to[j], row after row.
    void (*column_sum)(T* to, Rows<const T> from, int64_t rows, int64_t width);

    /// to[k] = from[k] * scale for some of the elements `first` to `last`, else 0; see dropout.hpp.
    void (*thin)(T* to, const T* from, int64_t first, int64_t last, uint64_t seed, uint32_t below, T scale);

    PackKernel<T> pack;
    /// The same for the transpose of what is given: its rows are the columns.
    PackKernel<T> pack_transposed;
    /// Packs a left factor, given by its transpose, into panels `tile_rows` wide.
    PackKernel<T> pack_left;
    /// to = start + left * right for some panels of the packed right factor: each element is one chain of
    /// multiply-adds over the depth, first to last, begun at `start`, or at zero where that is null.
    ProductKernel<T> product;
    /// The same for a left factor that is given as symbols: of each row, which is zeros but for one 1, the place of
    /// that as a whole number of 8 bytes.
    ProductKernel<T> look_up;
    /// to += left^T * right, both packed (left in panels of `tile_rows`), for the left panels
    /// `first` to `last`: each element gains one chain over the depth, begun at zero.
    void (*add_product)(Rows<T> to, const T* left, const T* right, int64_t depth, int64_t rows,
                        int64_t columns, int64_t first, int64_t last);
};

}  // namespace throughtime
