// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/layer.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <set>

#include "attach/pull.h"
#include "attach/start_trace.h"
#include "base/digest.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "image/meta_layer.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr char kNativeMediaType[] = "application/vnd.oci.image.layer.v1.tar";
constexpr char kFilesDir[] = "fs";
constexpr char kNativeFile[] = "overlaybd.commit";
constexpr char kMetaMark[] = ".turbo.ociv1";
constexpr size_t kNameDigits = 20, kTagDigits = 8;
constexpr uint64_t kMaxDescriptionBytes = 1 << 20;

uint64_t Number(const std::string& text) { return std::strtoull(text.c_str(), nullptr, 10); }

bool IsFile(const std::string& path) {
  struct stat st;
  return ::lstat(path.c_str(), &st) == 0 && S_ISREG(st.st_mode);
}

// The names in a directory; more than a few are of no interest.
std::set<std::string> NamesIn(const std::string& dir) {
  constexpr size_t kEnough = 16;
  std::set<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> d(::opendir(dir.c_str()), ::closedir);
  for (struct dirent* e; d && names.size() < kEnough && (e = ::readdir(d.get()));)
    if (std::string name = e->d_name; name != "." && name != "..") names.insert(name);
  return names;
}

// The member with the metadata of a layer that turboOCI's readers must not take, or "".
std::string OwnFileSystem(const std::set<std::string>& names) {
  if (names.count("fastoci.json") == 0) return "";
  for (const char* name : {"fastoci.ext4", "fastoci.erofs"})
    if (names.count(name) != 0) return name;
  return "";
}

// The digest of a directory that has nothing but these files: of their names and contents.
Result<std::string> DigestOfFiles(const std::string& dir, const std::set<std::string>& names) {
  std::string text;
  for (const std::string& name : names) {
    FASTOCI_TRY(std::string hex, HashFile(dir + "/" + name));
    text += hex + " " + name + "\n";
  }
  return DigestString(Sha256::Of(AsBytes(text)));
}

// Takes what fastoci.json says: it is part of what was unpacked, labels are not.
Status TakeDescription(const std::string& dir, Layer* layer, MetaLayer* part) {
  if (!IsFile(dir + "/fastoci.json")) return OkStatus();
  FASTOCI_TRY(std::string text, ReadFile(dir + "/fastoci.json", kMaxDescriptionBytes));
  FASTOCI_TRY(MetaLayerDescription description, ParseDescription(text));
  if (part->target_digest.empty()) part->target_digest = description.target_digest;
  if (part->target_digest != description.target_digest)
    return MismatchError("the meta layer in " + dir + " describes " + description.target_digest +
                         ", but its annotation names " + part->target_digest);
  part->target_bytes = description.target_bytes;
  part->target_media_type = description.target_media_type;
  layer->describes_itself = true;
  return OkStatus();
}

Json PartToJson(const MetaLayer& p) {
  return {{"digest", p.digest}, {"bytes", p.bytes}, {"native", p.native},
          {"target_digest", p.target_digest}, {"target_media_type", p.target_media_type},
          {"target_bytes", p.target_bytes}, {"repository", p.repository},
          {"meta_path", p.meta_path}, {"members_dir", p.members_dir}, {"blob_path", p.blob_path}};
}

MetaLayer PartFromJson(const Json& j) {
  MetaLayer p;
  p.digest = JsonText(j, "digest");
  p.bytes = JsonNumber(j, "bytes");
  p.native = j.value("native", false);
  p.target_digest = JsonText(j, "target_digest");
  p.target_media_type = JsonText(j, "target_media_type");
  p.target_bytes = JsonNumber(j, "target_bytes");
  p.repository = JsonText(j, "repository");
  p.meta_path = JsonText(j, "meta_path");
  p.members_dir = JsonText(j, "members_dir");
  p.blob_path = JsonText(j, "blob_path");
  return p;
}

constexpr LayerKind kKinds[] = {LayerKind::kOrdinary, LayerKind::kNative, LayerKind::kMeta,
                                LayerKind::kArtifact, LayerKind::kTrace};

}  // namespace

std::string LabelOf(const Labels& labels, const std::string& key) {
  auto it = labels.find(key);
  return it == labels.end() ? "" : it->second;
}

const char* LayerKindName(LayerKind kind) {
  switch (kind) {
    case LayerKind::kOrdinary: return "ordinary";
    case LayerKind::kNative: return "native";
    case LayerKind::kMeta: return "meta";
    case LayerKind::kArtifact: return "artifact";
    case LayerKind::kTrace: return "trace";
  }
  return "unknown";
}

Result<Layer> LayerOfLabels(const Labels& labels) {
  Layer layer;
  layer.image = LabelOf(labels, kImageRefLabel);
  layer.manifest_digest = LabelOf(labels, kManifestLabel);
  if (const std::string name = LabelOf(labels, kWorkloadLabel); IsWorkloadName(name)) layer.workload = name;
  const std::string prefix = kOverlaybdLabel;
  MetaLayer part;
  for (const char* name : {"turbo-oci/target-", "fastoci/target-"}) {
    if (!part.target_digest.empty()) break;
    part.target_digest = LabelOf(labels, prefix + name + "digest");
    part.target_media_type = LabelOf(labels, prefix + name + "media-type");
  }
  part.digest = LabelOf(labels, prefix + "blob-digest");
  if (part.digest.empty() && part.target_digest.empty()) return layer;
  part.bytes = Number(LabelOf(labels, prefix + "blob-size"));
  for (const std::string& digest : {part.digest, part.target_digest}) {
    if (digest.empty()) continue;
    auto parsed = ParseDigest(digest);
    if (!parsed.ok()) return parsed.error().Wrap("a label of the layer");
  }
  layer.digest = part.digest;
  const std::string descriptor = LabelOf(labels, kLayerDigestLabel);
  if (!part.digest.empty() && !descriptor.empty() && part.digest != descriptor)
    return InvalidError("the layer's annotation blob-digest names another blob than its descriptor, " + descriptor);
  if (!layer.image.empty()) {
    FASTOCI_TRY(Reference ref, ParseReference(layer.image));
    part.repository = ref.host + "/" + ref.repository;
  }
  if (LabelOf(labels, prefix + "acceleration-layer") == "yes") {
    layer.kind = LayerKind::kTrace;
    return layer;
  }
  layer.kind = part.target_digest.empty() ? LayerKind::kNative : LayerKind::kMeta;
  if (layer.kind == LayerKind::kNative) {
    part.native = true;
    part.target_digest = part.digest;
    part.target_bytes = part.bytes;
    part.target_media_type = kNativeMediaType;
  }
  layer.parts = {part};
  return layer;
}

Result<Layer> LayerOfFiles(const Layer& told, const std::string& dir) {
  static const std::set<std::string> kMembers = {
      "ext4.fs.meta", "erofs.fs.meta", kMetaMark,      "gzip.meta",     "fastoci.json",
      "fastoci.ext4", "fastoci.erofs", "fastoci.gzip", "fastoci.zstd", "fastoci.chunks"};
  if (told.kind == LayerKind::kTrace) return told;
  const std::string files = dir + "/" + kFilesDir;
  const std::set<std::string> names = NamesIn(files);
  const bool only_members = std::includes(kMembers.begin(), kMembers.end(), names.begin(), names.end());
  Layer layer = told;
  MetaLayer part = told.parts.empty() ? MetaLayer() : told.parts.back();
  if (names == std::set<std::string>{kNativeFile} && IsFile(files + "/" + kNativeFile)) {
    layer.kind = LayerKind::kNative;
    part.native = true;
    part.blob_path = std::string(kFilesDir) + "/" + kNativeFile;
    FASTOCI_TRY(std::string hex, HashFile(dir + "/" + part.blob_path));
    part.digest = part.target_digest = "sha256:" + hex;  // of the file, not of the tar around it
    struct stat st;
    if (::stat((dir + "/" + part.blob_path).c_str(), &st) != 0) return ErrnoError(part.blob_path);
    part.bytes = part.target_bytes = static_cast<uint64_t>(st.st_size);
    part.target_media_type = kNativeMediaType;
    if (part.repository.empty()) part.repository = "localhost/local";
  } else if (only_members && (names.count(kMetaMark) != 0 || !OwnFileSystem(names).empty())) {
    for (const std::string& name : names)
      if (!IsFile(files + "/" + name)) return InvalidError("the meta layer's " + name + " is no file");
    layer.kind = LayerKind::kMeta;
    FASTOCI_CHECK_OK(TakeDescription(files, &layer, &part));
    if (part.target_digest.empty())
      return InvalidError("a meta layer without the annotation turbo-oci/target-digest, which its descriptor needs");
    if (part.repository.empty())
      return InvalidError("the repository of the meta layer of " + part.target_digest +
                          " is not known: containerd passed no " + kImageRefLabel + " on; see fastoci-snapshotter(8)");
    FASTOCI_TRY(part.digest, DigestOfFiles(files, names));
    part.members_dir = kFilesDir;
  } else {
    if (told.kind == LayerKind::kMeta)
      return InvalidError("the layer's annotations say that it is a meta layer, but it holds other files");
    layer.kind = LayerKind::kOrdinary;
    layer.parts.clear();
    return layer;
  }
  layer.parts = {part};
  return layer;
}

std::string LayerToJson(const Layer& layer) {
  if (layer.kind == LayerKind::kOrdinary) return "";
  Json parts = Json::array();
  for (const MetaLayer& part : layer.parts) parts.push_back(PartToJson(part));
  Json j = {{"kind", LayerKindName(layer.kind)},
            {"image", layer.image},
            {"manifest_digest", layer.manifest_digest},
            {"parts", parts}};
  if (!layer.workload.empty()) j["workload"] = layer.workload;
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Result<Layer> LayerFromJson(const std::string& text) {
  Layer layer;
  if (text.empty()) return layer;
  const Json j = Json::parse(text, nullptr, false);
  const std::string name = JsonText(j, "kind");
  auto kind = std::find_if(std::begin(kKinds), std::end(kKinds), [&](LayerKind k) { return name == LayerKindName(k); });
  if (kind == std::end(kKinds)) return InvalidError("the database's description of a layer is damaged");
  layer.kind = *kind;
  layer.image = JsonText(j, "image");
  layer.manifest_digest = JsonText(j, "manifest_digest");
  layer.workload = JsonText(j, "workload");
  for (const Json& part : JsonChild(j, "parts")) layer.parts.push_back(PartFromJson(part));
  return layer;
}

std::string RootTag(const std::string& root) {
  char* real = ::realpath(root.c_str(), nullptr);  // another spelling must not make other devices
  const std::string path = real ? real : root;
  ::free(real);
  return HexEncode(Sha256::Of(AsBytes(path))).substr(0, kTagDigits);
}

bool SameContent(const Layer& a, const Layer& b) {
  return a.kind == b.kind && std::equal(a.parts.begin(), a.parts.end(), b.parts.begin(), b.parts.end(),
                                        [](const MetaLayer& x, const MetaLayer& y) {
                                          return x.digest == y.digest && x.target_digest == y.target_digest &&
                                                 x.target_media_type == y.target_media_type;
                                        });
}

std::string DeviceName(const std::string& parent_device, const Layer& layer) {
  if (layer.kind == LayerKind::kTrace) return parent_device;
  std::string text = parent_device;
  for (const MetaLayer& p : layer.parts)
    text += "\n" + p.repository + " " + p.digest + " " + p.target_digest + " " + std::to_string(p.target_bytes) + " " +
            p.target_media_type;
  return "ctd-" + HexEncode(Sha256::Of(AsBytes(text))).substr(0, kNameDigits);
}

}  // namespace fastoci
