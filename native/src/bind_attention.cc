#include <vector>

#include "bindings.h"
#include "dispatch.h"
#include "key_value_store.h"
#include "parallel.h"

namespace tonearm {
namespace {

/// (heads, width, capacity, storage: 0 f32 or 1 f16) → store
napi_value makeStore(const Arguments& arguments) {
  const Index heads = arguments.integer(0);
  const Index width = arguments.integer(1);
  const Index capacity = arguments.integer(2);
  const auto storage = static_cast<Storage>(arguments.integer(3));
  require(heads >= 0 && width >= 0 && capacity >= 0, "sizes are not negative");
  require(storage == Storage::f32 || storage == Storage::f16, "keys and values are stored as f32 or f16");
  return Handle<KeyValueStore>::wrap(arguments.env(), std::make_unique<KeyValueStore>(heads, width, capacity, storage));
}

/// (store, x [heads, count, width], count) → 0, or the largest magnitude that 16 bits don't hold: then nothing is appended
napi_value appendToStore(const Arguments& arguments) {
  auto& store = arguments.object<KeyValueStore>(0);
  const Index count = arguments.integer(2);
  require(count >= 0, "a negative number of positions");
  const float beyond = store.append(arguments.floats(1, store.heads() * count * store.width()), count);
  napi_value result = nullptr;
  check(napi_create_double(arguments.env(), static_cast<double>(beyond), &result), "no room for a number");
  return result;
}

/// (store, count, y [heads, count, width])
napi_value readStore(const Arguments& arguments) {
  const auto& store = arguments.object<KeyValueStore>(0);
  const Index count = arguments.integer(1);
  require(count >= 0 && count <= store.filled(), "more positions than were written");
  store.read(count, arguments.floats(2, store.heads() * count * store.width()));
  return nullptr;
}

/// (store)
napi_value releaseStore(const Arguments& arguments) {
  Handle<KeyValueStore>::unwrap(arguments.env(), arguments.value(0)).release();
  return nullptr;
}

/// Where keys or values of one segment lie, and how.
struct Stored {
  const void* data;
  Index headStride;
  Storage storage;
};

/// Keys or values of one segment: a store, or a Float32Array [heads, count, width].
Stored segmentData(const Arguments& arguments, std::size_t list, std::uint32_t index, Index heads, Index count, Index width) {
  napi_value element = nullptr;
  require(napi_get_element(arguments.env(), arguments.value(list), index, &element) == napi_ok, "a list was expected");
  napi_valuetype type = napi_undefined;
  check(napi_typeof(arguments.env(), element, &type), "a segment could not be read");
  if (type == napi_external) {
    const auto& store = Handle<KeyValueStore>::unwrap(arguments.env(), element).object();
    require(store.heads() == heads && store.width() == width && count <= store.filled(), "a store of another shape");
    return {store.data(), store.headStride(), store.storage()};
  }
  const Span<float> span = floatsOf(arguments.env(), element);
  require(span.size == heads * count * width, "a segment has another length than its shape says");
  return {span.data, count * width, Storage::f32};
}

/// (q, out, shape: rows, heads, queries, width, then row, head and position stride of q and of out; keys: list, values:
/// list, counts Int32Array, scale, causal, mask | null, maskRow, maskQuery)
napi_value attend(const Arguments& arguments) {
  const std::int32_t* n = arguments.integers(2, 10).data;
  AttentionJob job;
  job.rows = n[0];
  job.heads = n[1];
  job.queries = n[2];
  job.width = n[3];
  job.qRow = n[4];
  job.qHead = n[5];
  job.qPosition = n[6];
  job.outRow = n[7];
  job.outHead = n[8];
  job.outPosition = n[9];
  require(std::all_of(n, n + 10, [](std::int32_t size) { return size >= 0; }), "sizes and strides are not negative");
  const Index size = job.rows * job.heads * job.queries * job.width;
  const Span<float> q = floatsOf(arguments.env(), arguments.value(0));
  const Span<float> out = floatsOf(arguments.env(), arguments.value(1));
  if (size == 0) return nullptr;
  const auto last = [&](Index row, Index head, Index position) {
    return (job.rows - 1) * row + (job.heads - 1) * head + (job.queries - 1) * position + job.width - 1;
  };
  require(last(job.qRow, job.qHead, job.qPosition) < q.size, "the queries are shorter than their shape says");
  require(last(job.outRow, job.outHead, job.outPosition) < out.size, "the output is shorter than its shape says");
  job.q = q.data;
  job.out = out.data;

  const Span<std::int32_t> counts = arguments.integers(5);
  const Index heads = job.rows * job.heads;
  std::vector<AttentionSegment> segments(static_cast<std::size_t>(counts.size));
  for (Index i = 0; i < counts.size; ++i) {
    AttentionSegment& segment = segments[static_cast<std::size_t>(i)];
    segment.count = counts.data[i];
    require(segment.count >= 0, "a negative number of positions");
    const auto index = static_cast<std::uint32_t>(i);
    const Stored keys = segmentData(arguments, 3, index, heads, segment.count, job.width);
    const Stored values = segmentData(arguments, 4, index, heads, segment.count, job.width);
    require(keys.headStride == values.headStride && keys.storage == values.storage, "keys and values must be stored alike");
    segment.keys = keys.data;
    segment.values = values.data;
    segment.headStride = keys.headStride;
    segment.storage = keys.storage;
    job.keyCount += segment.count;
  }
  require(job.keyCount > 0, "attention needs at least one key");
  job.segments = segments.data();
  job.segmentCount = counts.size;
  job.scale = static_cast<float>(arguments.number(6));
  job.causal = arguments.boolean(7);
  require(!job.causal || job.keyCount >= job.queries, "causal attention needs a key for every query");
  if (!arguments.absent(8)) {
    const Span<float> mask = floatsOf(arguments.env(), arguments.value(8));
    job.mask = mask.data;
    job.maskRow = arguments.integer(9);
    job.maskQuery = arguments.integer(10);
    require(job.maskRow >= 0 && job.maskQuery >= 0 &&
                (job.rows - 1) * job.maskRow + (job.queries - 1) * job.maskQuery + job.keyCount <= mask.size,
            "the mask is shorter than its shape says");
  }

  const KernelTable& kernel = kernels();
  const Index blocks = (job.queries + kQueryBlock - 1) / kQueryBlock;
  // A part has at least this many multiply-adds, so that short caches stay on one thread.
  constexpr Index kWork = 64 * 1024;
  const Index block = 2 * std::min(job.queries, kQueryBlock) * job.keyCount * job.width;
  const Index scratchSize = kernel.attentionScratch(job);
  parallelFor(heads * blocks, std::max<Index>(1, kWork / block), [&](Index begin, Index end) {
    float* scratch = threadScratch(scratchSize);
    for (Index i = begin; i < end; ++i) {
      const Index head = i / blocks;
      const Index first = i % blocks * kQueryBlock;
      kernel.attention(job, head / job.heads, head % job.heads, first, std::min(job.queries, first + kQueryBlock), scratch);
    }
  });
  return nullptr;
}

}  // namespace

const Binding kAttentionBindings[] = {
    {"makeStore", makeStore},       {"appendToStore", appendToStore}, {"readStore", readStore},
    {"releaseStore", releaseStore}, {"attend", attend},               {nullptr, nullptr},
};

}  // namespace tonearm
