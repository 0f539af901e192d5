/// Runs a plan over a sequence.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"
#include "plan.hpp"
#include "workspace.hpp"

namespace throughtime {

template <class T> class PackedWeights;

/// The arrays of one run, all contiguous.
template <class T> struct Arguments {
    int64_t steps, batch;
    const int64_t* batch_sizes;  // active rows of each step, non-increasing; null: all rows
    bool packed;                 // whether inputs and outputs are [N, width], of active rows alone
    bool accumulate;             // whether reductions are added to their arrays or overwrite them
    std::vector<const T*> inputs;            // null where the input is token ids
    std::vector<const int64_t*> token_ids;   // of each input; null where it is vectors
    std::vector<const T*> states, parameters;
    std::vector<T*> outputs, finals, reductions;
    const PackedWeights<T>* weights = nullptr;  // null: the run packs them itself
};

/// The rows of a parameter that are a factor or, unless it is `transposed`, the transpose of a factor.
template <class T> Rows<const T> unpacked(const Factor& factor, const std::vector<const T*>& parameters) {
    const int64_t stride = factor.transposed ? factor.columns : factor.depth;
    return {parameters[factor.parameter] + factor.first * stride, stride};
}

/// Packs the panels `first` to `last` of a factor.
template <class T>
void pack_factor(const Factor& factor, const Kernels<T>& kernels, const std::vector<const T*>& parameters, T* to,
                 int64_t first, int64_t last) {
    (factor.transposed ? kernels.pack : kernels.pack_transposed)(
        to, unpacked(factor, parameters), factor.depth, factor.depth, factor.columns, first, last);
}

/// The matrix parameters of a plan, packed once for many runs.
template <class T> class PackedWeights {
public:
    PackedWeights(const Plan& plan, const Kernels<T>& kernels, const std::vector<const T*>& parameters);
    const std::vector<const T*>& factors() const { return factors_; }

private:
    Workspace workspace_;
    std::vector<const T*> factors_;
};

/// Runs the plan on up to `threads` threads. The result does not depend on their number.
template <class T> void run(const Plan& plan, const Kernels<T>& kernels, const Arguments<T>& arguments, int threads);

}  // namespace throughtime
