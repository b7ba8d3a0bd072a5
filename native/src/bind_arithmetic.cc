#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "linear.h"
#include "parallel.h"

namespace tonearm {
namespace {

constexpr Index kElementGrain = 16 * 1024;  // elements of one part of an elementwise kernel

/// Rows of one part of a kernel that works on rows of `length`.
Index rowGrain(Index length) { return std::max<Index>(1, kElementGrain / std::max<Index>(1, length)); }

/// (op, x, y)
napi_value unary(const Arguments& arguments) {
  const Index op = arguments.integer(0);
  require(op >= 0 && op <= static_cast<Index>(Unary::gelu), "there is no such function");
  const Span<float> x = floatsOf(arguments.env(), arguments.value(1));
  float* y = arguments.floats(2, x.size);
  parallelFor(x.size, kElementGrain, [&](Index begin, Index end) {
    kernels().unary(static_cast<Unary>(op), x.data + begin, y + begin, end - begin);
  });
  return nullptr;
}

/// One axis of a broadcast operation, with the distance between neighbours in each operand.
struct BroadcastAxis {
  Index size, aStride, bStride;
};

void broadcast(Binary op, const float* a, const float* b, float* y, const std::vector<BroadcastAxis>& axes) {
  const BroadcastAxis inner = axes.back();
  Index rows = 1;
  for (std::size_t axis = 0; axis + 1 < axes.size(); ++axis) rows *= axes[axis].size;
  const auto row = [&](Index index, Index begin, Index end) {
    Index aOffset = 0;
    Index bOffset = 0;
    Index rest = index;
    for (std::size_t axis = axes.size() - 1; axis-- > 0;) {
      const Index i = rest % axes[axis].size;
      rest /= axes[axis].size;
      aOffset += i * axes[axis].aStride;
      bOffset += i * axes[axis].bStride;
    }
    kernels().binary(op, a + aOffset + begin * inner.aStride, inner.aStride, b + bOffset + begin * inner.bStride,
                     inner.bStride, y + index * inner.size + begin, end - begin);
  };
  if (rows == 1) {
    parallelFor(inner.size, kElementGrain, [&](Index begin, Index end) { row(0, begin, end); });
  } else {
    parallelFor(rows, rowGrain(inner.size), [&](Index begin, Index end) {
      for (Index index = begin; index < end; ++index) row(index, 0, inner.size);
    });
  }
}

/// (op, a, b, y, axes): axes holds size, stride in a and stride in b of each axis, outermost first; the innermost strides
/// are 0 or 1
napi_value binary(const Arguments& arguments) {
  const Index op = arguments.integer(0);
  require(op >= 0 && op <= static_cast<Index>(Binary::squaredDifference), "there is no such operation");
  const Span<float> a = floatsOf(arguments.env(), arguments.value(1));
  const Span<float> b = floatsOf(arguments.env(), arguments.value(2));
  const Span<std::int32_t> layout = arguments.integers(4);
  require(layout.size >= 3 && layout.size % 3 == 0, "an axis needs a size and two strides");
  std::vector<BroadcastAxis> axes;
  Index total = 1;
  Index lastA = 0;
  Index lastB = 0;
  for (Index i = 0; i < layout.size; i += 3) {
    const BroadcastAxis axis = {layout.data[i], layout.data[i + 1], layout.data[i + 2]};
    require(axis.size >= 0 && axis.aStride >= 0 && axis.bStride >= 0, "sizes and strides are not negative");
    total *= axis.size;
    lastA += (axis.size - 1) * axis.aStride;
    lastB += (axis.size - 1) * axis.bStride;
    axes.push_back(axis);
  }
  float* y = arguments.floats(3, total);
  if (total == 0) return nullptr;
  require(lastA < a.size && lastB < b.size, "an operand is shorter than its shape says");
  require(axes.back().aStride <= 1 && axes.back().bStride <= 1, "the innermost strides must be 0 or 1");
  broadcast(static_cast<Binary>(op), a.data, b.data, y, axes);
  return nullptr;
}

/// (op, x [outer, length, inner], y [outer, inner], outer, length, inner)
napi_value reduce(const Arguments& arguments) {
  const Index op = arguments.integer(0);
  require(op >= 0 && op <= static_cast<Index>(Reduction::minimum), "there is no such reduction");
  const Index outer = arguments.integer(3);
  const Index length = arguments.integer(4);
  const Index inner = arguments.integer(5);
  require(outer >= 0 && length > 0 && inner >= 0, "an axis to reduce must not be empty");
  const float* x = arguments.floats(1, outer * length * inner);
  float* y = arguments.floats(2, outer * inner);
  parallelFor(outer, rowGrain(length * inner), [&](Index begin, Index end) {
    kernels().reduce(static_cast<Reduction>(op), x, y, length, inner, begin, end);
  });
  return nullptr;
}

/// (x [rows, length], y Int32Array [rows], rows, length)
napi_value argMax(const Arguments& arguments) {
  const Index rows = arguments.integer(2);
  const Index length = arguments.integer(3);
  require(rows >= 0 && length > 0, "an axis to reduce must not be empty");
  const float* x = arguments.floats(0, rows * length);
  std::int32_t* y = arguments.integers(1, rows).data;
  parallelFor(rows, rowGrain(length), [&](Index begin, Index end) { kernels().argMax(x, y, length, begin, end); });
  return nullptr;
}

/// (x [rows, length], y, rows, length)
napi_value softmax(const Arguments& arguments) {
  const Index rows = arguments.integer(2);
  const Index length = arguments.integer(3);
  require(rows >= 0 && length > 0, "a row of a softmax must not be empty");
  const float* x = arguments.floats(0, rows * length);
  float* y = arguments.floats(1, rows * length);
  parallelFor(rows, rowGrain(length * 4), [&](Index begin, Index end) { kernels().softmax(x, y, length, begin, end); });
  return nullptr;
}

/// (x [rows, length], gain | null, bias | null, epsilon, centre, y, scale [rows] | null, rows, length)
napi_value normalize(const Arguments& arguments) {
  const Index rows = arguments.integer(7);
  const Index length = arguments.integer(8);
  require(rows >= 0 && length > 0, "a row to normalise must not be empty");
  const float* x = arguments.floats(0, rows * length);
  const float* gain = arguments.optionalFloats(1, length);
  const float* bias = arguments.optionalFloats(2, length);
  const auto epsilon = static_cast<float>(arguments.number(3));
  const bool centre = arguments.boolean(4);
  float* y = arguments.floats(5, rows * length);
  float* scale = arguments.optionalFloats(6, rows);
  parallelFor(rows, rowGrain(length), [&](Index begin, Index end) {
    kernels().normalize(x, gain, bias, epsilon, centre, y, scale, length, begin, end);
  });
  return nullptr;
}

Activation activationOf(Index code) {
  require(code >= 0 && code <= 2, "there is no such activation");
  return static_cast<Activation>(code);
}

/// (a, b, y, bias | null, activation, shape: m, n, k, aRow, aColumn, bRow, bColumn, offsets: one pair into a and b for each
/// product of the batch)
napi_value matMul(const Arguments& arguments) {
  const Span<float> a = floatsOf(arguments.env(), arguments.value(0));
  const Span<float> b = floatsOf(arguments.env(), arguments.value(1));
  const std::int32_t* shape = arguments.integers(5, 7).data;
  const Span<std::int32_t> offsets = arguments.integers(6);
  GemmJob job;
  job.m = shape[0];
  job.n = shape[1];
  job.k = shape[2];
  job.aRow = shape[3];
  job.aColumn = shape[4];
  job.bRow = shape[5];
  job.bColumn = shape[6];
  require(job.m >= 0 && job.n >= 0 && job.k >= 0 && job.aRow >= 0 && job.aColumn >= 0 && job.bRow >= 0 && job.bColumn >= 0,
          "sizes and strides are not negative");
  const Index batch = offsets.size / 2;
  float* y = arguments.floats(2, batch * job.m * job.n);
  job.cRow = job.n;
  job.bias = arguments.optionalFloats(3, job.n);
  job.activation = activationOf(arguments.integer(4));
  if (batch * job.m * job.n == 0) return nullptr;
  const Index lastA = (job.m - 1) * job.aRow + (job.k - 1) * job.aColumn;
  const Index lastB = (job.k - 1) * job.bRow + (job.n - 1) * job.bColumn;
  for (Index i = 0; i < batch && job.k > 0; ++i) {
    const Index aOffset = offsets.data[2 * i];
    const Index bOffset = offsets.data[2 * i + 1];
    require(aOffset >= 0 && aOffset + lastA < a.size, "an operand is shorter than its shape says");
    require(bOffset >= 0 && bOffset + lastB < b.size, "an operand is shorter than its shape says");
  }
  const auto product = [&](Index i) {
    GemmJob part = job;
    part.a = a.data + offsets.data[2 * i];
    part.b = b.data + offsets.data[2 * i + 1];
    part.c = y + i * job.m * job.n;
    return part;
  };
  if (batch >= 2 * threadPool().threads()) {  // whole products in parallel
    parallelFor(batch, 1, [&](Index begin, Index end) {
      float* scratch = threadScratch(kernels().gemmScratch);
      for (Index i = begin; i < end; ++i) kernels().gemm(product(i), 0, job.m, 0, job.n, scratch);
    });
  } else {
    for (Index i = 0; i < batch; ++i) multiply(product(i));
  }
  return nullptr;
}

/// (x, filter, y, bias | null, residual | null, activation, shape: batch, length, inputs, outputs, taps, stride, dilation,
/// positions)
napi_value convolution(const Arguments& arguments) {
  const std::int32_t* n = arguments.integers(6, 8).data;
  const ConvolutionShape shape = {n[0], n[1], n[2], n[3], n[4], n[5], n[6], n[7]};
  require(std::all_of(n, n + 7, [](std::int32_t size) { return size > 0; }) && shape.positions >= 0,
          "sizes of a convolution are positive");
  require(shape.positions == 0 ||
              (shape.positions - 1) * shape.stride + (shape.taps - 1) * shape.dilation < shape.length,
          "a convolution reaches beyond its input");
  const float* x = arguments.floats(0, shape.batch * shape.length * shape.inputs);
  const float* filter = arguments.floats(1, shape.taps * shape.inputs * shape.outputs);
  const Index size = shape.batch * shape.positions * shape.outputs;
  float* y = arguments.floats(2, size);
  Epilogue epilogue;
  epilogue.bias = arguments.optionalFloats(3, shape.outputs);
  epilogue.residual = arguments.optionalFloats(4, size);
  epilogue.activation = activationOf(arguments.integer(5));
  require(y != epilogue.residual && y != x, "an output must not be an input too");
  convolve(shape, x, filter, epilogue, y);
  return nullptr;
}

/// (x Int32Array, y Float32Array)
napi_value integersToFloats(const Arguments& arguments) {
  const Span<std::int32_t> x = arguments.integers(0);
  float* y = arguments.floats(1, x.size);
  for (Index i = 0; i < x.size; ++i) y[i] = static_cast<float>(x.data[i]);
  return nullptr;
}

/// (x Float32Array, y Int32Array): towards zero; what no int32 can hold becomes 0 or wraps, as in JavaScript
napi_value floatsToIntegers(const Arguments& arguments) {
  const Span<float> x = floatsOf(arguments.env(), arguments.value(0));
  std::int32_t* y = arguments.integers(1, x.size).data;
  for (Index i = 0; i < x.size; ++i) {
    const float value = x.data[i];
    if (value > -2147483648.0F && value < 2147483648.0F) {
      y[i] = static_cast<std::int32_t>(value);
    } else if (!std::isfinite(value)) {
      y[i] = 0;
    } else {
      const double wrapped = std::fmod(std::trunc(static_cast<double>(value)), 4294967296.0);
      y[i] = static_cast<std::int32_t>(static_cast<std::uint32_t>(static_cast<std::int64_t>(wrapped)));
    }
  }
  return nullptr;
}

}  // namespace

const Binding kArithmeticBindings[] = {
    {"unary", unary},     {"binary", binary},       {"reduce", reduce}, {"argMax", argMax},
    {"softmax", softmax}, {"normalize", normalize}, {"matMul", matMul}, {"convolve", convolution},
    {"integersToFloats", integersToFloats}, {"floatsToIntegers", floatsToIntegers}, {nullptr, nullptr},
};

}  // namespace tonearm
