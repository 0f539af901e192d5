/// The inner loops of one instruction set, behind function pointers.
#pragma once

#include <array>
#include <cstdint>

#include "operations_list.hpp"

namespace throughtime {

/// A row-major matrix: its first element and the stride between rows. With stride 0 every row is the same.
template <class T> struct Rows {
    T* at;
    int64_t stride;
};

/// Computes `rows` rows of an operation. The wider of its result and operands have `width` elements.
template <class T>
using OperationKernel = void (*)(Rows<T> to, const Rows<const T>* from, int64_t rows, int64_t width);

/// Packs rows 0 to `rows` of the panels `first` to `last` of a matrix of `depth` rows and `columns` columns.
template <class T>
using PackKernel = void (*)(T* to, Rows<const T> from, int64_t rows, int64_t depth, int64_t columns, int64_t first,
                            int64_t last);

/// The panels of a packed matrix to compute: `first` to `last`, and the same range in each further block of columns,
/// `block_stride` panels after the previous one. With several blocks, the panels end at or before the matrix's end.
/// With `backward`, from the last panel to the first.
struct Panels {
    int64_t first, last;
    int64_t blocks = 1, block_stride = 0;
    bool backward = false;
};

template <class T>
using GemmKernel = void (*)(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, const T* right,
                            int64_t depth, int64_t columns, Panels panels);

template <class T>
using UnpackedGemmKernel = void (*)(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows,
                                    Rows<const T> right, bool transposed, int64_t depth, int64_t columns, Panels panels,
                                    T* scratch);

/// The panels that a product with an unpacked factor packs at once.
constexpr int unpacked_panels = 2;

template <class T>
using GatherKernel = void (*)(Rows<T> to, Rows<const T> start, const int64_t* token_ids, int64_t rows, const T* right,
                              int64_t depth, int64_t columns, Panels panels);

/// The relation between the widths of an operation's result and operands.
enum class OperationKind {
    elementwise,  // equal
    reduce,       // the result has one element
    broadcast,    // the operand has one element
};

template <class T> struct OperationEntry {
    int arity;
    OperationKind kind;
    OperationKernel<T> run;
};

constexpr int max_arity = 4;

/// The number of elements whose dropout mask is drawn at once.
constexpr int dropout_block = 32;

/// The inner loops of one instruction set for one scalar type.
///
/// A packed matrix is a sequence of panels, each `panel` columns wide: panel p holds, for k = 0, 1, ..., the elements
/// (k, p * panel) to (k, (p + 1) * panel - 1), padded with zeros past the last column.
template <class T> struct Kernels {
    int tile_rows;  // rows of a register tile; also the panel width of a packed left factor
    int panel;      // columns of a register tile

    std::array<OperationEntry<T>, operation_count> operations;
    const OperationEntry<T>& operation(Opcode code) const { return operations[static_cast<int>(code)]; }

    /// Adds from[r][j] to to[j], row after row.
    void (*column_sum)(T* to, Rows<const T> from, int64_t rows, int64_t width);

    /// Dropout of the elements `first` to `last`; see dropout.hpp.
    void (*dropout)(T* to, const T* from, int64_t first, int64_t last, uint64_t seed, uint32_t threshold, T scale);

    PackKernel<T> pack;
    /// Packs the transpose of a matrix.
    PackKernel<T> pack_transposed;
    /// Packs a left factor, given transposed, into panels `tile_rows` wide.
    PackKernel<T> pack_left;
    /// to = start + left * right for some panels of the packed right factor. Each element is one chain of
    /// multiply-adds in order of depth, from `start`, or from zero if `start` is null.
    GemmKernel<T> gemm;
    /// The same, with bit-identical results, for a right factor that is used only once and not packed: row-major, or with
    /// `transposed` its transpose. `scratch` has room for `unpacked_panels` packed panels.
    UnpackedGemmKernel<T> gemm_unpacked;
    /// The same for a left factor of one-hot rows, given as token ids: each row selects one row of the right factor.
    GatherKernel<T> gather_rows;
    /// to += left^T * right, both packed (left in panels of `tile_rows`), for the left panels `first` to `last`. Adds
    /// to each element one chain of multiply-adds over the depth that starts from zero.
    void (*gemm_accumulate)(Rows<T> to, const T* left, const T* right, int64_t depth, int64_t rows, int64_t columns,
                            int64_t first, int64_t last);
};

}  // namespace throughtime
