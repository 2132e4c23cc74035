// SPDX-License-Identifier: Apache-2.0
// What zlib and what DeflateDecoder make of a raw deflate stream, in a form that
// can be compared: for the tests of the decoder and for its fuzz target.
#ifndef FASTOCI_TESTING_DEFLATE_ORACLE_H_
#define FASTOCI_TESTING_DEFLATE_ORACLE_H_

#include <cstddef>
#include <utility>
#include <vector>

#include "base/byte_reader.h"

namespace fastoci {

inline constexpr size_t kDeflateHistory = 32768;

struct Deflated {
  bool ok = false;        // the stream is complete
  bool overran = false;   // wrote past its buffer's end
  bool too_much = false;  // stopped at max_bytes
  Bytes data;
  std::vector<std::pair<size_t, unsigned>> block_ends;  // bytes of input, bits of the last one left
  std::vector<size_t> data_at;                          // at each of them
  bool operator==(const Deflated&) const = default;
};

// max_bytes: of data, roughly.
Deflated DeflatedByZlib(const Bytes& stream, size_t max_bytes = SIZE_MAX);
// step: of the input, as far as the decoder gets on with it; room: for output.
Deflated DeflatedByDecoder(const Bytes& stream, size_t step, size_t room,
                           size_t max_bytes = SIZE_MAX);

}  // namespace fastoci

#endif  // FASTOCI_TESTING_DEFLATE_ORACLE_H_
