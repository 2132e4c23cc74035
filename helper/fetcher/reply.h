// SPDX-License-Identifier: Apache-2.0
// Parts of replies that several places fill in.
#ifndef FASTOCI_FETCHER_REPLY_H_
#define FASTOCI_FETCHER_REPLY_H_

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/result.h"
#include "fetcher/protocol.h"

namespace fastoci {

// Copies what fits with a NUL behind it; a text that is cut ends with "...".
template <size_t kBytes>
void SetText(char (&field)[kBytes], const std::string& text) {
  size_t n = std::min(text.size(), kBytes - 1);
  std::memcpy(field, text.data(), n);
  field[n] = '\0';
  if (n < text.size()) std::memcpy(field + kBytes - 4, "...", 3);
}

// The errno that the kernel is told for an Error, 1..4095.
int KernelErrno(const Error& error);

// Message: ControlMessage or WorkReply.
template <typename Message>
void SetFailure(Message* m, const Error& error) {
  m->err = KernelErrno(error);
  m->kind = static_cast<uint32_t>(error.kind);
  SetText(m->text, error.message);
}

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_REPLY_H_
