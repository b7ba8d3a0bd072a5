#include "thread_pool.h"

#include <algorithm>
#include <chrono>
#include <memory>

#include "cpu_features.h"

namespace tonearm {
namespace {

constexpr int kSectionShift = 40;
constexpr int kCountShift = 20;
constexpr std::uint64_t kMaxTasks = (1U << 19);  // half of the field: late threads may count past the end
constexpr std::uint64_t kField = (1U << 20) - 1;

constexpr std::uint64_t sectionOf(std::uint64_t ticket) { return ticket >> kSectionShift; }
constexpr std::uint64_t countOf(std::uint64_t ticket) { return (ticket >> kCountShift) & kField; }
constexpr std::uint64_t takenOf(std::uint64_t ticket) { return ticket & kField; }

/// Long enough to bridge the JavaScript between two kernels of a decoding step, short enough not to disturb others.
constexpr auto kSpin = std::chrono::microseconds(200);

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(int threads) {
  for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { work(); });
}

ThreadPool::~ThreadPool() {
  stopping_ = true;
  {
    const std::lock_guard lock(sleepMutex_);
    wake_.notify_all();
  }
  for (auto& worker : workers_) worker.join();
}

bool ThreadPool::takeOne(std::uint64_t& section) {
  const std::uint64_t ticket = ticket_.fetch_add(1);
  section = sectionOf(ticket);
  if (takenOf(ticket) >= countOf(ticket)) return false;
  task_(context_, static_cast<int>(takenOf(ticket)));
  unfinished_.fetch_sub(1, std::memory_order_release);
  return true;
}

void ThreadPool::work() {
  std::uint64_t section = 0;
  for (;;) {
    const auto open = [&] { return stopping_ || sectionOf(ticket_) != section; };
    const auto spinEnd = std::chrono::steady_clock::now() + kSpin;
    while (!open() && std::chrono::steady_clock::now() < spinEnd)
      for (int i = 0; i < 32 && !open(); ++i) pause();
    if (!open()) {
      std::unique_lock lock(sleepMutex_);
      ++sleepers_;
      wake_.wait(lock, open);
      --sleepers_;
    }
    if (stopping_) return;
    while (takeOne(section)) {
    }
  }
}

void ThreadPool::run(int count, void (*task)(void*, int), void* context) {
  const bool tooMany = count < 0 || static_cast<std::uint64_t>(count) > kMaxTasks;
  std::unique_lock section(sectionMutex_, std::try_to_lock);
  if (count <= 1 || workers_.empty() || tooMany || !section.owns_lock()) {
    for (int i = 0; i < count; ++i) task(context, i);
    return;
  }
  task_ = task;
  context_ = context;
  unfinished_.store(count, std::memory_order_relaxed);
  const std::uint64_t next = sectionOf(ticket_.load()) + 1;
  ticket_.store((next << kSectionShift) | (static_cast<std::uint64_t>(count) << kCountShift));
  if (sleepers_ > 0) {
    const std::lock_guard lock(sleepMutex_);
    wake_.notify_all();
  }
  std::uint64_t mine = 0;
  while (takeOne(mine)) {
  }
  for (int spins = 0; unfinished_.load(std::memory_order_acquire) > 0; ++spins) {
    if (spins < 20000) {
      pause();
    } else {
      std::this_thread::yield();
    }
  }
}

namespace {

// Never destroyed: a worker may be asleep inside it when the process ends.
std::unique_ptr<ThreadPool>& pool() {
  static auto* instance = new std::unique_ptr<ThreadPool>(std::make_unique<ThreadPool>(usableThreads()));
  return *instance;
}

}  // namespace

ThreadPool& threadPool() { return *pool(); }

void setThreads(int threads) { pool() = std::make_unique<ThreadPool>(std::clamp(threads, 1, 256)); }

}  // namespace tonearm
