// SPDX-License-Identifier: Apache-2.0
// Text for people: printf into a string, and numbers of things.
#ifndef FASTOCI_BASE_FORMAT_H_
#define FASTOCI_BASE_FORMAT_H_

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <string>

namespace fastoci {

// Cut at 511 bytes.
__attribute__((format(printf, 1, 2))) inline std::string Format(const char* format, ...) {
  char text[512];
  va_list args;
  va_start(args, format);
  std::vsnprintf(text, sizeof(text), format, args);
  va_end(args);
  return text;
}

// "1 request", "2 requests". many: the plural, if it is not the singular with an s.
inline std::string Counted(uint64_t n, const std::string& one, const std::string& many = "") {
  return std::to_string(n) + " " + (n == 1 ? one : many.empty() ? one + "s" : many);
}

// "2026-11-30T09:08:58Z", as RFC 3339 has it.
inline std::string UtcTime(std::time_t time) {
  std::tm utc = {};
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", ::gmtime_r(&time, &utc));
  return text;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_FORMAT_H_
