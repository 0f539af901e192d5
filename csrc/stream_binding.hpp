/// Bindings of streams. They use NumPy's C API to keep the overhead of a call low.
#pragma once

#include <nanobind/nanobind.h>

namespace throughtime {

void bind_streams(nanobind::module_& m);

}  // namespace throughtime
