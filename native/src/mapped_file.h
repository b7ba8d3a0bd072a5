// Weight files in memory: read where they lie, without a copy.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>

namespace tonearm {

/// An error about a file, with a code that tells JavaScript what kind it is.
class FileError : public std::runtime_error {
 public:
  FileError(const char* code, const std::string& message) : std::runtime_error(message), code_(code) {}
  [[nodiscard]] const char* code() const { return code_; }

 private:
  const char* code_;
};

/// Codes of FileError.
inline constexpr const char* kFileShrank = "FILE_SHRANK";
inline constexpr const char* kNotFinite = "NOT_FINITE";
inline constexpr const char* kChecksum = "CHECKSUM";
inline constexpr const char* kUnreadable = "FILE_UNREADABLE";

/// A whole file mapped into memory. What is written there stays in this process.
///
/// A file that gets shorter while it is mapped would end the process at the next touch of a page behind its end. A signal
/// handler puts zeros there instead and marks the mapping, and whoever computed with it finds out by `requireIntact`.
class MappedFile {
 public:
  /// The mapping of an open file: one for each file, shared by all who hold it. Null if the system has none to give; then
  /// the file is to be read instead.
  /// @throws FileError if the file has not at least `bytes` bytes.
  static std::shared_ptr<const MappedFile> of(int file, std::uint64_t bytes);

  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  [[nodiscard]] const std::byte* at(std::uint64_t offset) const { return data_ + offset; }

  /// @throws FileError if the file turned out shorter than it was.
  void requireIntact() const;

 private:
  MappedFile() = default;

  const std::byte* data_ = nullptr;
  std::uint64_t bytes_ = 0;
  int file_ = -1;  // a descriptor of its own, to tell how long the file is now
  int slot_ = -1;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

/// Reads `bytes` bytes at `offset`. False if the file ends before or can't be read.
bool readFile(int file, std::uint64_t offset, std::size_t bytes, void* target);

/// @throws FileError that says how long an open file is, where `needed` bytes were wanted.
[[noreturn]] void throwShort(int file, std::uint64_t needed);

}  // namespace tonearm
