// SPDX-License-Identifier: Apache-2.0
// ZFile, bare and as a native layer in its tar wrapper: blocks within the file,
// and an index that survives being cut out.
#include <algorithm>

#include "codec/overlaybd_layer.h"
#include "codec/zfile.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  MemoryFile file({data, size});
  if (auto layer = OverlaybdLayer::Open(&file); layer.ok()) {
    Require((*layer)->payload_offset() % kSectorBytes == 0);
    for (const LsmtSegment& s : (*layer)->DataSpaceSegments())
      Require(s.source == LsmtSource::kZero ||
              (s.mapped + s.nr_sectors) * kSectorBytes <= (*layer)->data_bytes());
  }
  auto reader = ZFileReader::Open(&file);
  if (!reader.ok()) return 0;
  const ZFileIndex& index = reader->index();
  Require(index.block_offset(index.nr_blocks()) <= size);
  auto again = ZFileIndex::Parse(index.Serialize(512));
  Require(again.ok() && again->data_bytes() == index.data_bytes() &&
          again->nr_blocks() == index.nr_blocks() && again->payload_offset() == 512);
  Bytes out(std::min<uint64_t>(reader->size(), 1 << 20));
  (void)reader->ReadAt(0, out).ok();
  (void)reader->ReadAt(reader->size() - std::min<uint64_t>(reader->size(), 100),
                       std::span(out).first(std::min<uint64_t>(out.size(), 100)))
      .ok();
  return 0;
}
