// SPDX-License-Identifier: Apache-2.0
// Log records that say what they speak of: in fields of the journal, where it
// takes them, and to whoever keeps what happened.
#ifndef FASTOCI_BASE_EVENT_H_
#define FASTOCI_BASE_EVENT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/log.h"

namespace fastoci {

// Empty: not known, or all of them.
struct EventFields {
  const char* kind = "log";  // static: "attach", "miss_failed", ...; see fastoci(1)
  std::string image = {};    // its name on this node, or the beginning of its id
  std::string image_id = {};  // 64 hex digits
  std::string blob = {};      // "sha256:..."
  std::optional<uint32_t> chunk = {};
  uint64_t count = 0;  // of what the kind says, 0: one
};

void LogEvent(LogLevel level, const EventFields& fields, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// Gets each record that is logged, Log()'s too; null: nobody. It is called by the
// thread that logs, must not block, and must not log. Set while no other thread
// logs.
using LogSink = std::function<void(LogLevel, const EventFields&, const std::string& text)>;
void SetLogSink(LogSink sink);

// systemd's native journal protocol: a record as one datagram. Exposed for tests.
std::string JournalRecord(LogLevel level, const char* program, const EventFields& fields,
                          const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_BASE_EVENT_H_
