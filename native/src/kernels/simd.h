// The few vector operations that the kernels are written in: one type of floats, one of 32-bit and one of 16-bit
// integers, as wide as the instruction set's registers. Kernels never name an intrinsic.
//
// Conventions: `load…`/`store…` need no alignment. `…First(p, n, …)` touches only the first n < kLanes elements and reads
// the others as zero. `mulAdd(a, b, c)` is a·b + c, fused where the instruction set can.
//
// Sets that multiply bfloat16 (TONEARM_SIMD_BF16) do so in pairs: the place of one float holds two, which `toPairs` rounds,
// and `mulAdd` of pairs adds both products. All others have `roundToBfloat`: the nearest bfloat16 as a float32, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa.h"

#if defined(TONEARM_SIMD_AVX2) || defined(TONEARM_SIMD_AVX512)
#include <immintrin.h>
#elif defined(TONEARM_SIMD_NEON)
#include <arm_neon.h>
#else
#include "../half.h"
#endif

namespace tonearm::TONEARM_ISA {
namespace {

using Index = std::int64_t;

#if defined(TONEARM_SIMD_AVX512)

constexpr int kLanes = 16;
struct Floats {
  __m512 v;
};
struct Ints {
  __m512i v;
};
struct Shorts {
  __m512i v;
};
struct Mask {
  __mmask16 v;
};

inline __mmask16 firstLanes(Index n) { return static_cast<__mmask16>((1U << n) - 1U); }
inline Floats splat(float x) { return {_mm512_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm512_loadu_ps(p)}; }
inline Floats loadFirst(const float* p, Index n) { return {_mm512_maskz_loadu_ps(firstLanes(n), p)}; }
inline Floats loadHalf(const std::uint16_t* p) {
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline void store(float* p, Floats a) { _mm512_storeu_ps(p, a.v); }
inline void storeFirst(float* p, Index n, Floats a) { _mm512_mask_storeu_ps(p, firstLanes(n), a.v); }
inline void storeHalf(std::uint16_t* p, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.v, b.v)}; }
inline Floats mulAdd(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm512_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm512_min_ps(a.v, b.v)}; }
inline Floats sqrt(Floats a) { return {_mm512_sqrt_ps(a.v)}; }
inline Floats abs(Floats a) { return {_mm512_abs_ps(a.v)}; }
inline Floats roundToInteger(Floats a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Mask less(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask unordered(Floats a, Floats b) { return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_UNORD_Q)}; }
inline Floats select(Mask m, Floats yes, Floats no) { return {_mm512_mask_blend_ps(m.v, no.v, yes.v)}; }
inline Floats powerOfTwo(Floats n) {
  const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
  return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
}
#if defined(TONEARM_SIMD_BF16)
struct BfloatPairs {
  __m512bh v;
};
inline BfloatPairs loadPairs(const float* p) { return {__builtin_bit_cast(__m512bh, _mm512_loadu_ps(p))}; }
inline BfloatPairs splatPair(float x) { return {__builtin_bit_cast(__m512bh, _mm512_set1_ps(x))}; }
inline Floats toPairs(Floats first, Floats second) {
  const auto low = __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(first.v));
  const auto high = __builtin_bit_cast(__m256i, _mm512_cvtneps_pbh(second.v));
  const __m512i upper = _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16);
  return {_mm512_castsi512_ps(_mm512_or_si512(_mm512_cvtepu16_epi32(low), upper))};
}
inline Floats mulAdd(BfloatPairs a, BfloatPairs b, Floats c) { return {_mm512_dpbf16_ps(c.v, a.v, b.v)}; }
#else
inline Floats roundToBfloat(Floats a) {
  const __m512i bits = _mm512_castps_si512(a.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i rounded = _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
  const Floats kept = {_mm512_castsi512_ps(_mm512_and_si512(rounded, _mm512_set1_epi32(-0x10000)))};
  return select(unordered(a, a), a, kept);
}
#endif
inline float sum(Floats a) { return _mm512_reduce_add_ps(a.v); }
inline float maximum(Floats a) { return _mm512_reduce_max_ps(a.v); }
inline float minimum(Floats a) { return _mm512_reduce_min_ps(a.v); }

inline Ints zeroInts() { return {_mm512_setzero_si512()}; }
inline Floats toFloats(Ints a) { return {_mm512_cvtepi32_ps(a.v)}; }
inline Shorts loadShorts(const std::int16_t* p) { return {_mm512_loadu_si512(p)}; }
inline Shorts loadBytes(const std::int8_t* p) {
  return {_mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
}
inline Ints dotAdd(Shorts a, Shorts b, Ints c) {
#if defined(TONEARM_SIMD_VNNI)
  return {_mm512_dpwssd_epi32(c.v, a.v, b.v)};
#else
  return {_mm512_add_epi32(c.v, _mm512_madd_epi16(a.v, b.v))};
#endif
}
inline void storeRounded(std::int16_t* p, Floats a) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(a.v)));
}
inline void unpackNibbles(const std::uint8_t* p, Shorts (&parts)[1]) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i low = _mm256_and_si256(words, _mm256_set1_epi16(15));
  const __m256i high = _mm256_srli_epi16(words, 4);
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  parts[0].v = _mm512_sub_epi16(both, _mm512_set1_epi16(8));
}

#elif defined(TONEARM_SIMD_AVX2)

constexpr int kLanes = 8;
struct Floats {
  __m256 v;
};
struct Ints {
  __m256i v;
};
struct Shorts {
  __m256i v;
};
struct Mask {
  __m256 v;
};

inline __m256i firstLanes(Index n) {
  const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(n)), lane);
}
inline Floats splat(float x) { return {_mm256_set1_ps(x)}; }
inline Floats load(const float* p) { return {_mm256_loadu_ps(p)}; }
inline Floats loadFirst(const float* p, Index n) { return {_mm256_maskload_ps(p, firstLanes(n))}; }
inline Floats loadHalf(const std::uint16_t* p) {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline void store(float* p, Floats a) { _mm256_storeu_ps(p, a.v); }
inline void storeFirst(float* p, Index n, Floats a) { _mm256_maskstore_ps(p, firstLanes(n), a.v); }
inline void storeHalf(std::uint16_t* p, Floats a) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_cvtps_ph(a.v, _MM_FROUND_TO_NEAREST_INT));
}
inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.v, b.v)}; }
inline Floats mulAdd(Floats a, Floats b, Floats c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
inline Floats max(Floats a, Floats b) { return {_mm256_max_ps(a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {_mm256_min_ps(a.v, b.v)}; }
inline Floats sqrt(Floats a) { return {_mm256_sqrt_ps(a.v)}; }
inline Floats abs(Floats a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0F), a.v)}; }
inline Floats roundToInteger(Floats a) {
  return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
inline Mask less(Floats a, Floats b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ)}; }
inline Mask unordered(Floats a, Floats b) { return {_mm256_cmp_ps(a.v, b.v, _CMP_UNORD_Q)}; }
inline Floats select(Mask m, Floats yes, Floats no) { return {_mm256_blendv_ps(no.v, yes.v, m.v)}; }
inline Floats powerOfTwo(Floats n) {
  const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
inline Floats roundToBfloat(Floats a) {
  const __m256i bits = _mm256_castps_si256(a.v);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i rounded = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
  const Floats kept = {_mm256_castsi256_ps(_mm256_and_si256(rounded, _mm256_set1_epi32(-0x10000)))};
  return select(unordered(a, a), a, kept);
}
inline float sum(Floats a) {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
inline float maximum(Floats a) {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float minimum(Floats a) {
  const __m128 four = _mm_min_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
  const __m128 two = _mm_min_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_min_ss(two, _mm_movehdup_ps(two)));
}

inline Ints zeroInts() { return {_mm256_setzero_si256()}; }
inline Floats toFloats(Ints a) { return {_mm256_cvtepi32_ps(a.v)}; }
inline Shorts loadShorts(const std::int16_t* p) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p))};
}
inline Shorts loadBytes(const std::int8_t* p) {
  return {_mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
inline Ints dotAdd(Shorts a, Shorts b, Ints c) { return {_mm256_add_epi32(c.v, _mm256_madd_epi16(a.v, b.v))}; }
inline void storeRounded(std::int16_t* p, Floats a) {
  const __m256i whole = _mm256_cvtps_epi32(a.v);
  const __m128i packed = _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), packed);
}
inline void unpackNibbles(const std::uint8_t* p, Shorts (&parts)[2]) {
  const __m256i words = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  const __m256i eight = _mm256_set1_epi16(8);
  parts[0].v = _mm256_sub_epi16(_mm256_and_si256(words, _mm256_set1_epi16(15)), eight);
  parts[1].v = _mm256_sub_epi16(_mm256_srli_epi16(words, 4), eight);
}

#elif defined(TONEARM_SIMD_NEON)

constexpr int kLanes = 4;
struct Floats {
  float32x4_t v;
};
struct Ints {
  int32x4_t v;
};
struct Shorts {
  int16x8_t v;
};
struct Mask {
  uint32x4_t v;
};

inline Floats splat(float x) { return {vdupq_n_f32(x)}; }
inline Floats load(const float* p) { return {vld1q_f32(p)}; }
inline Floats loadFirst(const float* p, Index n) {
  float lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof(float));
  return load(lanes);
}
inline Floats loadHalf(const std::uint16_t* p) { return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p)))}; }
inline void store(float* p, Floats a) { vst1q_f32(p, a.v); }
inline void storeFirst(float* p, Index n, Floats a) {
  float lanes[kLanes];
  store(lanes, a);
  std::memcpy(p, lanes, static_cast<std::size_t>(n) * sizeof(float));
}
inline void storeHalf(std::uint16_t* p, Floats a) { vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a.v))); }
inline Floats operator+(Floats a, Floats b) { return {vaddq_f32(a.v, b.v)}; }
inline Floats operator-(Floats a, Floats b) { return {vsubq_f32(a.v, b.v)}; }
inline Floats operator*(Floats a, Floats b) { return {vmulq_f32(a.v, b.v)}; }
inline Floats operator/(Floats a, Floats b) { return {vdivq_f32(a.v, b.v)}; }
inline Floats mulAdd(Floats a, Floats b, Floats c) { return {vfmaq_f32(c.v, a.v, b.v)}; }
inline Mask less(Floats a, Floats b) { return {vcltq_f32(a.v, b.v)}; }
inline Mask unordered(Floats a, Floats b) {
  return {vmvnq_u32(vandq_u32(vceqq_f32(a.v, a.v), vceqq_f32(b.v, b.v)))};
}
inline Floats select(Mask m, Floats yes, Floats no) { return {vbslq_f32(m.v, yes.v, no.v)}; }
// As the x86 instructions do, these give the second operand where one is NaN.
inline Floats max(Floats a, Floats b) { return {vbslq_f32(vcgtq_f32(a.v, b.v), a.v, b.v)}; }
inline Floats min(Floats a, Floats b) { return {vbslq_f32(vcltq_f32(a.v, b.v), a.v, b.v)}; }
inline Floats sqrt(Floats a) { return {vsqrtq_f32(a.v)}; }
inline Floats abs(Floats a) { return {vabsq_f32(a.v)}; }
inline Floats roundToInteger(Floats a) { return {vrndnq_f32(a.v)}; }
inline Floats powerOfTwo(Floats n) {
  const int32x4_t exponent = vaddq_s32(vcvtnq_s32_f32(n.v), vdupq_n_s32(127));
  return {vreinterpretq_f32_s32(vshlq_n_s32(exponent, 23))};
}
#if defined(TONEARM_SIMD_BF16)
struct BfloatPairs {
  bfloat16x8_t v;
};
inline BfloatPairs loadPairs(const float* p) { return {vreinterpretq_bf16_f32(vld1q_f32(p))}; }
inline BfloatPairs splatPair(float x) { return {vreinterpretq_bf16_f32(vdupq_n_f32(x))}; }
inline Floats toPairs(Floats first, Floats second) {
  const uint32x4_t low = vmovl_u16(vreinterpret_u16_bf16(vcvt_bf16_f32(first.v)));
  const uint32x4_t high = vmovl_u16(vreinterpret_u16_bf16(vcvt_bf16_f32(second.v)));
  return {vreinterpretq_f32_u32(vorrq_u32(low, vshlq_n_u32(high, 16)))};
}
inline Floats mulAdd(BfloatPairs a, BfloatPairs b, Floats c) { return {vbfdotq_f32(c.v, a.v, b.v)}; }
#else
inline Floats roundToBfloat(Floats a) {
  const uint32x4_t bits = vreinterpretq_u32_f32(a.v);
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7fff)));
  const Floats kept = {vreinterpretq_f32_u32(vandq_u32(rounded, vdupq_n_u32(0xffff0000U)))};
  return select(unordered(a, a), a, kept);
}
#endif
inline float sum(Floats a) { return vaddvq_f32(a.v); }
inline float maximum(Floats a) { return vmaxvq_f32(a.v); }
inline float minimum(Floats a) { return vminvq_f32(a.v); }

inline Ints zeroInts() { return {vdupq_n_s32(0)}; }
inline Floats toFloats(Ints a) { return {vcvtq_f32_s32(a.v)}; }
inline Shorts loadShorts(const std::int16_t* p) { return {vld1q_s16(p)}; }
inline Shorts loadBytes(const std::int8_t* p) { return {vmovl_s8(vld1_s8(p))}; }
inline Ints dotAdd(Shorts a, Shorts b, Ints c) {
  return {vmlal_high_s16(vmlal_s16(c.v, vget_low_s16(a.v), vget_low_s16(b.v)), a.v, b.v)};
}
inline void storeRounded(std::int16_t* p, Floats a) { vst1_s16(p, vqmovn_s32(vcvtnq_s32_f32(a.v))); }
inline void unpackNibbles(const std::uint8_t* p, Shorts (&parts)[4]) {
  const uint8x16_t bytes = vld1q_u8(p);
  const int8x16_t eight = vdupq_n_s8(8);
  const int8x16_t low = vsubq_s8(vreinterpretq_s8_u8(vandq_u8(bytes, vdupq_n_u8(15))), eight);
  const int8x16_t high = vsubq_s8(vreinterpretq_s8_u8(vshrq_n_u8(bytes, 4)), eight);
  parts[0].v = vmovl_s8(vget_low_s8(low));
  parts[1].v = vmovl_high_s8(low);
  parts[2].v = vmovl_s8(vget_low_s8(high));
  parts[3].v = vmovl_high_s8(high);
}

#else  // plain C++: short loops that any compiler turns into what the baseline instruction set has

constexpr int kLanes = 8;
struct Floats {
  float v[kLanes];
};
struct Ints {
  std::int32_t v[kLanes];
};
struct Shorts {
  std::int16_t v[2 * kLanes];
};
struct Mask {
  bool v[kLanes];
};

template <class Function>
inline Floats lanewise(Function function) {
  Floats result;
  for (int i = 0; i < kLanes; ++i) result.v[i] = function(i);
  return result;
}
inline Floats splat(float x) {
  return lanewise([=](int) { return x; });
}
inline Floats load(const float* p) {
  Floats result;
  std::memcpy(result.v, p, sizeof result.v);
  return result;
}
inline Floats loadFirst(const float* p, Index n) {
  return lanewise([=](int i) { return i < n ? p[i] : 0.0F; });
}
inline Floats loadHalf(const std::uint16_t* p) {
  return lanewise([=](int i) { return floatFromHalf(p[i]); });
}
inline void store(float* p, Floats a) { std::memcpy(p, a.v, sizeof a.v); }
inline void storeFirst(float* p, Index n, Floats a) { std::memcpy(p, a.v, static_cast<std::size_t>(n) * sizeof(float)); }
inline void storeHalf(std::uint16_t* p, Floats a) {
  for (int i = 0; i < kLanes; ++i) p[i] = halfFromFloat(a.v[i]);
}
inline Floats operator+(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] + b.v[i]; });
}
inline Floats operator-(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] - b.v[i]; });
}
inline Floats operator*(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] * b.v[i]; });
}
inline Floats operator/(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] / b.v[i]; });
}
inline Floats mulAdd(Floats a, Floats b, Floats c) {
  return lanewise([&](int i) { return a.v[i] * b.v[i] + c.v[i]; });
}
inline Floats max(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats min(Floats a, Floats b) {
  return lanewise([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline Floats sqrt(Floats a) {
  return lanewise([&](int i) { return __builtin_sqrtf(a.v[i]); });
}
inline Floats abs(Floats a) {
  return lanewise([&](int i) { return __builtin_fabsf(a.v[i]); });
}
inline Floats roundToInteger(Floats a) {
  return lanewise([&](int i) { return __builtin_rintf(a.v[i]); });
}
inline Mask less(Floats a, Floats b) {
  Mask result;
  for (int i = 0; i < kLanes; ++i) result.v[i] = a.v[i] < b.v[i];
  return result;
}
inline Mask unordered(Floats a, Floats b) {
  Mask result;
  for (int i = 0; i < kLanes; ++i) result.v[i] = __builtin_isunordered(a.v[i], b.v[i]);
  return result;
}
inline Floats select(Mask m, Floats yes, Floats no) {
  return lanewise([&](int i) { return m.v[i] ? yes.v[i] : no.v[i]; });
}
inline Floats powerOfTwo(Floats n) {
  return lanewise([&](int i) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(static_cast<std::int32_t>(n.v[i]) + 127) << 23);
  });
}
inline Floats roundToBfloat(Floats a) {
  return lanewise([&](int i) { return tonearm::roundToBfloat(a.v[i]); });
}
inline float sum(Floats a) {
  return ((a.v[0] + a.v[4]) + (a.v[2] + a.v[6])) + ((a.v[1] + a.v[5]) + (a.v[3] + a.v[7]));
}
inline float maximum(Floats a) {
  float result = a.v[0];
  for (int i = 1; i < kLanes; ++i) result = a.v[i] > result ? a.v[i] : result;
  return result;
}
inline float minimum(Floats a) {
  float result = a.v[0];
  for (int i = 1; i < kLanes; ++i) result = a.v[i] < result ? a.v[i] : result;
  return result;
}

inline Ints zeroInts() { return {}; }
inline Floats toFloats(Ints a) {
  return lanewise([&](int i) { return static_cast<float>(a.v[i]); });
}
inline Shorts loadShorts(const std::int16_t* p) {
  Shorts result;
  std::memcpy(result.v, p, sizeof result.v);
  return result;
}
inline Shorts loadBytes(const std::int8_t* p) {
  Shorts result;
  for (int i = 0; i < 2 * kLanes; ++i) result.v[i] = p[i];
  return result;
}
inline Ints dotAdd(Shorts a, Shorts b, Ints c) {
  for (int i = 0; i < kLanes; ++i) c.v[i] += a.v[2 * i] * b.v[2 * i] + a.v[2 * i + 1] * b.v[2 * i + 1];
  return c;
}
inline void storeRounded(std::int16_t* p, Floats a) {
  for (int i = 0; i < kLanes; ++i) p[i] = static_cast<std::int16_t>(__builtin_rintf(a.v[i]));
}
inline void unpackNibbles(const std::uint8_t* p, Shorts (&parts)[2]) {
  for (int i = 0; i < 2 * kLanes; ++i) {
    parts[0].v[i] = static_cast<std::int16_t>((p[i] & 15) - 8);
    parts[1].v[i] = static_cast<std::int16_t>((p[i] >> 4) - 8);
  }
}

#endif

/// Elements of one Shorts, and how many of them make an int4 group of 32.
constexpr int kShortLanes = 2 * kLanes;
constexpr int kPartsPerGroup = 32 / kShortLanes;

inline Floats zeros() { return splat(0.0F); }

/// Reads min(n, kLanes) floats.
inline Floats loadUpTo(const float* p, Index n) { return n >= kLanes ? load(p) : loadFirst(p, n); }

// The same of binary16, under the same names: a kernel can be a template of what it reads.
inline Floats load(const std::uint16_t* p) { return loadHalf(p); }
inline Floats loadFirst(const std::uint16_t* p, Index n) {
  std::uint16_t lanes[kLanes] = {};
  std::memcpy(lanes, p, static_cast<std::size_t>(n) * sizeof(std::uint16_t));
  return loadHalf(lanes);
}
inline Floats loadUpTo(const std::uint16_t* p, Index n) { return n >= kLanes ? load(p) : loadFirst(p, n); }

/// Writes min(n, kLanes) floats.
inline void storeUpTo(float* p, Index n, Floats a) {
  if (n >= kLanes) {
    store(p, a);
  } else {
    storeFirst(p, n, a);
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
