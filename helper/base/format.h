// SPDX-License-Identifier: Apache-2.0
// printf into a string.
#ifndef FASTOCI_BASE_FORMAT_H_
#define FASTOCI_BASE_FORMAT_H_

#include <cstdarg>
#include <cstdio>
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

}  // namespace fastoci

#endif  // FASTOCI_BASE_FORMAT_H_
