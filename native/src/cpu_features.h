// Which instruction sets this processor and its operating system offer.
#pragma once

namespace tonearm {

struct CpuFeatures {
  bool avx2 = false;        // AVX2 with FMA and F16C
  bool avx512 = false;      // AVX-512 F, BW, DQ and VL, and AVX2 as above
  bool avx512vnni = false;  // AVX-512 as above with VNNI
  bool avx512bf16 = false;  // both as above with BF16
  bool neonbf16 = false;    // NEON with BF16 (Armv8.6)
};

/// Asks the processor once; later calls return the same answer.
const CpuFeatures& cpuFeatures();

/// Threads that this process may run at once: its affinity mask, cut down to its control group's quota of processor
/// time. At least 1.
int usableThreads();

}  // namespace tonearm
