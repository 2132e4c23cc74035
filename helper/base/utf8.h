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

}  // namespace fastoci

#endif  // FASTOCI_BASE_UTF8_H_
