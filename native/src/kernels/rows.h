// Elementwise functions, and reductions and normalisations over one axis.
#pragma once

#include "linear.h"

namespace tonearm::TONEARM_ISA {
namespace {

template <class Function>
inline void mapRange(const float* x, float* y, Index count, Function function) {
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) store(y + i, function(load(x + i)));
  if (i < count) storeFirst(y + i, count - i, function(loadFirst(x + i, count - i)));
}

void unary(Unary op, const float* x, float* y, Index count) {
  switch (op) {
    case Unary::negate:
      return mapRange(x, y, count, [](Floats v) { return splat(-1.0F) * v; });
    case Unary::abs:
      return mapRange(x, y, count, [](Floats v) { return abs(v); });
    case Unary::square:
      return mapRange(x, y, count, [](Floats v) { return v * v; });
    case Unary::sqrt:
      return mapRange(x, y, count, [](Floats v) { return sqrt(v); });
    case Unary::reciprocalSqrt:
      return mapRange(x, y, count, [](Floats v) { return splat(1.0F) / sqrt(v); });
    case Unary::reciprocal:
      return mapRange(x, y, count, [](Floats v) { return splat(1.0F) / v; });
    case Unary::exp:
      return mapRange(x, y, count, [](Floats v) { return exp(v); });
    case Unary::erf:
      return mapRange(x, y, count, [](Floats v) { return erf(v); });
    case Unary::tanh:
      return mapRange(x, y, count, [](Floats v) { return tanh(v); });
    case Unary::sigmoid:
      return mapRange(x, y, count, [](Floats v) { return sigmoid(v); });
    case Unary::relu:
      return mapRange(x, y, count, [](Floats v) { return relu(v); });
    case Unary::elu:
      return mapRange(x, y, count, [](Floats v) { return elu(v); });
    case Unary::gelu:
      return mapRange(x, y, count, [](Floats v) { return gelu(v); });
  }
}

template <class Function>
inline void zipRange(const float* a, Index aStep, const float* b, Index bStep, float* y, Index count, Function function) {
  for (Index i = 0; i < count; i += kLanes) {
    const Index rest = count - i;
    const Floats left = aStep == 0 ? splat(*a) : loadUpTo(a + i, rest);
    const Floats right = bStep == 0 ? splat(*b) : loadUpTo(b + i, rest);
    storeUpTo(y + i, rest, function(left, right));
  }
}

/// The larger of two, NaN if either is.
inline Floats largerOrNan(Floats a, Floats b) { return select(unordered(a, b), a + b, max(a, b)); }
inline Floats smallerOrNan(Floats a, Floats b) { return select(unordered(a, b), a + b, min(a, b)); }

void binary(Binary op, const float* a, Index aStep, const float* b, Index bStep, float* y, Index count) {
  switch (op) {
    case Binary::add:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return l + r; });
    case Binary::subtract:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return l - r; });
    case Binary::multiply:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return l * r; });
    case Binary::divide:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return l / r; });
    case Binary::maximum:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return largerOrNan(l, r); });
    case Binary::minimum:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return smallerOrNan(l, r); });
    case Binary::squaredDifference:
      return zipRange(a, aStep, b, bStep, y, count, [](Floats l, Floats r) { return (l - r) * (l - r); });
  }
}

/// Sum of a contiguous row in four interleaved vectors of partial sums.
inline float sumRow(const float* x, Index length) {
  Floats sums[4] = {zeros(), zeros(), zeros(), zeros()};
  Index i = 0;
  for (; i + 4 * kLanes <= length; i += 4 * kLanes)
    for (int j = 0; j < 4; ++j) sums[j] = sums[j] + load(x + i + j * kLanes);
  for (; i < length; i += kLanes) sums[0] = sums[0] + loadUpTo(x + i, length - i);
  return sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

template <class Combine>
inline float extremeOfRow(const float* x, Index length, Combine combine) {
  if (length < kLanes) {
    Floats best = splat(x[0]);
    for (Index i = 1; i < length; ++i) best = combine(best, splat(x[i]));
    float lanes[kLanes];
    store(lanes, best);
    return lanes[0];
  }
  Floats best = load(x);
  for (Index i = kLanes; i + kLanes <= length; i += kLanes) best = combine(best, load(x + i));
  best = combine(best, load(x + length - kLanes));
  float lanes[kLanes];
  store(lanes, best);
  Floats result = splat(lanes[0]);
  for (int i = 1; i < kLanes; ++i) result = combine(result, splat(lanes[i]));
  store(lanes, result);
  return lanes[0];
}

void reduce(Reduction op, const float* x, float* y, Index length, Index inner, Index begin, Index end) {
  const auto combine = [op](Floats a, Floats b) {
    if (op == Reduction::maximum) return largerOrNan(a, b);
    if (op == Reduction::minimum) return smallerOrNan(a, b);
    return a + b;
  };
  const float factor = op == Reduction::mean ? 1.0F / static_cast<float>(length) : 1.0F;
  const bool additive = op == Reduction::sum || op == Reduction::mean;
  for (Index outer = begin; outer < end; ++outer) {
    const float* block = x + outer * length * inner;
    if (inner == 1) {
      y[outer] = additive ? sumRow(block, length) * factor : extremeOfRow(block, length, combine);
      continue;
    }
    for (Index i = 0; i < inner; i += kLanes) {
      Floats result = loadUpTo(block + i, inner - i);
      for (Index l = 1; l < length; ++l) result = combine(result, loadUpTo(block + l * inner + i, inner - i));
      storeUpTo(y + outer * inner + i, inner - i, result * splat(factor));
    }
  }
}

void argMax(const float* x, std::int32_t* y, Index length, Index begin, Index end) {
  for (Index row = begin; row < end; ++row) {
    const float* values = x + row * length;
    Index best = 0;
    for (Index i = 1; i < length; ++i)
      if (values[i] > values[best]) best = i;
    y[row] = static_cast<std::int32_t>(best);
  }
}

/// y = exp(x − largest), in place allowed; returns the sum.
inline float exponentials(const float* x, float* y, Index length) {
  Floats top = splat(x[0]);
  Index i = 0;
  for (; i + kLanes <= length; i += kLanes) top = max(load(x + i), top);
  float largest = maximum(top);
  for (; i < length; ++i) largest = x[i] > largest ? x[i] : largest;
  const Floats offset = splat(largest);
  Floats total = zeros();
  for (i = 0; i + kLanes <= length; i += kLanes) {
    const Floats e = exp(load(x + i) - offset);
    store(y + i, e);
    total = total + e;
  }
  float result = sum(total);
  if (i < length) {
    float lanes[kLanes];
    store(lanes, exp(loadFirst(x + i, length - i) - offset));
    for (Index j = 0; j < length - i; ++j) {
      y[i + j] = lanes[j];
      result += lanes[j];
    }
  }
  return result;
}

void softmax(const float* x, float* y, Index length, Index begin, Index end) {
  for (Index row = begin; row < end; ++row) {
    float* target = y + row * length;
    const Floats factor = splat(1.0F / exponentials(x + row * length, target, length));
    mapRange(target, target, length, [=](Floats v) { return v * factor; });
  }
}

void normalize(const float* x, const float* gain, const float* bias, float epsilon, bool centre, float* y, float* scale,
               Index length, Index begin, Index end) {
  const float perElement = 1.0F / static_cast<float>(length);
  for (Index row = begin; row < end; ++row) {
    const float* source = x + row * length;
    float* target = y + row * length;
    const Floats mean = splat(centre ? sumRow(source, length) * perElement : 0.0F);
    Floats squares[2] = {zeros(), zeros()};
    Index i = 0;
    for (; i + 2 * kLanes <= length; i += 2 * kLanes)
      for (int j = 0; j < 2; ++j) {
        const Floats deviation = load(source + i + j * kLanes) - mean;
        squares[j] = mulAdd(deviation, deviation, squares[j]);
      }
    float total = sum(squares[0] + squares[1]);
    for (; i < length; ++i) {
      float lanes[kLanes];
      store(lanes, splat(source[i]) - mean);
      total += lanes[0] * lanes[0];
    }
    const float divisor = __builtin_sqrtf(total * perElement + epsilon);
    if (scale != nullptr) scale[row] = divisor;
    for (i = 0; i < length; i += kLanes) {
      const Index rest = length - i;
      Floats value = (loadUpTo(source + i, rest) - mean) / splat(divisor);
      if (gain != nullptr) value = value * loadUpTo(gain + i, rest);
      if (bias != nullptr) value = value + loadUpTo(bias + i, rest);
      storeUpTo(target + i, rest, value);
    }
  }
}

void lstmCell(const float* gates, const float* recurrent, float* cell, float* hidden, Index units, Index begin, Index end) {
  for (Index i = begin; i < end; i += kLanes) {
    const Index rest = end - i;
    const auto gate = [&](Index which) {
      return loadUpTo(gates + which * units + i, rest) + loadUpTo(recurrent + which * units + i, rest);
    };
    const Floats kept = sigmoid(gate(1)) * loadUpTo(cell + i, rest);
    const Floats next = mulAdd(sigmoid(gate(0)), tanh(gate(3)), kept);
    storeUpTo(cell + i, rest, next);
    storeUpTo(hidden + i, rest, sigmoid(gate(2)) * tanh(next));
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
