#include "steer.h"

#include <algorithm>
#include <cmath>

#include "parallel.h"

namespace tonearm {
namespace {

constexpr Index kLanes = 16;            // independent sums, which a compiler can keep in vector registers
constexpr Index kElementGrain = 16384;  // elements that are worth a thread's while

float dot(const float* a, const float* b, Index count) {
  float sums[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes)
    for (Index lane = 0; lane < kLanes; ++lane) sums[lane] += a[i + lane] * b[i + lane];
  for (; i < count; ++i) sums[i % kLanes] += a[i] * b[i];
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

float norm(const float* x, Index count) { return std::sqrt(dot(x, x, count)); }

/// Moves one unit. `strengths` are those of its place.
void steerUnit(const SteerJob& job, const float* strengths, Index unit, const float* h, float* y) {
  float sum = 0;    // Σ sᵢ·weightᵢ
  float total = 0;  // Σ |sᵢ·weightᵢ|
  for (Index i = 0; i < job.directions; ++i) {
    const float share = strengths[i] * job.weights[i * job.units + unit];
    sum += share;
    total += std::abs(share);
  }
  if (total == 0) {
    std::copy_n(h, job.width, y);
    return;
  }
  float keep = 1;
  float factor = 1;
  switch (job.op) {
    case SteerOperator::convex:
      keep = 1 / (1 + total);
      factor = norm(h, job.width) * keep;
      break;
    case SteerOperator::clamp:
      factor = job.goals[unit] - dot(h, job.along + unit * job.width, job.width);
      break;
    case SteerOperator::replace:
      keep = 1 - sum;
      break;
    case SteerOperator::add:
      break;
  }
  for (Index i = 0; i < job.directions; ++i) {
    const float pushed = factor * strengths[i];
    const float* step = job.steps + (i * job.units + unit) * job.width;
    if (i == 0) {
      for (Index d = 0; d < job.width; ++d) y[d] = keep * h[d] + pushed * step[d];
    } else {
      for (Index d = 0; d < job.width; ++d) y[d] += pushed * step[d];
    }
  }
  if (!job.restoreNorm) return;
  const float moved = norm(y, job.width);
  const float scale = moved > 0 ? norm(h, job.width) / moved : 0;
  for (Index d = 0; d < job.width; ++d) y[d] *= scale;
}

}  // namespace

void steer(const SteerJob& job) {
  const Index size = job.units * job.width;
  const Index grain = std::max<Index>(1, kElementGrain / std::max<Index>(1, size));
  parallelFor(job.places, grain, [&](Index begin, Index end) {
    for (Index place = begin; place < end; ++place)
      for (Index unit = 0; unit < job.units; ++unit) {
        const Index start = place * size + unit * job.width;
        steerUnit(job, job.strengths + place * job.directions, unit, job.h + start, job.y + start);
      }
  });
}

}  // namespace tonearm
