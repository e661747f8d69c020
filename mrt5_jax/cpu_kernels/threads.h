// What a kernel's threads need: shares of the work, memory of their own, and the processor's tiles.

#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <initializer_list>
#include <memory>
#include <mutex>

#include "multiply.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

inline int64_t round_up(int64_t number, int64_t step) { return (number + step - 1) / step * step; }

// Memory of one thread, kept between calls.
class Scratch {
 public:
  // Begins anew; what was taken before is given up.
  void reserve(int64_t bytes) {
    used_ = 0;
    if (bytes <= size_) return;
    memory_.reset(static_cast<char*>(std::aligned_alloc(64, round_up(bytes, 64))));
    size_ = bytes;
  }

  template <typename T>
  T* take(int64_t count) {
    T* taken = reinterpret_cast<T*>(memory_.get() + used_);
    used_ += round_up(count * sizeof(T), 64);
    return taken;
  }

  static int64_t bytes(std::initializer_list<int64_t> parts) {
    int64_t total = 0;
    for (int64_t part : parts) total += round_up(part, 64);
    return total;
  }

 private:
  struct Free {
    void operator()(char* memory) const { std::free(memory); }
  };
  std::unique_ptr<char, Free> memory_;
  int64_t size_ = 0, used_ = 0;
};

inline thread_local Scratch scratch;

// task(0), ..., task(count - 1), by the threads of the pool and the caller.
inline void in_parallel(ffi::ThreadPool& pool, int64_t count, std::function<void(int64_t)> task) {
  struct Shared {
    std::function<void(int64_t)> task;
    int64_t count;
    std::atomic<int64_t> next{0}, done{0};
    std::mutex mutex;
    std::condition_variable finished;

    void work() {
      for (int64_t mine; (mine = next++) < count;) {
        task(mine);
        if (++done == count) {
          std::lock_guard<std::mutex> lock(mutex);
          finished.notify_all();
        }
      }
    }
  };
  auto shared = std::make_shared<Shared>();
  shared->task = std::move(task);
  shared->count = count;
  for (int64_t helper = 1; helper < std::min<int64_t>(pool.num_threads(), count); ++helper) {
    pool.Schedule([shared] { shared->work(); });
  }
  shared->work();
  std::unique_lock<std::mutex> lock(shared->mutex);
  shared->finished.wait(lock, [&] { return shared->done == count; });
}

template <typename T>
struct Ready {};  // what a thread needs for products of T

#ifdef HAS_TILES
template <>
struct Ready<Bfloat16> {
  Tiles tiles;
};
#endif
