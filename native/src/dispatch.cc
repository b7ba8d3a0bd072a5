#include "dispatch.h"

#include <algorithm>

#include "cpu_features.h"

namespace tonearm {
namespace {

std::vector<const KernelTable*> runnable() {
  std::vector<const KernelTable*> tables;
#if defined(TONEARM_HAS_AVX512BF16)
  if (cpuFeatures().avx512bf16) tables.push_back(&avx512bf16::kernels);
#endif
#if defined(TONEARM_HAS_AVX512VNNI)
  if (cpuFeatures().avx512vnni) tables.push_back(&avx512vnni::kernels);
#endif
#if defined(TONEARM_HAS_AVX512)
  if (cpuFeatures().avx512) tables.push_back(&avx512::kernels);
#endif
#if defined(TONEARM_HAS_AVX2)
  if (cpuFeatures().avx2) tables.push_back(&avx2::kernels);
#endif
#if defined(TONEARM_HAS_NEONBF16)
  if (cpuFeatures().neonbf16) tables.push_back(&neonbf16::kernels);
#endif
#if defined(TONEARM_HAS_NEON)
  tables.push_back(&neon::kernels);
#endif
  tables.push_back(&generic::kernels);
  return tables;
}

const KernelTable*& current() {
  static const KernelTable* table = runnable().front();
  return table;
}

}  // namespace

const KernelTable& kernels() { return *current(); }

std::vector<std::string> availableKernels() {
  std::vector<std::string> names;
  for (const KernelTable* table : runnable()) names.emplace_back(table->name);
  return names;
}

bool chooseKernels(const std::string& name) {
  const auto tables = runnable();
  const auto found = std::find_if(tables.begin(), tables.end(), [&](const auto* table) { return name == table->name; });
  if (found == tables.end()) return false;
  current() = *found;
  return true;
}

}  // namespace tonearm
