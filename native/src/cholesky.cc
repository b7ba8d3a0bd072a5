#include "cholesky.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "dispatch.h"
#include "parallel.h"

namespace tonearm {
namespace {

constexpr Index kBlock = 48;     // columns that are factorised at a time; a multiple of what a product's tile holds
constexpr Index kStrip = 12;     // columns of these that are eliminated one by one
constexpr Index kPadding = 8;
constexpr Index kRowGrain = 16;  // rows that are worth a thread's while

/// The lower triangle [width, width] at `block`, by the textbook's loops. False where it is not positive definite.
bool factoriseBlock(double* block, Index stride, Index width) {
  for (Index column = 0; column < width; ++column) {
    double* own = block + column * stride;
    double pivot = own[column];
    for (Index k = 0; k < column; ++k) pivot -= own[k] * own[k];
    if (!(pivot > 0)) return false;
    own[column] = std::sqrt(pivot);
    for (Index row = column + 1; row < width; ++row) {
      double* other = block + row * stride;
      double value = other[column];
      for (Index k = 0; k < column; ++k) value -= other[k] * own[k];
      other[column] = value / own[column];
    }
  }
  return true;
}

/// X ← X·L⁻ᵀ for rows X[count, width] and a lower triangle L[width, width], strip by strip.
void eliminate(const KernelTable& table, const double* triangle, Index stride, Index width, double* x, Index xRow,
               Index count) {
  for (Index first = 0; first < width; first += kStrip) {
    const Index end = std::min(first + kStrip, width);
    const double* rows = triangle + first * stride;
    table.subtractProducts(x, xRow, rows, stride, x + first, xRow, count, end - first, first);
    for (Index row = 0; row < count; ++row) {
      double* own = x + row * xRow;
      for (Index column = first; column < end; ++column) {
        const double* line = triangle + column * stride;
        double value = own[column];
        for (Index k = first; k < column; ++k) value -= own[k] * line[k];
        own[column] = value / line[column];
      }
    }
  }
}

}  // namespace

bool factorise(double* matrix, Index n) {
  // Rows that all others are multiplied with, copied together: a stride of a power of two would have them evict each other.
  std::vector<double> together(static_cast<std::size_t>(kBlock * (n + kPadding)));
  const KernelTable& table = kernels();
  for (Index first = 0; first < n; first += kBlock) {
    const Index width = std::min(kBlock, n - first);
    double* rows = matrix + first * n;  // of this block; columns before `first` are done
    const Index stride = first + kPadding;
    for (Index row = 0; row < width; ++row) std::copy_n(rows + row * n, first, together.data() + row * stride);
    table.subtractProducts(rows, n, together.data(), stride, rows + first, n, width, width, first);
    if (!factoriseBlock(rows + first, n, width)) return false;
    const Index next = first + width;
    parallelFor(n - next, kRowGrain, [&](Index begin, Index end) {
      double* below = matrix + (next + begin) * n;
      table.subtractProducts(below, n, together.data(), stride, below + first, n, end - begin, width, first);
      eliminate(table, rows + first, n, width, below + first, n, end - begin);
    });
  }
  return true;
}

void solve(const double* factor, Index n, double* sides, Index count) {
  const KernelTable& table = kernels();
  parallelFor(count, 1, [&](Index begin, Index end) {
    const Index own = end - begin;
    double* x = sides + begin * n;
    for (Index first = 0; first < n; first += kBlock) {  // x ← x·L⁻ᵀ
      const Index width = std::min(kBlock, n - first);
      const double* rows = factor + first * n;
      table.subtractProducts(x, n, rows, n, x + first, n, own, width, first);
      eliminate(table, rows + first, n, width, x + first, n, own);
    }
    for (Index last = n; last > 0;) {  // x ← x·L⁻¹
      const Index first = (last - 1) / kBlock * kBlock;
      const double* rows = factor + first * n;
      for (Index side = 0; side < own; ++side) {
        double* y = x + side * n;
        for (Index row = last - 1; row >= first; --row) {
          const double* line = factor + row * n;
          y[row] /= line[row];
          for (Index k = first; k < row; ++k) y[k] -= y[row] * line[k];
        }
        table.subtractRows(rows, n, y + first, last - first, y, first);
      }
      last = first;
    }
  });
}

}  // namespace tonearm
