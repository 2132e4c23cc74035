// SPDX-License-Identifier: Apache-2.0
// Compares what a layer's metadata promises with the whole of its blob: the
// blob's digest, the data that comes out from the blob's begin on, each chunk
// digest, and what each entry of the index gives when decoding begins there.
#ifndef FASTOCI_IMAGE_CONTENT_CHECK_H_
#define FASTOCI_IMAGE_CONTENT_CHECK_H_

#include <cstdint>

#include "base/byte_reader.h"
#include "base/digest.h"
#include "base/result.h"
#include "codec/read_at.h"
#include "codec/zfile.h"
#include "image/meta_layer.h"

namespace fastoci {

// For a tar, a tar+gzip (of any number of members) or a tar+zstd; the index in the meta
// layer tells which. The meta layer may have no chunk digests. kMismatch: the message says
// what differs, and where.
Status CheckTarBlob(const ReadAtFile& blob, const Sha256Digest& digest,
                    const MetaLayerFiles& meta);

// All blocks of a ZFile decode, with their checksums. chunk_digests: of its data,
// or empty.
Status CheckZFileBlob(const ReadAtFile& blob, const Sha256Digest& digest, const ZFileIndex& index,
                      uint64_t payload_offset, ByteSpan chunk_digests);

Status CheckBlobDigest(const ReadAtFile& blob, const Sha256Digest& digest);

// The same of a layer of which the meta layer says that it unpacks to nothing.
Status CheckEmptyBlob(const ReadAtFile& blob, const Sha256Digest& digest);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_CONTENT_CHECK_H_
