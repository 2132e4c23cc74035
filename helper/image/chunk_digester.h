// SPDX-License-Identifier: Apache-2.0
// SHA-256 per 64 KiB of a stream, the last part short.
#ifndef FASTOCI_IMAGE_CHUNK_DIGESTER_H_
#define FASTOCI_IMAGE_CHUNK_DIGESTER_H_

#include "base/byte_reader.h"
#include "base/digest.h"

namespace fastoci {

class ChunkDigester {
 public:
  void Update(ByteSpan data);
  Bytes Finish();

 private:
  Sha256 hash_;
  uint64_t fill_ = 0;
  Bytes digests_;
};

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_CHUNK_DIGESTER_H_
