#include "memory.h"

#include <sys/mman.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <new>

#include "kernel_table.h"
#include "parallel.h"

namespace tonearm {
namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20U;
constexpr std::size_t kChunk = std::size_t{32} << 20U;  // what weights smaller than this share
constexpr std::size_t kAlignment = 64;

constexpr std::size_t roundUp(std::size_t bytes, std::size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

}  // namespace

class Chunk {
 public:
  Chunk(std::size_t bytes, Use use) : mapped_(use == Use::weights ? roundUp(bytes, kHugePage) + kHugePage : bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    if (use == Use::cache) flags |= MAP_NORESERVE;
#endif
    base_ = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (base_ == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_HUGEPAGE)
    madvise(base_, mapped_, use == Use::weights ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
    const auto address = reinterpret_cast<std::uintptr_t>(base_);
    first_ = use == Use::weights ? roundUp(address, kHugePage) - address : 0;
    end_ = first_ + bytes;
  }
  ~Chunk() { munmap(base_, mapped_); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  /// The next `bytes`, or null if there is no room left.
  void* take(std::size_t bytes) {
    if (bytes > end_ - first_) return nullptr;
    void* block = static_cast<char*>(base_) + first_;
    first_ += bytes;
    return block;
  }

 private:
  std::size_t mapped_;
  void* base_ = nullptr;
  std::size_t first_ = 0;  // offset of the first free byte
  std::size_t end_ = 0;
};

Memory::Memory(std::size_t bytes, Use use) : bytes_(bytes) {
  if (bytes == 0) return;
  const std::size_t rounded = roundUp(bytes, kAlignment);
  if (use == Use::cache || rounded >= kChunk) {
    chunk_ = std::make_shared<Chunk>(rounded, use);
    data_ = chunk_->take(rounded);
    return;
  }
  // The chunk being filled is held by its blocks alone, so it goes with the last of them.
  static std::mutex mutex;
  static std::weak_ptr<Chunk> filling;
  const std::lock_guard lock(mutex);
  chunk_ = filling.lock();
  if (chunk_ != nullptr) data_ = chunk_->take(rounded);
  if (data_ == nullptr) {
    chunk_ = std::make_shared<Chunk>(kChunk, use);
    filling = chunk_;
    data_ = chunk_->take(rounded);
  }
}

float* threadScratch(Index floats) {
  struct Free {
    void operator()(float* p) const { ::operator delete[](p, std::align_val_t{64}); }
  };
  thread_local std::unique_ptr<float[], Free> buffer;
  thread_local Index capacity = 0;
  if (floats > capacity) {
    buffer.reset();
    capacity = 0;
    const auto bytes = static_cast<std::size_t>(floats) * sizeof(float);
    buffer.reset(static_cast<float*>(::operator new[](bytes, std::align_val_t{64})));
    capacity = floats;
  }
  return buffer.get();
}

}  // namespace tonearm
