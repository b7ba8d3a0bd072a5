#include "mapped_file.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cerrno>
#include <mutex>
#include <vector>

namespace tonearm {
namespace {

/// A mapping that the signal handler knows. Only atomics: the handler may interrupt anything.
struct Guarded {
  std::atomic<std::uintptr_t> begin = 0;
  std::atomic<std::uintptr_t> end = 0;  // 0: the slot is free
  std::atomic<bool> broken = false;
};

std::array<Guarded, 64> guarded;
struct sigaction before;
std::uintptr_t pageBytes = 4096;

/// Puts zeros in place of everything from the page that is missing to the end of its mapping.
void onBusError(int signal, siginfo_t* info, void*) {
  const int error = errno;
  const auto address = reinterpret_cast<std::uintptr_t>(info->si_addr);
  for (Guarded& range : guarded) {
    const std::uintptr_t end = range.end;
    if (address < range.begin || address >= end) continue;
    const std::uintptr_t page = address / pageBytes * pageBytes;
    void* start = reinterpret_cast<void*>(page);  // NOLINT: an address is what the system reports
    constexpr int kFlags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE;
    if (mmap(start, end - page, PROT_READ | PROT_WRITE, kFlags, -1, 0) == MAP_FAILED) break;
    range.broken = true;
    errno = error;
    return;
  }
  // Not ours: whoever was there before gets it when the instruction runs again.
  sigaction(signal, &before, nullptr);
  errno = error;
}

void installHandler() {
  static std::once_flag once;
  std::call_once(once, [] {
    pageBytes = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    struct sigaction action = {};
    action.sa_sigaction = onBusError;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
  });
}

std::mutex registryMutex;

/// The mappings that somebody holds. Never destroyed: weights may outlive static objects when the process ends.
std::vector<std::weak_ptr<const MappedFile>>& registry() {
  static auto* mappings = new std::vector<std::weak_ptr<const MappedFile>>();
  return *mappings;
}

std::uint64_t sizeNow(int file) {
  struct stat status = {};
  return fstat(file, &status) == 0 ? static_cast<std::uint64_t>(status.st_size) : 0;
}

}  // namespace

std::shared_ptr<const MappedFile> MappedFile::of(int file, std::uint64_t bytes) {
  struct stat status = {};
  if (fstat(file, &status) != 0) throw FileError(kUnreadable, "a weight file is not open");
  const auto size = static_cast<std::uint64_t>(status.st_size);
  if (size < bytes) throwShort(file, bytes);

  const std::lock_guard lock(registryMutex);
  auto& mappings = registry();
  std::erase_if(mappings, [](const auto& mapping) { return mapping.expired(); });
  for (const auto& weak : mappings) {
    const auto mapping = weak.lock();
    if (mapping == nullptr || mapping->device_ != status.st_dev || mapping->inode_ != status.st_ino) continue;
    if (mapping->bytes_ == size && !guarded[static_cast<std::size_t>(mapping->slot_)].broken) return mapping;
  }

  std::shared_ptr<MappedFile> mapping(new MappedFile);
  for (std::size_t slot = 0; slot < guarded.size() && mapping->slot_ < 0; ++slot)
    if (guarded[slot].end == 0) mapping->slot_ = static_cast<int>(slot);
  if (mapping->slot_ < 0) return nullptr;
  installHandler();
  mapping->file_ = fcntl(file, F_DUPFD_CLOEXEC, 0);
  if (mapping->file_ < 0) return nullptr;
  int flags = MAP_PRIVATE;
#if defined(MAP_NORESERVE)
  flags |= MAP_NORESERVE;
#endif
  void* data = mmap(nullptr, size, PROT_READ | PROT_WRITE, flags, mapping->file_, 0);
  if (data == MAP_FAILED) return nullptr;
#if defined(MADV_HUGEPAGE)
  madvise(data, size, MADV_HUGEPAGE);
#endif
  mapping->data_ = static_cast<const std::byte*>(data);
  mapping->bytes_ = size;
  mapping->device_ = status.st_dev;
  mapping->inode_ = status.st_ino;
  Guarded& range = guarded[static_cast<std::size_t>(mapping->slot_)];
  range.broken = false;
  range.begin = reinterpret_cast<std::uintptr_t>(data);
  range.end = reinterpret_cast<std::uintptr_t>(data) + size;
  mappings.push_back(mapping);
  return mapping;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) {
    munmap(const_cast<std::byte*>(data_), bytes_);
    guarded[static_cast<std::size_t>(slot_)].end = 0;
  }
  if (file_ >= 0) close(file_);
}

void MappedFile::requireIntact() const {
  if (guarded[static_cast<std::size_t>(slot_)].broken) throwShort(file_, bytes_);
}

bool readFile(int file, std::uint64_t offset, std::size_t bytes, void* target) {
  auto* next = static_cast<char*>(target);
  while (bytes > 0) {
    const ssize_t count = pread(file, next, bytes, static_cast<off_t>(offset));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return false;
    next += count;
    offset += static_cast<std::uint64_t>(count);
    bytes -= static_cast<std::size_t>(count);
  }
  return true;
}

void throwShort(int file, std::uint64_t needed) {
  throw FileError(kFileShrank, "the file has " + std::to_string(sizeNow(file)) + " bytes where " +
                                   std::to_string(needed) + " are needed: it became shorter while in use");
}

}  // namespace tonearm
