// Large blocks of memory that don't belong to the JavaScript heap: weights and key-value caches.
#pragma once

#include <cstddef>
#include <memory>

namespace tonearm {

/// What a block is for. Weights are read from end to end and gain from huge pages, which needs blocks side by side in
/// larger chunks; a cache must take only the pages that it has filled.
enum class Use { weights, cache };

/// Memory mapped from the system, returned to it with the last block inside.
class Chunk;

/// A zero-filled block of memory, aligned to 64 bytes at least, that costs physical memory only where it was written.
class Memory {
 public:
  Memory() = default;
  /// @throws std::bad_alloc if the system has no such block.
  Memory(std::size_t bytes, Use use);

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Chunk> chunk_;
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tonearm
