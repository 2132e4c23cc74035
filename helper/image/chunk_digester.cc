// SPDX-License-Identifier: Apache-2.0
#include "image/chunk_digester.h"

#include <fastoci_meta.h>

#include <algorithm>

namespace fastoci {
namespace {

constexpr uint64_t kChunkBytes = 1ULL << FASTOCI_DIGEST_SHIFT;

}  // namespace

void ChunkDigester::Update(ByteSpan data) {
  while (!data.empty()) {
    ByteSpan part = data.first(std::min<uint64_t>(data.size(), kChunkBytes - fill_));
    hash_.Update(part);
    fill_ += part.size();
    data = data.subspan(part.size());
    if (fill_ < kChunkBytes) continue;
    Sha256Digest digest = hash_.Finish();
    digests_.insert(digests_.end(), digest.begin(), digest.end());
    fill_ = 0;
  }
}

Bytes ChunkDigester::Finish() {
  if (fill_ != 0) {
    Sha256Digest digest = hash_.Finish();
    digests_.insert(digests_.end(), digest.begin(), digest.end());
    fill_ = 0;
  }
  return std::move(digests_);
}

}  // namespace fastoci
