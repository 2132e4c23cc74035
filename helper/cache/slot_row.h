// SPDX-License-Identifier: Apache-2.0
// SlotRow: what the database remembers of one slot.
#ifndef FASTOCI_CACHE_SLOT_ROW_H_
#define FASTOCI_CACHE_SLOT_ROW_H_

#include <cstdint>

#include "base/digest.h"

namespace fastoci {

struct SlotRow {
  Sha256Digest space_id{};
  uint32_t chunk_no = 0;
  uint32_t slot = 0;
  // SHA-256 of the chunk's data up to the end of the data space. If a chunk is larger
  // than 64 KiB, SHA-256 of the list of its 64 KiB digests.
  Sha256Digest digest{};
  uint64_t data_bytes = 0;  // of the data space
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_SLOT_ROW_H_
