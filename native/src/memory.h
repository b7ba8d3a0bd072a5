// Large blocks of memory that don't belong to the JavaScript heap: weights and key-value caches.
#pragma once

#include <cstddef>

namespace tonearm {

/// What a block is for: weights are read from end to end and gain from huge pages; a cache must take only the pages
/// that it has filled.
enum class Use { weights, cache };

/// A zero-filled block of memory, aligned to 64 bytes at least, that costs physical memory only where it was written.
class Memory {
 public:
  Memory() = default;
  /// @throws std::bad_alloc if the system has no such block.
  Memory(std::size_t bytes, Use use);
  ~Memory();
  Memory(Memory&& other) noexcept;
  Memory& operator=(Memory&& other) noexcept;
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  [[nodiscard]] void* data() const { return data_; }
  [[nodiscard]] std::size_t bytes() const { return bytes_; }

 private:
  void* data_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace tonearm
