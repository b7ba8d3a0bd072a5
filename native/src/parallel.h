// Splitting a range of independent work over the threads of the pool.
#pragma once

#include <algorithm>
#include <type_traits>

#include "kernel_table.h"
#include "thread_pool.h"

namespace tonearm {

/// Calls body(begin, end) on parts that cover [0, count), in parallel. Parts are multiples of `grain`, the last one
/// excepted, and there are a few per thread, so that a thread that was interrupted doesn't hold up the others.
template <class Body>
void parallelFor(Index count, Index grain, const Body& body) {
  if (count <= 0) return;
  constexpr Index kPartsPerThread = 4;
  const Index threads = threadPool().threads();
  const Index grains = (count + grain - 1) / grain;
  if (threads == 1 || grains == 1) return body(Index{0}, count);
  const Index parts = std::min(grains, threads * kPartsPerThread);
  struct Context {
    const Body& body;
    Index count, grain, grains, parts;
  } context{body, count, grain, grains, parts};
  threadPool().run(
      static_cast<int>(parts),
      [](void* opaque, int index) {
        const auto& c = *static_cast<const Context*>(opaque);
        const Index begin = c.grains * index / c.parts * c.grain;
        const Index end = std::min(c.count, c.grains * (index + 1) / c.parts * c.grain);
        if (begin < end) c.body(begin, end);
      },
      &context);
}

/// A buffer of at least `floats` floats that belongs to the calling thread and keeps its contents until the next call.
float* threadScratch(Index floats);

}  // namespace tonearm
