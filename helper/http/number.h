// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_HTTP_NUMBER_H_
#define FASTOCI_HTTP_NUMBER_H_

#include <charconv>
#include <cstdint>
#include <string>

namespace fastoci {

// A header's value that is one decimal number and nothing else.
inline bool ParseDecimal(const std::string& text, uint64_t* value) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return code == std::errc() && end == text.data() + text.size() && !text.empty();
}

}  // namespace fastoci

#endif  // FASTOCI_HTTP_NUMBER_H_
