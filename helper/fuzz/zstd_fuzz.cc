// SPDX-License-Identifier: Apache-2.0
// fastoci.zstd, and zstd blobs: what ZstdIndexBuilder takes is indexed in a form
// that Parse() takes, the same one however the blob is cut, and every entry decodes
// to the same bytes.
#include <algorithm>

#include "codec/zstd_index.h"
#include "fuzz/fuzz.h"

namespace fastoci {
namespace {

constexpr size_t kMaxOut = 1 << 20;

struct Built {
  bool ok = false;
  Bytes data, file;
};

Built Build(ByteSpan blob, size_t step) {
  Built b;
  auto builder = ZstdIndexBuilder::Create({.span_bytes = 300}, [&b](ByteSpan part) {
    if (b.data.size() + part.size() > kMaxOut) return Status(InvalidError("enough"));
    b.data.insert(b.data.end(), part.begin(), part.end());
    return OkStatus();
  });
  Require(builder.ok());
  for (; !blob.empty(); blob = blob.subspan(std::min(step, blob.size())))
    if (!builder->Update(blob.first(std::min(step, blob.size()))).ok()) return b;
  auto file = builder->Finish();
  b.ok = file.ok();
  if (b.ok) b.file = *file;
  return b;
}

void CheckEntry(const ZstdIndexEntry& entry, ByteSpan blob, ByteSpan want) {
  auto stream = ZstdStream::Open();
  Require(stream.ok());
  want = want.subspan(entry.data_offset);
  Bytes out(want.size());
  ByteSpan in = blob.subspan(entry.blob_offset);
  for (size_t done = 0; done < out.size();) {
    auto p = stream->Decode(in, std::span(out).subspan(done));
    Require(p.ok() && (p->produced > 0 || p->consumed > 0));
    in = in.subspan(p->consumed);
    done += p->produced;
  }
  Require(std::equal(out.begin(), out.end(), want.begin()));
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  ByteSpan blob(data, size);
  (void)ZstdIndex::Parse(blob);
  Built b = Build(blob, 1 << 20);
  if (size < 2000) {
    // Whether a corrupt frame is noticed may depend on the cut: libzstd decodes a frame that it has
    // whole another way, with other checks. A layer's diff id tells then.
    Built cut = Build(blob, 7);
    Require(!cut.ok || !b.ok || (cut.file == b.file && cut.data == b.data));
  }
  if (!b.ok) return 0;
  if (b.file.empty()) {  // no data has no index
    Require(b.data.empty());
    return 0;
  }
  auto index = ZstdIndex::Parse(b.file);
  Require(index.ok());
  for (size_t i = 0; i < std::min<size_t>(index->entries().size(), 8); i++)
    CheckEntry(index->entries()[i], blob, b.data);
  return 0;
}
