// SPDX-License-Identifier: Apache-2.0
// Text from others that should be UTF-8 and may not be.
#ifndef FASTOCI_BASE_UTF8_H_
#define FASTOCI_BASE_UTF8_H_

#include <string>
#include <string_view>

namespace fastoci {

// Replaces each byte that belongs to no character by U+FFFD, as Go's encoding/json does.
// Surrogates and overlong forms are not characters.
std::string ReplaceBadUtf8(std::string_view text);

// The same, for logs and terminals: control characters, with which others could forge lines or
// command a terminal, become '?', and line breaks and tabs become spaces. PrintableLines()
// leaves those two as they are.
std::string Printable(std::string_view text);
std::string PrintableLines(std::string_view text);

}  // namespace fastoci

#endif  // FASTOCI_BASE_UTF8_H_
