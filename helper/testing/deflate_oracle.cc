// SPDX-License-Identifier: Apache-2.0
#include "testing/deflate_oracle.h"

#include <zlib.h>

#include <algorithm>

#include "codec/deflate_decoder.h"

namespace fastoci {

Deflated DeflatedByZlib(const Bytes& stream, size_t max_bytes) {
  Deflated d;
  z_stream z{};
  if (inflateInit2(&z, -MAX_WBITS) != Z_OK) return d;
  z.next_in = const_cast<Bytef*>(stream.data());
  z.avail_in = static_cast<uInt>(stream.size());
  Bytes buffer(std::min<size_t>(max_bytes, 1 << 20));
  int rc = Z_OK;
  while (rc == Z_OK && !d.too_much) {
    z.next_out = buffer.data();
    z.avail_out = static_cast<uInt>(buffer.size());
    size_t in_before = z.avail_in;
    rc = inflate(&z, Z_BLOCK);
    size_t n = buffer.size() - z.avail_out;
    d.data.insert(d.data.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(n));
    if (rc == Z_OK && (z.data_type & 128) != 0 && (z.data_type & 64) == 0) {
      d.block_ends.emplace_back(stream.size() - z.avail_in, z.data_type & 7);
      d.data_at.push_back(d.data.size());
    }
    if (rc == Z_OK && n == 0 && in_before == z.avail_in) break;
    d.too_much = d.data.size() >= max_bytes;
  }
  d.ok = rc == Z_STREAM_END;
  inflateEnd(&z);
  return d;
}

Deflated DeflatedByDecoder(const Bytes& stream, size_t step, size_t room, size_t max_bytes) {
  Deflated d;
  DeflateDecoder decoder;
  decoder.Restart();
  Bytes buffer(kDeflateHistory + room + DeflateDecoder::kOutputMargin);
  DeflateDecoder::Output out;
  out.buffer = buffer;
  out.fill = kDeflateHistory;
  size_t at = 0, given = 0;
  while (!d.too_much) {
    out.first = out.fill - std::min(out.fill, d.data.size());
    size_t fill = out.fill;
    given = std::min(stream.size(), std::max(given, at + step));
    ByteSpan in = ByteSpan(stream).subspan(at, given - at);
    auto event = decoder.Decode(&in, given == stream.size(), &out);
    if (!event.ok()) return d;
    d.overran = d.overran || out.fill > buffer.size();
    at = given - in.size();
    d.data.insert(d.data.end(), buffer.begin() + static_cast<ptrdiff_t>(fill),
                  buffer.begin() + static_cast<ptrdiff_t>(out.fill));
    d.too_much = d.data.size() >= max_bytes;
    switch (*event) {
      case DeflateDecoder::Event::kNeedInput: given += step; break;
      case DeflateDecoder::Event::kBlockEnd:
        d.block_ends.emplace_back(at, decoder.bits());
        d.data_at.push_back(d.data.size());
        break;
      case DeflateDecoder::Event::kOutputFull:
        std::copy(buffer.begin() + static_cast<ptrdiff_t>(out.fill - kDeflateHistory),
                  buffer.begin() + static_cast<ptrdiff_t>(out.fill), buffer.begin());
        out.fill = kDeflateHistory;
        break;
      case DeflateDecoder::Event::kStreamEnd: d.ok = true; return d;
    }
  }
  return d;
}

}  // namespace fastoci
