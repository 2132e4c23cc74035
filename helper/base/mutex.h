// SPDX-License-Identifier: Apache-2.0
// Locks that clang checks: `make lint-threads` refuses code that touches a field marked
// GUARDED_BY(mutex) without holding that mutex, or calls a function marked REQUIRES(mutex)
// without it. g++ ignores the marks. They wrap the standard library's locks and cost nothing.
//
//   Mutex mutex_;
//   CondVar changed_;
//   int value_ GUARDED_BY(mutex_);
//   void SetLocked(int v) REQUIRES(mutex_);
//
//   MutexLock lock(mutex_);
//   changed_.Wait(mutex_, [&]() REQUIRES(mutex_) { return value_ > 0; });
//
// For clang a lambda is a function of its own, so a lambda that touches guarded fields is marked
// as above. If code holds the lock and clang cannot see why, the code calls mutex_.AssertHeld(),
// and a comment says why the lock is held.
#ifndef FASTOCI_BASE_MUTEX_H_
#define FASTOCI_BASE_MUTEX_H_

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <shared_mutex>
#include <utility>

#ifdef __clang__
#define FASTOCI_THREAD_ATTRIBUTE(x) __attribute__((x))
#else
#define FASTOCI_THREAD_ATTRIBUTE(x)
#endif

// On fields: the mutex that must be held to touch the field, or (PT_) to touch what it points to.
#define GUARDED_BY(x) FASTOCI_THREAD_ATTRIBUTE(guarded_by(x))
#define PT_GUARDED_BY(x) FASTOCI_THREAD_ATTRIBUTE(pt_guarded_by(x))
// On mutexes: the order in which they are taken.
#define ACQUIRED_BEFORE(...) FASTOCI_THREAD_ATTRIBUTE(acquired_before(__VA_ARGS__))
#define ACQUIRED_AFTER(...) FASTOCI_THREAD_ATTRIBUTE(acquired_after(__VA_ARGS__))
// On functions: the caller holds the mutex alone (REQUIRES), or at least shared
// (REQUIRES_SHARED), or must not hold it (EXCLUDES).
#define REQUIRES(...) FASTOCI_THREAD_ATTRIBUTE(requires_capability(__VA_ARGS__))
#define REQUIRES_SHARED(...) FASTOCI_THREAD_ATTRIBUTE(requires_shared_capability(__VA_ARGS__))
#define EXCLUDES(...) FASTOCI_THREAD_ATTRIBUTE(locks_excluded(__VA_ARGS__))
// On functions: they return with the mutex held (ACQUIRE), or given up (RELEASE).
#define ACQUIRE(...) FASTOCI_THREAD_ATTRIBUTE(acquire_capability(__VA_ARGS__))
#define ACQUIRE_SHARED(...) FASTOCI_THREAD_ATTRIBUTE(acquire_shared_capability(__VA_ARGS__))
#define TRY_ACQUIRE(...) FASTOCI_THREAD_ATTRIBUTE(try_acquire_capability(__VA_ARGS__))
#define RELEASE(...) FASTOCI_THREAD_ATTRIBUTE(release_capability(__VA_ARGS__))
#define RELEASE_SHARED(...) FASTOCI_THREAD_ATTRIBUTE(release_shared_capability(__VA_ARGS__))
#define RELEASE_GENERIC(...) FASTOCI_THREAD_ATTRIBUTE(release_generic_capability(__VA_ARGS__))
#define ASSERT_CAPABILITY(x) FASTOCI_THREAD_ATTRIBUTE(assert_capability(x))
#define CAPABILITY(name) FASTOCI_THREAD_ATTRIBUTE(capability(name))
#define SCOPED_CAPABILITY FASTOCI_THREAD_ATTRIBUTE(scoped_lockable)
// On functions whose locking clang cannot follow; say why beside it.
#define NO_THREAD_SAFETY_ANALYSIS FASTOCI_THREAD_ATTRIBUTE(no_thread_safety_analysis)

namespace fastoci {

class CAPABILITY("mutex") Mutex {
 public:
  Mutex() = default;
  Mutex(const Mutex&) = delete;
  Mutex& operator=(const Mutex&) = delete;
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }
  [[nodiscard]] bool TryLock() TRY_ACQUIRE(true) { return mutex_.try_lock(); }
  void AssertHeld() const ASSERT_CAPABILITY(this) {}

 private:
  friend class CondVar;
  std::mutex mutex_;
};

class CAPABILITY("mutex") SharedMutex {
 public:
  SharedMutex() = default;
  SharedMutex(const SharedMutex&) = delete;
  SharedMutex& operator=(const SharedMutex&) = delete;
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }
  void LockShared() ACQUIRE_SHARED() { mutex_.lock_shared(); }
  void UnlockShared() RELEASE_SHARED() { mutex_.unlock_shared(); }

 private:
  std::shared_mutex mutex_;
};

// Holds a mutex in its scope, except between Unlock() and Lock().
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() {
    if (held_) mutex_.Unlock();
  }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;
  void Unlock() RELEASE() {
    mutex_.Unlock();
    held_ = false;
  }
  void Lock() ACQUIRE() {
    mutex_.Lock();
    held_ = true;
  }

 private:
  Mutex& mutex_;
  bool held_ = true;
};

// Holds a shared mutex alone in its scope. Unlock() ends that earlier.
class SCOPED_CAPABILITY WriterLock {
 public:
  explicit WriterLock(SharedMutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~WriterLock() RELEASE() {
    if (held_) mutex_.Unlock();
  }
  WriterLock(const WriterLock&) = delete;
  WriterLock& operator=(const WriterLock&) = delete;
  void Unlock() RELEASE() {
    mutex_.Unlock();
    held_ = false;
  }

 private:
  SharedMutex& mutex_;
  bool held_ = true;
};

// Holds a shared mutex together with other readers. Unlock() ends that earlier.
class SCOPED_CAPABILITY ReaderLock {
 public:
  explicit ReaderLock(SharedMutex& mutex) ACQUIRE_SHARED(mutex) : mutex_(mutex) {
    mutex_.LockShared();
  }
  ~ReaderLock() RELEASE_GENERIC() {
    if (held_) mutex_.UnlockShared();
  }
  ReaderLock(const ReaderLock&) = delete;
  ReaderLock& operator=(const ReaderLock&) = delete;
  void Unlock() RELEASE_GENERIC() {
    mutex_.UnlockShared();
    held_ = false;
  }

 private:
  SharedMutex& mutex_;
  bool held_ = true;
};

// Waits for a change of what a Mutex guards. Each wait gives the mutex up and holds it again when
// it returns. A wait without a condition may return although nothing has changed.
class CondVar {
 public:
  CondVar() = default;
  CondVar(const CondVar&) = delete;
  CondVar& operator=(const CondVar&) = delete;
  void NotifyOne() { changed_.notify_one(); }
  void NotifyAll() { changed_.notify_all(); }

  void Wait(Mutex& mutex) REQUIRES(mutex) {
    Adopted lock(mutex.mutex_);
    changed_.wait(lock.lock);
  }
  template <class Condition>
  void Wait(Mutex& mutex, Condition condition) REQUIRES(mutex) NO_THREAD_SAFETY_ANALYSIS {
    while (!condition()) Wait(mutex);  // clang does not know that the condition means this mutex
  }
  // False: it was not notified before the deadline.
  bool WaitUntil(Mutex& mutex, std::chrono::steady_clock::time_point deadline) REQUIRES(mutex) {
    Adopted lock(mutex.mutex_);
    return changed_.wait_until(lock.lock, deadline) == std::cv_status::no_timeout;
  }
  // Returns what the condition is at the end.
  template <class Condition>
  bool WaitUntil(Mutex& mutex, std::chrono::steady_clock::time_point deadline,
                 Condition condition) REQUIRES(mutex) NO_THREAD_SAFETY_ANALYSIS {
    while (!condition())
      if (!WaitUntil(mutex, deadline)) return condition();
    return true;
  }
  template <class Rep, class Period>
  bool WaitFor(Mutex& mutex, std::chrono::duration<Rep, Period> timeout) REQUIRES(mutex) {
    return WaitUntil(mutex, Deadline(timeout));
  }
  template <class Rep, class Period, class Condition>
  bool WaitFor(Mutex& mutex, std::chrono::duration<Rep, Period> timeout, Condition condition)
      REQUIRES(mutex) NO_THREAD_SAFETY_ANALYSIS {
    return WaitUntil(mutex, Deadline(timeout), std::move(condition));
  }

 private:
  // The standard's condition variable wants a lock object; this one lends it the held mutex.
  struct Adopted {
    explicit Adopted(std::mutex& mutex) : lock(mutex, std::adopt_lock) {}
    ~Adopted() { lock.release(); }
    std::unique_lock<std::mutex> lock;
  };
  template <class Duration>
  static std::chrono::steady_clock::time_point Deadline(Duration timeout) {
    return std::chrono::steady_clock::now() +
           std::chrono::duration_cast<std::chrono::steady_clock::duration>(timeout);
  }
  std::condition_variable changed_;
};

}  // namespace fastoci

#endif  // FASTOCI_BASE_MUTEX_H_
