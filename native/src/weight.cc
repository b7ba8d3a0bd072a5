#include "weight.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "checksum.h"
#include "dispatch.h"
#include "parallel.h"

namespace tonearm {
namespace {

constexpr Index kRowMultiple = 32;
constexpr Index kRowsAtOnce = 16;
constexpr Index kSlack = 64;  // floats that kernels may read behind the last row

std::size_t bytesOf(Storage storage, Index elements) {
  switch (storage) {
    case Storage::f32:
      return static_cast<std::size_t>(elements) * 4;
    case Storage::f16:
      return static_cast<std::size_t>(elements) * 2;
    case Storage::int8:
      return static_cast<std::size_t>(elements);
    case Storage::int4:
      return static_cast<std::size_t>(elements) / 2;
  }
  return 0;
}

std::size_t scaleBytesOf(Storage storage, Index outputs, Index stride) {
  if (storage == Storage::int8) return static_cast<std::size_t>(outputs) * sizeof(float);
  if (storage == Storage::int4) return static_cast<std::size_t>(outputs * (stride / kRowMultiple)) * sizeof(std::uint16_t);
  return 0;
}

std::size_t bytesOf(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

bool isFinite(const float* values, Index count) {
  std::uint32_t bad = 0;
  for (Index i = 0; i < count; ++i) {
    const std::uint32_t exponent = std::bit_cast<std::uint32_t>(values[i]) & 0x7f800000U;
    bad |= exponent == 0x7f800000U ? 1U : 0U;
  }
  return bad == 0;
}

template <class Part>
Index rowsOf(const std::vector<Part>& parts) {
  Index rows = 0;
  for (const auto& part : parts) rows += part.rows;
  return rows;
}

/// Whether the parts lie in one file, one behind the other, the first aligned to `alignment`.
template <class Part>
bool areAdjacent(const std::vector<Part>& parts, std::size_t rowBytes, std::size_t alignment) {
  std::uint64_t next = parts.front().start;
  if (next % alignment != 0) return false;
  for (const auto& part : parts) {
    if (part.file != parts.front().file || part.start != next) return false;
    next += static_cast<std::uint64_t>(part.rows) * rowBytes;
  }
  return true;
}

/// What went wrong on some thread, to be thrown on the calling one.
enum class Trouble { none, shortFile, notFinite };

/// Rows [first, first + count) of a part as floats in `scratch`, which has room for twice as many and kSlack.
Trouble readRows(const FilePart& part, Index inputs, Index first, Index count, float* scratch) {
  const Index values = count * inputs;
  const auto bytes = static_cast<std::size_t>(values) * bytesOf(part.dtype);
  const std::uint64_t start = part.start + static_cast<std::uint64_t>(first * inputs) * bytesOf(part.dtype);
  if (part.dtype == Dtype::f32) {
    if (!readFile(part.file, start, bytes, scratch)) return Trouble::shortFile;
  } else {
    auto* raw = reinterpret_cast<std::uint16_t*>(scratch + values);
    if (!readFile(part.file, start, bytes, raw)) return Trouble::shortFile;
    if (part.dtype == Dtype::bf16) {
      for (Index i = 0; i < values; ++i) scratch[i] = std::bit_cast<float>(static_cast<std::uint32_t>(raw[i]) << 16);
    } else {
      const WeightView halves{.storage = Storage::f16, .values = raw, .outputs = 1, .inputs = values, .stride = values};
      kernels().decodeRow(halves, 0, scratch);
    }
  }
  return isFinite(scratch, values) ? Trouble::none : Trouble::notFinite;
}

}  // namespace

Index Weight::strideOf(Storage storage, Index inputs) {
  return storage == Storage::f32 ? inputs : (inputs + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
}

Weight::Weight(const std::vector<WeightPart>& parts, Index inputs, std::optional<Storage> storage) {
  const auto read = [&](const WeightPart& part, Index first, Index, float*) -> const float* {
    return part.values + first * inputs;
  };
  if (storage) {
    storeParts(parts, inputs, *storage, false, read);
  } else if (!storeParts(parts, inputs, Storage::f16, true, read)) {
    storeParts(parts, inputs, Storage::f32, false, read);
  }
}

Weight::Weight(const std::vector<FilePart>& parts, Index inputs, std::optional<Storage> storage) {
  std::atomic<Trouble> trouble = Trouble::none;
  const auto read = [&](const FilePart& part, Index first, Index count, float* scratch) -> const float* {
    const Trouble found = readRows(part, inputs, first, count, scratch);
    if (found == Trouble::none) return scratch;
    trouble = found;
    return nullptr;
  };
  const auto take = [&](Storage as, bool exactly) {
    const bool kept = storeParts(parts, inputs, as, exactly, read);
    if (trouble == Trouble::notFinite) throw FileError(kNotFinite, "a weight holds NaN or an infinite value");
    for (const FilePart& part : parts) {
      const auto bytes = static_cast<std::uint64_t>(part.rows * inputs) * bytesOf(part.dtype);
      if (trouble == Trouble::shortFile) throwShort(part.file, part.start + bytes);
    }
    return kept;
  };
  if (storage) {
    take(*storage, false);
    return;
  }
  // Weights that 16 bits don't hold mostly show it in their first rows: then no room is made for them in vain.
  const bool mayFit = std::all_of(parts.begin(), parts.end(), [&](const FilePart& part) {
    const Index count = std::min(part.rows, kRowsAtOnce);
    float* scratch = threadScratch(3 * kRowsAtOnce * inputs + kSlack);
    const float* rows = read(part, 0, count, scratch);
    auto* halves = reinterpret_cast<std::uint16_t*>(scratch + 2 * kRowsAtOnce * inputs);
    return rows == nullptr || kernels().toHalf(rows, halves, count * inputs);
  });
  if (!mayFit || !take(Storage::f16, true)) take(Storage::f32, false);
}

Weight::Weight(const std::vector<PackedPart>& parts, Index inputs, Storage storage) {
  const Index stride = strideOf(storage, inputs);
  const Index outputs = rowsOf(parts);
  const std::size_t rowBytes = bytesOf(storage, stride);
  const std::size_t alignment = storage == Storage::f32 ? 4 : storage == Storage::f16 ? 2 : 1;
  const std::size_t bytes = rowBytes * static_cast<std::size_t>(outputs);
  if (areAdjacent(parts, rowBytes, alignment)) mapping_ = MappedFile::of(parts.front().file, parts.front().start + bytes);
  if (mapping_ != nullptr) {
    valueBytes_ = bytes;
    scales_ = Memory(scaleBytesOf(storage, outputs, stride), Use::weights);
    describe(storage, mapping_->at(parts.front().start), outputs, inputs);
  } else {
    allocate(storage, outputs, inputs);
  }

  std::atomic<bool> isShort = false;
  std::atomic<bool> isDamaged = false;
  std::vector<Index> firstRows;
  Index first = 0;
  for (const PackedPart& part : parts) {
    firstRows.push_back(first);
    first += part.rows;
  }
  parallelFor(static_cast<Index>(parts.size()), 1, [&](Index begin, Index end) {
    for (Index i = begin; i < end; ++i) {
      const PackedPart& part = parts[static_cast<std::size_t>(i)];
      const auto row = static_cast<std::size_t>(firstRows[static_cast<std::size_t>(i)]);
      const auto rows = static_cast<std::size_t>(part.rows);
      const auto* values = static_cast<const std::byte*>(view_.values) + row * rowBytes;
      if (mapping_ == nullptr) {
        auto* target = static_cast<std::byte*>(values_.data()) + row * rowBytes;
        if (!readFile(part.file, part.start, rows * rowBytes, target)) isShort = true;
      }
      if (xxh32(values, rows * rowBytes) != part.checksum) isDamaged = true;
      const std::size_t scaleBytes = scaleBytesOf(storage, part.rows, stride);
      if (scaleBytes == 0) continue;
      auto* scales = static_cast<std::byte*>(scales_.data()) + scaleBytesOf(storage, static_cast<Index>(row), stride);
      if (!readFile(part.file, part.scalesStart, scaleBytes, scales)) isShort = true;
      if (xxh32(scales, scaleBytes) != part.scalesChecksum) isDamaged = true;
    }
  });
  requireIntact();
  if (isShort) throwShort(parts.front().file, parts.back().start + static_cast<std::uint64_t>(parts.back().rows) * rowBytes);
  if (isDamaged) throw FileError(kChecksum, "a tensor's bytes don't fit its checksum");
}

void Weight::allocate(Storage storage, Index outputs, Index inputs) {
  const Index stride = strideOf(storage, inputs);
  valueBytes_ = bytesOf(storage, outputs * stride);
  values_ = Memory(valueBytes_, Use::weights);
  scales_ = Memory(scaleBytesOf(storage, outputs, stride), Use::weights);
  describe(storage, values_.data(), outputs, inputs);
}

void Weight::describe(Storage storage, const void* values, Index outputs, Index inputs) {
  view_ = {.storage = storage,
           .values = values,
           .channelScales = storage == Storage::int8 ? static_cast<const float*>(scales_.data()) : nullptr,
           .groupScales = storage == Storage::int4 ? static_cast<const std::uint16_t*>(scales_.data()) : nullptr,
           .outputs = outputs,
           .inputs = inputs,
           .stride = strideOf(storage, inputs)};
}

template <class Part, class Read>
bool Weight::storeParts(const std::vector<Part>& parts, Index inputs, Storage storage, bool exactly, const Read& read) {
  allocate(storage, rowsOf(parts), inputs);
  Index first = 0;
  for (const Part& part : parts) {
    const auto rows = [&](Index from, Index count, float* scratch) { return read(part, from, count, scratch); };
    if (!store(part.rows, first, exactly, rows)) return false;
    first += part.rows;
  }
  return true;
}

template <class Read>
bool Weight::store(Index rows, Index firstRow, bool exactly, const Read& read) {
  const Index inputs = view_.inputs;
  const Index stride = view_.stride;
  auto* floats = static_cast<float*>(values_.data());
  auto* halves = static_cast<std::uint16_t*>(values_.data());
  auto* bytes = static_cast<std::int8_t*>(values_.data());
  auto* nibbles = static_cast<std::uint8_t*>(values_.data());
  auto* channelScales = static_cast<float*>(scales_.data());
  auto* groupScales = static_cast<std::uint16_t*>(scales_.data());
  const KernelTable& kernel = kernels();
  std::atomic<bool> exact = true;
  std::atomic<bool> given = true;
  const auto storeRow = [&](const float* source, Index out) {
    switch (view_.storage) {
      case Storage::f32:
        std::memcpy(floats + out * stride, source, static_cast<std::size_t>(inputs) * sizeof(float));
        break;
      case Storage::f16:
        if (!kernel.toHalf(source, halves + out * stride, inputs)) exact = false;
        break;
      case Storage::int8:
        channelScales[out] = kernel.quantizeInt8(source, inputs, stride, bytes + out * stride);
        break;
      case Storage::int4:
        kernel.quantizeInt4(source, inputs, stride, nibbles + out * (stride / 2),
                            groupScales + out * (stride / kRowMultiple));
        break;
    }
  };
  parallelFor(rows, kRowsAtOnce, [&](Index begin, Index end) {
    for (Index row = begin; row < end; row += kRowsAtOnce) {
      if (!given || (exactly && !exact)) return;
      const Index count = std::min(kRowsAtOnce, end - row);
      const float* source = read(row, count, threadScratch(2 * kRowsAtOnce * inputs + kSlack));
      if (source == nullptr) {
        given = false;
        return;
      }
      for (Index i = 0; i < count; ++i) storeRow(source + i * inputs, firstRow + row + i);
    }
  });
  return given && (exact || !exactly);
}

void Weight::readTransposed(float* y) const {
  parallelFor(view_.outputs, kRowsAtOnce, [&](Index begin, Index end) {
    float* rows = threadScratch(kRowsAtOnce * view_.inputs + kSlack);
    for (Index out = begin; out < end; out += kRowsAtOnce) {
      const Index count = std::min(kRowsAtOnce, end - out);
      for (Index i = 0; i < count; ++i) kernels().decodeRow(view_, out + i, rows + i * view_.inputs);
      for (Index k = 0; k < view_.inputs; ++k)
        for (Index i = 0; i < count; ++i) y[k * view_.outputs + out + i] = rows[i * view_.inputs + k];
    }
  });
}

}  // namespace tonearm
