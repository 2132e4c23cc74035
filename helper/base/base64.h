// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_BASE64_H_
#define FASTOCI_BASE_BASE64_H_

#include <string>

#include "base/result.h"

namespace fastoci {

// RFC 4648's standard alphabet, with padding.
std::string Base64Encode(const std::string& bytes);

// Takes text with or without padding, and with or without a line end after it. Any
// other character outside of the alphabet is kInvalid.
Result<std::string> Base64Decode(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_BASE_BASE64_H_
