// Keys or values that grow by positions, in place.
#pragma once

#include "kernel_table.h"
#include "memory.h"

namespace tonearm {

/// [heads, capacity, width] values, of which positions 0 … filled are written. `heads` counts rows × heads. Capacity costs
/// address space only: memory is taken as positions are filled.
class KeyValueStore {
 public:
  static constexpr std::uint32_t kKind = 0x6b767374U;

  /// @param storage f32, or f16: values are then rounded to the nearest binary16, ties to even
  KeyValueStore(Index heads, Index width, Index capacity, Storage storage);

  [[nodiscard]] Index heads() const { return heads_; }
  [[nodiscard]] Index width() const { return width_; }
  [[nodiscard]] Index filled() const { return filled_; }
  [[nodiscard]] Storage storage() const { return storage_; }
  [[nodiscard]] Index headStride() const { return capacity_ * width_; }  // in values
  [[nodiscard]] const void* data() const { return memory_.data(); }

  /// Writes `count` positions of x [heads, count, width] from position filled() on. Moves everything to a larger block
  /// where the capacity is exceeded. Returns 0; or, without appending anything, the largest finite magnitude in x where
  /// f16 would make an infinity of it.
  float append(const float* x, Index count);

  /// Copies the first `count` positions to y [heads, count, width], as floats.
  void read(Index count, float* y) const;

 private:
  [[nodiscard]] std::size_t bytesOf(Index values) const;
  void grow(Index capacity);

  Index heads_;
  Index width_;
  Index capacity_;
  Index filled_ = 0;
  Storage storage_;
  Memory memory_;
};

}  // namespace tonearm
