// Attention of one head over keys and values that lie in one or more segments.
//
// A single query walks the keys and values once each, at the speed of memory. Several queries become two matrix products
// with the softmax between them.
#pragma once

#include "gemm.h"
#include "rows.h"

namespace tonearm::TONEARM_ISA {
namespace {

/// q · kᵀ for one key.
inline float dotProduct(const float* q, const float* k, Index width) {
  Floats total = zeros();
  Index d = 0;
  for (; d + kLanes <= width; d += kLanes) total = mulAdd(load(q + d), load(k + d), total);
  if (d < width) total = mulAdd(loadFirst(q + d, width - d), loadFirst(k + d, width - d), total);
  return sum(total);
}

inline void scoresOfOne(const AttentionSegment& segment, const float* q, Index offset, Index width, Index count, float scale,
                        float* scores) {
  const float* keys = segment.keys + offset;
  for (Index t = 0; t < count; ++t) scores[t] = dotProduct(q, keys + t * width, width) * scale;
}

/// out[kVectors · kLanes] of Σ pattern[t] · values[t], `columns` of which exist.
template <int kColumnVectors>
inline void gather(const AttentionJob& job, Index offsetOfHead, const float* pattern, Index visible, Index column, float* out) {
  Floats sums[kColumnVectors];
  for (auto& s : sums) s = zeros();
  Index before = 0;
  for (Index s = 0; s < job.segmentCount && before < visible; ++s) {
    const AttentionSegment& segment = job.segments[s];
    const Index count = visible - before < segment.count ? visible - before : segment.count;
    const float* values = segment.values + offsetOfHead * segment.headStride + column;
    for (Index t = 0; t < count; ++t) {
      const Floats weight = splat(pattern[before + t]);
      for (int v = 0; v < kColumnVectors; ++v) {
        const Index rest = job.width - column - v * kLanes;
        const float* p = values + t * job.width + v * kLanes;
        sums[v] = mulAdd(weight, kColumnVectors == 1 ? loadUpTo(p, rest) : load(p), sums[v]);
      }
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
    scoresOfOne(segment, q, offsetOfHead * segment.headStride, job.width, count, job.scale, scores + before);
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

void attention(const AttentionJob& job, Index row, Index head, Index queryBegin, Index queryEnd, float* scratch) {
  const Index queries = queryEnd - queryBegin;
  const Index firstVisible = job.causal ? job.keyCount - job.queries + 1 + queryBegin : job.keyCount;
  if (job.keyCount == 0) return;
  if (queries == 1) return attendOne(job, row, head, queryBegin, firstVisible, scratch);

  float* scores = scratch + kGemmScratch;
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
    product.b = segment.keys + offsetOfHead * segment.headStride;
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
    mix.b = segment.values + offsetOfHead * segment.headStride;
    mix.accumulate = before > 0;
    gemm(mix, 0, queries, 0, job.width, scratch);
    before += mix.k;
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
