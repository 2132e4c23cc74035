// SPDX-License-Identifier: Apache-2.0
// EventRing keeps the last events, each as a line of JSON with a number. Readers may
// come later, or follow. Any thread adds. A reader keeps a cursor; if it is too slow,
// it is told how many events it missed. There are at most max_events lines of at most
// kMaxLineBytes in memory.
#ifndef FASTOCI_BASE_EVENT_RING_H_
#define FASTOCI_BASE_EVENT_RING_H_

#include <cstdint>
#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/event.h"
#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

class EventRing {
 public:
  static constexpr size_t kMaxLineBytes = 8192;

  explicit EventRing(size_t max_events);
  // event gets "seq" and "time", seconds since 1970.
  void Add(nlohmann::json event);
  // Returns the lines after *cursor, each with a newline, and moves *cursor to the last
  // of them. A cursor of 0 stands before the oldest line. Returns at most max_bytes, but
  // always one whole line if there is one. If lines after the cursor are gone already,
  // the first line is an event "lost" with their "count".
  std::string TakeBehind(uint64_t* cursor, size_t max_bytes);
  uint64_t last();
  void Clear();  // the numbers are not used again
  // A descriptor that is readable from an Add() on until Quiet().
  int fd() const { return added_.get(); }
  void Quiet();

 private:
  const size_t max_events_;
  const UniqueFd added_;
  Mutex mutex_;
  uint64_t last_ GUARDED_BY(mutex_) = 0;  // number of lines_.back()
  std::deque<std::string> lines_ GUARDED_BY(mutex_);
};

// A log record as an event.
nlohmann::json EventJson(LogLevel level, const EventFields& fields, const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_BASE_EVENT_RING_H_
