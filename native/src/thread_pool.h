// Threads that wait for work between kernels.
//
// A decoding step runs some 250 parallel sections of 20 to 200 µs each, so waking a thread must cost no system call:
// workers spin for a moment before they sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace tonearm {

class ThreadPool {
 public:
  /// A pool of `threads` threads, the caller of `run` included.
  explicit ThreadPool(int threads);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  [[nodiscard]] int threads() const { return static_cast<int>(workers_.size()) + 1; }

  /// Calls task(context, 0) … task(context, count − 1), each once, on any thread, and returns when all have returned.
  /// If another thread is inside `run`, everything runs on the caller. `task` must not throw.
  void run(int count, void (*task)(void* context, int index), void* context);

 private:
  void work();
  /// Takes one index of the section `ticket` belongs to; false if there is none left.
  bool takeOne(std::uint64_t& section);

  // One word says which section is open, how many tasks it has and how many were taken, so that a late thread can never
  // mistake a new section's task for an old one's: bits 40… number the section, 20… its tasks, 0… the taken.
  alignas(64) std::atomic<std::uint64_t> ticket_{0};
  alignas(64) std::atomic<int> unfinished_{0};
  void (*task_)(void*, int) = nullptr;
  void* context_ = nullptr;
  std::mutex sectionMutex_;

  std::mutex sleepMutex_;
  std::condition_variable wake_;
  std::atomic<int> sleepers_{0};
  std::atomic<bool> stopping_{false};
  std::vector<std::thread> workers_;
};

/// The pool in use, made on first use with as many threads as the process may run (see cpu_features.h).
ThreadPool& threadPool();

/// Replaces the pool by one of `threads` threads. Must not be called while a kernel runs.
void setThreads(int threads);

}  // namespace tonearm
