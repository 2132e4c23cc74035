// SPDX-License-Identifier: Apache-2.0
// The assembled meta image as the broker reads it, and what it plans from it.
#include <fastoci_meta.h>
#include <sys/mman.h>

#include <algorithm>

#include "base/digest.h"
#include "base/unique_fd.h"
#include "fuzz/fuzz.h"
#include "image/meta_image.h"
#include "miss/span_plan.h"

namespace fastoci {
namespace {

constexpr size_t kFirstRegion = offsetof(fastoci_meta_sb, blobs), kRegions = 6;

void PutChecksumsRight(Bytes* file) {
  std::span<uint8_t> all(*file);
  if (all.size() < FASTOCI_META_SB_BYTES) return;
  for (size_t i = 0; i < kRegions; i++) {
    std::span<uint8_t> region = all.subspan(kFirstRegion + i * sizeof(fastoci_meta_region));
    ByteReader r(region);
    uint64_t offset = r.U64(), bytes = r.U64();
    if (offset <= all.size() && bytes <= all.size() - offset)
      PutU32(region.subspan(16, 4), Crc32c(all.subspan(offset, bytes)));
  }
  std::span<uint8_t> crc = all.subspan(offsetof(fastoci_meta_sb, crc), 4);
  PutU32(crc, 0);
  PutU32(crc, Crc32c(all.first(FASTOCI_META_SB_BYTES)));
}

void CheckPlans(const BlobInfo& blob) {
  for (uint32_t span = 0; span < std::min<size_t>(blob.spans.size(), 20); span++) {
    JobRange job = PlanRun(blob, span, 1, FASTOCI_MIN_CHUNK_SHIFT, span % 2 == 0);
    Require(job.out_begin <= job.out_end && job.out_end <= blob.data_bytes);
    Require(job.input_begin <= blob.blob_bytes && job.input_end <= blob.blob_bytes);
  }
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  Bytes file(data, data + size);
  PutChecksumsRight(&file);
  static UniqueFd fd(memfd_create("fuzz", MFD_CLOEXEC));
  Require(ftruncate(fd.get(), static_cast<off_t>(size)) == 0);
  Require(PwriteFull(fd.get(), file, 0, "fuzz").ok());
  auto meta = ReadMetaImage(fd.get(), size);
  if (meta.ok())
    for (const BlobInfo& blob : meta->blobs) CheckPlans(blob);
  return 0;
}
