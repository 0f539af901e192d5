/// Matrix products on packed panels: a tile of the result stays in registers over the whole depth.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Vectors per row of a panel.
constexpr int panel_vectors = 2;
template <class T> constexpr int panel_width = panel_vectors * lanes<T>;
/// Rows of a register tile, so that its accumulators, a row of the panel and one broadcast element fit in registers.
constexpr int tile_rows = vector_registers == 32 ? 12 : 6;

/// The maximum number of panels that a tile of few rows computes at once, for enough independent multiply-add chains.
constexpr int max_panels = 4;
constexpr int panels_per_tile(int64_t rows) {
    const int64_t panels = tile_rows / rows;
    return static_cast<int>(panels > max_panels ? max_panels : panels);
}

/// The distance in bytes by which a panel is prefetched ahead of its use, and the size of all panels in bytes above
/// which prefetching pays off.
///
/// The processor's own prefetcher stops at the end of each 4 KiB page, and doesn't fill the L1 cache fast enough for
/// vectors as long as a cache line. Panels that stay in a near cache need neither.
constexpr int64_t prefetch_distance = 1024, cache_line = 64;
template <class T> constexpr int64_t prefetch_beyond = lanes<T> * sizeof(T) >= cache_line ? 1 << 18 : 1 << 20;

/// Whether a product also prefetches the sums that a tile starts from or adds to, and the next panel.
///
/// This is faster with vectors of half a cache line. With vectors of a whole one it makes some shapes faster and others
/// slower.
template <class T> constexpr bool prefetches_tiles = lanes<T> * sizeof(T) < cache_line;

/// The layout of the left factor: row-major, or packed into panels of `tile_rows` columns.
enum class Left { rows, packed };

/// A register tile: `rows` rows of the left factor times `panels` panels of the right, `panel_stride` panels apart.
template <class T, int rows, int panels, Left layout> struct Tile {
    static constexpr int vectors = panels * panel_vectors, width = vectors * lanes<T>;
    int64_t panel_stride;
    Vector<T> sum[rows][vectors];

    /// Initializes the sums to zero or to the first `columns` columns of `start`.
    THROUGHTIME_INLINE void begin(Rows<const T> start, int64_t columns) {
        if (!start.at)
            for_each(start, [](Vector<T>& sum, const T*, int64_t) THROUGHTIME_LAMBDA { sum = Vector<T>{}; });
        else if (columns >= width)
            for_each(start, [](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
                sum = load(from + column);
            });
        else
            for_each(start, [columns](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
                sum = load_within(from + column, columns - column);
            });
    }

    /// Adds the product of `depth` columns of the left factor and rows of the panels, prefetched `ahead` bytes early.
    template <bool prefetch>
    THROUGHTIME_INLINE void multiply(const T* left, int64_t stride, const T* right, int64_t depth, int64_t ahead) {
        const int64_t next_panel = panel_stride * depth * panel_width<T>;
        for (int64_t k = 0; k < depth; ++k) {
            if constexpr (prefetch)
#pragma GCC unroll 8
                for (int j = 0; j < panels; ++j)
                    for (int64_t byte = 0; byte < panel_width<T> * int64_t{sizeof(T)}; byte += cache_line)
                        __builtin_prefetch(reinterpret_cast<const char*>(right + j * next_panel) + ahead + byte);
            Vector<T> across[vectors];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                across[j] = load(right + j / panel_vectors * next_panel + j % panel_vectors * lanes<T>);
#pragma GCC unroll 12
            for (int i = 0; i < rows; ++i) {
                Vector<T> down = broadcast(layout == Left::rows ? left[i * stride] : left[i]);
#pragma GCC unroll 8
                for (int j = 0; j < vectors; ++j) sum[i][j] = fma(down, across[j], sum[i][j]);
            }
            left += layout == Left::rows ? 1 : tile_rows;
            right += panel_width<T>;
        }
    }

    /// Adds the same row of the right factor to every row.
    THROUGHTIME_INLINE void add(const T* right) {
        for_each(Rows<const T>{right, 0}, [](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
            sum = sum + load(from + column);
        });
    }

    /// Writes the tile's first `columns` columns to `to` or adds them to it.
    template <bool add> THROUGHTIME_INLINE void put(Rows<T> to, int64_t columns) {
        if (columns >= width)
            for_each(to, [](Vector<T>& sum, T* out, int64_t column) THROUGHTIME_LAMBDA {
                store(out + column, add ? load(out + column) + sum : sum);
            });
        else
            for_each(to, [columns](Vector<T>& sum, T* out, int64_t column) THROUGHTIME_LAMBDA {
                const int64_t left = columns - column;
                store_within(out + column, add ? load_within(out + column, left) + sum : sum, left);
            });
    }

private:
    /// Calls `visit(sum, row, column)` for every sum.
    ///
    /// Unrolled: the compiler keeps an array in registers only if no index is a run-time value.
    template <class U, class Visit> THROUGHTIME_INLINE void for_each(Rows<U> rows_of_tile, Visit visit) {
#pragma GCC unroll 12
        for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                visit(sum[i][j], rows_of_tile.at,
                      j / panel_vectors * panel_stride * panel_width<T> + j % panel_vectors * lanes<T>);
            rows_of_tile.at += rows_of_tile.stride;
        }
    }

    /// Loads the lanes left of a row, possibly none.
    static THROUGHTIME_INLINE Vector<T> load_within(const T* from, int64_t left) {
        return left <= 0 ? Vector<T>{} : load_first(from, left < lanes<T> ? static_cast<int>(left) : lanes<T>);
    }
    static THROUGHTIME_INLINE void store_within(T* to, Vector<T> v, int64_t left) {
        if (left > 0) store_first(to, v, left < lanes<T> ? static_cast<int>(left) : lanes<T>);
    }
};

template <class T, int rows, int panels, Left layout, bool add>
void tile(Rows<T> to, Rows<const T> start, Rows<const T> left, const T* right, int64_t depth, int64_t columns,
          int64_t panel_stride, int64_t ahead) {
    Tile<T, rows, panels, layout> tile;
    tile.panel_stride = panels > 1 ? panel_stride : 1;
    tile.begin(start, columns);
    if (ahead) tile.template multiply<true>(left.at, left.stride, right, depth, ahead);
    else tile.template multiply<false>(left.at, left.stride, right, depth, 0);
    tile.template put<add>(to, columns);
}

template <class T>
using TileFunction = void (*)(Rows<T> to, Rows<const T> start, Rows<const T> left, const T* right, int64_t depth,
                              int64_t columns, int64_t panel_stride, int64_t ahead);

/// The tile kernels by number of rows and of panels, each from 1. Tiles of many rows have fewer panels.
template <class T, Left layout, bool add> struct Tiles {
    TileFunction<T> of[tile_rows][max_panels] = {};

    constexpr Tiles() { add_rows<tile_rows>(); }

    template <int rows> constexpr void add_rows() {
        add_panels<rows, panels_per_tile(rows)>();
        if constexpr (rows > 1) add_rows<rows - 1>();
    }
    template <int rows, int panels> constexpr void add_panels() {
        of[rows - 1][panels - 1] = tile<T, rows, panels, layout, add>;
        if constexpr (panels > 1) add_panels<rows, panels - 1>();
    }
};
template <class T, Left layout, bool add> constexpr Tiles<T, layout, add> tiles;

/// The size of the next piece of `count` remaining items: the fewest pieces of at most `most`, of nearly equal size.
THROUGHTIME_INLINE int64_t next_piece(int64_t count, int64_t most) {
    if (count <= most) return count;
    const int64_t pieces = (count + most - 1) / most;
    return (count + pieces - 1) / pieces;
}

/// Splits a range into pieces of at most `most` items and calls `visit(first, count)` for each.
template <class Visit>
THROUGHTIME_INLINE void for_each_piece(int64_t first, int64_t last, int64_t most, bool backward, Visit visit) {
    for (int64_t left = last - first, count; left > 0; left -= count) {
        count = next_piece(left, most);
        visit(backward ? first + left - count : last - left, count);
    }
}

/// Calls `visit(panel, count, panel_stride)` for all panels, up to `most` at once, `panel_stride` apart.
template <class Visit> THROUGHTIME_INLINE void for_each_group(Panels panels, int64_t most, Visit visit) {
    const auto [first, last, blocks, block_stride, backward] = panels;
    if (blocks > 1 && most > 1) {  // group panels across blocks
        for_each_piece(first, last, 1, backward, [&](int64_t panel, int64_t) {
            for_each_piece(0, blocks, most, backward, [&](int64_t block, int64_t count) {
                visit(panel + block * block_stride, count, block_stride);
            });
        });
        return;
    }
    for_each_piece(0, blocks, 1, backward, [&](int64_t block, int64_t) {
        for_each_piece(first, last, most, backward, [&](int64_t panel, int64_t count) {
            visit(panel + block * block_stride, count, 1);
        });
    });
}

/// Prefetches `width` elements of each row.
template <class T> THROUGHTIME_INLINE void prefetch_rows(Rows<const T> from, int64_t rows, int64_t width) {
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t column = 0; column < width; column += cache_line / static_cast<int64_t>(sizeof(T)))
            __builtin_prefetch(from.at + row * from.stride + column);
}

template <class T>
void gemm(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, const T* right, int64_t depth,
          int64_t columns, Panels panels) {
    const int64_t panel_size = panel_width<T> * depth;
    const int64_t bytes = (panels.last - panels.first) * panels.blocks * panel_size * sizeof(T);
    const bool far = bytes > prefetch_beyond<T>;
    const int64_t first_height = next_piece(rows, tile_rows);
    for_each_group(panels, panels_per_tile(first_height), [&](int64_t panel, int64_t count, int64_t panel_stride) {
        const int64_t column = panel * panel_width<T>, width = count * panel_width<T>;
        const int64_t next_group = panels.backward ? -count : count;
        for (int64_t row = 0, height; row < rows; row += height) {
            height = next_piece(rows - row, tile_rows);
            const int64_t below = row + height;
            const T* begin = start.at ? start.at + row * start.stride + column : nullptr;
            int64_t ahead = far ? prefetch_distance : 0;
            if constexpr (prefetches_tiles<T>) {
                // The next tile can't multiply before it has the sums that it starts from.
                const bool same_panels = below < rows;
                const int64_t next = same_panels ? below * start.stride + column : column + next_group * panel_width<T>;
                if (start.at && start.stride)
                    prefetch_rows<T>({start.at + next, start.stride},
                                     same_panels ? next_piece(rows - below, tile_rows) : first_height, width);
                // The last of several tiles has its own panels in a near cache.
                if (far && row > 0 && !same_panels && panel_stride == 1)
                    ahead = next_group * panel_size * static_cast<int64_t>(sizeof(T));
            }
            tiles<T, Left::rows, false>.of[height - 1][count - 1](
                {to.at + row * to.stride + column, to.stride}, {begin, start.stride},
                {left.at + row * left.stride, left.stride}, right + column * depth, depth, columns - column,
                panel_stride, ahead);
        }
    });
}

template <class T>
void gather_rows(Rows<T> to, Rows<const T> start, const int64_t* token_ids, int64_t rows, const T* right, int64_t depth,
                 int64_t columns, Panels panels) {
    for (int64_t row = 0; row < rows; ++row)
        for_each_group(panels, 1, [&](int64_t panel, int64_t, int64_t) {
            const int64_t column = panel * panel_width<T>;
            Tile<T, 1, 1, Left::rows> tile;
            tile.panel_stride = 1;
            tile.begin({start.at ? start.at + row * start.stride + column : nullptr, 0}, columns - column);
            tile.add(right + column * depth + token_ids[row] * panel_width<T>);
            tile.template put<false>({to.at + row * to.stride + column, 0}, columns - column);
        });
}

template <class T>
void gemm_accumulate(Rows<T> to, const T* left, const T* right, int64_t depth, int64_t rows, int64_t columns,
                 int64_t first, int64_t last) {
    const bool far = columns * depth * static_cast<int64_t>(sizeof(T)) > prefetch_beyond<T>;
    for (int64_t block = first; block < last; ++block) {
        const int64_t row = block * tile_rows;
        const int64_t height = rows - row < tile_rows ? rows - row : tile_rows;
        const int64_t most = panels_per_tile(height);
        for (int64_t column = 0; column < columns;) {
            const int64_t panels = next_piece((columns - column + panel_width<T> - 1) / panel_width<T>, most);
            if constexpr (prefetches_tiles<T>)
                prefetch_rows<T>({to.at + row * to.stride + column, to.stride}, height, panels * panel_width<T>);
            tiles<T, Left::packed, true>.of[height - 1][panels - 1](
                {to.at + row * to.stride + column, to.stride}, {nullptr, 0}, {left + row * depth, 0},
                right + column * depth, depth, columns - column, 1, far ? prefetch_distance : 0);
            column += panels * panel_width<T>;
        }
    }
}

/// Copies one row of a panel: `count` elements, padded with zeros.
template <class T, int panel> THROUGHTIME_INLINE void copy_padded(T* to, const T* from, int64_t count) {
    if (count >= panel) std::memcpy(to, from, panel * sizeof(T));
    else
        for (int j = 0; j < panel; ++j) to[j] = j < count ? from[j] : T(0);
}

template <class T, int panel>
void pack(T* to, Rows<const T> from, int64_t rows, int64_t depth, int64_t columns, int64_t first, int64_t last) {
    for (int64_t column = first * panel; column < last * panel; column += panel)
        for (int64_t k = 0; k < rows; ++k)
            copy_padded<T, panel>(to + column * depth + k * panel, from.at + k * from.stride + column,
                                  columns - column);
}

/// Loads `count` rows of `steps` elements, padded with zeros to a square, and transposes it in registers.
template <class T>
THROUGHTIME_INLINE void load_transposed(Vector<T> (&row)[lanes<T>], Rows<const T> from, int count, int steps) {
    constexpr int square = lanes<T>;
#pragma GCC unroll 16
    for (int j = 0; j < square; ++j) {
        const T* at = from.at + j * from.stride;
        if (j >= count) row[j] = Vector<T>{};
        else row[j] = steps == square ? load(at) : load_first(at, steps);
    }
    transpose<T>(row);
}

template <class T, int panel>
void pack_transposed(T* to, Rows<const T> from, int64_t rows, int64_t depth, int64_t columns, int64_t first,
                     int64_t last) {
    constexpr int square = lanes<T>;  // elements are transposed in squares of registers
    for (int64_t column = first * panel; column < last * panel; column += square) {
        const int count = static_cast<int>(columns - column < square ? columns - column : square);
        T* panel_at = to + column / panel * panel * depth + column % panel;
        for (int64_t k = 0; k < rows; k += square) {
            const int steps = static_cast<int>(rows - k < square ? rows - k : square);
            Vector<T> row[square];
            load_transposed<T>(row, {from.at + column * from.stride + k, from.stride}, count, steps);
            T* out = panel_at + k * panel;
            for (int i = 0; i < steps; ++i) store(out + i * panel, row[i]);
        }
    }
}

/// One row times the columns of an unpacked right factor, whose columns are contiguous: for a factor that is used once.
///
/// Squares of the factor are transposed in registers, so that it is read once and never written.
template <class T>
void multiply_row(T* to, const T* start, const T* left, Rows<const T> right, int64_t depth, int64_t columns,
                  int64_t first, int64_t last) {
    constexpr int square = lanes<T>;
    for (int64_t column = first; column < last; column += square) {
        const int count = static_cast<int>(columns - column < square ? columns - column : square);
        Vector<T> sum = start ? load_first(start + column, count) : Vector<T>{};
        for (int64_t k = 0; k < depth; k += square) {
            const int steps = static_cast<int>(depth - k < square ? depth - k : square);
            // Each row is a stream of its own, which is read a quarter as fast as a panel.
            if (k % (cache_line / static_cast<int64_t>(sizeof(T))) == 0)
                for (int j = 0; j < count; ++j)
                    __builtin_prefetch(reinterpret_cast<const char*>(right.at + (column + j) * right.stride + k) +
                                       prefetch_distance / 4);
            Vector<T> row[square];
            load_transposed<T>(row, {right.at + column * right.stride + k, right.stride}, count, steps);
            if (steps == square)
#pragma GCC unroll 16
                for (int i = 0; i < square; ++i) sum = fma(broadcast(left[k + i]), row[i], sum);
            else
                for (int i = 0; i < steps; ++i) sum = fma(broadcast(left[k + i]), row[i], sum);
        }
        store_first(to + column, sum, count);
    }
}

template <class T>
void gemm_unpacked(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, Rows<const T> right,
                   bool transposed, int64_t depth, int64_t columns, Panels panels, T* scratch) {
    constexpr int width = panel_width<T>;
    const auto [first, last, blocks, block_stride, backward] = panels;
    for (int64_t block = 0; block < blocks; ++block) {
        const int64_t begin = first + block * block_stride, end = last + block * block_stride;
        if (rows == 1 && transposed) {
            const int64_t past = end * width < columns ? end * width : columns;
            multiply_row<T>(to.at, start.at, left.at, right, depth, columns, begin * width, past);
            continue;
        }
        for_each_piece(begin, end, unpacked_panels, backward, [&](int64_t panel, int64_t count) {
            const int64_t column = panel * width;
            const Rows<const T> from{right.at + column * (transposed ? right.stride : 1), right.stride};
            (transposed ? pack_transposed<T, width> : pack<T, width>)(scratch, from, depth, depth, columns - column, 0,
                                                                      count);
            gemm<T>({to.at + column, to.stride}, {start.at ? start.at + column : nullptr, start.stride}, left, rows,
                    scratch, depth, columns - column, {0, count});
        });
    }
}

}  // namespace throughtime::THROUGHTIME_ISA
