/// Selection of the instruction set.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace throughtime {

/// The instruction sets of this machine, best first.
std::vector<std::string> instruction_sets();

/// The kernels of an instruction set; for "", of THROUGHTIME_ISA if set, else of the best one.
template <class T> const Kernels<T>& kernels(const std::string& instruction_set);

}  // namespace throughtime
