/// Compiled once per instruction set, with THROUGHTIME_ISA as its name and the flags that enable it.
#include "kernels.hpp"

#include "dropout.hpp"
#include "gemm.hpp"
#include "pointwise.hpp"

namespace throughtime::THROUGHTIME_ISA {

template <class T> constexpr Kernels<T> kernels() {
    return {
        .tile_rows = tile_rows,
        .panel = panel_width<T>,
        .operations = operation_entries<T>(),
        .column_sum = column_sum<T>,
        .dropout = dropout<T>,
        .pack = pack<T, panel_width<T>>,
        .pack_transposed = pack_transposed<T, panel_width<T>>,
        .pack_left = pack<T, tile_rows>,
        .gemm = gemm<T>,
        .gemm_unpacked = gemm_unpacked<T>,
        .gather_rows = gather_rows<T>,
        .gemm_accumulate = gemm_accumulate<T>,
    };
}

extern const Kernels<float> kernels_f32;
extern const Kernels<double> kernels_f64;
constinit const Kernels<float> kernels_f32 = kernels<float>();
constinit const Kernels<double> kernels_f64 = kernels<double>();

}  // namespace throughtime::THROUGHTIME_ISA
