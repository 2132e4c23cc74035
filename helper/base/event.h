// SPDX-License-Identifier: Apache-2.0
// Log records with fields that say what they are about. The fields go to systemd's
// journal if it reads our log, and to the LogSink if there is one.
#ifndef FASTOCI_BASE_EVENT_H_
#define FASTOCI_BASE_EVENT_H_

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/log.h"

namespace fastoci {

// An empty field: not known, or the record is about all of them.
struct EventFields {
  const char* kind = "log";  // static: "attach", "miss_failed", ...; see fastoci(1)
  std::string image = {};    // its name on this node, or the beginning of its id
  std::string image_id = {};  // 64 hex digits
  std::string blob = {};      // "sha256:..."
  std::optional<uint32_t> chunk = {};
  uint64_t count = 0;  // how many times it happened, or of how many things; 0: one
};

void LogEvent(LogLevel level, const EventFields& fields, const char* format, ...)
    __attribute__((format(printf, 3, 4)));

// The sink gets each record that is logged, those of Log() too. Null: there is none.
// The thread that logs calls it. It must not block and must not log. Set it while no
// other thread logs.
using LogSink = std::function<void(LogLevel, const EventFields&, const std::string& text)>;
void SetLogSink(LogSink sink);

// A record as one datagram of systemd's native journal protocol. Exposed for tests.
std::string JournalRecord(LogLevel level, const char* program, const EventFields& fields,
                          const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_BASE_EVENT_H_
