// SPDX-License-Identifier: Apache-2.0
// Text for people: printf into a string, numbers of things, sizes and times.
#ifndef FASTOCI_BASE_FORMAT_H_
#define FASTOCI_BASE_FORMAT_H_

#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <ctime>
#include <iterator>
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

// "512 B", "1.5 MiB".
inline std::string HumanBytes(uint64_t bytes) {
  const char* units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  double v = static_cast<double>(bytes);
  size_t unit = 0;
  for (; v >= 1024 && unit + 1 < std::size(units); unit++) v /= 1024;
  return unit == 0 ? Format("%.0f %s", v, units[unit]) : Format("%.1f %s", v, units[unit]);
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
