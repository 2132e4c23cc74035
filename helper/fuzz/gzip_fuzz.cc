// SPDX-License-Identifier: Apache-2.0
// A gzip blob of any form: what GzipIndexBuilder takes, zlib takes with the same
// output, and every entry of the index that it makes decodes to the same bytes.
#define ZLIB_CONST
#include <zlib.h>

#include <algorithm>

#include "codec/gzip_index.h"
#include "fuzz/fuzz.h"

namespace fastoci {
namespace {

constexpr size_t kMaxOut = 1 << 20;

// All members; false: zlib refuses, or it is more than kMaxOut.
bool WithZlib(ByteSpan in, Bytes* out) {
  z_stream z{};
  Require(inflateInit2(&z, 15 + 16) == Z_OK);
  out->resize(kMaxOut);
  z.next_in = in.data();
  z.avail_in = static_cast<uInt>(in.size());
  z.next_out = out->data();
  z.avail_out = static_cast<uInt>(out->size());
  int rc;
  for (;;) {
    rc = inflate(&z, Z_FINISH);
    if (rc != Z_STREAM_END) break;
    while (z.avail_in > 0 && *z.next_in == 0) z.next_in++, z.avail_in--;
    if (z.avail_in == 0) break;
    uInt room = z.avail_out;
    Bytef* next = z.next_out;
    if (inflateReset(&z) != Z_OK) break;
    z.next_out = next;
    z.avail_out = room;
  }
  out->resize(kMaxOut - z.avail_out);
  inflateEnd(&z);
  return rc == Z_STREAM_END;
}

// Up to 70,000 bytes from entry number `entry` on, as readers do: one stream to
// the member's end, where the next entry stands.
void CheckEntry(const GzipIndex& index, size_t entry, ByteSpan blob, ByteSpan want) {
  uint64_t at = index.entries()[entry].data_offset;
  want = want.subspan(at, std::min<uint64_t>(want.size() - at, 70000));
  Bytes out(want.size());
  for (size_t done = 0; done < out.size();) {
    const GzipIndexEntry& e = index.entries()[index.FindEntry(at + done)];
    Require(e.data_offset == at + done);
    auto stream = GzipStream::Open(index, index.FindEntry(at + done));
    Require(stream.ok());
    ByteSpan in = blob.subspan(e.blob_offset());
    for (bool ended = false; !ended && done < out.size();) {
      auto p = stream->Decode(in, std::span(out).subspan(done));
      Require(p.ok() && (p->produced > 0 || p->consumed > 0));
      in = in.subspan(p->consumed);
      done += p->produced;
      ended = p->ended;
    }
  }
  Require(std::equal(out.begin(), out.end(), want.begin()));
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  ByteSpan blob(data, size);
  Bytes got, want;
  GzipIndexOptions options;
  options.span_bytes = 500;
  auto builder = GzipIndexBuilder::Create(options, [&got](ByteSpan part) {
    if (got.size() + part.size() > kMaxOut) return Status(InvalidError("enough"));
    got.insert(got.end(), part.begin(), part.end());
    return OkStatus();
  });
  Require(builder.ok());
  if (!builder->Update(blob).ok()) return 0;
  auto file = builder->Finish();
  if (!file.ok()) return 0;
  Require(WithZlib(blob, &want) && got == want);
  auto index = GzipIndex::Parse(*file);
  if (got.empty()) return 0;
  Require(index.ok());
  for (size_t i = 0; i < std::min<size_t>(index->entries().size(), 8); i++)
    CheckEntry(*index, i, blob, want);
  return 0;
}
