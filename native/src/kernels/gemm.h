// Matrix products of many rows, after Goto and van de Geijn, "Anatomy of high-performance matrix multiplication" (2008):
// a panel of B that fits the second-level cache is packed into strips of kNr columns, a block of A into strips of kMr
// rows, and a micro-kernel keeps a kMr × kNr tile of C in registers.
//
// Each element of C is summed over k in order, in blocks of kKc, whatever the split into tiles.
//
// Of Precision::bf16 the packed values are rounded to bfloat16. Where the instruction set multiplies those, they then lie
// in pairs, in half of the space; elsewhere they stay float32, and their products are the same, as they are exact.
#pragma once

#include "linear.h"

namespace tonearm::TONEARM_ISA {
namespace {

#if defined(TONEARM_SIMD_AVX512)
constexpr int kMr = 12;
constexpr int kVectors = 2;
#elif defined(TONEARM_SIMD_NEON)
constexpr int kMr = 6;
constexpr int kVectors = 4;
#elif defined(TONEARM_SIMD_AVX2)
constexpr int kMr = 6;
constexpr int kVectors = 2;
#else
constexpr int kMr = 4;
constexpr int kVectors = 1;
#endif
constexpr int kNr = kVectors * kLanes;
constexpr Index kKc = 256;
constexpr Index kMc = 120;  // a multiple of every kMr
constexpr Index kNc = 512;  // a multiple of every kNr
constexpr Index kGemmScratch = kMc * kKc + kNc * kKc;
static_assert(kMc % kMr == 0 && kNc % kNr == 0);

/// What a step of the micro-kernel multiplies.
struct Singles {
  using Vector = Floats;
  static constexpr Index kDepth = 1;
  static Vector load(const float* p) { return TONEARM_ISA::load(p); }
  static Vector splat(float x) { return TONEARM_ISA::splat(x); }
  /// Rounds a packed strip[depth][width].
  static void round(float*, Index, Index) {}
};

#if defined(TONEARM_SIMD_BF16)
struct Bfloats {
  using Vector = BfloatPairs;
  static constexpr Index kDepth = 2;
  static Vector load(const float* p) { return loadPairs(p); }
  static Vector splat(float x) { return splatPair(x); }
  /// To strip[(depth + 1) / 2][width] of pairs, in place: a pair never lies behind what it is made of.
  static void round(float* strip, Index width, Index depth) {
    for (Index p = 0; p < depth; p += 2)
      for (Index j = 0; j < width; j += kLanes) {
        const Floats first = loadUpTo(strip + p * width + j, width - j);
        const Floats second = p + 1 < depth ? loadUpTo(strip + (p + 1) * width + j, width - j) : zeros();
        storeUpTo(strip + p / 2 * width + j, width - j, toPairs(first, second));
      }
  }
};
#else
struct Bfloats : Singles {
  static void round(float* strip, Index width, Index depth) {
    const Index count = width * depth;
    for (Index i = 0; i < count; i += kLanes)
      storeUpTo(strip + i, count - i, roundToBfloat(loadUpTo(strip + i, count - i)));
  }
};
#endif

/// tile[kMr][kNr] of A-strip · B-strip; added to c, or written there.
template <class Factors>
inline void microKernel(const float* a, const float* b, Index depth, float* c, Index cRow, bool accumulate) {
  Floats sums[kMr][kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) sums[i][j] = zeros();
  for (Index k = 0; k < depth; k += Factors::kDepth) {
    typename Factors::Vector columns[kVectors];
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) columns[j] = Factors::load(b + j * kLanes);
#pragma GCC unroll 16
    for (int i = 0; i < kMr; ++i) {
      const typename Factors::Vector value = Factors::splat(a[i]);
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) sums[i][j] = mulAdd(value, columns[j], sums[i][j]);
    }
    a += kMr;
    b += kNr;
  }
#pragma GCC unroll 16
  for (int i = 0; i < kMr; ++i)
#pragma GCC unroll 4
    for (int j = 0; j < kVectors; ++j) {
      float* target = c + i * cRow + j * kLanes;
      store(target, accumulate ? load(target) + sums[i][j] : sums[i][j]);
    }
}

/// Packs rows [row, row + count) and depth [k, k + depth) of A into strips: packed[strip][depth][kMr], zero-filled.
template <class Factors>
inline void packA(const GemmJob& job, Index row, Index count, Index k, Index depth, float* packed) {
  for (Index first = 0; first < count; first += kMr) {
    const Index rows = count - first < kMr ? count - first : kMr;
    const float* source = job.a + (row + first) * job.aRow + k * job.aColumn;
    if (rows < kMr)
      for (Index i = 0; i < kMr * depth; ++i) packed[i] = 0.0F;
    if (rows == kMr && job.aColumn == 1) {
      for (Index p = 0; p < depth; ++p)
#pragma GCC unroll 16
        for (int i = 0; i < kMr; ++i) packed[p * kMr + i] = source[i * job.aRow + p];
    } else {
      for (Index i = 0; i < rows; ++i)
        for (Index p = 0; p < depth; ++p) packed[p * kMr + i] = source[i * job.aRow + p * job.aColumn];
    }
    Factors::round(packed, kMr, depth);
    packed += kMr * depth;
  }
}

/// One strip of B where a row of B is contiguous.
inline void packStripRows(const float* source, Index bRow, Index columns, Index depth, float* packed) {
  if (columns == kNr) {
    for (Index p = 0; p < depth; ++p)
#pragma GCC unroll 4
      for (int j = 0; j < kVectors; ++j) store(packed + p * kNr + j * kLanes, load(source + p * bRow + j * kLanes));
    return;
  }
  for (Index p = 0; p < depth; ++p)
    for (Index j = 0; j < kNr; ++j) packed[p * kNr + j] = j < columns ? source[p * bRow + j] : 0.0F;
}

/// Writes `count` values that belong to column j of a strip.
inline void scatterColumn(const float* values, Index count, Index j, float* packed) {
  for (Index p = 0; p < count; ++p) packed[p * kNr + j] = values[p];
}

#if defined(TONEARM_SIMD_AVX2)
/// Writes 8 neighbouring columns of a strip: the transpose of 8 rows, `stride` apart, in registers.
inline void scatterEight(const float* rows, Index stride, Index count, Index j, float* packed) {
  Index p = 0;
  for (; p + 8 <= count; p += 8) {
    __m256 r[8];
    for (int i = 0; i < 8; ++i) r[i] = _mm256_loadu_ps(rows + i * stride + p);
    __m256 pairs[8];
    for (int i = 0; i < 8; i += 2) {
      pairs[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
      pairs[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
    }
    __m256 fours[8];
    for (int i = 0; i < 8; i += 4) {
      fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
      fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
      fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
      fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(packed + (p + i) * kNr + j, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20));
      _mm256_storeu_ps(packed + (p + 4 + i) * kNr + j, _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31));
    }
  }
  for (; p < count; ++p)
    for (Index i = 0; i < 8; ++i) packed[p * kNr + j + i] = rows[i * stride + p];
}
#endif

/// One strip of B where a column of B is contiguous: B is the transpose of a row-major matrix.
inline void packStripColumns(const float* source, Index bColumn, Index columns, Index depth, float* packed) {
  Index j = 0;
#if defined(TONEARM_SIMD_AVX2)
  for (; j + 8 <= columns; j += 8) scatterEight(source + j * bColumn, bColumn, depth, j, packed);
#endif
  for (; j < columns; ++j) scatterColumn(source + j * bColumn, depth, j, packed);
  for (; j < kNr; ++j)
    for (Index p = 0; p < depth; ++p) packed[p * kNr + j] = 0.0F;
}

/// One strip of B that holds weights in any storage.
inline void packStripWeights(const WeightView& w, Index column, Index columns, Index k, Index depth, float* packed) {
  if (w.storage == Storage::f32) {
    packStripColumns(static_cast<const float*>(w.values) + column * w.stride + k, w.stride, columns, depth, packed);
    return;
  }
  alignas(64) float rows[kNr][kKc];
  for (Index j = 0; j < columns; ++j) decode(w, column + j, k, depth, rows[j]);
  packStripColumns(rows[0], kKc, columns, depth, packed);
}

/// Packs columns [column, column + count) and depth [k, k + depth) of B into strips: packed[strip][depth][kNr], zero-filled.
template <class Factors>
inline void packB(const GemmJob& job, Index column, Index count, Index k, Index depth, float* packed) {
  for (Index first = 0; first < count; first += kNr) {
    const Index columns = count - first < kNr ? count - first : kNr;
    if (job.b == nullptr) {
      packStripWeights(job.weights, column + first, columns, k, depth, packed);
    } else {
      const float* source = job.b + k * job.bRow + (column + first) * job.bColumn;
      if (job.bColumn == 1) {
        packStripRows(source, job.bRow, columns, depth, packed);
      } else if (job.bRow == 1) {
        packStripColumns(source, job.bColumn, columns, depth, packed);
      } else {
        for (Index p = 0; p < depth; ++p)
          for (Index j = 0; j < kNr; ++j)
            packed[p * kNr + j] = j < columns ? source[p * job.bRow + j * job.bColumn] : 0.0F;
      }
    }
    Factors::round(packed, kNr, depth);
    packed += kNr * depth;
  }
}

/// The tile at c, of which only rows × columns exist.
template <class Factors>
inline void edgeKernel(const float* a, const float* b, Index depth, float* c, Index cRow, Index rows, Index columns,
                       bool accumulate) {
  alignas(64) float tile[kMr * kNr];
  microKernel<Factors>(a, b, depth, tile, kNr, false);
  for (Index i = 0; i < rows; ++i)
    for (Index j = 0; j < columns; ++j) {
      const float value = tile[i * kNr + j];
      c[i * cRow + j] = accumulate ? c[i * cRow + j] + value : value;
    }
}

template <class Factors>
void multiplyTiles(const GemmJob& job, Index rowBegin, Index rowEnd, Index columnBegin, Index columnEnd, float* scratch) {
  float* packedA = scratch;
  float* packedB = scratch + kMc * kKc;
  for (Index jc = columnBegin; jc < columnEnd; jc += kNc) {
    const Index columns = columnEnd - jc < kNc ? columnEnd - jc : kNc;
    for (Index pc = 0; pc < job.k; pc += kKc) {
      const Index depth = job.k - pc < kKc ? job.k - pc : kKc;
      const bool accumulate = job.accumulate || pc > 0;
      packB<Factors>(job, jc, columns, pc, depth, packedB);
      for (Index ic = rowBegin; ic < rowEnd; ic += kMc) {
        const Index rows = rowEnd - ic < kMc ? rowEnd - ic : kMc;
        packA<Factors>(job, ic, rows, pc, depth, packedA);
        for (Index jr = 0; jr < columns; jr += kNr) {
          const float* b = packedB + jr * depth;
          for (Index ir = 0; ir < rows; ir += kMr) {
            const float* a = packedA + ir * depth;
            float* c = job.c + (ic + ir) * job.cRow + jc + jr;
            if (rows - ir >= kMr && columns - jr >= kNr) {
              microKernel<Factors>(a, b, depth, c, job.cRow, accumulate);
            } else {
              edgeKernel<Factors>(a, b, depth, c, job.cRow, rows - ir < kMr ? rows - ir : kMr,
                                  columns - jr < kNr ? columns - jr : kNr, accumulate);
            }
          }
        }
      }
    }
    for (Index i = rowBegin; i < rowEnd; ++i) {
      const Index offset = i * job.cRow + jc;
      if (job.k == 0 && !job.accumulate)
        for (Index j = 0; j < columns; ++j) job.c[offset + j] = 0.0F;
      finishOutputs(job.c + offset, job.bias == nullptr ? nullptr : job.bias + jc,
                    job.residual == nullptr ? nullptr : job.residual + offset, job.activation, columns);
    }
  }
}

void gemm(const GemmJob& job, Index rowBegin, Index rowEnd, Index columnBegin, Index columnEnd, float* scratch) {
  if (job.precision == Precision::bf16) {
    multiplyTiles<Bfloats>(job, rowBegin, rowEnd, columnBegin, columnEnd, scratch);
  } else {
    multiplyTiles<Singles>(job, rowBegin, rowEnd, columnBegin, columnEnd, scratch);
  }
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
