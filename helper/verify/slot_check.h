// SPDX-License-Identifier: Apache-2.0
// What lies in a slot, compared with what its digests say.
#ifndef FASTOCI_VERIFY_SLOT_CHECK_H_
#define FASTOCI_VERIFY_SLOT_CHECK_H_

#include <string>

#include "cache/cache.h"
#include "image/meta_image.h"

namespace fastoci {

enum class SlotVerdict {
  kGood,   // it is served, and its row is known
  kGone,   // somebody else has the slot by now
  kWrong,  // the chunk was taken out of service
};

struct SlotCheck {
  SlotVerdict verdict = SlotVerdict::kGone;
  std::string why;  // kWrong
};

// Reads what.slot and compares it with the digests of the blob. If a restored chunk is right, it
// is served from then on. Waits for the device. buffer: of the cache's chunk size. blob: that of
// what.space.
SlotCheck CheckSlot(Cache* cache, const BlobInfo& blob, const Cache::Unchecked& what,
                    AlignedBuffer* buffer);

}  // namespace fastoci

#endif  // FASTOCI_VERIFY_SLOT_CHECK_H_
