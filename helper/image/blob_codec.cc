// SPDX-License-Identifier: Apache-2.0
#include "image/blob_codec.h"

#include <algorithm>
#include <array>
#include <span>

#include "image/assemble.h"

namespace fastoci {
namespace {

constexpr std::array<uint8_t, 3> kGzip = {0x1f, 0x8b, 0x08};
constexpr std::array<uint8_t, 4> kZstd = {0x28, 0xb5, 0x2f, 0xfd};
// Behind a byte of which the upper half is 5.
constexpr std::array<uint8_t, 3> kZstdSkippable = {0x2a, 0x4d, 0x18};
constexpr std::array<uint8_t, 3> kBzip2 = {'B', 'Z', 'h'};
constexpr std::array<uint8_t, 6> kXz = {0xfd, '7', 'z', 'X', 'Z', 0};

bool StartsWith(ByteSpan data, std::span<const uint8_t> magic) {
  return data.size() >= magic.size() && std::equal(magic.begin(), magic.end(), data.begin());
}

Error Unsupported(const std::string& what) {
  return {ErrorKind::kUnsupported, EOPNOTSUPP,
          "the layer is compressed with " + what + "; FastOCI reads layers in gzip, in zstd and without compression"};
}

}  // namespace

Result<fastoci_codec> CodecOfBytes(ByteSpan begin) {
  if (StartsWith(begin, kGzip)) return FASTOCI_CODEC_GZIP;
  if (StartsWith(begin, kZstd)) return FASTOCI_CODEC_ZSTD;
  if (!begin.empty() && begin[0] >> 4 == 5 && StartsWith(begin.subspan(1), kZstdSkippable)) return FASTOCI_CODEC_ZSTD;
  if (StartsWith(begin, kBzip2)) return Unsupported("bzip2");
  if (StartsWith(begin, kXz)) return Unsupported("xz");
  return FASTOCI_CODEC_RAW;
}

bool IsLayerMediaType(const std::string& media_type) {
  return media_type.empty() || CodecOfMediaType(media_type).ok();
}

std::string TargetMediaType(fastoci_codec codec, const std::string& original) {
  const auto said = CodecOfMediaType(original);
  // overlaybd takes a target of a type like tar+gzip, but of layers that may not be distributed, for a plain tar.
  const bool known = original.find("nondistributable") == std::string::npos && original.find("foreign") == std::string::npos;
  if (said.ok() && *said == codec && known) return original;
  const std::string tar = "application/vnd.oci.image.layer.v1.tar";
  return codec == FASTOCI_CODEC_GZIP ? tar + "+gzip" : codec == FASTOCI_CODEC_ZSTD ? tar + "+zstd" : tar;
}

}  // namespace fastoci
