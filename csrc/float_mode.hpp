/// The processor's treatment of denormal numbers, which would otherwise slow a run tenfold.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace throughtime {

/// Flushes denormals to zero on this thread while it lives; then the mode is what it was.
class FlushDenormals {
public:
#if defined(__x86_64__)
    FlushDenormals() : before_(_mm_getcsr()) { _mm_setcsr(before_ | flush_results | zero_operands); }
    ~FlushDenormals() { _mm_setcsr(before_); }

private:
    static constexpr unsigned flush_results = 1u << 15, zero_operands = 1u << 6;
    unsigned before_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(before_));
        asm volatile("msr fpcr, %0" ::"r"(before_ | flush));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(before_)); }

private:
    static constexpr uint64_t flush = 1u << 24;
    uint64_t before_;
#endif

public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace throughtime
