// SPDX-License-Identifier: Apache-2.0
#include "image/assemble.h"

#include <unistd.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "codec/gzip_index.h"
#include "codec/lsmt.h"
#include "codec/overlaybd_layer.h"
#include "codec/read_at.h"
#include "codec/zfile.h"
#include "codec/zstd_index.h"
#include "image/meta_image.h"
#include "image/meta_layer.h"

namespace fastoci {
namespace {

constexpr uint64_t kDigestBytes = FASTOCI_DIGEST_BYTES;
constexpr uint64_t kChunkBytes = 1ULL << FASTOCI_DIGEST_SHIFT;
constexpr uint64_t kHelperAlign = 512;  // of each part of the helper area
constexpr size_t kCopyBytes = 1 << 20;
constexpr uint64_t kZFileSpanBytes = 256 << 10;  // of data space, in whole blocks

uint64_t AlignUp(uint64_t v, uint64_t to) { return (v + to - 1) / to * to; }

// One layer's file-system metadata: an LSMT file, perhaps in a ZFile.
struct FsMeta {
  Bytes stored;
  std::unique_ptr<MemoryFile> bare;
  std::unique_ptr<ZFileReader> unwrapped;
  LsmtReader lsmt;
  const ReadAtFile& file() const {
    return unwrapped ? static_cast<const ReadAtFile&>(*unwrapped) : *bare;
  }
};

Result<std::unique_ptr<FsMeta>> OpenFsMeta(Bytes stored) {
  auto m = std::make_unique<FsMeta>();
  m->stored = std::move(stored);
  m->bare = std::make_unique<MemoryFile>(m->stored);
  if (ZFileIndex::HasMagic(m->stored)) {
    FASTOCI_TRY(ZFileReader reader, ZFileReader::Open(m->bare.get()));
    m->unwrapped = std::make_unique<ZFileReader>(std::move(reader));
  }
  FASTOCI_TRY(m->lsmt, LsmtReader::Open(&m->file()));
  return m;
}

class Assembler {
 public:
  Assembler(const AssembleInput& input, const AssembleOptions& options, int out_fd)
      : input_(input), options_(options), out_fd_(out_fd) {}
  Status Run();

 private:
  Status AddTurboLayer(uint32_t number, const AssembleLayer& layer, const ReadAtFile& file);
  Status AddNativeLayer(uint32_t number, const AssembleLayer& layer, const ReadAtFile& file);
  Status AddLayer(uint32_t number, const AssembleLayer& layer);
  Status Stack(uint32_t number, const LsmtSegments& segments, uint64_t virtual_bytes);
  Status AddTurboBlob(const AssembleLayer& layer, const MetaLayerFiles& files);
  void AddEmpty();
  std::string MakeJson() const;
  void FinishBlob(const Sha256Digest& last_part, fastoci_meta_blob* blob);
  Status AddGzipIndex(const AssembleLayer& layer, const Bytes& gzip_meta, fastoci_meta_blob* blob);
  Status AddZstdIndex(const AssembleLayer& layer, const Bytes& zstd_index, fastoci_meta_blob* blob);
  uint64_t AddToHelper(ByteSpan data);
  void AddExtent(uint64_t sector, uint64_t payload, bool contiguous);
  Status MakeExtents();
  Status WriteMetadata();
  Status WriteRegion(ByteSpan data, bool with_crc, fastoci_meta_region* region);
  Status CheckOutput(uint64_t bytes) const {
    if (bytes <= options_.max_output_bytes) return OkStatus();
    return InvalidError("the assembled meta image is larger than " +
                        std::to_string(options_.max_output_bytes) + " bytes");
  }

  const AssembleInput& input_;
  const AssembleOptions& options_;
  int out_fd_;
  std::optional<bool> erofs_;  // which metadata; the lowest meta layer decides
  uint64_t input_bytes_ = 0;  // unpacked
  std::vector<std::unique_ptr<FsMeta>> fs_;
  ByteWriter blobs_, helper_, keys_, payloads_;
  LsmtSegments segments_;
  uint64_t device_sectors_ = 0;
  std::vector<uint64_t> data_sectors_;  // of each layer's data space
  std::vector<uint32_t> blob_numbers_;  // of each layer; of one without data it means nothing
  uint32_t nr_blobs_ = 0;
  uint64_t metadata_offset_ = 0, metadata_bytes_ = 0;
  uint64_t next_offset_ = FASTOCI_META_SB_BYTES;
};

uint64_t Assembler::AddToHelper(ByteSpan data) {
  helper_.Zeros(-helper_.size() % kHelperAlign);
  uint64_t at = helper_.size();
  helper_.Append(data);
  return at;
}

Status Assembler::AddGzipIndex(const AssembleLayer& layer, const Bytes& gzip_meta,
                               fastoci_meta_blob* blob) {
  if (gzip_meta.empty()) return InvalidError("no gzip.meta for a gzip layer");
  FASTOCI_TRY(GzipIndex index, GzipIndex::Parse(gzip_meta));
  if (index.gzip_bytes() != layer.target_bytes)
    return MismatchError("gzip.meta is for a blob of " + std::to_string(index.gzip_bytes()) +
                         " bytes, the layer has " + std::to_string(layer.target_bytes));
  blob->data_bytes = index.uncompressed_bytes();
  ByteWriter spans;
  uint32_t nr_spans = 0;
  for (const GzipIndexEntry& e : index.entries()) {
    if (nr_spans != 0 && e.data_offset >= index.uncompressed_bytes()) break;
    spans.U64(e.data_offset);
    spans.U64(e.blob_offset());
    nr_spans++;
  }
  blob->nr_spans = nr_spans;
  blob->spans_offset = AddToHelper(spans.bytes());
  blob->index_offset = AddToHelper(gzip_meta);
  blob->index_bytes = gzip_meta.size();
  return OkStatus();
}

Status Assembler::AddZstdIndex(const AssembleLayer& layer, const Bytes& zstd_index,
                               fastoci_meta_blob* blob) {
  if (zstd_index.empty()) return InvalidError("no fastoci.zstd for a zstd layer");
  FASTOCI_TRY(ZstdIndex index, ZstdIndex::Parse(zstd_index));
  if (index.blob_bytes() != layer.target_bytes)
    return MismatchError("fastoci.zstd is for a blob of " + std::to_string(index.blob_bytes()) +
                         " bytes, the layer has " + std::to_string(layer.target_bytes));
  blob->data_bytes = index.data_bytes();
  ByteWriter spans;
  for (const ZstdIndexEntry& e : index.entries()) {
    spans.U64(e.data_offset);
    spans.U64(e.blob_offset);
  }
  blob->nr_spans = static_cast<uint32_t>(index.entries().size());
  blob->spans_offset = AddToHelper(spans.bytes());
  blob->index_offset = AddToHelper(zstd_index);
  blob->index_bytes = zstd_index.size();
  return OkStatus();
}

// last_part: what stands in the id for the chunk digests.
void Assembler::FinishBlob(const Sha256Digest& last_part, fastoci_meta_blob* blob) {
  Sha256Digest digest;
  std::copy_n(blob->blob_digest, digest.size(), digest.begin());
  const Sha256Digest space = DataSpaceId(digest, blob->data_bytes, blob->codec, last_part);
  std::copy(space.begin(), space.end(), blob->data_space_id);
  blobs_.Append({reinterpret_cast<const uint8_t*>(blob), sizeof(*blob)});
  data_sectors_.push_back((blob->data_bytes + kSectorBytes - 1) / kSectorBytes);
  blob_numbers_.push_back(nr_blobs_++);
}

// A layer whose tar has no byte: nobody will ever ask for its blob.
void Assembler::AddEmpty() {
  data_sectors_.push_back(0);
  blob_numbers_.push_back(0);
}

Status Assembler::AddTurboBlob(const AssembleLayer& layer, const MetaLayerFiles& files) {
  std::optional<MetaLayerDescription> description;
  if (!files.description.empty()) {
    FASTOCI_TRY(description, ParseDescription(files.description));
  }
  auto check_description = [&](uint64_t data_bytes) {
    if (!description || (description->target_digest == DigestString(layer.target_digest) &&
                         description->target_bytes == layer.target_bytes && description->data_bytes == data_bytes))
      return OkStatus();
    return Status(MismatchError("the meta layer was made for another layer: " + description->target_digest));
  };
  if (description && description->data_bytes == 0) {
    AddEmpty();
    return check_description(0);
  }
  fastoci_meta_blob blob{};
  std::copy(layer.target_digest.begin(), layer.target_digest.end(), blob.blob_digest);
  blob.codec = layer.codec;
  blob.blob_bytes = layer.target_bytes;
  blob.data_bytes = layer.target_bytes;
  if (layer.codec == FASTOCI_CODEC_GZIP) {
    FASTOCI_CHECK_OK(AddGzipIndex(layer, files.gzip_meta, &blob));
  } else if (layer.codec == FASTOCI_CODEC_ZSTD) {
    FASTOCI_CHECK_OK(AddZstdIndex(layer, files.zstd_index, &blob));
  } else if (layer.codec != FASTOCI_CODEC_RAW) {
    return Error{ErrorKind::kUnsupported, EINVAL, "unknown codec"};
  }
  if (blob.data_bytes == 0 || blob.data_bytes > FASTOCI_MAX_DATA_BYTES || blob.blob_bytes == 0)
    return InvalidError("size of the layer out of range");
  FASTOCI_CHECK_OK(check_description(blob.data_bytes));
  uint64_t nr_chunks = (blob.data_bytes + kChunkBytes - 1) / kChunkBytes;
  Sha256Digest last_part = layer.meta_digest;
  if (!files.chunk_digests.empty()) {
    if (files.chunk_digests.size() != nr_chunks * kDigestBytes)
      return MismatchError("fastoci.chunks does not fit the layer's size");
    blob.nr_digests = static_cast<uint32_t>(nr_chunks);
    blob.digests_offset = AddToHelper(files.chunk_digests);
    last_part = Sha256::Of(files.chunk_digests);
  }
  FinishBlob(last_part, &blob);
  return OkStatus();
}

Status Assembler::AddLayer(uint32_t number, const AssembleLayer& layer) {
  if (layer.file != nullptr) return AddNativeLayer(number, layer, *layer.file);
  off_t end = lseek(layer.fd, 0, SEEK_END);  // the sandbox has no fstat
  if (end < 0) return ErrnoError("layer");
  FdFile file(layer.fd, static_cast<uint64_t>(end));
  return layer.native() ? AddNativeLayer(number, layer, file) : AddTurboLayer(number, layer, file);
}

// One layer more on top.
Status Assembler::Stack(uint32_t number, const LsmtSegments& segments, uint64_t virtual_bytes) {
  if (virtual_bytes != 0) device_sectors_ = virtual_bytes / kSectorBytes;
  segments_ = Overlay(segments_, segments, number);
  if (segments_.size() > kMaxLsmtSegments) return InvalidError("too many extents");
  return OkStatus();
}

Status Assembler::AddNativeLayer(uint32_t number, const AssembleLayer& layer,
                                 const ReadAtFile& file) {
  if (file.size() != layer.target_bytes)
    return MismatchError("the layer has " + std::to_string(file.size()) + " bytes instead of " +
                         std::to_string(layer.target_bytes));
  FASTOCI_TRY(auto native, OverlaybdLayer::Open(&file));
  fastoci_meta_blob blob{};
  std::copy(layer.target_digest.begin(), layer.target_digest.end(), blob.blob_digest);
  blob.blob_bytes = layer.target_bytes;
  blob.data_bytes = native->data_bytes();
  if (blob.data_bytes > FASTOCI_MAX_DATA_BYTES) return InvalidError("the layer is too large");
  // Ranges of a blob cannot be verified, so what decides over the data is part of
  // its id.
  Sha256Digest last_part = layer.target_digest;
  blob.codec = FASTOCI_CODEC_RAW;
  if (const ZFileIndex* index = native->zfile_index()) {
    Bytes serialized = index->Serialize(native->payload_offset());
    ByteWriter spans;
    size_t step = std::max<uint64_t>(1, kZFileSpanBytes / index->block_bytes());
    for (size_t i = 0; i < index->nr_blocks(); i += step) {
      spans.U64(i * index->block_bytes());
      spans.U64(native->payload_offset() + index->block_offset(i));
      blob.nr_spans++;
    }
    blob.codec = FASTOCI_CODEC_ZFILE;
    blob.spans_offset = AddToHelper(spans.bytes());
    blob.index_offset = AddToHelper(serialized);
    blob.index_bytes = serialized.size();
    last_part = Sha256::Of(serialized);
    FASTOCI_CHECK_OK(CheckOutput(helper_.size()));
    // What they let through does not depend on the index. With this codec alone:
    // it tells the helper that they come from a referrer (meta-format.md).
    if (layer.digests_fd >= 0) {
      FASTOCI_TRY(Bytes digests, ReadNativeDigests(layer, blob.data_bytes));
      FASTOCI_CHECK_OK(CheckOutput(helper_.size() + digests.size()));
      blob.nr_digests = static_cast<uint32_t>(digests.size() / kDigestBytes);
      blob.digests_offset = AddToHelper(digests);
      last_part = Sha256::Of(digests);
    }
  }
  FinishBlob(last_part, &blob);
  fs_.push_back(nullptr);
  return Stack(number, native->DataSpaceSegments(), native->virtual_bytes());
}

Status Assembler::AddTurboLayer(uint32_t number, const AssembleLayer& layer,
                                const ReadAtFile& file) {
  Sha256Digest digest;
  FASTOCI_TRY(MetaLayerFiles files, UnpackMetaLayer(file, options_.max_layer_bytes, &digest));
  if (digest != layer.meta_digest)
    return MismatchError("meta layer has digest " + DigestString(digest) + " instead of " +
                         DigestString(layer.meta_digest));
  if (!erofs_) erofs_ = files.ext4_fs_meta.empty() && !files.erofs_fs_meta.empty();
  Bytes& fs_meta = *erofs_ ? files.erofs_fs_meta : files.ext4_fs_meta;
  if (fs_meta.empty())
    return InvalidError(std::string("meta layer without ") +
                        (*erofs_ ? "erofs.fs.meta" : "ext4.fs.meta"));
  input_bytes_ += fs_meta.size() + files.gzip_meta.size() + files.zstd_index.size() +
                  files.chunk_digests.size();
  FASTOCI_CHECK_OK(CheckOutput(input_bytes_));
  FASTOCI_CHECK_OK(AddTurboBlob(layer, files));
  FASTOCI_TRY(auto fs, OpenFsMeta(std::move(fs_meta)));
  fs_.push_back(std::move(fs));
  const LsmtReader& lsmt = fs_.back()->lsmt;
  // A tar may end early, and what is mapped behind its end is zeros. An index that
  // does so knows only the first of several gzip members: zeros would be wrong.
  if (layer.codec == FASTOCI_CODEC_GZIP)
    for (const LsmtSegment& s : lsmt.segments())
      if (s.source == LsmtSource::kTar && s.mapped + s.nr_sectors > data_sectors_.back())
        return InvalidError("gzip.meta stops early, at byte " +
                            std::to_string(data_sectors_.back() * kSectorBytes) +
                            " of the tar, while sector " + std::to_string(s.sector) +
                            " of the file system maps byte " +
                            std::to_string(s.mapped * kSectorBytes) +
                            " on: was it made for the first of several gzip members? "
                            "Convert the image again");
  return Stack(number, ZeroTails(lsmt.segments()), lsmt.virtual_bytes());
}

// payload: of the extent's first sector; contiguous: it goes on where the last
// one's ends.
void Assembler::AddExtent(uint64_t sector, uint64_t payload, bool contiguous) {
  if (contiguous) return;
  keys_.U32(static_cast<uint32_t>(sector));
  payloads_.U64(payload);
}

// From segments to extents: gaps and what lies behind a tar's end are zeros.
Status Assembler::MakeExtents() {
  struct Extent {
    uint64_t sector, nr_sectors, type, blob, mapped;
  };
  Extent last{0, 0, 0, 0, 0};
  uint64_t metadata_sector = metadata_offset_ / kSectorBytes;
  auto add = [&](const Extent& e) {
    if (e.nr_sectors == 0) return;
    bool goes_on = last.nr_sectors != 0 && last.type == e.type && last.blob == e.blob &&
                   (e.type == FASTOCI_EXTENT_ZERO || last.mapped + last.nr_sectors == e.mapped);
    AddExtent(e.sector,
              e.type << FASTOCI_EXTENT_TYPE_SHIFT | e.blob << FASTOCI_EXTENT_BLOB_SHIFT | e.mapped,
              goes_on);
    if (goes_on) {
      last.nr_sectors += e.nr_sectors;
    } else {
      last = e;
    }
  };
  uint64_t at = 0;
  for (const LsmtSegment& s : segments_) {
    if (s.sector >= device_sectors_) break;
    uint64_t n = std::min(s.nr_sectors, device_sectors_ - s.sector);
    add({at, s.sector - at, FASTOCI_EXTENT_ZERO, 0, 0});
    at = s.sector + n;
    if (s.source == LsmtSource::kZero) {
      add({s.sector, n, FASTOCI_EXTENT_ZERO, 0, 0});
    } else if (s.source == LsmtSource::kFile) {
      add({s.sector, n, FASTOCI_EXTENT_META, 0, metadata_sector});
      metadata_sector += n;
    } else {
      uint64_t data = data_sectors_[s.layer];
      uint64_t mapped = s.mapped >= data ? 0 : std::min(n, data - s.mapped);
      add({s.sector, mapped, FASTOCI_EXTENT_BLOB, blob_numbers_[s.layer], s.mapped});
      add({s.sector + mapped, n - mapped, FASTOCI_EXTENT_ZERO, 0, 0});
    }
  }
  add({at, device_sectors_ - at, FASTOCI_EXTENT_ZERO, 0, 0});
  if (keys_.size() / 4 > FASTOCI_MAX_EXTENTS) return InvalidError("too many extents");
  return OkStatus();
}

// In the order of the device, so that neighbours there are neighbours here.
Status Assembler::WriteMetadata() {
  Bytes buffer(kCopyBytes);
  uint64_t out = metadata_offset_;
  for (const LsmtSegment& s : segments_) {
    if (s.source != LsmtSource::kFile || s.sector >= device_sectors_) continue;
    uint64_t n = std::min(s.nr_sectors, device_sectors_ - s.sector) * kSectorBytes;
    for (uint64_t at = 0; at < n;) {
      std::span<uint8_t> part(buffer.data(), std::min<uint64_t>(buffer.size(), n - at));
      FASTOCI_CHECK_OK(fs_[s.layer]->file().ReadAt(s.mapped * kSectorBytes + at, part));
      FASTOCI_CHECK_OK(PwriteFull(out_fd_, part, out, "assembled meta image"));
      at += part.size();
      out += part.size();
    }
  }
  return OkStatus();
}

Status Assembler::WriteRegion(ByteSpan data, bool with_crc, fastoci_meta_region* region) {
  if (data.empty()) return OkStatus();
  region->offset = next_offset_;
  region->bytes = data.size();
  region->crc = with_crc ? Crc32c(data) : 0;
  next_offset_ = AlignUp(next_offset_ + data.size(), FASTOCI_META_ALIGN);
  FASTOCI_CHECK_OK(CheckOutput(next_offset_));
  return PwriteFull(out_fd_, data, region->offset, "assembled meta image");
}

std::string Assembler::MakeJson() const {
  std::string json = input_.json_head;
  const char* before = "";
  for (size_t i = 0; i < input_.layers.size(); i++) {
    if (data_sectors_[i] == 0) continue;
    json += before + input_.layers[i].json;
    before = ",";
  }
  return json + input_.json_tail;
}

Status Assembler::Run() {
  if (input_.layers.empty() || input_.layers.size() > kMaxAssembleLayers)
    return InvalidError("an image has 1 to 256 layers");
  for (uint32_t i = 0; i < input_.layers.size(); i++) {
    Status s = AddLayer(i, input_.layers[i]);
    if (!s.ok())
      return s.error().Wrap("layer " + std::to_string(i + 1) + " (" +
                            DigestString(input_.layers[i].target_digest) + ")");
  }
  if (device_sectors_ == 0 || device_sectors_ > FASTOCI_MAX_DEVICE_SECTORS)
    return InvalidError("size of the device out of range");
  for (const LsmtSegment& s : segments_)
    if (s.source == LsmtSource::kFile && s.sector < device_sectors_)
      metadata_bytes_ += std::min(s.nr_sectors, device_sectors_ - s.sector) * kSectorBytes;
  FASTOCI_CHECK_OK(CheckOutput(metadata_bytes_));

  // The metadata area follows the superblock, so that its place does not depend
  // on the number of extents.
  fastoci_meta_sb sb{};
  if (metadata_bytes_ != 0) {
    metadata_offset_ = next_offset_;
    sb.metadata.offset = metadata_offset_;
    sb.metadata.bytes = metadata_bytes_;
    next_offset_ = AlignUp(next_offset_ + metadata_bytes_, FASTOCI_META_ALIGN);
  }
  FASTOCI_CHECK_OK(MakeExtents());
  FASTOCI_CHECK_OK(WriteMetadata());
  std::copy_n(FASTOCI_META_MAGIC, sizeof(sb.magic), sb.magic);
  sb.version = FASTOCI_META_VERSION;
  sb.sb_bytes = FASTOCI_META_SB_BYTES;
  std::copy(input_.image_id.begin(), input_.image_id.end(), sb.image_id);
  sb.device_sectors = device_sectors_;
  sb.nr_blobs = nr_blobs_;
  sb.nr_extents = static_cast<uint32_t>(keys_.size() / 4);
  FASTOCI_CHECK_OK(WriteRegion(blobs_.bytes(), true, &sb.blobs));
  FASTOCI_CHECK_OK(WriteRegion(keys_.bytes(), true, &sb.keys));
  FASTOCI_CHECK_OK(WriteRegion(payloads_.bytes(), true, &sb.payloads));
  FASTOCI_CHECK_OK(WriteRegion(helper_.bytes(), true, &sb.helper));
  FASTOCI_CHECK_OK(WriteRegion(AsBytes(MakeJson()), true, &sb.json));
  sb.total_bytes = next_offset_;
  ByteSpan bytes(reinterpret_cast<const uint8_t*>(&sb), sizeof(sb));
  sb.crc = Crc32c(bytes);
  if (ftruncate(out_fd_, static_cast<off_t>(next_offset_)) != 0) return ErrnoError("ftruncate");
  return PwriteFull(out_fd_, bytes, 0, "assembled meta image");
}

}  // namespace

Status Assemble(const AssembleInput& input, const AssembleOptions& options, int out_fd) {
  return Assembler(input, options, out_fd).Run();
}

Result<Bytes> ReadNativeDigests(const AssembleLayer& layer, uint64_t data_bytes) {
  const uint64_t bytes = (data_bytes + kChunkBytes - 1) / kChunkBytes * kDigestBytes;
  off_t end = lseek(layer.digests_fd, 0, SEEK_END);  // the sandbox has no fstat
  if (end < 0) return ErrnoError("chunk digests");
  if (static_cast<uint64_t>(end) != bytes)
    return MismatchError("the chunk digests that a referrer of the image names do not fit: " +
                         std::to_string(end) + " bytes instead of " + std::to_string(bytes) +
                         "; delete that referrer, or convert the image again");
  Bytes digests(bytes);
  FASTOCI_CHECK_OK(PreadFull(layer.digests_fd, digests, 0, "chunk digests"));
  return digests;
}

Result<fastoci_codec> CodecOfMediaType(const std::string& type) {
  for (const char* gzip : {"application/vnd.oci.image.layer.v1.tar+gzip",
                           "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
                           "application/vnd.docker.image.rootfs.diff.tar.gzip",
                           "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"})
    if (type == gzip) return FASTOCI_CODEC_GZIP;
  for (const char* tar : {"application/vnd.oci.image.layer.v1.tar",
                          "application/vnd.oci.image.layer.nondistributable.v1.tar",
                          "application/vnd.docker.image.rootfs.diff.tar",
                          "application/vnd.docker.image.rootfs.foreign.diff.tar"})
    if (type == tar) return FASTOCI_CODEC_RAW;
  for (const char* zstd : {"application/vnd.oci.image.layer.v1.tar+zstd",
                           "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
                           "application/vnd.docker.image.rootfs.diff.tar.zstd"})
    if (type == zstd) return FASTOCI_CODEC_ZSTD;
  return Error{ErrorKind::kUnsupported, EINVAL, "layers of type '" + type + "' are not supported"};
}

}  // namespace fastoci
