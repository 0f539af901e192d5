#include "isa.hpp"

#include <cstdlib>
#include <stdexcept>

#define THROUGHTIME_DECLARE(isa)                  \
    namespace throughtime::isa {                  \
    extern const Kernels<float> kernels_f32;      \
    extern const Kernels<double> kernels_f64;     \
    }
#if defined(THROUGHTIME_HAS_avx512)
THROUGHTIME_DECLARE(avx512)
#endif
#if defined(THROUGHTIME_HAS_avx2)
THROUGHTIME_DECLARE(avx2)
#endif
THROUGHTIME_DECLARE(baseline)

namespace throughtime {
namespace {

struct InstructionSet {
    std::string name;
    const Kernels<float>& f32;
    const Kernels<double>& f64;
};

const std::vector<InstructionSet>& available() {
    static const std::vector<InstructionSet> sets = [] {
        std::vector<InstructionSet> found;
#if defined(__x86_64__)
        __builtin_cpu_init();
#endif
#if defined(THROUGHTIME_HAS_avx512)
        if (__builtin_cpu_supports("x86-64-v4")) found.push_back({"avx512", avx512::kernels_f32, avx512::kernels_f64});
#endif
#if defined(THROUGHTIME_HAS_avx2)
        if (__builtin_cpu_supports("x86-64-v3")) found.push_back({"avx2", avx2::kernels_f32, avx2::kernels_f64});
#endif
        found.push_back({"baseline", baseline::kernels_f32, baseline::kernels_f64});
        return found;
    }();
    return sets;
}

const InstructionSet& chosen(std::string name) {
    if (name.empty())
        if (const char* set = std::getenv("THROUGHTIME_ISA")) name = set;
    if (name.empty()) return available().front();
    for (const auto& set : available())
        if (set.name == name) return set;
    std::string known;
    for (const auto& set : available()) known += (known.empty() ? "" : ", ") + set.name;
    throw std::invalid_argument("THROUGHTIME_ISA: no instruction set named " + name + "; this machine has " + known);
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const auto& set : available()) names.push_back(set.name);
    return names;
}

template <> const Kernels<float>& kernels(const std::string& name) { return chosen(name).f32; }
template <> const Kernels<double>& kernels(const std::string& name) { return chosen(name).f64; }

}  // namespace throughtime
