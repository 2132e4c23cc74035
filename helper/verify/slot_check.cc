// SPDX-License-Identifier: Apache-2.0
#include "verify/slot_check.h"

#include "verify/chunk_check.h"

namespace fastoci {

SlotCheck CheckSlot(Cache* cache, const BlobInfo& blob, const Cache::Unchecked& what,
                    AlignedBuffer* buffer) {
  uint32_t slot = what.slot;
  if (!what.present) {
    auto claimed = cache->Claim(what.space, what.chunk_no);
    if (!claimed) return {};
    slot = *claimed;
  }
  const std::span<uint8_t> data(buffer->data(), cache->chunk_bytes());
  Status read = cache->device()->ReadSlot(slot, data);
  auto digest = read.ok() ? CheckChunk(blob, what.chunk_no, data) : std::nullopt;
  if (digest && blob.digests.empty()) {
    auto row = cache->RowOf(slot);
    if (row ? row->digest != *digest || row->chunk_no != what.chunk_no : !what.present)
      digest = std::nullopt;
  }
  if (digest) {
    SlotRow row{.space_id = blob.data_space_id,
                .chunk_no = what.chunk_no,
                .slot = slot,
                .digest = *digest,
                .data_bytes = blob.data_bytes};
    if (what.present) {
      cache->Adopt(row);
      return {SlotVerdict::kGood, ""};
    }
    return {cache->Publish(what.space, row).ok() ? SlotVerdict::kGood : SlotVerdict::kGone, ""};
  }
  if (what.present) {
    // The slot may have been evicted and filled anew while it was read.
    auto where = cache->Find(what.space, what.chunk_no);
    if (!where || where->slot != slot) return {};
    cache->EvictChunk(what.space, what.chunk_no);
  } else {
    cache->Drop({&slot, 1});
  }
  return {SlotVerdict::kWrong, read.ok() ? "its content is not what its digest says"
                                         : read.error().message};
}

}  // namespace fastoci
