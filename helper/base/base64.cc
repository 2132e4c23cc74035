// SPDX-License-Identifier: Apache-2.0
#include "base/base64.h"

#include <algorithm>
#include <cstdint>

namespace fastoci {
namespace {

constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

}  // namespace

Result<std::string> Base64Decode(const std::string& text) {
  std::string out;
  uint32_t bits = 0;
  int nr_bits = 0;
  size_t end = text.find_last_not_of("=\r\n");
  for (size_t i = 0; end != std::string::npos && i <= end; i++) {
    const char* p = text[i] == '\0' ? nullptr : std::char_traits<char>::find(kAlphabet, 64, text[i]);
    if (p == nullptr) return InvalidError("bad base64");
    bits = (bits << 6 | static_cast<uint32_t>(p - kAlphabet)) & 0xffffff;
    nr_bits += 6;
    if (nr_bits >= 8) {
      nr_bits -= 8;
      out += static_cast<char>(bits >> nr_bits & 0xff);
    }
  }
  return out;
}

std::string Base64Encode(const std::string& bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; k++)
      v = v << 8 | (k < n ? static_cast<uint8_t>(bytes[i + k]) : 0U);
    for (size_t k = 0; k < 4; k++)
      out += k <= n ? kAlphabet[v >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

}  // namespace fastoci
