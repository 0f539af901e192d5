/// Flushing of denormal numbers, which would slow a run tenfold.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace throughtime {

/// Flushes denormals to zero on this thread during its lifetime, then restores the previous mode.
class FlushDenormals {
public:
#if defined(__x86_64__)
    FlushDenormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | flush_results | zero_operands); }
    ~FlushDenormals() { _mm_setcsr(saved_); }

private:
    static constexpr unsigned flush_results = 1u << 15, zero_operands = 1u << 6;
    unsigned saved_;
#elif defined(__aarch64__)
    FlushDenormals() {
        asm volatile("mrs %0, fpcr" : "=r"(saved_));
        asm volatile("msr fpcr, %0" ::"r"(saved_ | flush));
    }
    ~FlushDenormals() { asm volatile("msr fpcr, %0" ::"r"(saved_)); }

private:
    static constexpr uint64_t flush = 1u << 24;
    uint64_t saved_;
#endif

public:
    FlushDenormals(const FlushDenormals&) = delete;
    FlushDenormals& operator=(const FlushDenormals&) = delete;
};

}  // namespace throughtime
