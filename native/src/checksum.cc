#include "checksum.h"

#include <bit>
#include <cstring>

namespace tonearm {
namespace {

constexpr std::uint32_t kPrime1 = 0x9e3779b1U;
constexpr std::uint32_t kPrime2 = 0x85ebca77U;
constexpr std::uint32_t kPrime3 = 0xc2b2ae3dU;
constexpr std::uint32_t kPrime4 = 0x27d4eb2fU;
constexpr std::uint32_t kPrime5 = 0x165667b1U;

std::uint32_t word(const unsigned char* p) {
  std::uint32_t value = 0;
  std::memcpy(&value, p, sizeof value);
  return value;
}

std::uint32_t mix(std::uint32_t lane, std::uint32_t input) { return std::rotl(lane + input * kPrime2, 13) * kPrime1; }

}  // namespace

std::uint32_t xxh32(const void* data, std::size_t bytes) {
  const auto* p = static_cast<const unsigned char*>(data);
  const unsigned char* end = p + bytes;
  std::uint32_t hash = kPrime5;
  if (bytes >= 16) {
    std::uint32_t a = kPrime1 + kPrime2;
    std::uint32_t b = kPrime2;
    std::uint32_t c = 0;
    std::uint32_t d = 0U - kPrime1;
    for (; end - p >= 16; p += 16) {
      a = mix(a, word(p));
      b = mix(b, word(p + 4));
      c = mix(c, word(p + 8));
      d = mix(d, word(p + 12));
    }
    hash = std::rotl(a, 1) + std::rotl(b, 7) + std::rotl(c, 12) + std::rotl(d, 18);
  }
  hash += static_cast<std::uint32_t>(bytes);
  for (; end - p >= 4; p += 4) hash = std::rotl(hash + word(p) * kPrime3, 17) * kPrime4;
  for (; p < end; ++p) hash = std::rotl(hash + *p * kPrime5, 11) * kPrime1;
  hash = (hash ^ (hash >> 15)) * kPrime2;
  hash = (hash ^ (hash >> 13)) * kPrime3;
  return hash ^ (hash >> 16);
}

}  // namespace tonearm
