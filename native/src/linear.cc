#include "linear.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace tonearm {
namespace {

/// From this many rows on a blocked product is faster than one pass over the weights with all rows (measured with AVX2).
constexpr Index kManyRows = 24;

constexpr Index kRowMultiple = 32;

Index padded(Index inputs) { return (inputs + kRowMultiple - 1) / kRowMultiple * kRowMultiple; }

/// Rows of x as the linear kernels want them: padded with zeros, and rounded for integer weights. The buffers belong to
/// the calling thread and are reused by its next call.
struct PreparedRows {
  const float* floats;
  const std::int16_t* integers;
  const float* scales;
};

PreparedRows prepareRows(const WeightView& weights, const float* x, Index rows) {
  const Index stride = padded(weights.inputs);
  const bool integer = weights.storage == Storage::int8 || weights.storage == Storage::int4;
  thread_local std::vector<float> floats;
  thread_local std::vector<std::int16_t> integers;
  thread_local std::vector<float> scales;
  floats.resize(static_cast<std::size_t>(rows * stride));
  scales.resize(static_cast<std::size_t>(rows));
  if (integer) integers.resize(static_cast<std::size_t>(rows * stride));
  for (Index row = 0; row < rows; ++row) {
    scales[static_cast<std::size_t>(row)] =
        kernels().prepareRow(x + row * weights.inputs, weights.inputs, stride, floats.data() + row * stride,
                             integer ? integers.data() + row * stride : nullptr);
  }
  return {floats.data(), integers.data(), scales.data()};
}

}  // namespace

void linear(const WeightView& weights, const float* x, Index rows, const Epilogue& epilogue, Precision precision, float* y) {
  if (rows == 0 || weights.outputs == 0) return;
  if (rows < kManyRows) {
    const PreparedRows prepared = prepareRows(weights, x, rows);
    LinearJob job;
    job.weights = weights;
    job.x = prepared.floats;
    job.xStride = padded(weights.inputs);
    job.quantizedX = prepared.integers;
    job.xScales = prepared.scales;
    job.rows = rows;
    job.bias = epilogue.bias;
    job.residual = epilogue.residual;
    job.activation = epilogue.activation;
    job.y = y;
    parallelFor(weights.outputs, 32, [&](Index begin, Index end) { kernels().linear(job, begin, end); });
    return;
  }
  GemmJob job;
  job.a = x;
  job.aRow = weights.inputs;
  job.weights = weights;
  job.c = y;
  job.cRow = weights.outputs;
  job.m = rows;
  job.n = weights.outputs;
  job.k = weights.inputs;
  job.precision = precision;
  job.bias = epilogue.bias;
  job.residual = epilogue.residual;
  job.activation = epilogue.activation;
  multiply(job);
}

void multiply(const GemmJob& job) {
  if (job.m == 0 || job.n == 0) return;
  const KernelTable& kernel = kernels();
  const Index work = job.m * job.n * (job.k + 1);
  constexpr Index kSmall = 32 * 1024;  // multiply-adds below which waking threads costs more than it saves
  if (work < kSmall) return kernel.gemm(job, 0, job.m, 0, job.n, threadScratch(kernel.gemmScratch));
  // The longer side is split, so that the other operand's packing is repeated less; into wide parts, as each part packs
  // all of the other operand.
  if (job.n >= job.m) {
    const Index wide = job.n / (2 * threadPool().threads()) / 64 * 64;
    parallelFor(job.n, std::clamp(wide, Index{64}, Index{256}), [&](Index begin, Index end) {
      kernel.gemm(job, 0, job.m, begin, end, threadScratch(kernel.gemmScratch));
    });
  } else {
    parallelFor(job.m, 24, [&](Index begin, Index end) {
      kernel.gemm(job, begin, end, 0, job.n, threadScratch(kernel.gemmScratch));
    });
  }
}

void convolve(const ConvolutionShape& shape, const float* x, const float* filter, const Epilogue& epilogue, float* y) {
  const Index depth = shape.taps * shape.inputs;
  for (Index item = 0; item < shape.batch; ++item) {
    const float* source = x + item * shape.length * shape.inputs;
    float* target = y + item * shape.positions * shape.outputs;
    const float* residual =
        epilogue.residual == nullptr ? nullptr : epilogue.residual + item * shape.positions * shape.outputs;
    const bool plain = residual == nullptr && epilogue.activation == Activation::none;
    if (shape.outputs == 1 && shape.dilation == 1 && plain) {
      // One output channel: the windows are the rows of a matrix that overlap, times the filter as a vector.
      std::vector<float> vector(static_cast<std::size_t>(padded(depth)), 0.0F);
      std::memcpy(vector.data(), filter, static_cast<std::size_t>(depth) * sizeof(float));
      LinearJob job;
      job.weights = {.storage = Storage::f32,
                     .values = source,
                     .outputs = shape.positions,
                     .inputs = depth,
                     .stride = shape.stride * shape.inputs};
      job.x = vector.data();
      job.xStride = padded(depth);
      job.rows = 1;
      job.y = target;
      parallelFor(shape.positions, 256, [&](Index begin, Index end) {
        kernels().linear(job, begin, end);
        if (epilogue.bias != nullptr)
          kernels().binary(Binary::add, target + begin, 1, epilogue.bias, 0, target + begin, end - begin);
      });
      continue;
    }
    // The windows are rows of a matrix that overlap in memory, so nothing is copied out first. With dilation the taps
    // lie apart, and each is a product of its own that adds to the ones before.
    const bool together = shape.dilation == 1;
    const Index products = together ? 1 : shape.taps;
    for (Index tap = 0; tap < products; ++tap) {
      GemmJob job;
      job.a = source + tap * shape.dilation * shape.inputs;
      job.aRow = shape.stride * shape.inputs;
      job.b = filter + tap * shape.inputs * shape.outputs;
      job.bRow = shape.outputs;
      job.c = target;
      job.cRow = shape.outputs;
      job.m = shape.positions;
      job.n = shape.outputs;
      job.k = together ? depth : shape.inputs;
      job.accumulate = tap > 0;
      if (tap == products - 1) {
        job.bias = epilogue.bias;
        job.residual = residual;
        job.activation = epilogue.activation;
      }
      multiply(job);
    }
  }
}

}  // namespace tonearm
