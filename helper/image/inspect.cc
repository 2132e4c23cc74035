// SPDX-License-Identifier: Apache-2.0
#include "image/inspect.h"

#include <unistd.h>

#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "codec/gzip_index.h"
#include "codec/lsmt.h"
#include "codec/overlaybd_layer.h"
#include "codec/zfile.h"
#include "codec/zstd_index.h"
#include "image/content_check.h"
#include "image/meta_layer.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

Json SegmentsJson(const LsmtSegments& segments) {
  uint64_t sectors[3] = {}, counts[3] = {};
  for (const LsmtSegment& s : segments) {
    counts[static_cast<size_t>(s.source)]++;
    sectors[static_cast<size_t>(s.source)] += s.nr_sectors;
  }
  auto part = [&](LsmtSource source) {
    size_t i = static_cast<size_t>(source);
    return Json{{"segments", counts[i]}, {"bytes", sectors[i] * kSectorBytes}};
  };
  return {{"metadata", part(LsmtSource::kFile)},
          {"data", part(LsmtSource::kTar)},
          {"zeros", part(LsmtSource::kZero)}};
}

Status InspectFsMeta(const Bytes& stored, Json* out) {
  MemoryFile bare(stored);
  std::optional<ZFileReader> zfile;
  const ReadAtFile* file = &bare;
  if (ZFileIndex::HasMagic(stored)) {
    FASTOCI_TRY(ZFileReader reader, ZFileReader::Open(&bare));
    file = &zfile.emplace(std::move(reader));
  }
  FASTOCI_TRY(LsmtReader lsmt, LsmtReader::Open(file));
  (*out)["device_bytes"] = lsmt.virtual_bytes();
  (*out)["map"] = SegmentsJson(lsmt.segments());
  return OkStatus();
}

constexpr char kSame[] = "same as the blob";

Status InspectTurbo(const AssembleLayer& layer, const ReadAtFile& file, uint64_t max_bytes,
                    bool content, Json* out) {
  Sha256Digest digest;
  FASTOCI_TRY(MetaLayerFiles files, UnpackMetaLayer(file, max_bytes, &digest));
  if (digest != layer.meta_digest)
    return MismatchError("meta layer has digest " + DigestString(digest));
  bool many = IsMembersIndex(files.gzip_meta);
  Json parts = Json::object();
  auto part = [&parts](const char* name, size_t bytes) {
    if (bytes != 0) parts[name] = bytes;
  };
  part(FsMetaName(FsType::kExt4, files.own_names), files.ext4_fs_meta.size());
  part(FsMetaName(FsType::kErofs, files.own_names), files.erofs_fs_meta.size());
  part(many ? "fastoci.gzip" : "gzip.meta", files.gzip_meta.size());
  part("fastoci.zstd", files.zstd_index.size());
  part("fastoci.json", files.description.size());
  part("fastoci.chunks", files.chunk_digests.size());
  (*out)["parts"] = parts;
  uint64_t data_bytes = layer.target_bytes;
  if (!files.gzip_meta.empty()) {
    FASTOCI_TRY(GzipIndex index, GzipIndex::Parse(files.gzip_meta));
    data_bytes = index.uncompressed_bytes();
    (*out)["gzip_members"] = many ? "several" : "one";
    (*out)["spans"] = index.entries().size();
  }
  if (!files.zstd_index.empty()) {
    FASTOCI_TRY(ZstdIndex index, ZstdIndex::Parse(files.zstd_index));
    data_bytes = index.data_bytes();
    (*out)["spans"] = index.entries().size();
  }
  bool empty = false;
  if (!files.description.empty()) {
    FASTOCI_TRY(MetaLayerDescription d, ParseDescription(files.description));
    (*out)["described_target"] = d.target_digest;
    empty = d.data_bytes == 0;
    if (empty) data_bytes = 0;
  }
  (*out)["data_bytes"] = data_bytes;
  (*out)["chunk_digests"] = files.chunk_digests.size() / FASTOCI_DIGEST_BYTES;
  (*out)["verification"] = empty                         ? "nothing to verify: the layer is empty"
                           : files.chunk_digests.empty() ? "unverified: no chunk digests"
                                                         : "by chunk";
  const Bytes& fs = files.ext4_fs_meta.empty() ? files.erofs_fs_meta : files.ext4_fs_meta;
  FASTOCI_CHECK_OK(InspectFsMeta(fs, out));
  if (!content) return OkStatus();
  if (!empty && layer.codec == FASTOCI_CODEC_GZIP && files.gzip_meta.empty())
    return InvalidError("no gzip.meta for a gzip layer");
  if (!empty && layer.codec == FASTOCI_CODEC_ZSTD && files.zstd_index.empty())
    return InvalidError("no fastoci.zstd for a zstd layer");
  off_t end = lseek(layer.blob_fd, 0, SEEK_END);
  if (end < 0) return ErrnoError("blob");
  FdFile blob(layer.blob_fd, static_cast<uint64_t>(end));
  FASTOCI_CHECK_OK(empty ? CheckEmptyBlob(blob, layer.target_digest)
                         : CheckTarBlob(blob, layer.target_digest, files));
  (*out)["content"] = kSame;
  return OkStatus();
}

Status InspectNative(const AssembleLayer& layer, const ReadAtFile& file, bool content, Json* out) {
  FASTOCI_TRY(auto native, OverlaybdLayer::Open(&file));
  (*out)["payload_offset"] = native->payload_offset();
  if (const ZFileIndex* index = native->zfile_index()) {
    (*out)["blocks"] = index->nr_blocks();
    (*out)["block_bytes"] = index->block_bytes();
  }
  (*out)["data_bytes"] = native->data_bytes();
  Bytes digests;
  if (layer.digests_fd >= 0 && native->zfile_index() != nullptr) {
    FASTOCI_TRY(digests, ReadNativeDigests(layer, native->data_bytes()));
  }
  (*out)["chunk_digests"] = digests.size() / FASTOCI_DIGEST_BYTES;
  (*out)["verification"] = digests.empty() ? "unverified: no chunk digests"
                                           : "by chunk, by the digests of a referrer";
  (*out)["device_bytes"] = native->virtual_bytes();
  (*out)["map"] = SegmentsJson(native->DataSpaceSegments());
  if (!content) return OkStatus();
  if (native->zfile_index() != nullptr) {
    FASTOCI_CHECK_OK(CheckZFileBlob(file, layer.target_digest, *native->zfile_index(),
                                    native->payload_offset(), digests));
  } else {
    FASTOCI_CHECK_OK(CheckBlobDigest(file, layer.target_digest));
  }
  (*out)["content"] = kSame;
  return OkStatus();
}

}  // namespace

Status InspectLayers(const AssembleInput& input, const AssembleOptions& options, bool content,
                     int out_fd) {
  Json layers = Json::array();
  for (const AssembleLayer& layer : input.layers) {
    Json out = {{"kind", layer.native() ? "overlaybd" : "turboOCI"},
                {"target", DigestString(layer.target_digest)},
                {"target_bytes", layer.target_bytes}};
    std::optional<FdFile> local;
    const ReadAtFile* file = layer.file;
    if (file == nullptr) {
      off_t end = lseek(layer.fd, 0, SEEK_END);
      if (end < 0) return ErrnoError("layer");
      file = &local.emplace(layer.fd, static_cast<uint64_t>(end));
      if (!layer.native()) out["meta_layer_bytes"] = file->size();
    }
    Status status =
        layer.native() ? InspectNative(layer, *file, content, &out)
                       : InspectTurbo(layer, *file, options.max_layer_bytes, content, &out);
    if (!status.ok()) out["error"] = status.error().message;
    layers.push_back(std::move(out));
  }
  std::string text = layers.dump(-1, ' ', true, Json::error_handler_t::replace);
  FASTOCI_CHECK_OK(PwriteFull(out_fd, AsBytes(text), 0, "report"));
  return ftruncate(out_fd, static_cast<off_t>(text.size())) == 0 ? OkStatus()
                                                                 : Status(ErrnoError("ftruncate"));
}

}  // namespace fastoci
