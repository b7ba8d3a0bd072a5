// Products of float64 matrices for solving linear equations. Written with the compiler's own vectors: there are few of
// these, and no other kernel needs float64.
#pragma once

#include "simd.h"

namespace tonearm::TONEARM_ISA {
namespace {

#if defined(TONEARM_SIMD_AVX512)
constexpr Index kDoubles = 8;
#elif defined(TONEARM_SIMD_AVX2)
constexpr Index kDoubles = 4;
#else
constexpr Index kDoubles = 2;
#endif
typedef double Doubles __attribute__((vector_size(kDoubles * sizeof(double)), aligned(sizeof(double)), may_alias));

inline Doubles loadDoubles(const double* p) { return *reinterpret_cast<const Doubles*>(p); }
inline Doubles mulAdd(Doubles a, Doubles b, Doubles c) {
#if defined(TONEARM_SIMD_AVX512)
  return _mm512_fmadd_pd(a, b, c);
#elif defined(TONEARM_SIMD_AVX2)
  return _mm256_fmadd_pd(a, b, c);
#else
  return a * b + c;
#endif
}
inline double sumOf(Doubles v) {
  double sum = 0;
  for (Index lane = 0; lane < kDoubles; ++lane) sum += v[lane];
  return sum;
}

/// C[i,j] −= Σ_k A[i,k]·B[j,k] for `kRows` rows and `kColumns` columns, which share what they read.
template <int kRows, int kColumns>
inline void subtractTile(const double* a, Index aRow, const double* b, Index bRow, double* c, Index cRow, Index k) {
  Doubles sums[kRows][kColumns] = {};  // 12 registers at the most
  Index at = 0;
  for (; at + kDoubles <= k; at += kDoubles) {
    Doubles right[kColumns];
#pragma GCC unroll 3
    for (int j = 0; j < kColumns; ++j) right[j] = loadDoubles(b + j * bRow + at);
#pragma GCC unroll 4
    for (int i = 0; i < kRows; ++i) {
      const Doubles left = loadDoubles(a + i * aRow + at);
#pragma GCC unroll 3
      for (int j = 0; j < kColumns; ++j) sums[i][j] = mulAdd(left, right[j], sums[i][j]);
    }
  }
  for (int i = 0; i < kRows; ++i)
    for (int j = 0; j < kColumns; ++j) {
      double sum = sumOf(sums[i][j]);
      for (Index rest = at; rest < k; ++rest) sum += a[i * aRow + rest] * b[j * bRow + rest];
      c[i * cRow + j] -= sum;
    }
}

/// C[m,n] −= A[m,k]·B[n,k]ᵀ. The order of additions depends on k alone.
void subtractProducts(const double* a, Index aRow, const double* b, Index bRow, double* c, Index cRow, Index m, Index n,
                      Index k) {
  constexpr Index kDepth = 256;  // a block of B then stays in the second-level cache, the rows of A in the first
  for (Index first = 0; first < k; first += kDepth) {
    const Index depth = k - first < kDepth ? k - first : kDepth;
    const double* aBlock = a + first;
    const double* bBlock = b + first;
    Index i = 0;
    for (; i + 4 <= m; i += 4) {
      const double* rows = aBlock + i * aRow;
      Index j = 0;
      for (; j + 3 <= n; j += 3) subtractTile<4, 3>(rows, aRow, bBlock + j * bRow, bRow, c + i * cRow + j, cRow, depth);
      for (; j < n; ++j) subtractTile<4, 1>(rows, aRow, bBlock + j * bRow, bRow, c + i * cRow + j, cRow, depth);
    }
    for (; i < m; ++i) {
      const double* row = aBlock + i * aRow;
      Index j = 0;
      for (; j + 3 <= n; j += 3) subtractTile<1, 3>(row, aRow, bBlock + j * bRow, bRow, c + i * cRow + j, cRow, depth);
      for (; j < n; ++j) subtractTile<1, 1>(row, aRow, bBlock + j * bRow, bRow, c + i * cRow + j, cRow, depth);
    }
  }
}

/// y[0 … n) −= Σ_r scales[r]·X[r, 0 … n)
void subtractRows(const double* x, Index xRow, const double* scales, Index count, double* y, Index n) {
  Index r = 0;
  for (; r + 4 <= count; r += 4) {
    const double* x0 = x + r * xRow;
    const double* x1 = x0 + xRow;
    const double* x2 = x1 + xRow;
    const double* x3 = x2 + xRow;
    const double s0 = scales[r];
    const double s1 = scales[r + 1];
    const double s2 = scales[r + 2];
    const double s3 = scales[r + 3];
    for (Index i = 0; i < n; ++i) y[i] -= (s0 * x0[i] + s1 * x1[i]) + (s2 * x2[i] + s3 * x3[i]);
  }
  for (; r < count; ++r)
    for (Index i = 0; i < n; ++i) y[i] -= scales[r] * x[r * xRow + i];
}

}  // namespace
}  // namespace tonearm::TONEARM_ISA
