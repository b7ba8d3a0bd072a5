// Holds every kernel set that this processor can run against plain C++ on random data: a test without Node, so that kernels
// for another processor can be run in an emulator. Prints one line per kernel set; exits with 1 if one differs.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <vector>

#include "../src/dispatch.h"
#include "../src/half.h"
#include "../src/kernel_table.h"
#include "../src/weight.h"

namespace tonearm {
namespace {

using Floats = std::vector<float>;

std::mt19937 generator(1);

Floats random(Index count, float scale = 1.0F) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  Floats values(static_cast<std::size_t>(count));
  std::generate(values.begin(), values.end(), [&] { return uniform(generator); });
  return values;
}

/// Largest difference, relative to the largest expected value where that is above 1.
float difference(const Floats& expected, const Floats& actual) {
  float worst = 0.0F;
  float largest = 1.0F;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (std::isnan(expected[i]) != std::isnan(actual[i])) return std::numeric_limits<float>::infinity();
    if (!std::isnan(expected[i])) worst = std::max(worst, std::abs(expected[i] - actual[i]));
    largest = std::max(largest, std::abs(expected[i]));
  }
  return worst / largest;
}

bool allGood = true;

void hold(const char* what, const Floats& expected, const Floats& actual, float within) {
  const float worst = difference(expected, actual);
  if (worst <= within) return;
  std::printf("  %s differs by %g, allowed %g\n", what, static_cast<double>(worst), static_cast<double>(within));
  allGood = false;
}

Floats linear(const KernelTable& table, const WeightView& weights, const Floats& x, Index rows) {
  const Index stride = (weights.inputs + 31) / 32 * 32;
  Floats padded(static_cast<std::size_t>(rows * stride));
  std::vector<std::int16_t> rounded(padded.size());
  Floats scales(static_cast<std::size_t>(rows));
  const bool integer = weights.storage == Storage::int8 || weights.storage == Storage::int4;
  for (Index row = 0; row < rows; ++row)
    scales[static_cast<std::size_t>(row)] =
        table.prepareRow(x.data() + row * weights.inputs, weights.inputs, stride, padded.data() + row * stride,
                         integer ? rounded.data() + row * stride : nullptr);
  Floats y(static_cast<std::size_t>(rows * weights.outputs));
  LinearJob job;
  job.weights = weights;
  job.x = padded.data();
  job.xStride = stride;
  job.quantizedX = rounded.data();
  job.xScales = scales.data();
  job.rows = rows;
  job.activation = Activation::gelu;
  job.y = y.data();
  table.linear(job, 0, weights.outputs);
  return y;
}

void holdLinear(const KernelTable& plain, const KernelTable& table) {
  for (const Index inputs : {1, 31, 64, 100, 2100}) {
    const Index outputs = 23;
    const Floats values = random(outputs * inputs);
    for (const Storage storage : {Storage::f32, Storage::f16, Storage::int8, Storage::int4}) {
      chooseKernels(table.name);
      const Weight weight({{values.data(), outputs}}, inputs, storage);
      Floats decoded(static_cast<std::size_t>(inputs * outputs));
      Floats expected(decoded.size());
      weight.readTransposed(decoded.data());
      chooseKernels(plain.name);
      weight.readTransposed(expected.data());
      hold("decoding a weight", expected, decoded, 0.0F);
      for (const Index rows : {1, 2, 3, 4, 7}) {
        const Floats x = random(rows * inputs);
        hold("linear", linear(plain, weight.view(), x, rows), linear(table, weight.view(), x, rows), 2e-5F);
      }
    }
  }
}

Floats gemm(const KernelTable& table, GemmJob job, const WeightView* weights) {
  Floats c(static_cast<std::size_t>(job.m * job.n));
  Floats scratch(static_cast<std::size_t>(table.gemmScratch));
  job.c = c.data();
  job.cRow = job.n;
  if (weights != nullptr) {
    job.b = nullptr;
    job.weights = *weights;
  }
  table.gemm(job, 0, job.m, 0, job.n, scratch.data());
  return c;
}

/// What Precision::bf16 means: both factors rounded beforehand, one by one.
Floats gemmOfRounded(const KernelTable& table, GemmJob job, Floats a, Floats b) {
  std::transform(a.begin(), a.end(), a.begin(), roundToBfloat);
  std::transform(b.begin(), b.end(), b.begin(), roundToBfloat);
  job.a = a.data();
  job.b = b.data();
  job.precision = Precision::f32;
  return gemm(table, job, nullptr);
}

void holdGemm(const KernelTable& plain, const KernelTable& table) {
  struct Shape {
    Index m, n, k;
  };
  for (const auto& [m, n, k] : {Shape{1, 1, 1}, {7, 33, 65}, {130, 70, 300}, {25, 530, 20}}) {
    const Floats a = random(m * k);
    const Floats b = random(k * n);
    GemmJob job;
    job.a = a.data();
    job.aRow = k;
    job.b = b.data();
    job.bRow = n;
    job.m = m;
    job.n = n;
    job.k = k;
    hold("gemm", gemm(plain, job, nullptr), gemm(table, job, nullptr), 1e-5F);
    job.precision = Precision::bf16;
    hold("gemm of bfloat16", gemmOfRounded(plain, job, a, b), gemm(table, job, nullptr), 1e-5F);
    job.precision = Precision::f32;
    job.aRow = 1;
    job.aColumn = m;
    job.bRow = 1;
    job.bColumn = k;
    hold("gemm of transposes", gemm(plain, job, nullptr), gemm(table, job, nullptr), 1e-5F);
    for (const Storage storage : {Storage::f16, Storage::int8, Storage::int4}) {
      const Weight weight({{b.data(), n}}, k, storage);
      hold("gemm of weights", gemm(plain, job, &weight.view()), gemm(table, job, &weight.view()), 1e-5F);
      job.precision = Precision::bf16;
      hold("gemm of weights in bfloat16", gemm(plain, job, &weight.view()), gemm(table, job, &weight.view()), 1e-5F);
      job.precision = Precision::f32;
    }
  }
}

using Halves = std::vector<std::uint16_t>;

Halves halves(const KernelTable& table, const Floats& x) {
  Halves y(x.size());
  if (table.roundToHalf(x.data(), y.data(), static_cast<Index>(x.size())) != 0.0F) allGood = false;
  return y;
}

Floats floats(const KernelTable& table, const Halves& x) {
  Floats y(x.size());
  table.fromHalf(x.data(), y.data(), static_cast<Index>(x.size()));
  return y;
}

/// Every binary16 and the halfway points between them, against the arithmetic of half.h.
void holdHalves(const KernelTable& table) {
  Floats x;
  for (std::uint32_t bits = 0; bits < 0x10000U; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if ((half & 0x7c00U) == 0x7c00U) continue;
    const float value = floatFromHalf(half);
    const bool isLast = (half & 0x7fffU) == 0x7bffU;
    const float next = isLast ? value : floatFromHalf(static_cast<std::uint16_t>(half + 1U));
    const float middle = (value + next) / 2.0F;
    x.insert(x.end(), {value, std::nextafter(middle, value), middle, std::nextafter(middle, next)});
  }
  Halves expected(x.size());
  std::transform(x.begin(), x.end(), expected.begin(), halfFromFloat);
  bool equal = halves(table, x) == expected;
  const Floats restored = floats(table, expected);
  for (std::size_t i = 0; i < x.size(); ++i) equal = equal && restored[i] == floatFromHalf(expected[i]);
  for (const Index count : {1, 7, 33}) {
    Floats large = random(count);
    Halves y(large.size() + 1, 0x1234U);
    large.back() = -65520.0F;
    large.front() = count > 1 ? INFINITY : large.front();
    equal = equal && table.roundToHalf(large.data(), y.data(), count) == 65520.0F && y.back() == 0x1234U;
    large.back() = 65519.99F;
    equal = equal && table.roundToHalf(large.data(), y.data(), count) == 0.0F && y[large.size() - 1] == 0x7bffU;
  }
  if (equal) return;
  std::printf("  rounding to 16 bits differs\n");
  allGood = false;
}

void holdAttention(const KernelTable& plain, const KernelTable& table) {
  for (const Index width : {3, 64, 72}) {
    for (const Index queries : {1, 5, 40}) {
      const Index count = 50;
      const Floats q = random(queries * width);
      const Floats keys = random(count * width);
      const Floats values = random(count * width);
      AttentionSegment segment = {keys.data(), values.data(), count * width, count};
      AttentionJob job;
      job.q = q.data();
      job.qPosition = job.outPosition = width;
      job.segments = &segment;
      job.segmentCount = 1;
      job.causal = true;
      job.rows = job.heads = 1;
      job.queries = queries;
      job.keyCount = count;
      job.width = width;
      const auto run = [&](const KernelTable& kernels) {
        Floats out(static_cast<std::size_t>(queries * width));
        Floats scratch(static_cast<std::size_t>(kernels.attentionScratch(job)));
        job.out = out.data();
        kernels.attention(job, 0, 0, 0, queries, scratch.data());
        return out;
      };
      hold("attention", run(plain), run(table), 1e-5F);

      const Halves halfKeys = halves(table, keys);
      const Halves halfValues = halves(table, values);
      segment = {halfKeys.data(), halfValues.data(), count * width, count, Storage::f16};
      const Floats actual = run(table);
      const Floats roundedKeys = floats(table, halfKeys);
      const Floats roundedValues = floats(table, halfValues);
      segment = {roundedKeys.data(), roundedValues.data(), count * width, count};
      hold("attention in 16 bits", run(table), actual, 0.0F);
    }
  }
}

void holdRows(const KernelTable& plain, const KernelTable& table) {
  for (const Index count : {1, 3, 17, 100, 1000}) {
    const Floats x = random(count, 6.0F);
    const Floats z = random(count, 2.0F);
    Floats positive = x;
    for (float& value : positive) value = std::abs(value) + 0.01F;
    for (int op = 0; op <= static_cast<int>(Unary::gelu); ++op) {
      const auto run = [&](const KernelTable& kernels) {
        Floats y(x.size());
        const bool root = op >= static_cast<int>(Unary::sqrt) && op <= static_cast<int>(Unary::reciprocal);
        kernels.unary(static_cast<Unary>(op), root ? positive.data() : x.data(), y.data(), count);
        return y;
      };
      hold("an elementwise function", run(plain), run(table), 1e-6F);
    }
    for (int op = 0; op <= static_cast<int>(Binary::squaredDifference); ++op) {
      const auto run = [&](const KernelTable& kernels) {
        Floats y(x.size());
        kernels.binary(static_cast<Binary>(op), x.data(), 1, z.data(), op % 2, y.data(), count);
        return y;
      };
      hold("an elementwise operation", run(plain), run(table), 1e-6F);
    }
    for (int op = 0; op <= static_cast<int>(Reduction::minimum); ++op) {
      const auto run = [&](const KernelTable& kernels) {
        Floats y(1 + x.size());
        kernels.reduce(static_cast<Reduction>(op), x.data(), y.data(), count, 1, 0, 1);
        kernels.reduce(static_cast<Reduction>(op), x.data(), y.data() + 1, 1, count, 0, 1);
        return y;
      };
      hold("a reduction", run(plain), run(table), 1e-6F);
    }
    const auto normalized = [&](const KernelTable& kernels) {
      Floats y(2 * x.size());
      kernels.normalize(x.data(), z.data(), nullptr, 1e-5F, true, y.data(), nullptr, count, 0, 1);
      kernels.softmax(x.data(), y.data() + count, count, 0, 1);
      return y;
    };
    hold("a normalisation", normalized(plain), normalized(table), 3e-6F);
    const auto cells = [&](const KernelTable& kernels) {
      std::mt19937 saved = generator;
      const Floats gates = random(4 * count, 3.0F);
      const Floats recurrent = random(4 * count, 3.0F);
      Floats state = random(count);
      generator = saved;
      Floats hidden(x.size());
      kernels.lstmCell(gates.data(), recurrent.data(), state.data(), hidden.data(), count, 0, count);
      hidden.insert(hidden.end(), state.begin(), state.end());
      return hidden;
    };
    hold("an LSTM cell", cells(plain), cells(table), 2e-6F);
  }
  const Floats strange = {NAN, INFINITY, -INFINITY, 0.0F, -0.0F, 1e-40F, 3e38F, -3e38F, 100.0F, -100.0F};
  for (const Unary op : {Unary::exp, Unary::erf, Unary::tanh, Unary::sigmoid, Unary::relu, Unary::gelu}) {
    const auto run = [&](const KernelTable& kernels) {
      Floats y(strange.size());
      kernels.unary(op, strange.data(), y.data(), static_cast<Index>(strange.size()));
      for (float& value : y)  // infinities are compared by sign
        if (std::isinf(value)) value = std::copysign(2.0F, value);
      return y;
    };
    hold("a function of strange values", run(plain), run(table), 1e-6F);
  }
}

}  // namespace
}  // namespace tonearm

int main() {
  using namespace tonearm;
  bool allSetsGood = true;
  for (const auto& name : availableKernels()) {
    chooseKernels("generic");
    const KernelTable& plain = kernels();
    chooseKernels(name);
    const KernelTable& table = kernels();
    allGood = true;
    holdLinear(plain, table);
    holdGemm(plain, table);
    holdHalves(table);
    holdAttention(plain, table);
    holdRows(plain, table);
    std::printf("%s: %s\n", name.c_str(), allGood ? "equal to plain C++" : "DIFFERS");
    allSetsGood = allSetsGood && allGood;
  }
  return allSetsGood ? EXIT_SUCCESS : EXIT_FAILURE;
}
