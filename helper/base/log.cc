// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace fastoci {
namespace {

std::atomic<int> g_max_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<const char*> g_program{"fastoci"};

}  // namespace

const char* ErrorKindName(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid: return "invalid";
    case ErrorKind::kNotFound: return "not found";
    case ErrorKind::kDenied: return "denied";
    case ErrorKind::kUnavailable: return "unavailable";
    case ErrorKind::kMismatch: return "mismatch";
    case ErrorKind::kIo: return "io";
    case ErrorKind::kUnsupported: return "unsupported";
    case ErrorKind::kInternal: return "internal";
  }
  return "unknown";
}

void SetLogLevel(LogLevel max_level) { g_max_level = static_cast<int>(max_level); }
void SetLogProgram(const char* program) { g_program = program; }

void Log(LogLevel level, const char* format, ...) {
  if (static_cast<int>(level) > g_max_level) return;
  static const bool kJournal = std::getenv("JOURNAL_STREAM") != nullptr;
  char text[2048];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  std::string line;
  if (kJournal) line = "<" + std::to_string(static_cast<int>(level)) + ">";
  line += g_program.load();
  line += level == LogLevel::kError ? ": error: " : level == LogLevel::kWarning ? ": warning: " : ": ";
  line += text;
  line += '\n';
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace fastoci
