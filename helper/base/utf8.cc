// SPDX-License-Identifier: Apache-2.0
#include "base/utf8.h"

#include <cstddef>
#include <cstdint>

namespace fastoci {
namespace {

constexpr char kReplacement[] = "\xef\xbf\xbd";

// Length of the character at the text's begin; 0: the bytes there are not UTF-8.
size_t CharacterBytes(std::string_view text) {
  auto at = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
  const uint8_t first = at(0);
  if (first < 0x80) return 1;
  if (first < 0xc2 || first > 0xf4) return 0;
  const size_t n = first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
  if (text.size() < n) return 0;
  for (size_t i = 1; i < n; i++)
    if (at(i) >> 6 != 2) return 0;
  const uint8_t second = at(1);
  const bool overlong = (first == 0xe0 && second < 0xa0) || (first == 0xf0 && second < 0x90);
  const bool surrogate = first == 0xed && second > 0x9f;
  const bool beyond = first == 0xf4 && second > 0x8f;
  return overlong || surrogate || beyond ? 0 : n;
}

// Also those of U+0080 to U+009F, which terminals obey, too.
bool IsControl(std::string_view character) {
  const auto first = static_cast<uint8_t>(character[0]);
  if (character.size() == 1) return first < ' ' || first == 0x7f;
  return character.size() == 2 && first == 0xc2 && static_cast<uint8_t>(character[1]) < 0xa0;
}

std::string WithoutControls(std::string_view text, bool keep_lines) {
  const std::string good = ReplaceBadUtf8(text);
  std::string out;
  for (std::string_view rest = good; !rest.empty();) {
    const std::string_view character = rest.substr(0, CharacterBytes(rest));
    rest.remove_prefix(character.size());
    if (!IsControl(character)) out += character;
    else if (character != "\n" && character != "\t") out += '?';
    else out += keep_lines ? character[0] : ' ';
  }
  return out;
}

}  // namespace

std::string Printable(std::string_view text) { return WithoutControls(text, false); }
std::string PrintableLines(std::string_view text) { return WithoutControls(text, true); }

std::string ReplaceBadUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  while (!text.empty()) {
    const size_t n = CharacterBytes(text);
    if (n == 0) {
      out += kReplacement;
      text.remove_prefix(1);
    } else {
      out += text.substr(0, n);
      text.remove_prefix(n);
    }
  }
  return out;
}

}  // namespace fastoci
