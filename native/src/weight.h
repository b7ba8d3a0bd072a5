// A weight matrix in native memory.
#pragma once

#include <optional>
#include <vector>

#include "kernel_table.h"
#include "memory.h"

namespace tonearm {

/// Rows of one checkpoint matrix [rows, inputs], row-major.
struct WeightPart {
  const float* values;
  Index rows;
};

class Weight {
 public:
  static constexpr std::uint32_t kKind = 0x7765696eU;

  /// Joins `parts` along their outputs and stores them as `storage`, or, without one, as f16 if every value survives the
  /// round trip through it and as f32 if not.
  Weight(const std::vector<WeightPart>& parts, Index inputs, std::optional<Storage> storage);

  [[nodiscard]] const WeightView& view() const { return view_; }
  [[nodiscard]] std::size_t bytes() const { return values_.bytes() + scales_.bytes(); }

  /// Writes the values as float32 [inputs, outputs], the layout of a tf.Tensor.
  void readTransposed(float* y) const;

 private:
  /// Whether every value was kept exactly; with `exactly` it stops at the first that isn't.
  bool store(const std::vector<WeightPart>& parts, Index inputs, Storage storage, bool exactly);

  WeightView view_;
  Memory values_;
  Memory scales_;
};

}  // namespace tonearm
