// What a set of kernels offers: plain structs that describe the work, and one function per kernel. There is one table per
// instruction set that the binary was built for; dispatch.h picks one.
//
// Kernels run on one thread and do the part of the work they are told; parallel.h splits the work. Every output element
// is computed in an order of additions that depends on the shapes alone, so the split never changes a result.
#pragma once

#include <cstdint>

namespace tonearm {

using Index = std::int64_t;

/// How the values of a weight are stored.
enum class Storage : std::int32_t { f32 = 0, f16 = 1, int8 = 2, int4 = 3 };

/// What the factors of a product are rounded to before they are multiplied; sums are float32 either way.
enum class Precision : std::int32_t { f32 = 0, bf16 = 1 };

/// What is applied to a linear layer's outputs.
enum class Activation : std::int32_t { none = 0, gelu = 1, relu = 2 };

/// A weight matrix, [outputs, inputs] row-major. Rows of f16, int8 and int4 are padded with zeros to `stride` elements, a
/// multiple of 32; rows of f32 are as the checkpoint has them. int4 holds groups of 32 in 16 bytes: byte j has element j
/// in its low and element 16 + j in its high half, each plus 8.
struct WeightView {
  Storage storage = Storage::f32;
  const void* values = nullptr;
  const float* channelScales = nullptr;        // int8: one per output
  const std::uint16_t* groupScales = nullptr;  // int4: binary16, [outputs, stride / 32]
  Index outputs = 0;
  Index inputs = 0;
  Index stride = 0;
};

/// y = activation(x·Wᵀ + bias) + residual for few rows: reads each weight once.
struct LinearJob {
  WeightView weights;
  const float* x = nullptr;  // [rows, xStride], zero beyond `inputs`; xStride is a multiple of 32
  Index xStride = 0;
  const std::int16_t* quantizedX = nullptr;  // int8 and int4: x / xScales rounded, same layout as x
  const float* xScales = nullptr;            // [rows]
  Index rows = 0;
  const float* bias = nullptr;      // [outputs] or null
  const float* residual = nullptr;  // [rows, outputs] or null; not y
  Activation activation = Activation::none;
  float* y = nullptr;  // [rows, outputs]
};

/// C = activation(A·B + bias) + residual, or C += A·B.
struct GemmJob {
  const float* a = nullptr;  // A[i,k] = a[i·aRow + k·aColumn]
  Index aRow = 0;
  Index aColumn = 1;
  const float* b = nullptr;  // B[k,j] = b[k·bRow + j·bColumn]; null: B is the transpose of `weights`
  Index bRow = 0;
  Index bColumn = 1;
  WeightView weights;
  float* c = nullptr;  // C[i,j] = c[i·cRow + j]
  Index cRow = 0;
  Index m = 0;
  Index n = 0;
  Index k = 0;
  Precision precision = Precision::f32;
  bool accumulate = false;
  const float* bias = nullptr;      // [n] or null
  const float* residual = nullptr;  // laid out as C, or null; not C
  Activation activation = Activation::none;
};

/// Keys and values of consecutive positions: element d of position t of (row, head) is at
/// data[(row·heads + head)·headStride + t·width + d].
struct AttentionSegment {
  const void* keys = nullptr;
  const void* values = nullptr;
  Index headStride = 0;
  Index count = 0;
  Storage storage = Storage::f32;  // or f16
};

/// out = softmax(scale · q·kᵀ + mask) · v
struct AttentionJob {
  const float* q = nullptr;  // element d of query t of (row, head): q[row·qRow + head·qHead + t·qPosition + d]
  Index qRow = 0;
  Index qHead = 0;
  Index qPosition = 0;
  float* out = nullptr;  // laid out by the three strides below
  Index outRow = 0;
  Index outHead = 0;
  Index outPosition = 0;
  const AttentionSegment* segments = nullptr;
  Index segmentCount = 0;
  const float* mask = nullptr;  // additive, or null: mask[row·maskRow + query·maskQuery + key]
  Index maskRow = 0;
  Index maskQuery = 0;
  bool causal = false;  // query t of T sees the first keyCount − T + 1 + t keys only
  float scale = 1.0F;
  Index rows = 0;
  Index heads = 0;
  Index queries = 0;
  Index keyCount = 0;
  Index width = 0;  // per head
};

/// Queries that one call of `attention` takes at a time.
constexpr Index kQueryBlock = 64;

enum class Unary : std::int32_t {
  negate, abs, square, sqrt, reciprocalSqrt, reciprocal, exp, erf, tanh, sigmoid, relu, elu, gelu,
};
enum class Binary : std::int32_t { add, subtract, multiply, divide, maximum, minimum, squaredDifference };
enum class Reduction : std::int32_t { sum, mean, maximum, minimum };

struct KernelTable {
  const char* name;

  /// Outputs [begin, end) of a linear layer.
  void (*linear)(const LinearJob& job, Index begin, Index end);
  /// Prepares one row for `linear`: copies `inputs` values of x into `padded` (zeros up to `stride`), and for int8 and int4
  /// rounds them to 16 bits. Returns the scale.
  float (*prepareRow)(const float* x, Index inputs, Index stride, float* padded, std::int16_t* quantized);

  /// Rows [rowBegin, rowEnd) and columns [columnBegin, columnEnd) of C. `scratch` has gemmScratch floats.
  void (*gemm)(const GemmJob& job, Index rowBegin, Index rowEnd, Index columnBegin, Index columnEnd, float* scratch);
  Index gemmScratch;

  /// One (row, head) and up to kQueryBlock queries from `queryBegin`. `scratch` has attentionScratch(job) floats.
  void (*attention)(const AttentionJob& job, Index row, Index head, Index queryBegin, Index queryEnd, float* scratch);
  Index (*attentionScratch)(const AttentionJob& job);

  void (*unary)(Unary op, const float* x, float* y, Index count);
  /// y[i] = op(a[i·aStep], b[i·bStep]) with steps 0 or 1.
  void (*binary)(Binary op, const float* a, Index aStep, const float* b, Index bStep, float* y, Index count);
  /// Reduces the middle axis of [outer, length, inner], outer rows [begin, end).
  void (*reduce)(Reduction op, const float* x, float* y, Index length, Index inner, Index begin, Index end);
  /// Index of the first largest element of each row [rows, length].
  void (*argMax)(const float* x, std::int32_t* y, Index length, Index begin, Index end);
  void (*softmax)(const float* x, float* y, Index length, Index begin, Index end);
  /// Layer normalisation of rows [begin, end): (x − mean) / √(variance + epsilon) · gain + bias. gain, bias and scale (which
  /// takes the divisor) may be null. With `centre` false the mean is taken as zero: root-mean-square normalisation.
  void (*normalize)(const float* x, const float* gain, const float* bias, float epsilon, bool centre, float* y, float* scale,
                    Index length, Index begin, Index end);
  /// One LSTM cell update of units [begin, end): gates [4·units] in the order input, forget, output, cell.
  void (*lstmCell)(const float* gates, const float* recurrent, float* cell, float* hidden, Index units, Index begin, Index end);

  /// Converts to binary16; false if some value does not survive the round trip.
  bool (*toHalf)(const float* x, std::uint16_t* y, Index count);
  /// Rounds to the nearest binary16, ties to even. Returns the largest finite magnitude that became infinite, 0 if none did.
  float (*roundToHalf)(const float* x, std::uint16_t* y, Index count);
  void (*fromHalf)(const std::uint16_t* x, float* y, Index count);
  /// Rounds a weight row to `stride` bytes, zeros beyond `inputs`; returns the scale.
  float (*quantizeInt8)(const float* x, Index inputs, Index stride, std::int8_t* y);
  /// Rounds a weight row to groups of 32 nibbles with one binary16 scale each: the scale, of a few candidates, that loses
  /// least in squared error.
  void (*quantizeInt4)(const float* x, Index inputs, Index stride, std::uint8_t* y, std::uint16_t* scales);
  /// Columns [0, inputs) of one row of a weight as floats.
  void (*decodeRow)(const WeightView& weights, Index row, float* y);

  /// C[m,n] −= A[m,k]·B[n,k]ᵀ in float64.
  void (*subtractProducts)(const double* a, Index aRow, const double* b, Index bRow, double* c, Index cRow, Index m, Index n,
                           Index k);
  /// y[0 … n) −= Σ_r scales[r]·X[r, 0 … n) in float64.
  void (*subtractRows)(const double* x, Index xRow, const double* scales, Index count, double* y, Index n);
};

namespace generic { extern const KernelTable kernels; }
namespace avx2 { extern const KernelTable kernels; }
namespace avx512 { extern const KernelTable kernels; }
namespace avx512vnni { extern const KernelTable kernels; }
namespace avx512bf16 { extern const KernelTable kernels; }
namespace neon { extern const KernelTable kernels; }
namespace neonbf16 { extern const KernelTable kernels; }

}  // namespace tonearm
