#include "cpu_features.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <fstream>
#include <limits>
#include <sstream>
#include <string>
#include <thread>

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sched.h>
#include <sys/auxv.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace tonearm {
namespace {

#if defined(__x86_64__)
struct Registers {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(unsigned leaf, unsigned subleaf) {
  Registers r;
  if (__get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx) == 0) return {};
  return r;
}

/// The register states that the operating system saves on a context switch (extended control register 0).
std::uint64_t savedStates() {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (static_cast<std::uint64_t>(high) << 32) | low;
}

constexpr bool bit(unsigned word, int index) { return ((word >> index) & 1U) != 0; }

CpuFeatures detect() {
  const Registers basic = cpuid(1, 0);
  const Registers extended = cpuid(7, 0);
  constexpr std::uint64_t kAvxState = 0x6;      // SSE and AVX registers
  constexpr std::uint64_t kAvx512State = 0xe6;  // and the AVX-512 registers and masks
  const bool saves = bit(basic.ecx, 27);
  const std::uint64_t states = saves ? savedStates() : 0;
  CpuFeatures features;
  features.avx2 = (states & kAvxState) == kAvxState && bit(basic.ecx, 12) && bit(basic.ecx, 28) && bit(basic.ecx, 29) &&
                  bit(extended.ebx, 5);
  features.avx512 = features.avx2 && (states & kAvx512State) == kAvx512State && bit(extended.ebx, 16) &&
                    bit(extended.ebx, 17) && bit(extended.ebx, 30) && bit(extended.ebx, 31);
  features.avx512vnni = features.avx512 && bit(extended.ecx, 11);
  features.avx512bf16 = features.avx512vnni && bit(cpuid(7, 1).eax, 5);
  return features;
}
#elif defined(__aarch64__) && defined(__linux__)
CpuFeatures detect() {
  constexpr unsigned long kBfloat = 1UL << 14;  // HWCAP2_BF16
  CpuFeatures features;
  features.neonbf16 = (getauxval(AT_HWCAP2) & kBfloat) != 0;
  return features;
}
#elif defined(__aarch64__) && defined(__APPLE__)
CpuFeatures detect() {
  int present = 0;
  std::size_t size = sizeof present;
  CpuFeatures features;
  features.neonbf16 = sysctlbyname("hw.optional.arm.FEAT_BF16", &present, &size, nullptr, 0) == 0 && present != 0;
  return features;
}
#else
CpuFeatures detect() { return {}; }
#endif

#if defined(__linux__)
constexpr double kNoQuota = std::numeric_limits<double>::infinity();

/// The directory of this process's control group below a controller's mount, from /proc/self/cgroup.
std::string controlGroup(const std::string& controller) {
  std::ifstream file("/proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const auto first = line.find(':');
    const auto second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    std::istringstream controllers(line.substr(first + 1, second - first - 1));
    std::string name;
    do {
      std::getline(controllers, name, ',');
      if (name == controller) return line.substr(second + 1);
    } while (controllers);
  }
  return "/";
}

double quotaV2(const std::string& directory) {
  std::ifstream file(directory + "/cpu.max");
  std::string quota;
  double period = 0;
  if (!(file >> quota >> period) || quota == "max" || period <= 0) return kNoQuota;
  return std::stod(quota) / period;
}

double quotaV1(const std::string& directory) {
  std::ifstream quotaFile(directory + "/cpu.cfs_quota_us");
  std::ifstream periodFile(directory + "/cpu.cfs_period_us");
  double quota = 0;
  double period = 0;
  if (!(quotaFile >> quota) || !(periodFile >> period) || quota <= 0 || period <= 0) return kNoQuota;
  return quota / period;
}

/// Processors' worth of time that the control group allows, its own limit and what a container shows at the root.
double cpuQuota() {
  const std::string v2 = "/sys/fs/cgroup";
  const std::string v1 = "/sys/fs/cgroup/cpu";
  return std::min({quotaV2(v2), quotaV2(v2 + controlGroup("")), quotaV1(v1), quotaV1(v1 + controlGroup("cpu"))});
}
#endif

int countThreads() {
  double threads = std::max(1U, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0) threads = CPU_COUNT(&set);
  try {
    threads = std::min(threads, std::floor(cpuQuota()));
  } catch (const std::exception&) {
    // A quota file that doesn't hold a number sets no limit.
  }
#endif
  return std::max(1, static_cast<int>(threads));
}

}  // namespace

const CpuFeatures& cpuFeatures() {
  static const CpuFeatures features = detect();
  return features;
}

int usableThreads() {
  static const int threads = countThreads();
  return threads;
}

}  // namespace tonearm
