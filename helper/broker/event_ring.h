// SPDX-License-Identifier: Apache-2.0
// EventRing: the last things that happened, each a line of JSON with a number,
// for readers that come later or follow. Any thread adds; readers keep a cursor,
// and one that is too slow is told how many it missed. Memory is bounded by
// max_events lines of at most kMaxLineBytes.
#ifndef FASTOCI_BROKER_EVENT_RING_H_
#define FASTOCI_BROKER_EVENT_RING_H_

#include <cstdint>
#include <deque>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "base/event.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

class EventRing {
 public:
  static constexpr size_t kMaxLineBytes = 8192;

  explicit EventRing(size_t max_events);
  // event gets "seq" and "time", seconds since 1970.
  void Add(nlohmann::json event);
  // The lines behind *cursor, each with a newline, of at least one and not more
  // than max_bytes if there are several; *cursor moves behind them. 0: from the
  // oldest on. What is gone already is an event "lost" with its "count".
  std::string TakeBehind(uint64_t* cursor, size_t max_bytes);
  uint64_t last();
  void Clear();  // numbers go on
  // Readable once something was added, until Quiet().
  int fd() const { return added_.get(); }
  void Quiet();

 private:
  const size_t max_events_;
  const UniqueFd added_;
  std::mutex mutex_;
  uint64_t last_ = 0;  // number of lines_.back()
  std::deque<std::string> lines_;
};

// A log record as an event.
nlohmann::json EventJson(LogLevel level, const EventFields& fields, const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_EVENT_RING_H_
