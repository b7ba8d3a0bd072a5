#include "key_value_store.h"

#include <algorithm>
#include <cstring>

#include "dispatch.h"

namespace tonearm {

KeyValueStore::KeyValueStore(Index heads, Index width, Index capacity, Storage storage)
    : heads_(heads),
      width_(width),
      capacity_(capacity),
      storage_(storage),
      memory_(bytesOf(heads * capacity * width), Use::cache) {}

std::size_t KeyValueStore::bytesOf(Index values) const {
  return static_cast<std::size_t>(values) * (storage_ == Storage::f16 ? sizeof(std::uint16_t) : sizeof(float));
}

float KeyValueStore::append(const float* x, Index count) {
  if (count == 0) return 0.0F;
  if (filled_ + count > capacity_) grow(std::max(filled_ + count, capacity_ * 2));
  const Index size = count * width_;
  float beyond = 0.0F;
  for (Index head = 0; head < heads_; ++head) {
    const Index offset = head * headStride() + filled_ * width_;
    if (storage_ == Storage::f16) {
      auto* target = static_cast<std::uint16_t*>(memory_.data()) + offset;
      beyond = std::max(beyond, kernels().roundToHalf(x + head * size, target, size));
    } else {
      std::memcpy(static_cast<float*>(memory_.data()) + offset, x + head * size, bytesOf(size));
    }
  }
  if (beyond == 0.0F) filled_ += count;
  return beyond;
}

void KeyValueStore::read(Index count, float* y) const {
  const Index size = count * width_;
  for (Index head = 0; head < heads_ && count > 0; ++head) {
    const Index offset = head * headStride();
    if (storage_ == Storage::f16) {
      kernels().fromHalf(static_cast<const std::uint16_t*>(data()) + offset, y + head * size, size);
    } else {
      std::memcpy(y + head * size, static_cast<const float*>(data()) + offset, bytesOf(size));
    }
  }
}

void KeyValueStore::grow(Index capacity) {
  Memory larger(bytesOf(heads_ * capacity * width_), Use::cache);
  auto* target = static_cast<char*>(larger.data());
  const auto* source = static_cast<const char*>(data());
  for (Index head = 0; head < heads_ && filled_ > 0; ++head)
    std::memcpy(target + bytesOf(head * capacity * width_), source + bytesOf(head * headStride()), bytesOf(filled_ * width_));
  memory_ = std::move(larger);
  capacity_ = capacity;
}

}  // namespace tonearm
