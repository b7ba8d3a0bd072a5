#include "key_value_store.h"

#include <algorithm>
#include <cstring>

namespace tonearm {
namespace {

std::size_t bytesOf(Index floats) { return static_cast<std::size_t>(floats) * sizeof(float); }

}  // namespace

KeyValueStore::KeyValueStore(Index heads, Index width, Index capacity)
    : heads_(heads), width_(width), capacity_(capacity), memory_(bytesOf(heads * capacity * width), Use::cache) {}

void KeyValueStore::append(const float* x, Index count) {
  if (count == 0) return;
  if (filled_ + count > capacity_) grow(std::max(filled_ + count, capacity_ * 2));
  auto* target = static_cast<float*>(memory_.data()) + filled_ * width_;
  for (Index head = 0; head < heads_; ++head)
    std::memcpy(target + head * headStride(), x + head * count * width_, bytesOf(count * width_));
  filled_ += count;
}

void KeyValueStore::read(Index count, float* y) const {
  for (Index head = 0; head < heads_ && count > 0; ++head)
    std::memcpy(y + head * count * width_, data() + head * headStride(), bytesOf(count * width_));
}

void KeyValueStore::grow(Index capacity) {
  Memory larger(bytesOf(heads_ * capacity * width_), Use::cache);
  auto* target = static_cast<float*>(larger.data());
  for (Index head = 0; head < heads_ && filled_ > 0; ++head)
    std::memcpy(target + head * capacity * width_, data() + head * headStride(), bytesOf(filled_ * width_));
  memory_ = std::move(larger);
  capacity_ = capacity;
}

}  // namespace tonearm
