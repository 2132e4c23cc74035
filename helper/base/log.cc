// SPDX-License-Identifier: Apache-2.0
#include "base/log.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <utility>

#include "base/event.h"
#include "base/utf8.h"

namespace fastoci {
namespace {

std::atomic<int> g_max_level{static_cast<int>(LogLevel::kInfo)};
std::atomic<const char*> g_program{"fastoci"};
const EventFields kPlain;
LogSink g_sink;

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

void SetLogSink(LogSink sink) { g_sink = std::move(sink); }

// A value with a newline in it goes with its length instead of "=".
std::string JournalRecord(LogLevel level, const char* program, const EventFields& fields,
                          const std::string& text) {
  std::string record;
  auto put = [&](const char* name, const std::string& value) {
    if (value.empty()) return;
    record += name;
    if (value.find('\n') == std::string::npos) {
      record += '=';
    } else {
      record += '\n';
      for (uint64_t size = value.size(), i = 0; i < 8; i++, size >>= 8)
        record += static_cast<char>(size & 0xff);
    }
    record += value + "\n";
  };
  put("PRIORITY", std::to_string(static_cast<int>(level)));
  put("SYSLOG_IDENTIFIER", program);
  put("MESSAGE", text);
  put("FASTOCI_EVENT", fields.kind);
  put("FASTOCI_IMAGE", fields.image);
  put("FASTOCI_IMAGE_ID", fields.image_id);
  put("FASTOCI_BLOB", fields.blob);
  if (fields.chunk) put("FASTOCI_CHUNK", std::to_string(*fields.chunk));
  if (fields.count > 0) put("FASTOCI_COUNT", std::to_string(fields.count));
  return record;
}

namespace {

// Whether stderr goes to the journal. Only then records go to the journal's socket, in place of stderr.
bool StderrIsJournal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  unsigned long long dev, inode;
  struct stat st;
  return stream && std::sscanf(stream, "%llu:%llu", &dev, &inode) == 2 &&
         ::fstat(STDERR_FILENO, &st) == 0 && st.st_dev == dev && st.st_ino == inode;
}

int JournalSocket() {
  const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  std::strcpy(address.sun_path, "/run/systemd/journal/socket");
  if (fd >= 0 && ::connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0)
    return fd;
  if (fd >= 0) ::close(fd);
  return -1;
}

// Plain messages have no fields that matter. They go to stderr, in order with the
// messages of the programs that share it.
bool SendToJournal(LogLevel level, const EventFields& fields, const std::string& text) {
  static const bool kJournal = StderrIsJournal();
  if (!kJournal || fields.kind == kPlain.kind) return false;
  static const int kSocket = JournalSocket();
  const std::string record = JournalRecord(level, g_program.load(), fields, text);
  return kSocket >= 0 && ::send(kSocket, record.data(), record.size(), MSG_NOSIGNAL) ==
                             static_cast<ssize_t>(record.size());
}

void Emit(LogLevel level, const EventFields& fields, const char* format, va_list args) {
  static const bool kPrefix = std::getenv("JOURNAL_STREAM") != nullptr;
  char raw[2048];
  std::vsnprintf(raw, sizeof(raw), format, args);
  const std::string text = Printable(raw);  // some of it comes from registries and images
  if (g_sink) g_sink(level, fields, text);
  if (static_cast<int>(level) > g_max_level || SendToJournal(level, fields, text)) return;
  std::string line;
  if (kPrefix) line = "<" + std::to_string(static_cast<int>(level)) + ">";
  line += g_program.load();
  line += level == LogLevel::kError ? ": error: " : level == LogLevel::kWarning ? ": warning: " : ": ";
  line += text;
  line += '\n';
  (void)!::write(STDERR_FILENO, line.data(), line.size());
}

}  // namespace

void Log(LogLevel level, const char* format, ...) {
  if (static_cast<int>(level) > g_max_level) return;
  va_list args;
  va_start(args, format);
  Emit(level, kPlain, format, args);
  va_end(args);
}

void LogEvent(LogLevel level, const EventFields& fields, const char* format, ...) {
  va_list args;
  va_start(args, format);
  Emit(level, fields, format, args);
  va_end(args);
}

}  // namespace fastoci
