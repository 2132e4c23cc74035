// SPDX-License-Identifier: Apache-2.0
// Constants of gzip.meta that its writer and its reader share.
#ifndef FASTOCI_CODEC_GZIP_FORMAT_H_
#define FASTOCI_CODEC_GZIP_FORMAT_H_

#include <array>
#include <cstddef>
#include <cstdint>

namespace fastoci {

inline constexpr std::array<uint8_t, 8> kGzipIndexMagic = {'d', 'd', 'g', 'z', 'i', 'd', 'x', 0};
// Major versions: of one member; of many (ours, see docs/meta-format.md).
inline constexpr uint8_t kGzipIndexVersion = 1, kGzipIndexMembers = 2;
inline constexpr size_t kGzipIndexHeaderBytes = 333;
inline constexpr size_t kGzipIndexEntryBytes = 29;
inline constexpr uint64_t kMinGzipHeaderBytes = 10;
inline constexpr uint64_t kMaxGzipBytes = 1ULL << 44;  // as FASTOCI_MAX_DATA_BYTES

}  // namespace fastoci

#endif  // FASTOCI_CODEC_GZIP_FORMAT_H_
