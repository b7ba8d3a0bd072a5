// In place of src/cpu_features.cc where the AVX-512 kernels are emulated: a processor that has them all.
#include "../src/cpu_features.h"

namespace tonearm {

const CpuFeatures& cpuFeatures() {
  static const CpuFeatures features = {
      .avx2 = true, .avx512 = true, .avx512vnni = true, .avx512bf16 = true, .neonbf16 = false};
  return features;
}

int usableThreads() { return 1; }

}  // namespace tonearm
