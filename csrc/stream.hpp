/// Runs a stack of plans one step at a time and keeps the state.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "run.hpp"

namespace throughtime {

/// A plan and its parameters. A stream copies them.
template <class T> struct StreamLayer {
    const Plan* plan;
    std::vector<const T*> parameters;
};

/// A stack of layers. The first input of each is the output of the one below; the others are common to all layers.
/// Packing, allocation and address computation happen once, in the constructor. Not thread-safe.
template <class T> class Stream {
public:
    Stream(const std::vector<StreamLayer<T>>& layers, int64_t rows, const Kernels<T>& kernels);

    int64_t rows() const { return rows_; }
    /// The first layer's inputs side by side, to be written before a step; [rows, stride].
    Rows<T> input() const { return input_; }
    /// The last layer's first output after a step; valid until the next one.
    Rows<const T> output() const { return {output_.at, output_.stride}; }
    /// The current value of a state, counted over all layers; [rows, stride].
    Rows<T> state(int64_t k) const { return states_[k][current_]; }
    const std::vector<int64_t>& state_widths() const { return state_widths_; }
    int64_t input_width() const { return input_width_; }
    int64_t output_width() const { return output_width_; }
    /// The approximate number of multiply-adds of a step.
    int64_t cost() const { return cost_; }

    void step();

private:
    /// A product or another operation with the addresses of its operands.
    struct Action {
        OperationKernel<T> run;  // null: a product
        const T* factor;
        int64_t depth;
        Panels panels;
        int64_t width;
        Rows<T> to;
        Rows<const T> start;
        Rows<const T> from[max_arity];
    };

    const Kernels<T>& kernels_;
    const int64_t rows_;
    Workspace workspace_;
    std::vector<std::unique_ptr<PackedWeights<T>>> weights_;
    Rows<T> input_{}, output_{};
    int64_t input_width_ = 0, output_width_ = 0, cost_ = 0;
    std::vector<int64_t> input_widths_, input_starts_;  // of the first layer's inputs
    std::vector<std::array<Rows<T>, 2>> states_;  // steps read one and write the other, alternately
    std::vector<int64_t> state_widths_;
    std::array<std::vector<Action>, 2> actions_;
    int current_ = 0;

    Rows<T> allocate(int64_t rows, int64_t width);
    void add(const StreamLayer<T>& layer);
    /// Adds a layer's actions for the steps that read states_[k][parity].
    void add_actions(const Plan& plan, const PackedWeights<T>& weights, const std::vector<Rows<T>>& values, int parity);
};

}  // namespace throughtime
