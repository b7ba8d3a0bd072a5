// A weight matrix in native memory, or in the file where it lies.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "kernel_table.h"
#include "mapped_file.h"
#include "memory.h"

namespace tonearm {

/// How the values of a matrix lie in a file.
enum class Dtype : std::int32_t { f32 = 0, f16 = 1, bf16 = 2 };

/// Rows of one checkpoint matrix [rows, inputs], row-major.
struct WeightPart {
  const float* values;
  Index rows;
};

/// The same in an open file, its values from byte `start` on.
struct FilePart {
  int file;
  std::uint64_t start;
  Index rows;
  Dtype dtype;
};

/// Rows that a file holds in the very layout of WeightView. f32 and f16 have no scales.
struct PackedPart {
  int file;
  std::uint64_t start;
  std::uint64_t scalesStart;
  Index rows;
  std::uint32_t checksum;
  std::uint32_t scalesChecksum;
};

class Weight {
 public:
  static constexpr std::uint32_t kKind = 0x7765696eU;

  /// Joins `parts` along their outputs and stores them as `storage`, or, without one, as f16 if every value survives the
  /// round trip through it and as f32 if not.
  Weight(const std::vector<WeightPart>& parts, Index inputs, std::optional<Storage> storage);

  /// The same from files, read a few rows at a time. Nothing stays in the file: a step that reads float32 from the small
  /// pages of a mapped file was measured to take twice as long as from huge pages of its own.
  /// @throws FileError if a file is too short or unreadable, or a value is NaN or infinite.
  Weight(const std::vector<FilePart>& parts, Index inputs, std::optional<Storage> storage);

  /// A weight that files hold in its own layout: mapped where its parts lie one behind the other, and copied elsewhere.
  /// @throws FileError if a file is too short or unreadable, or has another checksum.
  Weight(const std::vector<PackedPart>& parts, Index inputs, Storage storage);

  [[nodiscard]] const WeightView& view() const { return view_; }
  /// Bytes that it takes, in memory of its own or mapped.
  [[nodiscard]] std::size_t bytes() const { return valueBytes_ + scales_.bytes(); }
  [[nodiscard]] bool mapped() const { return mapping_ != nullptr; }

  /// @throws FileError if the file that it is mapped from became shorter, so that what was computed with it is void.
  void requireIntact() const {
    if (mapping_ != nullptr) mapping_->requireIntact();
  }

  /// Writes the values as float32 [inputs, outputs], the layout of a tf.Tensor.
  void readTransposed(float* y) const;

  [[nodiscard]] std::size_t valueBytes() const { return valueBytes_; }
  [[nodiscard]] std::size_t scaleBytes() const { return scales_.bytes(); }
  [[nodiscard]] const void* scales() const { return scales_.data(); }

  /// Elements from one row to the next.
  static Index strideOf(Storage storage, Index inputs);

 private:
  /// Takes `rows` rows from `read(first, count, scratch)`, which returns them as floats, or null if it can't; then, and with
  /// `exactly` where a value is not kept exactly, it stops and returns false.
  template <class Read>
  bool store(Index rows, Index firstRow, bool exactly, const Read& read);

  /// Makes room for `outputs` rows; what is not written stays zero.
  void allocate(Storage storage, Index outputs, Index inputs);
  void describe(Storage storage, const void* values, Index outputs, Index inputs);
  template <class Part, class Read>
  bool storeParts(const std::vector<Part>& parts, Index inputs, Storage storage, bool exactly, const Read& read);

  WeightView view_;
  Memory values_;
  Memory scales_;
  std::size_t valueBytes_ = 0;
  std::shared_ptr<const MappedFile> mapping_;
};

}  // namespace tonearm
