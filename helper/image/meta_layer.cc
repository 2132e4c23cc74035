// SPDX-License-Identifier: Apache-2.0
#include "image/meta_layer.h"

#include <zlib.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "base/foreign_json.h"
#include "codec/gzip_index.h"
#include "codec/tar_reader.h"
#include "codec/tar_writer.h"

namespace fastoci {
namespace {

constexpr char kExt4Name[] = "ext4.fs.meta", kErofsName[] = "erofs.fs.meta",
               kMarkerName[] = ".turbo.ociv1", kGzipName[] = "gzip.meta";
// What turboOCI does not know.
constexpr char kOwnExt4Name[] = "fastoci.ext4", kOwnErofsName[] = "fastoci.erofs",
               kMembersName[] = "fastoci.gzip", kZstdName[] = "fastoci.zstd",
               kDescriptionName[] = "fastoci.json", kChunksName[] = "fastoci.chunks";
constexpr size_t kMaxDescriptionBytes = 64 << 10;
constexpr int kDeflateLevel = 6;  // part of the convertor's format version
constexpr int kGzipWindowBits = 15 + 16;
constexpr size_t kIoBytes = 256 << 10;

// Writes tar members into a gzip stream in memory; hashes the tar on the way.
class TarGzipWriter {
 public:
  TarGzipWriter() {
    open_ = deflateInit2(&z_, kDeflateLevel, Z_DEFLATED, kGzipWindowBits, 8,
                         Z_DEFAULT_STRATEGY) == Z_OK;
  }
  ~TarGzipWriter() {
    if (open_) deflateEnd(&z_);
  }
  void AddMember(const char* name, ByteSpan data) {
    Write(TarHeader(name, data.size(), '0'), Z_NO_FLUSH);
    Write(data, Z_NO_FLUSH);
    Write(Bytes(-data.size() % kTarBlockBytes), Z_NO_FLUSH);
  }
  Result<PackedMetaLayer> Finish() {
    Write(Bytes(2 * kTarBlockBytes), Z_FINISH);
    if (!ok_) return Error{ErrorKind::kInternal, EIO, "deflate"};
    PackedMetaLayer out;
    out.diff_id = tar_hash_.Finish();
    out.digest = Sha256::Of(out_);
    out.data = std::move(out_);
    return out;
  }

 private:
  void Write(ByteSpan data, int flush) {
    tar_hash_.Update(data);
    ok_ = ok_ && open_;
    do {
      ByteSpan part = data.first(std::min<size_t>(data.size(), 1 << 30));  // avail_in: 32 bits
      data = data.subspan(part.size());
      z_.next_in = const_cast<uint8_t*>(part.data());
      z_.avail_in = static_cast<uInt>(part.size());
      do {
        z_.next_out = buffer_.data();
        z_.avail_out = static_cast<uInt>(buffer_.size());
        if (!ok_ || deflate(&z_, data.empty() ? flush : Z_NO_FLUSH) == Z_STREAM_ERROR) {
          ok_ = false;
          return;
        }
        out_.insert(out_.end(), buffer_.begin(),
                    buffer_.end() - static_cast<ptrdiff_t>(z_.avail_out));
      } while (z_.avail_out == 0);
    } while (!data.empty());
  }
  z_stream z_{};
  bool open_ = false, ok_ = true;
  Sha256 tar_hash_;
  Bytes buffer_ = Bytes(kIoBytes), out_;
};

class Collector : public TarSink {
 public:
  Status OnEntry(const TarEntry& entry) override {
    to_ = nullptr;
    if (entry.type != TarType::kFile || entry.sparse) return OkStatus();
    const bool own = entry.path == kOwnExt4Name || entry.path == kOwnErofsName;
    files.own_names = files.own_names || own;
    if (entry.path == kExt4Name || entry.path == kOwnExt4Name) to_ = &files.ext4_fs_meta;
    if (entry.path == kErofsName || entry.path == kOwnErofsName) to_ = &files.erofs_fs_meta;
    if (entry.path == kGzipName || entry.path == kMembersName) to_ = &files.gzip_meta;
    if (entry.path == kZstdName) to_ = &files.zstd_index;
    if (entry.path == kChunksName) to_ = &files.chunk_digests;
    if (entry.path == kDescriptionName) {
      if (entry.size > kMaxDescriptionBytes) return InvalidError("fastoci.json is too large");
      to_ = &description_;
    }
    if (to_ == nullptr) return OkStatus();
    if (!to_->empty()) return InvalidError("a second " + entry.path + " in one meta layer");
    return OkStatus();
  }
  Status OnData(uint64_t, ByteSpan data) override {
    if (to_ != nullptr) to_->insert(to_->end(), data.begin(), data.end());
    return OkStatus();
  }
  Status OnEntryEnd(bool) override {
    if (to_ == &description_) files.description.assign(description_.begin(), description_.end());
    return OkStatus();
  }
  MetaLayerFiles files;

 private:
  Bytes* to_ = nullptr;
  Bytes description_;
};

struct Inflater {
  z_stream z{};
  bool open = false;
  ~Inflater() {
    if (open) inflateEnd(&z);
  }
};

}  // namespace

std::string DescriptionJson(const MetaLayerDescription& d) {
  nlohmann::json j = {{"formatVersion", d.format_version},
                      {"targetDigest", d.target_digest},
                      {"targetSize", d.target_bytes},
                      {"targetMediaType", d.target_media_type},
                      {"dataBytes", d.data_bytes}};
  return j.dump();
}

Result<MetaLayerDescription> ParseDescription(const std::string& json) {
  auto j = ParseForeignJson(json);
  auto text = [&j](const char* key) { return j.contains(key) && j[key].is_string(); };
  auto number = [&j](const char* key) { return j.contains(key) && j[key].is_number_unsigned(); };
  if (!j.is_object() || !number("formatVersion") || !text("targetDigest") ||
      !number("targetSize") || !text("targetMediaType") || !number("dataBytes"))
    return InvalidError("fastoci.json is damaged");
  uint64_t version = j["formatVersion"].get<uint64_t>();
  if (version == 0 || version > kConvertorFormatVersion)
    return Error{ErrorKind::kUnsupported, EINVAL,
                 "fastoci.json has the unknown version " + std::to_string(version)};
  return MetaLayerDescription{j["targetDigest"].get<std::string>(), j["targetSize"].get<uint64_t>(),
                              j["targetMediaType"].get<std::string>(),
                              j["dataBytes"].get<uint64_t>(), version};
}

const char* FsMetaName(FsType type, bool own_name) {
  if (type == FsType::kErofs) return own_name ? kOwnErofsName : kErofsName;
  return own_name ? kOwnExt4Name : kExt4Name;
}

Result<PackedMetaLayer> PackMetaLayer(const MetaLayerFiles& files) {
  TarGzipWriter tar;
  const bool own = files.own_names;
  if (!files.ext4_fs_meta.empty()) tar.AddMember(FsMetaName(FsType::kExt4, own), files.ext4_fs_meta);
  if (!files.erofs_fs_meta.empty()) tar.AddMember(FsMetaName(FsType::kErofs, own), files.erofs_fs_meta);
  if (!own) tar.AddMember(kMarkerName, {});
  if (!files.gzip_meta.empty())
    tar.AddMember(IsMembersIndex(files.gzip_meta) ? kMembersName : kGzipName, files.gzip_meta);
  if (!files.zstd_index.empty()) tar.AddMember(kZstdName, files.zstd_index);
  if (!files.description.empty()) tar.AddMember(kDescriptionName, AsBytes(files.description));
  if (!files.chunk_digests.empty()) tar.AddMember(kChunksName, files.chunk_digests);
  return tar.Finish();
}

Result<MetaLayerFiles> UnpackMetaLayer(const ReadAtFile& file, uint64_t max_bytes,
                                       Sha256Digest* digest) {
  Collector collector;
  TarReader tar(&collector);
  Sha256 hash;
  Inflater inflater;
  z_stream& z = inflater.z;
  if (inflateInit2(&z, kGzipWindowBits) != Z_OK)
    return Error{ErrorKind::kInternal, ENOMEM, "inflateInit2"};
  inflater.open = true;
  Bytes in(kIoBytes), out(kIoBytes);
  uint64_t total = 0;
  bool ended = false;
  for (uint64_t at = 0; at < file.size();) {
    std::span<uint8_t> part(in.data(), std::min<uint64_t>(in.size(), file.size() - at));
    FASTOCI_CHECK_OK(file.ReadAt(at, part));
    at += part.size();
    hash.Update(part);
    z.next_in = part.data();
    z.avail_in = static_cast<uInt>(part.size());
    // A full output buffer means that there may be more without further input.
    z.avail_out = 0;
    while (!ended && (z.avail_in != 0 || z.avail_out == 0)) {
      z.next_out = out.data();
      z.avail_out = static_cast<uInt>(out.size());
      int rc = inflate(&z, Z_NO_FLUSH);
      if (rc == Z_BUF_ERROR) break;
      if (rc != Z_OK && rc != Z_STREAM_END) return InvalidError("meta layer: corrupt gzip stream");
      size_t n = out.size() - z.avail_out;
      total += n;
      if (total > max_bytes)
        return InvalidError("meta layer larger than " + std::to_string(max_bytes) + " bytes");
      Status s = tar.Update({out.data(), n});
      if (!s.ok()) return s.error().Wrap("meta layer");
      ended = rc == Z_STREAM_END;
    }
  }
  if (!ended) return InvalidError("meta layer: the gzip stream ends early");
  Status s = tar.Finish();
  if (!s.ok()) return s.error().Wrap("meta layer");
  *digest = hash.Finish();
  return std::move(collector.files);
}

}  // namespace fastoci
