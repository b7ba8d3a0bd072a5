#include "layout.h"

#include <cstring>
#include <numeric>

#include "parallel.h"

namespace tonearm {
namespace {

/// Drops axes of one element and merges neighbours that are one contiguous axis on both sides.
std::vector<CopyAxis> simplify(const std::vector<CopyAxis>& axes) {
  std::vector<CopyAxis> merged;
  for (const CopyAxis& axis : axes) {
    if (axis.size == 1) continue;
    if (!merged.empty()) {
      CopyAxis& outer = merged.back();
      if (outer.sourceStride == axis.sourceStride * axis.size && outer.targetStride == axis.targetStride * axis.size) {
        outer = {outer.size * axis.size, axis.sourceStride, axis.targetStride};
        continue;
      }
    }
    merged.push_back(axis);
  }
  return merged;
}

/// The two innermost axes, in square blocks so that both sides keep to a few cache lines.
void copyPlane(const std::uint32_t* source, std::uint32_t* target, const CopyAxis& rows, const CopyAxis& columns) {
  if (columns.sourceStride == 1 && columns.targetStride == 1) {
    for (Index i = 0; i < rows.size; ++i)
      std::memcpy(target + i * rows.targetStride, source + i * rows.sourceStride,
                  static_cast<std::size_t>(columns.size) * sizeof *source);
    return;
  }
  constexpr Index kBlock = 16;
  for (Index i0 = 0; i0 < rows.size; i0 += kBlock) {
    const Index iEnd = std::min(i0 + kBlock, rows.size);
    for (Index j0 = 0; j0 < columns.size; j0 += kBlock) {
      const Index jEnd = std::min(j0 + kBlock, columns.size);
      for (Index i = i0; i < iEnd; ++i)
        for (Index j = j0; j < jEnd; ++j)
          target[i * rows.targetStride + j * columns.targetStride] =
              source[i * rows.sourceStride + j * columns.sourceStride];
    }
  }
}

void copyAxes(const std::uint32_t* source, std::uint32_t* target, const CopyAxis* axes, std::size_t rank) {
  if (rank == 2) return copyPlane(source, target, axes[0], axes[1]);
  for (Index i = 0; i < axes[0].size; ++i)
    copyAxes(source + i * axes[0].sourceStride, target + i * axes[0].targetStride, axes + 1, rank - 1);
}

}  // namespace

void copyStrided(const std::uint32_t* source, std::uint32_t* target, std::vector<CopyAxis> axes) {
  Index total = 1;
  for (const auto& axis : axes) total *= axis.size;
  if (total == 0) return;
  axes = simplify(axes);
  while (axes.size() < 2) axes.insert(axes.begin(), {1, 0, 0});
  constexpr Index kParallel = 64 * 1024;  // elements below which one thread is faster
  const CopyAxis outer = axes.front();
  const Index grain = total < kParallel ? outer.size : std::max<Index>(1, 16 * 1024 * outer.size / total);
  parallelFor(outer.size, grain, [&](Index begin, Index end) {
    std::vector<CopyAxis> part = axes;
    part.front().size = end - begin;
    copyAxes(source + begin * outer.sourceStride, target + begin * outer.targetStride, part.data(), part.size());
  });
}

void gather(const std::uint32_t* x, const std::int32_t* indices, std::uint32_t* y, Index outers, Index length, Index count,
            Index inner) {
  for (Index outer = 0; outer < outers; ++outer)
    for (Index i = 0; i < count; ++i)
      std::memcpy(y + (outer * count + i) * inner, x + (outer * length + indices[i]) * inner,
                  static_cast<std::size_t>(inner) * sizeof *x);
}

void topK(const float* x, float* values, std::int32_t* indices, Index rows, Index length, Index k) {
  parallelFor(rows, 1, [&](Index begin, Index end) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(length));
    for (Index row = begin; row < end; ++row) {
      const float* line = x + row * length;
      std::iota(order.begin(), order.end(), 0);
      std::partial_sort(order.begin(), order.begin() + k, order.end(), [line](std::int32_t a, std::int32_t b) {
        return line[a] > line[b] || (line[a] == line[b] && a < b);
      });
      for (Index i = 0; i < k; ++i) {
        const std::int32_t index = order[static_cast<std::size_t>(i)];
        indices[row * k + i] = index;
        values[row * k + i] = line[index];
      }
    }
  });
}

}  // namespace tonearm
