#include "weight.h"

#include <atomic>
#include <cstring>

#include "dispatch.h"
#include "parallel.h"

namespace tonearm {
namespace {

constexpr Index kRowMultiple = 32;

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

}  // namespace

Weight::Weight(const std::vector<WeightPart>& parts, Index inputs, std::optional<Storage> storage) {
  if (storage) {
    store(parts, inputs, *storage, false);
  } else if (!store(parts, inputs, Storage::f16, true)) {
    store(parts, inputs, Storage::f32, false);
  }
}

bool Weight::store(const std::vector<WeightPart>& parts, Index inputs, Storage storage, bool exactly) {
  Index outputs = 0;
  for (const auto& part : parts) outputs += part.rows;
  const Index padded = (inputs + kRowMultiple - 1) / kRowMultiple * kRowMultiple;
  const Index stride = storage == Storage::f32 ? inputs : padded;
  values_ = Memory(bytesOf(storage, outputs * stride), Use::weights);
  scales_ = Memory(scaleBytesOf(storage, outputs, stride), Use::weights);

  auto* floats = static_cast<float*>(values_.data());
  auto* halves = static_cast<std::uint16_t*>(values_.data());
  auto* bytes = static_cast<std::int8_t*>(values_.data());
  auto* nibbles = static_cast<std::uint8_t*>(values_.data());
  auto* channelScales = static_cast<float*>(scales_.data());
  auto* groupScales = static_cast<std::uint16_t*>(scales_.data());
  const KernelTable& kernel = kernels();
  std::atomic<bool> exact = true;
  Index first = 0;
  for (const auto& part : parts) {
    parallelFor(part.rows, 16, [&](Index begin, Index end) {
      for (Index row = begin; row < end && (exact || !exactly); ++row) {
        const float* source = part.values + row * inputs;
        const Index out = first + row;
        switch (storage) {
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
      }
    });
    first += part.rows;
  }
  view_ = {.storage = storage,
           .values = values_.data(),
           .channelScales = storage == Storage::int8 ? channelScales : nullptr,
           .groupScales = storage == Storage::int4 ? groupScales : nullptr,
           .outputs = outputs,
           .inputs = inputs,
           .stride = stride};
  return exact;
}

void Weight::readTransposed(float* y) const {
  constexpr Index kRows = 16;
  parallelFor(view_.outputs, kRows, [&](Index begin, Index end) {
    float* rows = threadScratch(kRows * view_.inputs);
    for (Index out = begin; out < end; out += kRows) {
      const Index count = std::min(kRows, end - out);
      for (Index i = 0; i < count; ++i) kernels().decodeRow(view_, out + i, rows + i * view_.inputs);
      for (Index k = 0; k < view_.inputs; ++k)
        for (Index i = 0; i < count; ++i) y[k * view_.outputs + out + i] = rows[i * view_.inputs + k];
    }
  });
}

}  // namespace tonearm
