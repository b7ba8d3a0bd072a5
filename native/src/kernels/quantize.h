// Rounding to 16 bits, and of weight rows to 8 and 4.
#pragma once

#include "linear.h"

namespace tonearm::TONEARM_ISA {
namespace {

/// Below this, rounding to binary16 gives a finite value: halfway from its largest, 65504, to the power of two above.
constexpr float kHalfOverflow = 65520.0F;

float roundToHalf(const float* x, std::uint16_t* y, Index count) {
  Floats largest = zeros();
  for (Index i = 0; i < count; i += kLanes) {
    const Floats value = loadUpTo(x + i, count - i);
    const Floats magnitude = abs(value);
    largest = max(select(less(magnitude, splat(__builtin_inff())), magnitude, zeros()), largest);
    if (count - i >= kLanes) {
      storeHalf(y + i, value);
    } else {
      std::uint16_t rounded[kLanes];
      storeHalf(rounded, value);
      std::memcpy(y + i, rounded, static_cast<std::size_t>(count - i) * sizeof(std::uint16_t));
    }
  }
  const float reached = maximum(largest);
  return reached < kHalfOverflow ? 0.0F : reached;
}

void fromHalf(const std::uint16_t* x, float* y, Index count) {
  for (Index i = 0; i < count; i += kLanes) storeUpTo(y + i, count - i, loadUpTo(x + i, count - i));
}

float quantizeInt8(const float* x, Index inputs, Index stride, std::int8_t* y) {
  Floats largest = zeros();
  for (Index k = 0; k < inputs; k += kLanes) largest = max(abs(loadUpTo(x + k, inputs - k)), largest);
  const float range = maximum(largest);
  const Floats inverse = splat(range > 0.0F ? 127.0F / range : 0.0F);
  for (Index k = 0; k < stride; k += kLanes) {
    std::int16_t rounded[kLanes];
    storeRounded(rounded, (k < inputs ? loadUpTo(x + k, inputs - k) : zeros()) * inverse);
    for (int lane = 0; lane < kLanes; ++lane) y[k + lane] = static_cast<std::int8_t>(rounded[lane]);
  }
  return range / 127.0F;
}

constexpr int kGroupVectors = static_cast<int>(kGroup) / kLanes;

/// A scale as binary16 keeps it.
struct GroupScale {
  std::uint16_t half;
  float value;
};

inline GroupScale roundScale(float scale) {
  if (scale == 0.0F) return {0, 0.0F};  // not −0
  std::uint16_t halves[kLanes];
  float values[kLanes];
  storeHalf(halves, splat(scale));
  store(values, loadHalf(halves));
  return {halves[0], values[0]};
}

/// The group in steps of `scale`, rounded and kept within −8 … 7.
inline void toSteps(const Floats (&x)[kGroupVectors], float scale, Floats (&steps)[kGroupVectors]) {
  const Floats inverse = splat(scale == 0.0F ? 0.0F : 1.0F / scale);
  for (int i = 0; i < kGroupVectors; ++i)
    steps[i] = min(max(roundToInteger(x[i] * inverse), splat(-8.0F)), splat(7.0F));
}

void quantizeInt4(const float* x, Index inputs, Index stride, std::uint8_t* y, std::uint16_t* scales) {
  for (Index first = 0; first < stride; first += kGroup) {
    Floats group[kGroupVectors];
    Floats top = zeros();
    Floats bottom = zeros();
    for (int i = 0; i < kGroupVectors; ++i) {
      const Index k = first + i * kLanes;
      group[i] = k < inputs ? loadUpTo(x + k, inputs - k) : zeros();
      top = max(group[i], top);
      bottom = min(group[i], bottom);
    }
    // The largest magnitude becomes −8 steps or near it, because 4 bits reach one step further down than up.
    const float high = maximum(top);
    const float low = minimum(bottom);
    const float extreme = high > -low ? high : low;
    GroupScale best = roundScale(extreme / -8.0F);
    float leastError = __builtin_inff();
    Floats steps[kGroupVectors];
    constexpr float kReaches[] = {-8.75F, -8.25F, -8.0F, -7.5F, -7.0F, 7.0F};
    for (const float reach : kReaches) {
      const float guess = extreme / reach;
      toSteps(group, guess, steps);
      Floats products = zeros();
      Floats squares = zeros();
      for (int i = 0; i < kGroupVectors; ++i) {
        products = mulAdd(group[i], steps[i], products);
        squares = mulAdd(steps[i], steps[i], squares);
      }
      const float norm = sum(squares);
      const GroupScale fitted = roundScale(norm > 0.0F ? sum(products) / norm : guess);  // least squares for these steps
      toSteps(group, fitted.value, steps);
      Floats errors = zeros();
      for (int i = 0; i < kGroupVectors; ++i) {
        const Floats difference = group[i] - steps[i] * splat(fitted.value);
        errors = mulAdd(difference, difference, errors);
      }
      if (const float error = sum(errors); error < leastError) {
        leastError = error;
        best = fitted;
      }
    }
    toSteps(group, best.value, steps);
    float values[kGroup];
    for (int i = 0; i < kGroupVectors; ++i) store(values + i * kLanes, steps[i]);
    std::uint8_t* bytes = y + first / 2;
    for (Index j = 0; j < kGroup / 2; ++j)
      bytes[j] = static_cast<std::uint8_t>((static_cast<int>(values[j]) + 8) | ((static_cast<int>(values[j + 16]) + 8) << 4));
    scales[first / kGroup] = best.half;
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
