// Elementary functions on vectors. Largest errors against float64 are checked by the tests of the backend.
#pragma once

#include "simd.h"

namespace tonearm::TONEARM_ISA {
namespace {

/// eˣ to 2 units in the last place; 0 below −87.3, infinity above 88.7, NaN for NaN.
inline Floats exp(Floats x) {
  const Floats bounded = min(max(x, splat(-87.6F)), splat(89.0F));
  const Floats n = roundToInteger(bounded * splat(1.44269504F));
  // ln 2 in two parts, the first with so few bits that n times it is exact.
  Floats r = mulAdd(n, splat(-0.693359375F), bounded);
  r = mulAdd(n, splat(2.12194440e-4F), r);
  // The Taylor series to the 7th power: |r| ≤ ln(2)/2, where the next term is below 6e-9.
  Floats p = splat(1.0F / 5040.0F);
  p = mulAdd(p, r, splat(1.0F / 720.0F));
  p = mulAdd(p, r, splat(1.0F / 120.0F));
  p = mulAdd(p, r, splat(1.0F / 24.0F));
  p = mulAdd(p, r, splat(1.0F / 6.0F));
  p = mulAdd(p, r, splat(0.5F));
  p = mulAdd(p, r, splat(1.0F));
  p = mulAdd(p, r, splat(1.0F));
  // In two factors, because 2¹²⁸ alone is infinite.
  const Floats result = p * powerOfTwo(n - splat(1.0F)) * splat(2.0F);
  return select(unordered(x, x), x, result);
}

/// erf(x) to 4e-7: an odd rational function fitted for least relative error on |x| ≤ 3.925, and ±1 beyond.
inline Floats erf(Floats x) {
  const Floats bounded = min(max(x, splat(-3.925F)), splat(3.925F));
  const Floats u = bounded * bounded;
  Floats p = splat(2.0460307824674843e-06F);
  p = mulAdd(p, u, splat(2.848425488790565e-04F));
  p = mulAdd(p, u, splat(3.7725166203428973e-03F));
  p = mulAdd(p, u, splat(5.276919748797747e-02F));
  p = mulAdd(p, u, splat(1.9059301021157232e-01F));
  p = mulAdd(p, u, splat(1.1283791458185115F));
  Floats q = splat(3.804775676506349e-05F);
  q = mulAdd(q, u, splat(1.163849139787734e-03F));
  q = mulAdd(q, u, splat(1.4983132294424283e-02F));
  q = mulAdd(q, u, splat(1.1418241116116089e-01F));
  q = mulAdd(q, u, splat(5.022413883671816e-01F));
  q = mulAdd(q, u, splat(1.0F));
  Floats result = bounded * p / q;
  result = select(less(splat(3.92F), x), splat(1.0F), result);
  result = select(less(x, splat(-3.92F)), splat(-1.0F), result);
  return select(unordered(x, x), x, result);
}

/// tanh(x) to 3e-7 relative: an odd rational function fitted on |x| ≤ 9, and ±1 beyond.
inline Floats tanh(Floats x) {
  const Floats bounded = min(max(x, splat(-9.0F)), splat(9.0F));
  const Floats u = bounded * bounded;
  Floats p = splat(1.3354721667617289e-08F);
  p = mulAdd(p, u, splat(2.060913419166212e-05F));
  p = mulAdd(p, u, splat(3.4955917009764485e-03F));
  p = mulAdd(p, u, splat(1.338102881994581e-01F));
  p = mulAdd(p, u, splat(1.0F));
  Floats q = splat(7.776585349050239e-07F);
  q = mulAdd(q, u, splat(3.285640352560945e-04F));
  q = mulAdd(q, u, splat(2.5876996298260686e-02F));
  q = mulAdd(q, u, splat(4.671434443148948e-01F));
  q = mulAdd(q, u, splat(1.0F));
  const Floats result = min(max(bounded * p / q, splat(-1.0F)), splat(1.0F));
  return select(unordered(x, x), x, result);
}

/// 1 / (1 + e⁻ˣ)
inline Floats sigmoid(Floats x) { return splat(1.0F) / (splat(1.0F) + exp(zeros() - x)); }

/// x/2 · (1 + erf(x/√2))
inline Floats gelu(Floats x) {
  return splat(0.5F) * x * (splat(1.0F) + erf(x * splat(0.70710678118654752F)));
}

/// x where positive, eˣ − 1 elsewhere
inline Floats elu(Floats x) { return select(less(x, zeros()), exp(x) - splat(1.0F), x); }

/// x where positive, 0 elsewhere, NaN for NaN
inline Floats relu(Floats x) { return select(less(x, zeros()), zeros(), x); }

}  // namespace
}  // namespace tonearm::TONEARM_ISA
