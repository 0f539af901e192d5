/// Compiled once per instruction set, with THROUGHTIME_ISA as its name and the flags that allow it.
#include "dropout.hpp"
#include "pointwise.hpp"
#include "product.hpp"

namespace throughtime::THROUGHTIME_ISA {

template <class T> constexpr Kernels<T> table() {
    using Operations = OperationTable<T>;
    return {
        .tile_rows = tile_rows,
        .panel = panel_width<T>,
        .operations = Operations::rows,
        .operation_count = sizeof(Operations::rows) / sizeof(Operations::rows[0]),
        .column_sum = column_sum<T>,
        .thin = thin<T>,
        .pack = pack<T, panel_width<T>>,
        .pack_transposed = pack_transposed<T, panel_width<T>>,
        .pack_left = pack<T, tile_rows>,
        .product = product<T>,
        .look_up = look_up<T>,
        .add_product = add_product<T>,
    };
}

extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
const Kernels<float> kernels_f32 = table<float>();
const Kernels<double> kernels_f64 = table<double>();

}  // namespace throughtime::THROUGHTIME_ISA
