// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_BASE_LOWER_H_
#define FASTOCI_BASE_LOWER_H_

#include <string>
#include <utility>

namespace fastoci {

// In lower case, as protocols compare names: A to Z alone, whatever the locale is.
inline std::string Lower(std::string text) {
  for (char& c : text)
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
  return text;
}

}  // namespace fastoci

#endif  // FASTOCI_BASE_LOWER_H_
