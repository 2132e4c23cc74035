// SPDX-License-Identifier: Apache-2.0
// Decodes a raw deflate stream with zlib and with DeflateDecoder. The results can be
// compared. For the tests of the decoder and for its fuzz target.
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
// step: how much input the decoder gets at a time; more if it cannot go on with that. room:
// space for output.
Deflated DeflatedByDecoder(const Bytes& stream, size_t step, size_t room,
                           size_t max_bytes = SIZE_MAX);

}  // namespace fastoci

#endif  // FASTOCI_TESTING_DEFLATE_ORACLE_H_
