#include "stream.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "float_mode.hpp"

namespace throughtime {
namespace {

/// Products that follow upon each other, to be done in pieces: some columns of one, and at once what goes on from there.
///
/// By turns they are done from the first piece to the last and backward. So a step begins with the weights that the
/// one before read last, which the caches still hold, however many more there are.
class Products {
public:
    struct Piece {
        const Linear* linear;
        Panels panels;
    };

    explicit Products(const Plan& plan) : plan_(plan) {}

    /// Takes one more, if of those before it only goes on from some of one chain.
    bool take(const Linear& linear) {
        std::vector<const Linear*>* chain = nullptr;
        for (auto& known : chains_)
            for (const Linear* other : known) {
                if (!linear.touches(*other)) continue;
                if (!goes_on(linear, *other)) return false;
                chain = &known;
            }
        if (!chain) chain = &chains_.emplace_back();
        chain->push_back(&linear);
        return true;
    }

    /// All that were taken, in pieces of panels so wide; then there are none any more.
    std::vector<Piece> in_pieces(int64_t panel, bool backward) {
        std::vector<std::vector<Piece>> groups;
        for (const auto& chain : std::exchange(chains_, {})) {
            const int64_t panels = round_up(columns(*chain[0]), panel) / panel;
            for (int64_t first = 0; first < panels; first += panels_together) {
                auto& group = groups.emplace_back();
                for (const Linear* linear : chain)
                    group.push_back({linear, {first, std::min(first + panels_together, panels)}});
            }
        }
        if (backward) std::reverse(groups.begin(), groups.end());
        std::vector<Piece> pieces;
        for (const auto& group : groups) pieces.insert(pieces.end(), group.begin(), group.end());
        return pieces;
    }

private:
    static constexpr int64_t panels_together = 4;

    const Plan& plan_;
    std::vector<std::vector<const Linear*>> chains_;

    int64_t columns(const Linear& linear) const { return plan_.factors[linear.factor].columns; }

    /// Whether each column begins at the same column of the other, and that is all that they share.
    bool goes_on(const Linear& linear, const Linear& from) const {
        Linear fresh = linear;
        fresh.begun = false;
        return linear.begun && linear.start.buffer == from.to.buffer && linear.start.offset == from.to.offset &&
               columns(linear) == columns(from) && !fresh.touches(from);
    }
};

}  // namespace

template <class T>
Stream<T>::Stream(const std::vector<StreamLayer<T>>& layers, int64_t rows, const Kernels<T>& kernels)
    : kernels_(kernels), rows_(rows) {
    if (layers.empty()) throw std::invalid_argument("a stream needs a layer");
    if (rows < 1) throw std::invalid_argument("a stream has one row or more");
    for (const StreamLayer<T>& layer : layers) add(layer);
}

template <class T> void Stream<T>::step() {
    FlushDenormals flush;
    for (const Action& action : actions_[now_]) {
        if (action.run)
            action.run(action.to, action.from, rows_, action.width);
        else
            kernels_.product(action.to, action.start, action.from[0], rows_, action.factor, action.depth, action.width,
                             action.panels);
    }
    now_ ^= 1;
}

/// Zeros for so many rows, each at a cache line; no rows are one that is the same for all.
template <class T> Rows<T> Stream<T>::room(int64_t rows, int64_t width) {
    const int64_t stride = round_up(width, cache_line / sizeof(T));
    const int64_t count = checked_product(std::max<int64_t>(rows, 1), stride);
    T* at = memory_.room<T>(count);
    std::fill_n(at, count, T(0));
    return {at, rows ? stride : 0};
}

template <class T> void Stream<T>::add(const StreamLayer<T>& layer) {
    const Plan& plan = *layer.plan;
    if (plan.inputs.size() != 1 || plan.outputs.empty() || !plan.reductions.empty() || plan.reverse)
        throw std::invalid_argument("a layer of a stream has one input, gives an output, and runs forward in time");
    if (plan.one_hot(0)) throw std::invalid_argument("a layer of a stream takes vectors, not symbols");
    if (input_.at == nullptr) {
        input_width_ = plan.inputs[0];
        output_ = input_ = room(rows_, input_width_);
    } else if (plan.inputs[0] != output_width_) {
        throw std::invalid_argument("a layer takes another width than the one below gives");
    }
    const size_t first_state = states_.size();
    for (int64_t width : plan.states) {
        states_.push_back({room(rows_, width), room(rows_, width)});
        state_widths_.push_back(width);
    }
    std::vector<Rows<T>> outputs;
    for (int64_t width : plan.outputs) outputs.push_back(room(rows_, width));
    weights_.push_back(std::make_unique<Weights<T>>(plan, kernels_, layer.parameters));
    std::array<std::vector<Rows<T>>, 2> values;  // of each buffer, at a step that reads the first states or the second
    for (const Buffer& buffer : plan.buffers) {
        Rows<T> either{}, other{};
        switch (buffer.home) {
            case Home::input: other = either = output_; break;
            case Home::output: other = either = outputs[buffer.index]; break;
            case Home::previous:
            case Home::next: {
                const auto& both = states_[first_state + buffer.index];
                either = both[buffer.home == Home::next];
                other = both[buffer.home == Home::previous];
                break;
            }
            case Home::parameter:
                other = either = room(0, buffer.width);
                std::copy_n(layer.parameters[buffer.index], buffer.width, either.at);
                break;
            case Home::constant:
                other = either = room(0, buffer.width);
                std::fill_n(either.at, buffer.width, static_cast<T>(buffer.value));
                break;
            default: other = either = room(rows_, buffer.width); break;
        }
        values[0].push_back(either);
        values[1].push_back(other);
    }
    for (int turn : {0, 1}) add_actions(plan, *weights_.back(), values[turn], turn);
    for (Phase phase : {Phase::before, Phase::step, Phase::after}) cost_ += checked_product(plan.cost(phase), rows_);
    output_ = outputs[0];
    output_width_ = plan.outputs[0];
}

template <class T>
void Stream<T>::add_actions(const Plan& plan, const Weights<T>& weights, const std::vector<Rows<T>>& values, int turn) {
    auto locate = [&](Place place) {
        const Rows<T>& value = values[place.buffer];
        return Rows<T>{value.at + place.offset, value.stride};
    };
    auto read = [&](Place place) {
        const Rows<T> value = locate(place);
        return Rows<const T>{value.at, value.stride};
    };
    std::vector<Action>& to = actions_[turn];
    Products products(plan);
    auto multiply = [&] {
        for (const auto& [linear, panels] : products.in_pieces(kernels_.panel, turn == 1)) {
            const Factor& factor = plan.factors[linear->factor];
            Action action{};
            action.factor = weights.factors()[linear->factor];
            action.depth = factor.depth;
            action.width = factor.columns;
            action.panels = panels;
            action.to = locate(linear->to);
            action.from[0] = read(linear->from);
            if (linear->begun) action.start = read(linear->start);
            to.push_back(action);
        }
    };
    for (Phase phase : {Phase::before, Phase::step, Phase::after})
        for (const Stage& stage : plan.phase(phase)) {
            for (const Linear& linear : stage.linears)
                if (!products.take(linear)) {
                    multiply();
                    products.take(linear);
                }
            if (!stage.operations.empty()) multiply();
            for (const Operation& operation : stage.operations) {
                Action action{};
                action.run = kernels_.operations[operation.code].run;
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
