// SPDX-License-Identifier: Apache-2.0
// gzip.meta and fastoci.gzip: what Parse() takes keeps the promises of its
// header, and any of its entries can be entered with any input.
#include <algorithm>

#include "base/digest.h"
#include "codec/gzip_format.h"
#include "codec/gzip_index.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  Bytes file(data, data + size);
  if (file.size() >= kGzipIndexHeaderBytes) {
    size_t at = kGzipIndexHeaderBytes - 4;
    PutU32(std::span(file).subspan(at, 4), Crc32cRaw(0, ByteSpan(file).first(at)));
  }
  auto index = GzipIndex::Parse(file);
  if (!index.ok()) return 0;
  const auto& entries = index->entries();
  Require(!entries.empty() && entries[0].data_offset == 0);
  for (size_t i = 1; i < entries.size(); i++)
    Require(entries[i].data_offset > entries[i - 1].data_offset &&
            entries[i].blob_offset() >= entries[i - 1].blob_offset());
  Bytes out(1 << 16);
  for (size_t i = 0; i < std::min<size_t>(entries.size(), 4); i++) {
    Require(index->FindEntry(entries[i].data_offset) == i);
    for (GzipEngine engine : {GzipEngine::kIsal, GzipEngine::kZlib}) {
      auto stream = GzipStream::Open(*index, i, engine);
      if (stream.ok()) (void)stream->Decode(file, out).ok();
    }
  }
  return 0;
}
