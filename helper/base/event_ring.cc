// SPDX-License-Identifier: Apache-2.0
#include "base/event_ring.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <nlohmann/json.hpp>

namespace fastoci {
namespace {

std::string Dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

}  // namespace

EventRing::EventRing(size_t max_events)
    : max_events_(max_events), added_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {}

void EventRing::Add(nlohmann::json event) {
  using std::chrono::duration_cast, std::chrono::milliseconds, std::chrono::system_clock;
  const auto ms = duration_cast<milliseconds>(system_clock::now().time_since_epoch()).count();
  event["time"] = static_cast<double>(ms) / 1000;
  {
    MutexLock lock(mutex_);
    event["seq"] = last_ + 1;
    std::string line = Dump(event);
    if (line.size() > kMaxLineBytes) return;
    last_++;
    lines_.push_back(std::move(line));
    if (lines_.size() > max_events_) lines_.pop_front();
  }
  const uint64_t one = 1;
  (void)!::write(added_.get(), &one, sizeof(one));
}

std::string EventRing::TakeBehind(uint64_t* cursor, size_t max_bytes) {
  MutexLock lock(mutex_);
  std::string out;
  const uint64_t first = last_ - lines_.size() + 1;
  if (*cursor > last_) *cursor = last_;
  if (*cursor + 1 < first) {
    if (*cursor != 0) out = Dump({{"event", "lost"}, {"count", first - 1 - *cursor}}) + "\n";
    *cursor = first - 1;
  }
  while (*cursor < last_) {
    const std::string& line = lines_[*cursor + 1 - first];
    if (!out.empty() && out.size() + line.size() >= max_bytes) break;
    out += line + "\n";
    ++*cursor;
  }
  return out;
}

void EventRing::Clear() {
  MutexLock lock(mutex_);
  lines_.clear();
}

uint64_t EventRing::last() {
  MutexLock lock(mutex_);
  return last_;
}

void EventRing::Quiet() {
  uint64_t n;
  (void)!::read(added_.get(), &n, sizeof(n));
}

nlohmann::json EventJson(LogLevel level, const EventFields& fields, const std::string& text) {
  const char* name = level == LogLevel::kError     ? "error"
                     : level == LogLevel::kWarning ? "warning"
                     : level == LogLevel::kInfo    ? "info"
                                                   : "debug";
  nlohmann::json event = {{"event", fields.kind}, {"level", name}, {"message", text}};
  if (!fields.image.empty()) event["image"] = fields.image;
  if (!fields.image_id.empty()) event["image_id"] = fields.image_id;
  if (!fields.blob.empty()) event["blob"] = fields.blob;
  if (fields.chunk) event["chunk"] = *fields.chunk;
  if (fields.count > 0) event["count"] = fields.count;
  return event;
}

}  // namespace fastoci
