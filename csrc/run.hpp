/// Runs a plan over a sequence.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"
#include "plan.hpp"
#include "workspace.hpp"

namespace throughtime {

template <class T> class Weights;

/// What one run is given and where it writes; arrays are contiguous.
template <class T> struct Call {
    int64_t steps, batch;
    const int64_t* batch_sizes;  // active rows of each step, never growing; or null: all rows
    bool packed;                 // whether inputs and outputs are [N, width], of active rows alone
    bool reductions_begun;       // whether sums are added to what the arrays have, or begin at zero
    std::vector<const T*> inputs, states, parameters;
    std::vector<T*> outputs, finals, reductions;
    const Weights<T>* weights = nullptr;  // the matrices, packed before; or null: the run packs them itself
};

/// Packs the panels `first` to `last` of a factor.
template <class T>
void pack_factor(const Factor& factor, const Kernels<T>& kernels, const std::vector<const T*>& parameters, T* to,
                 int64_t first, int64_t last) {
    const int64_t stride = factor.transposed ? factor.columns : factor.depth;
    (factor.transposed ? kernels.pack : kernels.pack_transposed)(
        to, {parameters[factor.parameter] + factor.first * stride, stride}, factor.depth, factor.depth, factor.columns,
        first, last);
}

/// The matrix parameters of a plan, packed once for many runs.
template <class T> class Weights {
public:
    Weights(const Plan& plan, const Kernels<T>& kernels, const std::vector<const T*>& parameters);
    const std::vector<const T*>& factors() const { return factors_; }

private:
    Workspace memory_;
    std::vector<const T*> factors_;
};

/// Runs the plan on up to `threads` threads; the result does not depend on how many.
template <class T> void run(const Plan& plan, const Kernels<T>& kernels, const Call<T>& call, int threads);

}  // namespace throughtime
