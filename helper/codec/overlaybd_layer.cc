// SPDX-License-Identifier: Apache-2.0
#include "codec/overlaybd_layer.h"

#include <algorithm>
#include <string>

#include "codec/tar_reader.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxWrapperBytes = 64 << 10;  // of headers before the payload
constexpr uint64_t kBeginBytes = 24;             // of a ZFile's or LSMT file's magic

// The first file of a tar.
class FirstFile : public TarSink {
 public:
  Status OnEntry(const TarEntry& entry) override {
    if (entry.type != TarType::kFile || entry.sparse || found_) return OkStatus();
    found_ = true;
    offset = entry.data_offset;
    bytes = entry.data_bytes;
    return OkStatus();
  }
  Status OnData(uint64_t, ByteSpan) override { return OkStatus(); }
  Status OnEntryEnd(bool) override { return OkStatus(); }
  bool found() const { return found_; }
  uint64_t offset = 0, bytes = 0;

 private:
  bool found_ = false;
};

Status FindPayload(const ReadAtFile& blob, uint64_t* offset, uint64_t* bytes) {
  FirstFile file;
  TarReader tar(&file);
  Bytes block(kTarBlockBytes);
  for (uint64_t at = 0; !file.found(); at += block.size()) {
    if (at >= kMaxWrapperBytes || blob.size() - at < block.size())
      return InvalidError("neither ZFile nor LSMT file, nor a tar that begins with one");
    FASTOCI_CHECK_OK(blob.ReadAt(at, block));
    Status s = tar.Update(block);
    if (!s.ok()) return s.error().Wrap("neither ZFile nor LSMT file nor tar");
  }
  if (file.offset > blob.size() || file.bytes > blob.size() - file.offset)
    return InvalidError("tar wrapper: its file has " + std::to_string(file.bytes) +
                        " bytes from " + std::to_string(file.offset) + " on, the layer only " +
                        std::to_string(blob.size()));
  *offset = file.offset;
  *bytes = file.bytes;
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<OverlaybdLayer>> OverlaybdLayer::Open(const ReadAtFile* blob) {
  std::unique_ptr<OverlaybdLayer> layer(new OverlaybdLayer(blob));
  if (blob->size() < kTarBlockBytes) return InvalidError("too short for an overlaybd layer");
  Bytes begin(kBeginBytes);
  FASTOCI_CHECK_OK(blob->ReadAt(0, begin));
  uint64_t payload_bytes = blob->size();
  if (!ZFileIndex::HasMagic(begin) && !LsmtReader::HasMagic(begin)) {
    FASTOCI_CHECK_OK(FindPayload(*blob, &layer->payload_offset_, &payload_bytes));
    if (payload_bytes < begin.size()) return InvalidError("tar wrapper: its file is too short");
    FASTOCI_CHECK_OK(blob->ReadAt(layer->payload_offset_, begin));
  }
  layer->payload_.emplace(blob, layer->payload_offset_, payload_bytes);
  const ReadAtFile* lsmt = &*layer->payload_;
  if (ZFileIndex::HasMagic(begin)) {
    FASTOCI_TRY(ZFileReader zfile, ZFileReader::Open(lsmt));
    layer->zfile_.emplace(std::move(zfile));
    lsmt = &*layer->zfile_;
  } else if (layer->payload_offset_ == 0) {
    lsmt = blob;  // a local file may know its holes
  }
  FASTOCI_TRY(layer->lsmt_, LsmtReader::Open(lsmt, LsmtTags::kIgnored));
  return layer;
}

LsmtSegments OverlaybdLayer::DataSpaceSegments() const {
  LsmtSegments out = lsmt_.segments();
  uint64_t shift = zfile_ ? 0 : payload_offset_ / kSectorBytes;
  for (LsmtSegment& s : out) {
    if (s.source == LsmtSource::kZero) continue;
    s.source = LsmtSource::kTar;
    s.mapped += shift;
  }
  return out;
}

}  // namespace fastoci
