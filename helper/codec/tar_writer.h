// SPDX-License-Identifier: Apache-2.0
// Headers of the tars that we make: name, mode, size and type, nothing else.
#ifndef FASTOCI_CODEC_TAR_WRITER_H_
#define FASTOCI_CODEC_TAR_WRITER_H_

#include "base/byte_reader.h"

namespace fastoci {

// One block. name: below 100 bytes; bytes: below 8 GiB; type: '0' a file, 'x' a
// PAX header.
Bytes TarHeader(const char* name, uint64_t bytes, char type, unsigned mode = 0644);

}  // namespace fastoci

#endif  // FASTOCI_CODEC_TAR_WRITER_H_
