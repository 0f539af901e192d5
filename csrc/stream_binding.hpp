/// Binds streams: a call from Python costs as little as can be, so arrays are read and made by NumPy's C interface.
#pragma once

#include <nanobind/nanobind.h>

namespace throughtime {

void bind_streams(nanobind::module_& m);

}  // namespace throughtime
