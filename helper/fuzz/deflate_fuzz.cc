// SPDX-License-Identifier: Apache-2.0
// DeflateDecoder takes what zlib takes, with the same output and block ends,
// however input and output are cut (the first two bytes say how).
#include "fuzz/fuzz.h"
#include "testing/deflate_oracle.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  constexpr size_t kMaxOut = 1 << 20;
  if (size < 2) return 0;
  size_t step = 1 + data[0] * data[0], room = 1 + data[1] * data[1];
  Bytes stream(data + 2, data + size);
  Deflated want = DeflatedByZlib(stream, kMaxOut);
  Deflated got = DeflatedByDecoder(stream, step, room, kMaxOut);
  Require(!got.overran);
  if (want.too_much || got.too_much) return 0;  // both stop somewhere
  Require(got.ok == want.ok && (!want.ok || got == want));
  return 0;
}
