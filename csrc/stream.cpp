#include "stream.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "float_mode.hpp"

namespace throughtime {
namespace {

/// Consecutive products, split into pieces: some columns of one product, then the same columns of the products that
/// accumulate onto it.
///
/// Steps alternate between running the pieces forward and backward, so each starts with the weights that are still in
/// cache, however large the weights are.
class GemmSequence {
public:
    struct Piece {
        const Gemm* gemm;
        Panels panels;
    };

    explicit GemmSequence(const Plan& plan) : plan_(plan) {}

    /// Adds a product unless it depends on an earlier one in any way other than accumulating onto one chain.
    bool try_add(const Gemm& gemm) {
        std::vector<const Gemm*>* chain = nullptr;
        for (auto& known : chains_)
            for (const Gemm* other : known) {
                if (!gemm.conflicts(*other)) continue;
                if (!continues(gemm, *other)) return false;
                chain = &known;
            }
        if (!chain) chain = &chains_.emplace_back();
        chain->push_back(&gemm);
        return true;
    }

    /// Removes all products and returns their pieces, for panels of width `panel`.
    std::vector<Piece> take_pieces(int64_t panel, bool backward) {
        std::vector<std::vector<Piece>> groups;
        for (const auto& chain : std::exchange(chains_, {})) {
            const int64_t panels = round_up(columns(*chain[0]), panel) / panel;
            for (int64_t first = 0; first < panels; first += panels_per_piece) {
                auto& group = groups.emplace_back();
                for (const Gemm* gemm : chain)
                    group.push_back({gemm, {first, std::min(first + panels_per_piece, panels)}});
            }
        }
        if (backward) std::reverse(groups.begin(), groups.end());
        std::vector<Piece> pieces;
        for (const auto& group : groups) pieces.insert(pieces.end(), group.begin(), group.end());
        return pieces;
    }

private:
    static constexpr int64_t panels_per_piece = 4;

    const Plan& plan_;
    std::vector<std::vector<const Gemm*>> chains_;

    int64_t columns(const Gemm& gemm) const { return plan_.factors[gemm.factor].columns; }

    /// Whether a product accumulates onto the same columns of another and doesn't depend on it otherwise.
    bool continues(const Gemm& gemm, const Gemm& from) const {
        Gemm standalone = gemm;
        standalone.accumulate = false;
        return gemm.accumulate && gemm.start.buffer == from.to.buffer && gemm.start.offset == from.to.offset &&
               columns(gemm) == columns(from) && !standalone.conflicts(from);
    }
};

}  // namespace

template <class T>
Stream<T>::Stream(const std::vector<StreamLayer<T>>& layers, int64_t rows, const Kernels<T>& kernels)
    : kernels_(kernels), rows_(rows) {
    if (layers.empty()) throw std::invalid_argument("a stream needs at least one layer");
    if (rows < 1) throw std::invalid_argument("a stream needs at least one row");
    for (const StreamLayer<T>& layer : layers) add(layer);
}

template <class T> void Stream<T>::step() {
    FlushDenormals flush;
    for (const Action& action : actions_[current_]) {
        if (action.run)
            action.run(action.to, action.from, rows_, action.width);
        else
            kernels_.gemm(action.to, action.start, action.from[0], rows_, action.factor, action.depth, action.width,
                             action.panels);
    }
    current_ ^= 1;
}

/// Zeroed memory for `rows` rows, aligned to cache lines; with 0 rows, one row shared by all.
template <class T> Rows<T> Stream<T>::allocate(int64_t rows, int64_t width) {
    const int64_t stride = round_up(width, cache_line / sizeof(T));
    const int64_t count = checked_product(std::max<int64_t>(rows, 1), stride);
    T* at = workspace_.allocate<T>(count);
    std::fill_n(at, count, T(0));
    return {at, rows ? stride : 0};
}

template <class T> void Stream<T>::add(const StreamLayer<T>& layer) {
    const Plan& plan = *layer.plan;
    if (plan.inputs.empty() || plan.outputs.empty() || !plan.reductions.empty() || plan.reverse)
        throw std::invalid_argument("a layer of a stream must have an input and an output, and run forward in time");
    for (size_t k = 0; k < plan.inputs.size(); ++k)
        if (plan.one_hot(k)) throw std::invalid_argument("a layer of a stream takes vectors, not token ids");
    if (input_.at == nullptr) {
        for (int64_t width : plan.inputs) {
            input_starts_.push_back(input_width_);
            input_width_ += width;
        }
        input_widths_ = plan.inputs;
        output_ = input_ = allocate(rows_, input_width_);
    } else if (plan.inputs[0] != output_width_) {
        throw std::invalid_argument("a layer's input width differs from the output width of the layer below");
    } else if (plan.inputs.size() > input_widths_.size() ||
               !std::equal(plan.inputs.begin() + 1, plan.inputs.end(), input_widths_.begin() + 1)) {
        throw std::invalid_argument("a layer's additional inputs differ from those of the first layer");
    }
    const size_t first_state = states_.size();
    for (int64_t width : plan.states) {
        states_.push_back({allocate(rows_, width), allocate(rows_, width)});
        state_widths_.push_back(width);
    }
    std::vector<Rows<T>> outputs;
    for (int64_t width : plan.outputs) outputs.push_back(allocate(rows_, width));
    weights_.push_back(std::make_unique<PackedWeights<T>>(plan, kernels_, layer.parameters));
    std::array<std::vector<Rows<T>>, 2> values;  // of each buffer, by parity of the step
    for (const Buffer& buffer : plan.buffers) {
        Rows<T> either{}, other{};
        switch (buffer.storage) {
            case Storage::input:
                other = either = output_;
                if (buffer.index > 0) other = either = {input_.at + input_starts_[buffer.index], input_.stride};
                break;
            case Storage::output: other = either = outputs[buffer.index]; break;
            case Storage::previous:
            case Storage::next: {
                const auto& both = states_[first_state + buffer.index];
                either = both[buffer.storage == Storage::next];
                other = both[buffer.storage == Storage::previous];
                break;
            }
            case Storage::parameter:
                other = either = allocate(0, buffer.width);
                std::copy_n(layer.parameters[buffer.index], buffer.width, either.at);
                break;
            case Storage::constant:
                other = either = allocate(0, buffer.width);
                std::fill_n(either.at, buffer.width, static_cast<T>(buffer.value));
                break;
            default: other = either = allocate(rows_, buffer.width); break;
        }
        values[0].push_back(either);
        values[1].push_back(other);
    }
    for (int parity : {0, 1}) add_actions(plan, *weights_.back(), values[parity], parity);
    for (Phase phase : {Phase::before, Phase::step, Phase::after}) cost_ += checked_product(plan.cost(phase), rows_);
    output_ = outputs[0];
    output_width_ = plan.outputs[0];
}

template <class T>
void Stream<T>::add_actions(const Plan& plan, const PackedWeights<T>& weights, const std::vector<Rows<T>>& values,
                            int parity) {
    auto locate = [&](Place place) {
        const Rows<T>& value = values[place.buffer];
        return Rows<T>{value.at + place.offset, value.stride};
    };
    auto read = [&](Place place) {
        const Rows<T> value = locate(place);
        return Rows<const T>{value.at, value.stride};
    };
    std::vector<Action>& to = actions_[parity];
    GemmSequence sequence(plan);
    auto multiply = [&] {
        for (const auto& [gemm, panels] : sequence.take_pieces(kernels_.panel, parity == 1)) {
            const Factor& factor = plan.factors[gemm->factor];
            Action action{};
            action.factor = weights.factors()[gemm->factor];
            action.depth = factor.depth;
            action.width = factor.columns;
            action.panels = panels;
            action.to = locate(gemm->to);
            action.from[0] = read(gemm->from);
            if (gemm->accumulate) action.start = read(gemm->start);
            to.push_back(action);
        }
    };
    for (Phase phase : {Phase::before, Phase::step, Phase::after})
        for (const Stage& stage : plan.phase(phase)) {
            for (const Gemm& gemm : stage.gemms)
                if (!sequence.try_add(gemm)) {
                    multiply();
                    sequence.try_add(gemm);
                }
            if (!stage.operations.empty()) multiply();
            for (const Operation& operation : stage.operations) {
                Action action{};
                action.run = kernels_.operation(operation.code).run;
                action.width = operation.width;
                action.to = locate(operation.to);
                for (int k = 0; k < operation.arity; ++k) action.from[k] = read(operation.from[k]);
                to.push_back(action);
            }
        }
    multiply();
}

template class Stream<float>;
template class Stream<double>;

}  // namespace throughtime
