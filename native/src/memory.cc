#include "memory.h"

#include <sys/mman.h>

#include <memory>
#include <new>
#include <utility>

#include "kernel_table.h"
#include "parallel.h"

namespace tonearm {

Memory::Memory(std::size_t bytes, Use use) : bytes_(bytes) {
  if (bytes == 0) return;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
  if (use == Use::cache) flags |= MAP_NORESERVE;
#endif
  void* block = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (block == MAP_FAILED) throw std::bad_alloc();
  data_ = block;
#if defined(MADV_HUGEPAGE)
  madvise(data_, bytes, use == Use::weights ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
#endif
}

Memory::~Memory() {
  if (data_ != nullptr) munmap(data_, bytes_);
}

Memory::Memory(Memory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}

Memory& Memory::operator=(Memory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
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
