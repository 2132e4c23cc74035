// SPDX-License-Identifier: Apache-2.0
#include "image/base_layer.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>

#include "codec/tar_reader.h"
#include "codec/tar_writer.h"
#include "image/chunk_digester.h"

namespace fastoci {
namespace {

constexpr size_t kCopyBytes = 1 << 20;
// Most bytes that the file may map: 64 GiB have 1 GiB of inode tables.
constexpr uint64_t kMaxMappedBytes = 4ULL << 30;
constexpr unsigned kMemberMode = 0444;

// Calls fn with all of a file, in order.
template <typename Source, typename Fn>
Status ForAll(uint64_t bytes, const Source& source, const Fn& fn) {
  Bytes buffer(kCopyBytes);
  for (uint64_t at = 0; at < bytes; at += buffer.size()) {
    buffer.resize(std::min<uint64_t>(kCopyBytes, bytes - at));
    FASTOCI_CHECK_OK(source(at, buffer));
    fn(buffer);
  }
  return OkStatus();
}

}  // namespace

Result<std::unique_ptr<BaseLayer>> BaseLayer::Open(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0) {
    Error e = ErrnoError("base layer " + path);
    e.message += ": --mkfs=false builds on an empty ext4 file system that was made beforehand; "
                 "install overlaybd, which brings one, name another with --base-layer, or go without "
                 "--mkfs=false";
    return e;
  }
  std::unique_ptr<BaseLayer> base(new BaseLayer(std::move(fd), static_cast<uint64_t>(st.st_size)));
  auto layer = OverlaybdLayer::Open(&base->file_);
  if (!layer.ok()) return layer.error().Wrap("base layer " + path);
  base->layer_ = std::move(*layer);
  return base;
}

Status BaseLayer::Load(MemoryDevice* device) const {
  const ReadAtFile& data = layer_->data_space();
  Bytes buffer(kCopyBytes);
  uint64_t mapped = 0;
  for (const LsmtSegment& s : layer_->DataSpaceSegments()) {
    if (s.source == LsmtSource::kZero) continue;
    const uint64_t bytes = s.nr_sectors * kSectorBytes;
    mapped += bytes;
    if (mapped > kMaxMappedBytes) return InvalidError("base layer: it holds too much for an empty file system");
    for (uint64_t at = 0; at < bytes; at += buffer.size()) {
      buffer.resize(std::min<uint64_t>(kCopyBytes, bytes - at));
      FASTOCI_CHECK_OK(data.ReadAt(s.mapped * kSectorBytes + at, buffer));
      device->Write(s.sector * kSectorBytes + at, buffer);  // zeros take no memory
    }
  }
  device->Commit([](uint64_t, const MemoryDevice::Block&, bool) {});
  return OkStatus();
}

Result<BaseLayer::Blob> BaseLayer::MakeBlob(bool in_tar) const {
  Blob blob;
  if (in_tar && layer_->payload_offset() == 0) {
    blob.front = TarHeader("overlaybd.commit", file_.size(), '0', kMemberMode);
    blob.back = -file_.size() % kTarBlockBytes + 2 * kTarBlockBytes;
  }
  blob.descriptor.bytes = blob.front.size() + file_.size() + blob.back;
  Sha256 hash;
  FASTOCI_CHECK_OK(ForAll(
      blob.descriptor.bytes,
      [&](uint64_t offset, std::span<uint8_t> out) { return ReadBlob(blob, offset, out); },
      [&](ByteSpan part) { hash.Update(part); }));
  blob.descriptor.digest = DigestString(hash.Finish());
  return blob;
}

Status BaseLayer::ReadBlob(const Blob& blob, uint64_t offset, std::span<uint8_t> out) const {
  while (!out.empty()) {
    const uint64_t front = blob.front.size(), back = front + file_.size();
    size_t n = out.size();
    if (offset < front) {
      n = std::min<uint64_t>(n, front - offset);
      std::copy_n(blob.front.begin() + static_cast<ptrdiff_t>(offset), n, out.begin());
    } else if (offset < back) {
      n = std::min<uint64_t>(n, back - offset);
      FASTOCI_CHECK_OK(file_.ReadAt(offset - front, out.first(n)));
    } else if (n > back + blob.back - std::min(offset, back + blob.back)) {
      return InvalidError("read past the end of the base layer");
    } else {
      std::fill(out.begin(), out.end(), 0);
    }
    out = out.subspan(n);
    offset += n;
  }
  return OkStatus();
}

Result<Bytes> BaseLayer::ChunkDigests() const {
  if (layer_->zfile_index() == nullptr) return Bytes();
  ChunkDigester chunks;
  const ReadAtFile& data = layer_->data_space();
  FASTOCI_CHECK_OK(ForAll(
      data.size(), [&](uint64_t offset, std::span<uint8_t> out) { return data.ReadAt(offset, out); },
      [&](ByteSpan part) { chunks.Update(part); }));
  return chunks.Finish();
}

}  // namespace fastoci
