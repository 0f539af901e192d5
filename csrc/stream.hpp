/// Runs a stack of plans a step at a time, the state inside.
#pragma once

#include <array>
#include <memory>
#include <vector>

#include "run.hpp"

namespace throughtime {

/// A plan and its parameters, which are copied.
template <class T> struct StreamLayer {
    const Plan* plan;
    std::vector<const T*> parameters;
};

/// Layers upon each other, each reading what the one below gives. Matrices are packed, memory is had and every
/// operation finds its values once; a step allocates nothing. One thread at a time.
template <class T> class Stream {
public:
    Stream(const std::vector<StreamLayer<T>>& layers, int64_t rows, const Kernels<T>& kernels);

    int64_t rows() const { return rows_; }
    /// Where the first layer's input is written before a step; [rows, stride].
    Rows<T> input() const { return input_; }
    /// Where the last layer's first output is found after a step; valid until the next.
    Rows<const T> output() const { return {output_.at, output_.stride}; }
    /// Where a state is now, counted through all layers; [rows, stride].
    Rows<T> state(int64_t k) const { return states_[k][now_]; }
    const std::vector<int64_t>& state_widths() const { return state_widths_; }
    int64_t input_width() const { return input_width_; }
    int64_t output_width() const { return output_width_; }
    /// Multiply-adds of a step, roughly.
    int64_t cost() const { return cost_; }

    void step();

private:
    /// A product or another operation with all that it needs.
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
    Workspace memory_;
    std::vector<std::unique_ptr<Weights<T>>> weights_;
    Rows<T> input_{}, output_{};
    int64_t input_width_ = 0, output_width_ = 0, cost_ = 0;
    std::vector<std::array<Rows<T>, 2>> states_;  // which is read and which is written changes with each step
    std::vector<int64_t> state_widths_;
    std::array<std::vector<Action>, 2> actions_;
    int now_ = 0;

    Rows<T> room(int64_t rows, int64_t width);
    void add(const StreamLayer<T>& layer);
    /// What a step does: one that reads the first states, or one that reads the second.
    void add_actions(const Plan& plan, const Weights<T>& weights, const std::vector<Rows<T>>& values, int turn);
};

}  // namespace throughtime
