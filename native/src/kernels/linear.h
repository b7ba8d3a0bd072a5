// Linear layers for few rows: each weight is read from memory once and used for all rows, so memory sets the speed.
//
// A tile of kOuts outputs by kRows rows keeps one vector of partial sums per (output, row). How an output is summed
// depends neither on the number of rows nor on the tile, so a row gives the same result in any batch.
#pragma once

#include "../kernel_table.h"
#include "math.h"

namespace tonearm::TONEARM_ISA {
namespace {

constexpr Index kGroup = 32;            // int4: weights per scale; rows are padded to a multiple of it
constexpr Index kIntegerBlock = 2048;   // products of 8 × 16 bits that 32-bit sums of any vector width can take

constexpr Index kCacheLine = 64;

/// How far ahead of its use a cache line is asked for, at least: what memory delivers in the time it takes to answer.
constexpr Index kPrefetchBytes = 12 * 1024;

/// Asks for the cache lines that a later tile of kOuts rows will want when it gets to where this one is. A tile reads a few
/// short streams, too short for the processor to notice by itself.
template <int kOuts, class Weight>
inline void prefetchAhead(const Weight* w, Index strideBytes) {
  const Index tile = kOuts * strideBytes;
  const char* later = reinterpret_cast<const char*>(w) + (tile >= kPrefetchBytes ? tile : kPrefetchBytes / tile * tile + tile);
  for (int o = 0; o < kOuts; ++o) __builtin_prefetch(later + o * strideBytes);
}

template <int kOuts, int kRows, class Weight>
inline void floatTile(const Weight* w, Index stride, Index inputs, const float* x, Index xStride, float (&y)[kOuts][kRows]) {
  Floats sums[kOuts][kRows];
  for (auto& row : sums)
    for (auto& s : row) s = zeros();
  const auto step = [&](Index k) {
    Floats values[kRows];
    for (int r = 0; r < kRows; ++r) values[r] = load(x + r * xStride + k);
    for (int o = 0; o < kOuts; ++o) {
      const Floats weight = load(w + o * stride + k);
      for (int r = 0; r < kRows; ++r) sums[o][r] = mulAdd(weight, values[r], sums[o][r]);
    }
  };
  constexpr Index kLine = kCacheLine / static_cast<Index>(sizeof(Weight));
  static_assert(kLine % kLanes == 0);
  Index k = 0;
  for (; k + kLine <= inputs; k += kLine) {
    prefetchAhead<kOuts>(w + k, stride * static_cast<Index>(sizeof(Weight)));
#pragma GCC unroll 16
    for (Index i = 0; i < kLine; i += kLanes) step(k + i);
  }
  for (; k + kLanes <= inputs; k += kLanes) step(k);
  if constexpr (sizeof(Weight) == sizeof(float)) {  // other storages have padded rows and an `inputs` to match
    if (k < inputs) {
      for (int o = 0; o < kOuts; ++o) {
        const Floats weight = loadFirst(w + o * stride + k, inputs - k);
        for (int r = 0; r < kRows; ++r) sums[o][r] = mulAdd(weight, load(x + r * xStride + k), sums[o][r]);
      }
    }
  }
  for (int o = 0; o < kOuts; ++o)
    for (int r = 0; r < kRows; ++r) y[o][r] = sum(sums[o][r]);
}

template <int kOuts, int kRows>
inline void int8Tile(const std::int8_t* w, Index stride, const std::int16_t* x, Index xStride, float (&y)[kOuts][kRows]) {
  Floats sums[kOuts][kRows];
  for (auto& row : sums)
    for (auto& s : row) s = zeros();
  for (Index block = 0; block < stride; block += kIntegerBlock) {
    const Index end = stride - block < kIntegerBlock ? stride : block + kIntegerBlock;
    Ints partial[kOuts][kRows];
    for (auto& row : partial)
      for (auto& s : row) s = zeroInts();
    for (Index k = block; k < end; k += kShortLanes) {
      if (k % kCacheLine == 0) prefetchAhead<kOuts>(w + k, stride);
      Shorts values[kRows];
      for (int r = 0; r < kRows; ++r) values[r] = loadShorts(x + r * xStride + k);
      for (int o = 0; o < kOuts; ++o) {
        const Shorts weight = loadBytes(w + o * stride + k);
        for (int r = 0; r < kRows; ++r) partial[o][r] = dotAdd(weight, values[r], partial[o][r]);
      }
    }
    for (int o = 0; o < kOuts; ++o)
      for (int r = 0; r < kRows; ++r) sums[o][r] = sums[o][r] + toFloats(partial[o][r]);
  }
  for (int o = 0; o < kOuts; ++o)
    for (int r = 0; r < kRows; ++r) y[o][r] = sum(sums[o][r]);
}

/// Scales of up to kLanes groups as floats.
inline void loadScales(const std::uint16_t* scales, Index count, float (&out)[kLanes]) {
  if (count >= kLanes) {
    store(out, loadHalf(scales));
    return;
  }
  std::uint16_t padded[kLanes] = {};
  std::memcpy(padded, scales, static_cast<std::size_t>(count) * sizeof(std::uint16_t));
  store(out, loadHalf(padded));
}

template <int kOuts, int kRows>
inline void int4Tile(const std::uint8_t* w, const std::uint16_t* scales, Index stride, const std::int16_t* x, Index xStride,
                     float (&y)[kOuts][kRows]) {
  Floats sums[kOuts][kRows];
  for (auto& row : sums)
    for (auto& s : row) s = zeros();
  const Index groups = stride / kGroup;
  for (Index first = 0; first < groups; first += kLanes) {
    const Index count = groups - first < kLanes ? groups - first : kLanes;
    float groupScales[kOuts][kLanes];
    for (int o = 0; o < kOuts; ++o) loadScales(scales + o * groups + first, count, groupScales[o]);
    for (Index g = 0; g < count; ++g) {
      if (g % 4 == 0) prefetchAhead<kOuts>(w + (first + g) * (kGroup / 2), stride / 2);
      const std::int16_t* values = x + (first + g) * kGroup;
      for (int o = 0; o < kOuts; ++o) {
        Shorts parts[kPartsPerGroup];
        unpackNibbles(w + (o * groups + first + g) * (kGroup / 2), parts);
        const Floats scale = splat(groupScales[o][g]);
        for (int r = 0; r < kRows; ++r) {
          Ints partial = zeroInts();
          for (int p = 0; p < kPartsPerGroup; ++p)
            partial = dotAdd(parts[p], loadShorts(values + r * xStride + p * kShortLanes), partial);
          sums[o][r] = mulAdd(toFloats(partial), scale, sums[o][r]);
        }
      }
    }
  }
  for (int o = 0; o < kOuts; ++o)
    for (int r = 0; r < kRows; ++r) y[o][r] = sum(sums[o][r]);
}

/// kOuts outputs from `out`, kRows rows from `row`.
template <int kOuts, int kRows>
inline void linearTile(const LinearJob& job, Index out, Index row) {
  const WeightView& w = job.weights;
  float y[kOuts][kRows] = {};
  const float* x = job.x + row * job.xStride;
  switch (w.storage) {
    case Storage::f32:
      floatTile(static_cast<const float*>(w.values) + out * w.stride, w.stride, w.inputs, x, job.xStride, y);
      break;
    case Storage::f16:
      floatTile(static_cast<const std::uint16_t*>(w.values) + out * w.stride, w.stride, w.stride, x, job.xStride, y);
      break;
    case Storage::int8:
      int8Tile(static_cast<const std::int8_t*>(w.values) + out * w.stride, w.stride,
               job.quantizedX + row * job.xStride, job.xStride, y);
      break;
    case Storage::int4:
      int4Tile(static_cast<const std::uint8_t*>(w.values) + out * (w.stride / 2),
               w.groupScales + out * (w.stride / kGroup), w.stride, job.quantizedX + row * job.xStride, job.xStride, y);
      break;
  }
  for (int o = 0; o < kOuts; ++o) {
    const float scale = w.storage == Storage::int8 ? w.channelScales[out + o] : 1.0F;
    for (int r = 0; r < kRows; ++r) {
      const bool integer = w.storage == Storage::int8 || w.storage == Storage::int4;
      const float value = integer ? y[o][r] * (scale * job.xScales[row + r]) : y[o][r];
      job.y[(row + r) * w.outputs + out + o] = value;
    }
  }
}

template <int kOuts>
inline void linearTiles(const LinearJob& job, Index out) {
  Index row = 0;
  for (; row + 4 <= job.rows; row += 4) linearTile<kOuts, 4>(job, out, row);
  switch (job.rows - row) {
    case 3: return linearTile<kOuts, 3>(job, out, row);
    case 2: return linearTile<kOuts, 2>(job, out, row);
    case 1: return linearTile<kOuts, 1>(job, out, row);
    default: return;
  }
}

inline Floats activate(Activation activation, Floats x) {
  if (activation == Activation::gelu) return gelu(x);
  return activation == Activation::relu ? relu(x) : x;
}

/// y = activation(y + bias) + residual on `count` neighbouring outputs.
inline void finishOutputs(float* y, const float* bias, const float* residual, Activation activation, Index count) {
  if (bias == nullptr && residual == nullptr && activation == Activation::none) return;
  for (Index i = 0; i < count; i += kLanes) {
    const Index rest = count - i;
    Floats value = loadUpTo(y + i, rest);
    if (bias != nullptr) value = value + loadUpTo(bias + i, rest);
    value = activate(activation, value);
    if (residual != nullptr) value = value + loadUpTo(residual + i, rest);
    storeUpTo(y + i, rest, value);
  }
}

void linear(const LinearJob& job, Index begin, Index end) {
  Index out = begin;
  for (; out + 4 <= end; out += 4) linearTiles<4>(job, out);
  for (; out < end; ++out) linearTiles<1>(job, out);
  for (Index r = 0; r < job.rows; ++r) {
    const Index offset = r * job.weights.outputs + begin;
    const float* bias = job.bias == nullptr ? nullptr : job.bias + begin;
    const float* residual = job.residual == nullptr ? nullptr : job.residual + offset;
    finishOutputs(job.y + offset, bias, residual, job.activation, end - begin);
  }
}

float prepareRow(const float* x, Index inputs, Index stride, float* padded, std::int16_t* quantized) {
  Floats largest = zeros();
  for (Index k = 0; k < stride; k += kLanes) {
    const Floats value = k < inputs ? loadUpTo(x + k, inputs - k) : zeros();
    store(padded + k, value);
    largest = max(abs(value), largest);
  }
  if (quantized == nullptr) return 1.0F;
  const float range = maximum(largest);
  const float scale = range > 0.0F ? range / 32767.0F : 1.0F;
  const Floats inverse = splat(range > 0.0F ? 32767.0F / range : 0.0F);
  for (Index k = 0; k < stride; k += kLanes) storeRounded(quantized + k, load(padded + k) * inverse);
  return scale;
}

bool toHalf(const float* x, std::uint16_t* y, Index count) {
  Index different = 0;
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    const Floats value = load(x + i);
    storeHalf(y + i, value);
    float original[kLanes];
    float restored[kLanes];
    store(original, value);
    store(restored, loadHalf(y + i));
    for (int lane = 0; lane < kLanes; ++lane) different += original[lane] == restored[lane] ? 0 : 1;
  }
  if (i < count) {
    float original[kLanes] = {};
    std::uint16_t halves[kLanes];
    float restored[kLanes];
    std::memcpy(original, x + i, static_cast<std::size_t>(count - i) * sizeof(float));
    storeHalf(halves, load(original));
    store(restored, loadHalf(halves));
    for (int lane = 0; lane < kLanes; ++lane) different += original[lane] == restored[lane] ? 0 : 1;
    std::memcpy(y + i, halves, static_cast<std::size_t>(count - i) * sizeof(std::uint16_t));
  }
  return different == 0;
}

/// Elements [begin, begin + kLanes · vectors) of one weight row as floats; the caller keeps within `stride`.
inline void decode(const WeightView& w, Index row, Index begin, Index count, float* y) {
  switch (w.storage) {
    case Storage::f32: {
      const float* source = static_cast<const float*>(w.values) + row * w.stride + begin;
      std::memcpy(y, source, static_cast<std::size_t>(count) * sizeof(float));
      return;
    }
    case Storage::f16: {
      const std::uint16_t* source = static_cast<const std::uint16_t*>(w.values) + row * w.stride + begin;
      for (Index k = 0; k < count; k += kLanes) storeUpTo(y + k, count - k, loadHalf(source + k));
      return;
    }
    case Storage::int8: {
      const std::int8_t* source = static_cast<const std::int8_t*>(w.values) + row * w.stride + begin;
      const float scale = w.channelScales[row];
      for (Index k = 0; k < count; ++k) y[k] = static_cast<float>(source[k]) * scale;
      return;
    }
    case Storage::int4: {
      const std::uint8_t* source = static_cast<const std::uint8_t*>(w.values) + row * (w.stride / 2);
      const std::uint16_t* scales = w.groupScales + row * (w.stride / kGroup);
      float groupScales[kLanes];
      Index scaledFrom = -1;
      for (Index k = 0; k < count; ++k) {
        const Index group = (begin + k) / kGroup;
        const Index within = (begin + k) % kGroup;
        if (scaledFrom < 0 || group >= scaledFrom + kLanes) {
          scaledFrom = group;
          const Index left = w.stride / kGroup - group;
          loadScales(scales + group, left < kLanes ? left : kLanes, groupScales);
        }
        const std::uint8_t byte = source[group * (kGroup / 2) + within % (kGroup / 2)];
        const int nibble = within < kGroup / 2 ? byte & 15 : byte >> 4;
        y[k] = static_cast<float>(nibble - 8) * groupScales[group - scaledFrom];
      }
      return;
    }
  }
}

void decodeRow(const WeightView& weights, Index row, float* y) { decode(weights, row, 0, weights.inputs, y); }

}  // namespace
}  // namespace tonearm::TONEARM_ISA
