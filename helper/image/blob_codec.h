// SPDX-License-Identifier: Apache-2.0
// How a layer's blob is compressed: its bytes decide, whatever its media type says,
// as they do for docker.
#ifndef FASTOCI_IMAGE_BLOB_CODEC_H_
#define FASTOCI_IMAGE_BLOB_CODEC_H_

#include <fastoci_meta.h>

#include <cstddef>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

// How many of a blob's first bytes CodecOfBytes() needs. A shorter blob is given whole.
inline constexpr size_t kBlobMagicBytes = 6;

// RAW, GZIP or ZSTD. kUnsupported for bzip2 and xz, although docker unpacks them.
Result<fastoci_codec> CodecOfBytes(ByteSpan begin);

// Whether a layer of this type is converted: a type that CodecOfMediaType() knows,
// or none.
bool IsLayerMediaType(const std::string& media_type);

// The media type of the original layer, as the converted image names it. It is the
// original's own type if that is right for the codec and known to overlaybd, otherwise
// OCI's type for the codec.
std::string TargetMediaType(fastoci_codec codec, const std::string& original);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_BLOB_CODEC_H_
