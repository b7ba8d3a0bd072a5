// Keys or values that grow by positions, in place.
#pragma once

#include "kernel_table.h"
#include "memory.h"

namespace tonearm {

/// [heads, capacity, width] floats, of which positions 0 … filled are written. `heads` counts rows × heads. Capacity costs
/// address space only: memory is taken as positions are filled.
class KeyValueStore {
 public:
  static constexpr std::uint32_t kKind = 0x6b767374U;

  KeyValueStore(Index heads, Index width, Index capacity);

  [[nodiscard]] Index heads() const { return heads_; }
  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index filled() const { return filled_; }
  [[nodiscard]] Index headStride() const { return capacity_ * width_; }
  [[nodiscard]] const float* data() const { return static_cast<const float*>(memory_.data()); }

  /// Writes `count` positions of x [heads, count, width] from position filled() on. Moves everything to a larger block
  /// where the capacity is exceeded.
  void append(const float* x, Index count);

  /// Copies the first `count` positions to y [heads, count, width].
  void read(Index count, float* y) const;

 private:
  void grow(Index capacity);

  Index heads_;
  Index width_;
  Index capacity_;
  Index filled_ = 0;
  Memory memory_;
};

}  // namespace tonearm
