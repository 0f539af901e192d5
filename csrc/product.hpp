/// Matrix products on packed panels: a tile of the result stays in registers over the whole depth.
#pragma once

#include "kernels.hpp"
#include "simd.hpp"

namespace throughtime::THROUGHTIME_ISA {

/// Vectors side by side in a panel.
constexpr int panel_vectors = 2;
template <class T> constexpr int panel_width = panel_vectors * lanes<T>;
/// Rows of a tile: its accumulators, a row of the panel and one element fit the registers.
constexpr int tile_rows = vector_registers == 32 ? 12 : 6;

/// How many panels a tile of few rows takes at once at most, so that enough chains run side by side.
constexpr int most_panels = 4;
constexpr int panels_beside(int64_t rows) {
    const int64_t panels = tile_rows / rows;
    return static_cast<int>(panels > most_panels ? most_panels : panels);
}

/// How the left factor lies in memory: in rows, or packed as panels of `tile_rows` columns.
enum class Left { rows, packed };

/// One tile: `rows` rows of the left factor times `panels` panels of the right, each `apart` panels behind the one
/// before.
template <class T, int rows, int panels, Left layout> struct Tile {
    static constexpr int vectors = panels * panel_vectors, width = vectors * lanes<T>;
    int64_t apart;
    Vector<T> sum[rows][vectors];

    /// Begins every sum at zero, or at what the first `columns` columns of `start` have.
    THROUGHTIME_INLINE void begin(Rows<const T> start, int64_t columns) {
        if (!start.at)
            each(start, [](Vector<T>& sum, const T*, int64_t) THROUGHTIME_LAMBDA { sum = Vector<T>{}; });
        else if (columns >= width)
            each(start, [](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
                sum = load(from + column);
            });
        else
            each(start, [columns](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
                sum = load_within(from + column, columns - column);
            });
    }

    THROUGHTIME_INLINE void multiply(const T* left, int64_t stride, const T* right, int64_t depth) {
        const int64_t beside = apart * depth * panel_width<T>;
        for (int64_t k = 0; k < depth; ++k) {
            Vector<T> across[vectors];
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                across[j] = load(right + j / panel_vectors * beside + j % panel_vectors * lanes<T>);
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
        each(Rows<const T>{right, 0}, [](Vector<T>& sum, const T* from, int64_t column) THROUGHTIME_LAMBDA {
            sum = sum + load(from + column);
        });
    }

    /// Writes the tile's first `columns` columns, or adds them to what is there.
    template <bool add> THROUGHTIME_INLINE void put(Rows<T> to, int64_t columns) {
        if (columns >= width)
            each(to, [](Vector<T>& sum, T* out, int64_t column) THROUGHTIME_LAMBDA {
                store(out + column, add ? load(out + column) + sum : sum);
            });
        else
            each(to, [columns](Vector<T>& sum, T* out, int64_t column) THROUGHTIME_LAMBDA {
                const int64_t left = columns - column;
                store_within(out + column, add ? load_within(out + column, left) + sum : sum, left);
            });
    }

private:
    /// Visits every sum, with its row in memory and its column there.
    ///
    /// Unrolled, as only what is not indexed at run time stays in registers.
    template <class U, class Visit> THROUGHTIME_INLINE void each(Rows<U> beside, Visit visit) {
#pragma GCC unroll 12
        for (int i = 0; i < rows; ++i) {
#pragma GCC unroll 8
            for (int j = 0; j < vectors; ++j)
                visit(sum[i][j], beside.at,
                      j / panel_vectors * apart * panel_width<T> + j % panel_vectors * lanes<T>);
            beside.at += beside.stride;
        }
    }

    /// As many lanes as are left of a row, none included.
    static THROUGHTIME_INLINE Vector<T> load_within(const T* from, int64_t left) {
        return left <= 0 ? Vector<T>{} : load_first(from, left < lanes<T> ? static_cast<int>(left) : lanes<T>);
    }
    static THROUGHTIME_INLINE void store_within(T* to, Vector<T> v, int64_t left) {
        if (left > 0) store_first(to, v, left < lanes<T> ? static_cast<int>(left) : lanes<T>);
    }
};

template <class T, int rows, int panels, Left layout, bool add>
void tile(Rows<T> to, Rows<const T> start, Rows<const T> left, const T* right, int64_t depth, int64_t columns,
          int64_t apart) {
    Tile<T, rows, panels, layout> tile;
    tile.apart = panels > 1 ? apart : 1;
    tile.begin(start, columns);
    tile.multiply(left.at, left.stride, right, depth);
    tile.template put<add>(to, columns);
}

template <class T>
using TileFunction = void (*)(Rows<T> to, Rows<const T> start, Rows<const T> left, const T* right, int64_t depth,
                              int64_t columns, int64_t apart);

/// The tiles by rows and panels, each counted from one; those of many rows have fewer panels.
template <class T, Left layout, bool add> struct Tiles {
    TileFunction<T> of[tile_rows][most_panels] = {};

    constexpr Tiles() { add_rows<tile_rows>(); }

    template <int rows> constexpr void add_rows() {
        add_panels<rows, panels_beside(rows)>();
        if constexpr (rows > 1) add_rows<rows - 1>();
    }
    template <int rows, int panels> constexpr void add_panels() {
        of[rows - 1][panels - 1] = tile<T, rows, panels, layout, add>;
        if constexpr (panels > 1) add_panels<rows, panels - 1>();
    }
};
template <class T, Left layout, bool add> constexpr Tiles<T, layout, add> tiles;

/// The size of the next piece when `count` things are left: as few pieces as can be, as even as can be.
THROUGHTIME_INLINE int64_t next_piece(int64_t count, int64_t most) {
    if (count <= most) return count;
    const int64_t pieces = (count + most - 1) / most;
    return (count + pieces - 1) / pieces;
}

/// Calls `visit(first, count)` for the pieces of at most `most` things each that lie between two bounds.
template <class Visit>
THROUGHTIME_INLINE void each_piece(int64_t first, int64_t last, int64_t most, bool backward, Visit visit) {
    for (int64_t left = last - first, count; left > 0; left -= count) {
        count = next_piece(left, most);
        visit(backward ? first + left - count : last - left, count);
    }
}

/// Calls `visit(panel, count, apart)` for all panels that take part, as many at once as `most`: each `apart` behind
/// the one before.
template <class Visit> THROUGHTIME_INLINE void each_group(Panels panels, int64_t most, Visit visit) {
    const auto [first, last, stretches, beside, backward] = panels;
    if (stretches > 1 && most > 1) {  // of all stretches together
        each_piece(first, last, 1, backward, [&](int64_t panel, int64_t) {
            each_piece(0, stretches, most, backward, [&](int64_t stretch, int64_t count) {
                visit(panel + stretch * beside, count, beside);
            });
        });
        return;
    }
    each_piece(0, stretches, 1, backward, [&](int64_t stretch, int64_t) {
        each_piece(first, last, most, backward, [&](int64_t panel, int64_t count) {
            visit(panel + stretch * beside, count, 1);
        });
    });
}

template <class T>
void product(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, const T* right, int64_t depth,
             int64_t columns, Panels panels) {
    each_group(panels, panels_beside(next_piece(rows, tile_rows)), [&](int64_t panel, int64_t count, int64_t apart) {
        const int64_t column = panel * panel_width<T>;
        for (int64_t row = 0; row < rows;) {
            const int64_t height = next_piece(rows - row, tile_rows);
            const T* begin = start.at ? start.at + row * start.stride + column : nullptr;
            tiles<T, Left::rows, false>.of[height - 1][count - 1](
                {to.at + row * to.stride + column, to.stride}, {begin, start.stride},
                {left.at + row * left.stride, left.stride}, right + column * depth, depth, columns - column, apart);
            row += height;
        }
    });
}

template <class T>
void look_up(Rows<T> to, Rows<const T> start, Rows<const T> left, int64_t rows, const T* right, int64_t depth,
             int64_t columns, Panels panels) {
    const auto* symbols = reinterpret_cast<const int64_t*>(left.at);
    for (int64_t row = 0; row < rows; ++row)
        each_group(panels, 1, [&](int64_t panel, int64_t, int64_t) {
            const int64_t column = panel * panel_width<T>;
            Tile<T, 1, 1, Left::rows> tile;
            tile.apart = 1;
            tile.begin({start.at ? start.at + row * start.stride + column : nullptr, 0}, columns - column);
            tile.add(right + column * depth + symbols[row] * panel_width<T>);
            tile.template put<false>({to.at + row * to.stride + column, 0}, columns - column);
        });
}

template <class T>
void add_product(Rows<T> to, const T* left, const T* right, int64_t depth, int64_t rows, int64_t columns,
                 int64_t first, int64_t last) {
    for (int64_t block = first; block < last; ++block) {
        const int64_t row = block * tile_rows;
        const int64_t height = rows - row < tile_rows ? rows - row : tile_rows;
        const int64_t most = panels_beside(height);
        for (int64_t column = 0; column < columns;) {
            const int64_t panels = next_piece((columns - column + panel_width<T> - 1) / panel_width<T>, most);
            tiles<T, Left::packed, true>.of[height - 1][panels - 1](
                {to.at + row * to.stride + column, to.stride}, {nullptr, 0}, {left + row * depth, 0},
                right + column * depth, depth, columns - column, 1);
            column += panels * panel_width<T>;
        }
    }
}

/// One row of a panel: `count` elements, then zeros.
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

template <class T, int panel>
void pack_transposed(T* to, Rows<const T> from, int64_t rows, int64_t depth, int64_t columns, int64_t first,
                     int64_t last) {
    constexpr int square = lanes<T>;  // elements are read and written in squares
    for (int64_t column = first * panel; column < last * panel; column += square) {
        const int64_t count = columns - column < square ? columns - column : square;
        T* panel_at = to + column / panel * panel * depth + column % panel;
        for (int64_t k = 0; k < rows; k += square) {
            const int steps = static_cast<int>(rows - k < square ? rows - k : square);
            Vector<T> row[square];
#pragma GCC unroll 16
            for (int j = 0; j < square; ++j) {
                const T* at = from.at + (column + j) * from.stride + k;
                if (j >= count) row[j] = Vector<T>{};
                else row[j] = steps == square ? load(at) : load_first(at, steps);
            }
            transpose<T>(row);
            T* out = panel_at + k * panel;
            for (int i = 0; i < steps; ++i) store(out + i * panel, row[i]);
        }
    }
}

}  // namespace throughtime::THROUGHTIME_ISA
