// SPDX-License-Identifier: Apache-2.0
// Constants of LSMT files that their reader and their writer share.
#ifndef FASTOCI_CODEC_LSMT_FORMAT_H_
#define FASTOCI_CODEC_LSMT_FORMAT_H_

#include <array>
#include <cstdint>

namespace fastoci {

inline constexpr std::array<uint8_t, 24> kLsmtMagic = {
    0x4c, 0x53, 0x4d, 0x54, 0x00, 0x01, 0x02, 0x00, 0x65, 0x7e, 0x63, 0xd2,
    0x94, 0x44, 0x08, 0x4c, 0xa2, 0xd2, 0xc8, 0xec, 0x4f, 0xcf, 0xae, 0x8a};
inline constexpr uint32_t kLsmtStructBytes = 390;
// Flags.
inline constexpr uint32_t kLsmtHeader = 1, kLsmtDataFile = 2, kLsmtSealed = 4, kLsmtSparse = 16;
// Index entries.
inline constexpr uint64_t kLsmtInvalidSector = (1ULL << 50) - 1, kLsmtMappedMask = (1ULL << 55) - 1;
inline constexpr int kLsmtLengthShift = 50, kLsmtZeroedBit = 55, kLsmtTagShift = 56;
inline constexpr uint64_t kLsmtBlockSectors = 8;

}  // namespace fastoci

#endif  // FASTOCI_CODEC_LSMT_FORMAT_H_
