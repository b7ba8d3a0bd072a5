// IEEE 754 binary16 and bfloat16 in software, for the code that isn't compiled per instruction set and for plain C++ kernels.
#pragma once

#include <bit>
#include <cstdint>

namespace tonearm {

/// The float32 equal to a binary16: exact for every input, NaN and subnormals included.
inline float floatFromHalf(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t magnitude = half & 0x7fffU;
  if (magnitude >= 0x7c00U) return std::bit_cast<float>(sign | 0x7f800000U | ((magnitude & 0x3ffU) << 13));
  // Scaling by 2^112 moves the exponent from bias 15 to bias 127 and normalises subnormals on the way.
  const float shifted = std::bit_cast<float>(magnitude << 13) * 0x1p112F;
  return std::bit_cast<float>(sign | std::bit_cast<std::uint32_t>(shifted));
}

/// The binary16 nearest to a float32, ties to even; overflow gives infinity, NaN stays NaN.
inline std::uint16_t halfFromFloat(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint16_t>((bits >> 16) & 0x8000U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return static_cast<std::uint16_t>(sign | 0x7e00U);
  if (magnitude >= 0x477ff000U) return static_cast<std::uint16_t>(sign | 0x7c00U);
  if (magnitude < 0x38800000U) {
    // Below the smallest normal half: adding 0.5 aligns the value's last kept bit with float32's, and rounds it there.
    const float aligned = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(aligned) - 0x3f000000U));
  }
  const std::uint32_t roundUp = 0xfffU + ((magnitude >> 13) & 1U);
  return static_cast<std::uint16_t>(sign | ((magnitude + roundUp - 0x38000000U) >> 13));
}

/// The float32 equal to the bfloat16 nearest to a float32, ties to even; overflow gives infinity, NaN stays NaN.
inline float roundToBfloat(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return value;
  return std::bit_cast<float>((bits + 0x7fffU + ((bits >> 16) & 1U)) & 0xffff0000U);
}

}  // namespace tonearm
