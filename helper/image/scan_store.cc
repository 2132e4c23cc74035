// SPDX-License-Identifier: Apache-2.0
#include "image/scan_store.h"

#include <algorithm>

#include "base/digest.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "image/meta_layer.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[] = "FOCISCAN";
constexpr size_t kMagicBytes = sizeof(kMagic) - 1;
constexpr uint64_t kMaxRecordBytes = 1ULL << 30;

// A record is used only if these values are those of its layer.
Json KeyOf(const LayerSource& layer) {
  return {{"convertor", kConvertorFormatVersion},
          {"digest", layer.digest},
          {"bytes", layer.bytes},
          {"mediaType", layer.media_type}};
}

std::optional<LayerScan> Parse(const std::string& record, const LayerSource& layer) {
  ByteSpan all = AsBytes(record);
  if (all.size() < sizeof(Sha256Digest)) return std::nullopt;
  const Sha256Digest digest = Sha256::Of(all.first(all.size() - sizeof(Sha256Digest)));
  if (!std::equal(digest.begin(), digest.end(), all.end() - sizeof(Sha256Digest)))
    return std::nullopt;
  ByteReader r(all.first(all.size() - sizeof(Sha256Digest)));
  ByteSpan magic = r.Take(kMagicBytes);
  ByteSpan text = r.Take(r.U64());
  if (!r.ok() || !std::equal(magic.begin(), magic.end(), kMagic)) return std::nullopt;
  Json j = Json::parse(text.begin(), text.end(), nullptr, false);
  if (!j.is_object() || !j.contains("of") || j["of"] != KeyOf(layer)) return std::nullopt;
  auto part = [&](const char* name) {
    ByteSpan bytes = r.Take(JsonNumber(j, name));
    return Bytes(bytes.begin(), bytes.end());
  };
  LayerScan scan;
  scan.tar_bytes = JsonNumber(j, "tarBytes");
  scan.diff_id = JsonText(j, "diffId");
  scan.target_media_type = JsonText(j, "targetMediaType");
  scan.beyond_turbo = JsonText(j, "beyondTurbo");
  scan.gzip_meta = part("gzipMeta");
  scan.zstd_index = part("zstdIndex");
  scan.chunk_digests = part("chunkDigests");
  scan.skeleton = part("skeleton");
  if (!r.ok() || r.remaining() != 0) return std::nullopt;
  return scan;
}

}  // namespace

Result<ScanStore> ScanStore::Open(const std::string& directory) {
  FASTOCI_CHECK_OK(MakeDirs(directory));
  return ScanStore(directory);
}

Result<std::string> ScanStore::Path(const LayerSource& layer) const {
  FASTOCI_TRY(Sha256Digest digest, ParseDigest(layer.digest));  // no other file than ours
  return directory_ + "/" + HexEncode(digest) + ".scan";
}

Result<std::optional<LayerScan>> ScanStore::Find(const LayerSource& layer) const {
  FASTOCI_TRY(std::string path, Path(layer));
  auto record = ReadFile(path, kMaxRecordBytes);
  if (!record.ok()) {
    if (record.error().err == ENOENT) return std::optional<LayerScan>();
    return record.error();
  }
  auto scan = Parse(*record, layer);
  if (scan && !layer.diff_id.empty() && scan->diff_id != layer.diff_id) scan.reset();
  return scan;
}

Status ScanStore::Put(const LayerSource& layer, const LayerScan& scan) const {
  FASTOCI_TRY(std::string path, Path(layer));
  const std::string text = Json{{"of", KeyOf(layer)},
                                {"tarBytes", scan.tar_bytes},
                                {"diffId", scan.diff_id},
                                {"targetMediaType", scan.target_media_type},
                                {"beyondTurbo", scan.beyond_turbo},
                                {"gzipMeta", scan.gzip_meta.size()},
                                {"zstdIndex", scan.zstd_index.size()},
                                {"chunkDigests", scan.chunk_digests.size()},
                                {"skeleton", scan.skeleton.size()}}
                               .dump();
  ByteWriter w;
  w.Append(AsBytes(kMagic));
  w.U64(text.size());
  w.Append(AsBytes(text));
  for (const Bytes* part :
       {&scan.gzip_meta, &scan.zstd_index, &scan.chunk_digests, &scan.skeleton})
    w.Append(*part);
  const Sha256Digest digest = Sha256::Of(w.bytes());
  w.Append(digest);
  return WriteFileAtomic(path, w.bytes());
}

}  // namespace fastoci
