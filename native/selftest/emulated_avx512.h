// The AVX-512 intrinsics that the kernels use, in plain C++, after Intel's description of each: with this file included
// before all others, the AVX-512 kernels compile for AVX2 and run on processors without AVX-512. It is for tests alone; it
// proves what the kernels compute, and nothing of their speed.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../src/half.h"

namespace emulated {

struct Bfloats16 {
  std::uint16_t v[16];
};
struct Bfloats32 {
  std::uint16_t v[32];
};

/// The elements of a vector of 64 bytes, or of another type of the same size.
template <class Element, class Vector>
struct Lanes {
  static constexpr int kCount = static_cast<int>(sizeof(Vector) / sizeof(Element));
  Element v[kCount];
  explicit Lanes(const Vector& vector) { std::memcpy(v, &vector, sizeof v); }
  Lanes() : v{} {}
  [[nodiscard]] Vector vector() const {
    Vector result;
    std::memcpy(&result, v, sizeof v);
    return result;
  }
};

using Singles = Lanes<float, __m512>;
using Words = Lanes<std::int32_t, __m512i>;
using Shorts = Lanes<std::int16_t, __m512i>;

template <class Function>
__m512 singles(Function function) {
  Singles result;
  for (int i = 0; i < 16; ++i) result.v[i] = function(i);
  return result.vector();
}
template <class Function>
__m512i words(Function function) {
  Words result;
  for (int i = 0; i < 16; ++i) result.v[i] = static_cast<std::int32_t>(function(i));
  return result.vector();
}
template <class Function>
__m512i shorts(Function function) {
  Shorts result;
  for (int i = 0; i < 32; ++i) result.v[i] = static_cast<std::int16_t>(function(i));
  return result.vector();
}
template <class Function>
__mmask16 mask(Function function) {
  unsigned bits = 0;
  for (unsigned i = 0; i < 16; ++i) bits |= function(static_cast<int>(i)) ? 1U << i : 0U;
  return static_cast<__mmask16>(bits);
}
inline bool has(__mmask16 m, int i) { return ((m >> i) & 1) != 0; }

inline __m512 set1_ps(float x) {
  return singles([=](int) { return x; });
}
inline __m512i set1_epi32(int x) {
  return words([=](int) { return x; });
}
inline __m512i set1_epi16(short x) {
  return shorts([=](int) { return x; });
}
inline __m512i setzero_si512() { return set1_epi32(0); }
inline __m512 loadu_ps(const void* p) {
  __m512 result;
  std::memcpy(&result, p, sizeof result);
  return result;
}
inline __m512i loadu_si512(const void* p) {
  __m512i result;
  std::memcpy(&result, p, sizeof result);
  return result;
}
inline __m512 maskz_loadu_ps(__mmask16 m, const float* p) {
  return singles([=](int i) { return has(m, i) ? p[i] : 0.0F; });
}
inline void storeu_ps(void* p, __m512 a) { std::memcpy(p, &a, sizeof a); }
inline void mask_storeu_ps(float* p, __mmask16 m, __m512 a) {
  const Singles lanes(a);
  for (int i = 0; i < 16; ++i)
    if (has(m, i)) p[i] = lanes.v[i];
}
inline __m512 add_ps(__m512 a, __m512 b) { return a + b; }
inline __m512 sub_ps(__m512 a, __m512 b) { return a - b; }
inline __m512 mul_ps(__m512 a, __m512 b) { return a * b; }
inline __m512 div_ps(__m512 a, __m512 b) { return a / b; }
inline __m512 fmadd_ps(__m512 a, __m512 b, __m512 c) {
  const Singles x(a), y(b), z(c);
  return singles([&](int i) { return std::fma(x.v[i], y.v[i], z.v[i]); });
}
inline __m512d fmadd_pd(__m512d a, __m512d b, __m512d c) {
  const Lanes<double, __m512d> x(a), y(b), z(c);
  Lanes<double, __m512d> result;
  for (int i = 0; i < 8; ++i) result.v[i] = std::fma(x.v[i], y.v[i], z.v[i]);
  return result.vector();
}
/// As the instruction does, the second where one is NaN.
inline __m512 max_ps(__m512 a, __m512 b) {
  const Singles x(a), y(b);
  return singles([&](int i) { return x.v[i] > y.v[i] ? x.v[i] : y.v[i]; });
}
inline __m512 min_ps(__m512 a, __m512 b) {
  const Singles x(a), y(b);
  return singles([&](int i) { return x.v[i] < y.v[i] ? x.v[i] : y.v[i]; });
}
inline __m512 sqrt_ps(__m512 a) {
  const Singles x(a);
  return singles([&](int i) { return std::sqrt(x.v[i]); });
}
inline __m512 abs_ps(__m512 a) {
  const Singles x(a);
  return singles([&](int i) { return std::fabs(x.v[i]); });
}
inline __m512 roundscale_ps(__m512 a, int) {
  const Singles x(a);
  return singles([&](int i) { return std::nearbyint(x.v[i]); });
}
inline __mmask16 cmp_ps_mask(__m512 a, __m512 b, int how) {
  const Singles x(a), y(b);
  return mask([&](int i) { return how == _CMP_LT_OQ ? x.v[i] < y.v[i] : std::isunordered(x.v[i], y.v[i]); });
}
inline __m512 mask_blend_ps(__mmask16 m, __m512 a, __m512 b) {
  const Singles x(a), y(b);
  return singles([&](int i) { return has(m, i) ? y.v[i] : x.v[i]; });
}
/// The instruction's tree: halves, quarters, pairs.
template <class Function>
float reduce(__m512 a, Function function) {
  Singles lanes(a);
  for (int width = 8; width > 0; width /= 2)
    for (int i = 0; i < width; ++i) lanes.v[i] = function(lanes.v[i], lanes.v[i + width]);
  return lanes.v[0];
}
inline float reduce_add_ps(__m512 a) {
  return reduce(a, [](float x, float y) { return x + y; });
}
inline float reduce_max_ps(__m512 a) {
  return reduce(a, [](float x, float y) { return x > y ? x : y; });
}
inline float reduce_min_ps(__m512 a) {
  return reduce(a, [](float x, float y) { return x < y ? x : y; });
}

inline __m512i add_epi32(__m512i a, __m512i b) {
  const Words x(a), y(b);
  return words([&](int i) { return static_cast<std::uint32_t>(x.v[i]) + static_cast<std::uint32_t>(y.v[i]); });
}
inline __m512i sub_epi16(__m512i a, __m512i b) {
  const Shorts x(a), y(b);
  return shorts([&](int i) { return x.v[i] - y.v[i]; });
}
inline __m512i and_si512(__m512i a, __m512i b) { return a & b; }
inline __m512i or_si512(__m512i a, __m512i b) { return a | b; }
inline __m512i slli_epi32(__m512i a, unsigned count) {
  const Words x(a);
  return words([&](int i) { return static_cast<std::uint32_t>(x.v[i]) << count; });
}
inline __m512i srli_epi32(__m512i a, unsigned count) {
  const Words x(a);
  return words([&](int i) { return static_cast<std::uint32_t>(x.v[i]) >> count; });
}
/// Sums of neighbouring products; of four times −32768 it wraps around, as the instruction does.
inline __m512i madd_epi16(__m512i a, __m512i b) {
  const Shorts x(a), y(b);
  const auto product = [&](int i) { return static_cast<std::int64_t>(x.v[i]) * y.v[i]; };
  return words([&](int i) { return product(2 * i) + product(2 * i + 1); });
}
inline __m512i dpwssd_epi32(__m512i c, __m512i a, __m512i b) { return add_epi32(c, madd_epi16(a, b)); }
inline __m512i cvtps_epi32(__m512 a) {
  const Singles x(a);
  return words([&](int i) { return std::lrint(x.v[i]); });
}
inline __m512 cvtepi32_ps(__m512i a) {
  const Words x(a);
  return singles([&](int i) { return static_cast<float>(x.v[i]); });
}
inline __m512i cvtepi8_epi16(__m256i a) {
  const Lanes<std::int8_t, __m256i> x(a);
  return shorts([&](int i) { return x.v[i]; });
}
inline __m512i cvtepu16_epi32(__m256i a) {
  const Lanes<std::uint16_t, __m256i> x(a);
  return words([&](int i) { return x.v[i]; });
}
inline __m256i cvtsepi32_epi16(__m512i a) {
  const Words x(a);
  Lanes<std::int16_t, __m256i> result;
  for (int i = 0; i < 16; ++i) result.v[i] = static_cast<std::int16_t>(std::clamp(x.v[i], -32768, 32767));
  return result.vector();
}
inline __m512 cvtph_ps(__m256i a) {
  const Lanes<std::uint16_t, __m256i> x(a);
  return singles([&](int i) { return tonearm::floatFromHalf(x.v[i]); });
}
inline __m256i cvtps_ph(__m512 a, int) {
  const Singles x(a);
  Lanes<std::uint16_t, __m256i> result;
  for (int i = 0; i < 16; ++i) result.v[i] = tonearm::halfFromFloat(x.v[i]);
  return result.vector();
}
inline __m512 castsi512_ps(__m512i a) { return __builtin_bit_cast(__m512, a); }
inline __m512i castps_si512(__m512 a) { return __builtin_bit_cast(__m512i, a); }
inline __m512i castsi256_si512(__m256i a) {
  Lanes<__m256i, __m512i> result;
  result.v[0] = a;
  return result.vector();
}
inline __m512i inserti64x4(__m512i a, __m256i b, int half) {
  Lanes<__m256i, __m512i> result(a);
  result.v[half] = b;
  return result.vector();
}

inline Bfloats16 cvtneps_pbh(__m512 a) {
  const Singles x(a);
  Bfloats16 result;
  for (int i = 0; i < 16; ++i) {
    const float kept = std::fpclassify(x.v[i]) == FP_SUBNORMAL ? std::copysign(0.0F, x.v[i]) : x.v[i];
    result.v[i] = static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(tonearm::roundToBfloat(kept)) >> 16);
  }
  return result;
}
inline __m512 dpbf16_ps(__m512 c, Bfloats32 a, Bfloats32 b) {
  const Singles sums(c);
  const auto value = [](std::uint16_t bits) { return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16); };
  return singles([&](int i) {
    const float odd = std::fma(value(a.v[2 * i + 1]), value(b.v[2 * i + 1]), sums.v[i]);
    return std::fma(value(a.v[2 * i]), value(b.v[2 * i]), odd);
  });
}

}  // namespace emulated

#define __m512bh emulated::Bfloats32
#define _mm512_set1_ps emulated::set1_ps
#define _mm512_set1_epi32 emulated::set1_epi32
#define _mm512_set1_epi16 emulated::set1_epi16
#define _mm512_setzero_si512 emulated::setzero_si512
#define _mm512_loadu_ps emulated::loadu_ps
#define _mm512_loadu_si512 emulated::loadu_si512
#define _mm512_maskz_loadu_ps emulated::maskz_loadu_ps
#define _mm512_storeu_ps emulated::storeu_ps
#define _mm512_mask_storeu_ps emulated::mask_storeu_ps
#define _mm512_add_ps emulated::add_ps
#define _mm512_sub_ps emulated::sub_ps
#define _mm512_mul_ps emulated::mul_ps
#define _mm512_div_ps emulated::div_ps
#define _mm512_fmadd_ps emulated::fmadd_ps
#define _mm512_fmadd_pd emulated::fmadd_pd
#define _mm512_max_ps emulated::max_ps
#define _mm512_min_ps emulated::min_ps
#define _mm512_sqrt_ps emulated::sqrt_ps
#define _mm512_abs_ps emulated::abs_ps
#undef _mm512_roundscale_ps
#define _mm512_roundscale_ps emulated::roundscale_ps
#undef _mm512_cmp_ps_mask
#define _mm512_cmp_ps_mask emulated::cmp_ps_mask
#define _mm512_mask_blend_ps emulated::mask_blend_ps
#define _mm512_reduce_add_ps emulated::reduce_add_ps
#define _mm512_reduce_max_ps emulated::reduce_max_ps
#define _mm512_reduce_min_ps emulated::reduce_min_ps
#define _mm512_add_epi32 emulated::add_epi32
#define _mm512_sub_epi16 emulated::sub_epi16
#define _mm512_and_si512 emulated::and_si512
#define _mm512_or_si512 emulated::or_si512
#define _mm512_slli_epi32 emulated::slli_epi32
#define _mm512_srli_epi32 emulated::srli_epi32
#define _mm512_madd_epi16 emulated::madd_epi16
#define _mm512_dpwssd_epi32 emulated::dpwssd_epi32
#define _mm512_cvtps_epi32 emulated::cvtps_epi32
#define _mm512_cvtepi32_ps emulated::cvtepi32_ps
#define _mm512_cvtepi8_epi16 emulated::cvtepi8_epi16
#define _mm512_cvtepu16_epi32 emulated::cvtepu16_epi32
#define _mm512_cvtsepi32_epi16 emulated::cvtsepi32_epi16
#define _mm512_cvtph_ps emulated::cvtph_ps
#undef _mm512_cvtps_ph
#define _mm512_cvtps_ph emulated::cvtps_ph
#define _mm512_castsi512_ps emulated::castsi512_ps
#define _mm512_castps_si512 emulated::castps_si512
#define _mm512_castsi256_si512 emulated::castsi256_si512
#undef _mm512_inserti64x4
#define _mm512_inserti64x4 emulated::inserti64x4
#define _mm512_cvtneps_pbh emulated::cvtneps_pbh
#define _mm512_dpbf16_ps emulated::dpbf16_ps
