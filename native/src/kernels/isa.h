// Which instruction set this translation unit is compiled for.
//
// kernels.cc is compiled once per instruction set, each time with its own -m flags and one of the TONEARM_FOR_… macros
// below. Everything in kernels/ lives in a namespace of that set's name, so that the linker can never mix two of them.
// For the same reason kernels/ uses no inline function of the standard library that could be emitted out of line: a copy
// made with AVX instructions might be the one that a plain processor ends up calling.
#pragma once

#if defined(TONEARM_FOR_AVX512BF16)
#define TONEARM_ISA avx512bf16
#define TONEARM_SIMD_AVX512 1
#define TONEARM_SIMD_VNNI 1
#define TONEARM_SIMD_BF16 1
#elif defined(TONEARM_FOR_AVX512VNNI)
#define TONEARM_ISA avx512vnni
#define TONEARM_SIMD_AVX512 1
#define TONEARM_SIMD_VNNI 1
#elif defined(TONEARM_FOR_AVX512)
#define TONEARM_ISA avx512
#define TONEARM_SIMD_AVX512 1
#elif defined(TONEARM_FOR_AVX2)
#define TONEARM_ISA avx2
#define TONEARM_SIMD_AVX2 1
#elif defined(TONEARM_FOR_NEONBF16)
#define TONEARM_ISA neonbf16
#define TONEARM_SIMD_NEON 1
#define TONEARM_SIMD_BF16 1
#elif defined(TONEARM_FOR_NEON)
#define TONEARM_ISA neon
#define TONEARM_SIMD_NEON 1
#else
#define TONEARM_ISA generic
#define TONEARM_SIMD_GENERIC 1
#endif
