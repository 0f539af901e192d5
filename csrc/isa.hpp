/// Which instruction set to run.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace throughtime {

/// The instruction sets that this machine has, best first.
std::vector<std::string> instruction_sets();

/// The kernels of an instruction set; of the best one, or what THROUGHTIME_ISA says, for "".
template <class T> const Kernels<T>& kernels(const std::string& instruction_set);

}  // namespace throughtime
