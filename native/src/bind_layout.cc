#include "bindings.h"
#include "layout.h"

namespace tonearm {
namespace {

/// (source, sourceOffset, target, targetOffset, axes): axes holds size, stride in source and stride in target of each axis
napi_value copy(const Arguments& arguments) {
  const Span<std::uint32_t> source = arguments.words(0);
  const Index sourceOffset = arguments.integer(1);
  const Span<std::uint32_t> target = arguments.words(2);
  const Index targetOffset = arguments.integer(3);
  const Span<std::int32_t> layout = arguments.integers(4);
  require(layout.size % 3 == 0, "an axis needs a size and two strides");
  std::vector<CopyAxis> axes;
  Index total = 1;
  Index lowest = sourceOffset;
  Index highest = sourceOffset;
  Index last = targetOffset;
  for (Index i = 0; i < layout.size; i += 3) {
    const CopyAxis axis = {layout.data[i], layout.data[i + 1], layout.data[i + 2]};
    require(axis.size >= 0 && axis.targetStride >= 0, "sizes and target strides are not negative");
    const Index reach = (axis.size - 1) * axis.sourceStride;
    (reach < 0 ? lowest : highest) += reach;
    last += (axis.size - 1) * axis.targetStride;
    total *= axis.size;
    axes.push_back(axis);
  }
  if (total == 0) return nullptr;
  require(lowest >= 0 && highest < source.size, "a copy reaches beyond its source");
  require(targetOffset >= 0 && last < target.size, "a copy reaches beyond its target");
  copyStrided(source.data + sourceOffset, target.data + targetOffset, std::move(axes));
  return nullptr;
}

/// (x [outers, length, inner], indices [count], y [outers, count, inner], outers, length, inner)
napi_value gatherRows(const Arguments& arguments) {
  const Span<std::uint32_t> x = arguments.words(0);
  const Span<std::int32_t> indices = arguments.integers(1);
  const Span<std::uint32_t> y = arguments.words(2);
  const Index outers = arguments.integer(3);
  const Index length = arguments.integer(4);
  const Index inner = arguments.integer(5);
  require(outers >= 0 && length >= 0 && inner >= 0 && x.size == outers * length * inner &&
              y.size == outers * indices.size * inner,
          "a typed array has another length than its shape says");
  for (Index i = 0; i < indices.size; ++i)
    require(indices.data[i] >= 0 && indices.data[i] < length, "an index lies outside of its axis");
  gather(x.data, indices.data, y.data, outers, length, indices.size, inner);
  return nullptr;
}

/// (x [rows, length], values [rows, k], indices [rows, k], rows, length, k)
napi_value largest(const Arguments& arguments) {
  const Index rows = arguments.integer(3);
  const Index length = arguments.integer(4);
  const Index k = arguments.integer(5);
  require(rows >= 0 && k >= 0 && k <= length, "k is more than there are");
  topK(arguments.floats(0, rows * length), arguments.floats(1, rows * k), arguments.integers(2, rows * k).data, rows,
       length, k);
  return nullptr;
}

}  // namespace

const Binding kLayoutBindings[] = {
    {"copy", copy}, {"gather", gatherRows}, {"topK", largest}, {nullptr, nullptr},
};

}  // namespace tonearm
