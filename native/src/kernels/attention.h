// Attention of one head over keys and values that lie in one or more segments.
//
// A single query walks the keys and values once each, at the speed of memory. Several queries become two matrix products
// with the softmax between them. Keys and values in 16 bits give the same result, to the last bit, as floats of the same
// values would.
#pragma once

#include "gemm.h"
#include "quantize.h"
#include "rows.h"

namespace tonearm::TONEARM_ISA {
namespace {

inline const float* floatsAt(const void* data, Index offset) { return static_cast<const float*>(data) + offset; }
inline const std::uint16_t* halvesAt(const void* data, Index offset) {
  return static_cast<const std::uint16_t*>(data) + offset;
}

/// Keys or values of a head as floats: where they lie, or read into `scratch`.
inline const float* asFloats(const AttentionSegment& segment, const void* data, Index offset, Index count, float* scratch) {
  if (segment.storage == Storage::f32) return floatsAt(data, offset);
  fromHalf(halvesAt(data, offset), scratch, count);
  return scratch;
}

/// q · kᵀ for one key.
template <class Stored>
inline float dotProduct(const float* q, const Stored* k, Index width) {
  Floats total = zeros();
  Index d = 0;
  for (; d + kLanes <= width; d += kLanes) total = mulAdd(load(q + d), load(k + d), total);
  if (d < width) total = mulAdd(loadFirst(q + d, width - d), loadFirst(k + d, width - d), total);
  return sum(total);
}

template <class Stored>
inline void scoresOfOne(const Stored* keys, const float* q, Index width, Index count, float scale, float* scores) {
  for (Index t = 0; t < count; ++t) scores[t] = dotProduct(q, keys + t * width, width) * scale;
}

/// sums += Σ pattern[t] · values[t], of whose kColumnVectors · kLanes columns `columns` exist.
template <int kColumnVectors, class Stored>
inline void gatherSegment(const Stored* values, const float* pattern, Index count, Index width, Index columns,
                          Floats (&sums)[kColumnVectors]) {
  for (Index t = 0; t < count; ++t) {
    const Floats weight = splat(pattern[t]);
    for (int v = 0; v < kColumnVectors; ++v) {
      const Stored* p = values + t * width + v * kLanes;
      sums[v] = mulAdd(weight, kColumnVectors == 1 ? loadUpTo(p, columns) : load(p), sums[v]);
    }
  }
}

/// out[kColumnVectors · kLanes] of Σ pattern[t] · values[t] from `column` on.
template <int kColumnVectors>
inline void gather(const AttentionJob& job, Index offsetOfHead, const float* pattern, Index visible, Index column, float* out) {
  Floats sums[kColumnVectors];
  for (auto& s : sums) s = zeros();
  Index before = 0;
  for (Index s = 0; s < job.segmentCount && before < visible; ++s) {
    const AttentionSegment& segment = job.segments[s];
    const Index count = visible - before < segment.count ? visible - before : segment.count;
    const Index offset = offsetOfHead * segment.headStride + column;
    if (segment.storage == Storage::f16) {
      gatherSegment(halvesAt(segment.values, offset), pattern + before, count, job.width, job.width - column, sums);
    } else {
      gatherSegment(floatsAt(segment.values, offset), pattern + before, count, job.width, job.width - column, sums);
    }
    before += count;
  }
  for (int v = 0; v < kColumnVectors; ++v) storeUpTo(out + column + v * kLanes, job.width - column - v * kLanes, sums[v]);
}

inline void attendOne(const AttentionJob& job, Index row, Index head, Index query, Index visible, float* scores) {
  const float* q = job.q + row * job.qRow + head * job.qHead + query * job.qPosition;
  float* out = job.out + row * job.outRow + head * job.outHead + query * job.outPosition;
  const Index offsetOfHead = row * job.heads + head;
  Index before = 0;
  for (Index s = 0; s < job.segmentCount && before < visible; ++s) {
    const AttentionSegment& segment = job.segments[s];
    const Index count = visible - before < segment.count ? visible - before : segment.count;
    const Index offset = offsetOfHead * segment.headStride;
    if (segment.storage == Storage::f16) {
      scoresOfOne(halvesAt(segment.keys, offset), q, job.width, count, job.scale, scores + before);
    } else {
      scoresOfOne(floatsAt(segment.keys, offset), q, job.width, count, job.scale, scores + before);
    }
    before += count;
  }
  if (job.mask != nullptr) {
    const float* mask = job.mask + row * job.maskRow + query * job.maskQuery;
    for (Index t = 0; t < visible; ++t) scores[t] += mask[t];
  }
  const Floats factor = splat(1.0F / exponentials(scores, scores, visible));
  mapRange(scores, scores, visible, [=](Floats v) { return v * factor; });
  Index column = 0;
  for (; column + 8 * kLanes <= job.width; column += 8 * kLanes) gather<8>(job, offsetOfHead, scores, visible, column, out);
  for (; column + 4 * kLanes <= job.width; column += 4 * kLanes) gather<4>(job, offsetOfHead, scores, visible, column, out);
  for (; column < job.width; column += kLanes) gather<1>(job, offsetOfHead, scores, visible, column, out);
}

/// Room for a product, for the scores, and for what several queries read of a segment in 16 bits.
Index attentionScratch(const AttentionJob& job) {
  Index read = 0;
  for (Index s = 0; s < job.segmentCount && job.queries > 1; ++s) {
    const AttentionSegment& segment = job.segments[s];
    if (segment.storage == Storage::f16 && segment.count > read) read = segment.count;
  }
  return kGemmScratch + kQueryBlock * job.keyCount + read * job.width;
}

void attention(const AttentionJob& job, Index row, Index head, Index queryBegin, Index queryEnd, float* scratch) {
  const Index queries = queryEnd - queryBegin;
  const Index firstVisible = job.causal ? job.keyCount - job.queries + 1 + queryBegin : job.keyCount;
  if (job.keyCount == 0) return;
  if (queries == 1) return attendOne(job, row, head, queryBegin, firstVisible, scratch);

  float* scores = scratch + kGemmScratch;
  float* read = scores + kQueryBlock * job.keyCount;
  const Index offsetOfHead = row * job.heads + head;
  const Index visible = job.causal ? firstVisible + queries - 1 : job.keyCount;
  GemmJob product;
  product.m = queries;
  product.a = job.q + row * job.qRow + head * job.qHead + queryBegin * job.qPosition;
  product.aRow = job.qPosition;
  product.k = job.width;
  product.bRow = 1;
  product.bColumn = job.width;
  product.cRow = visible;
  Index before = 0;
  for (Index s = 0; s < job.segmentCount && before < visible; ++s) {
    const AttentionSegment& segment = job.segments[s];
    product.n = visible - before < segment.count ? visible - before : segment.count;
    product.b = asFloats(segment, segment.keys, offsetOfHead * segment.headStride, product.n * job.width, read);
    product.c = scores + before;
    gemm(product, 0, queries, 0, product.n, scratch);
    before += product.n;
  }

  for (Index i = 0; i < queries; ++i) {
    const Index seen = job.causal ? firstVisible + i : visible;
    float* line = scores + i * visible;
    const Floats scale = splat(job.scale);
    mapRange(line, line, seen, [=](Floats v) { return v * scale; });
    if (job.mask != nullptr) {
      const float* mask = job.mask + row * job.maskRow + (queryBegin + i) * job.maskQuery;
      zipRange(line, 1, mask, 1, line, seen, [](Floats a, Floats b) { return a + b; });
    }
    const Floats factor = splat(1.0F / exponentials(line, line, seen));
    mapRange(line, line, seen, [=](Floats v) { return v * factor; });
    for (Index t = seen; t < visible; ++t) line[t] = 0.0F;
  }

  GemmJob mix;
  mix.m = queries;
  mix.n = job.width;
  mix.aRow = visible;
  mix.bRow = job.width;
  mix.c = job.out + row * job.outRow + head * job.outHead + queryBegin * job.outPosition;
  mix.cRow = job.outPosition;
  before = 0;
  for (Index s = 0; s < job.segmentCount && before < visible; ++s) {
    const AttentionSegment& segment = job.segments[s];
    mix.k = visible - before < segment.count ? visible - before : segment.count;
    if (mix.k == 0) continue;
    mix.a = scores + before;
    mix.b = asFloats(segment, segment.values, offsetOfHead * segment.headStride, mix.k * job.width, read);
    mix.accumulate = before > 0;
    gemm(mix, 0, queries, 0, job.width, scratch);
    before += mix.k;
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
