// SPDX-License-Identifier: Apache-2.0
#include "image/oci_image.h"

#include <sys/utsname.h>

#include <algorithm>

#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "image/assemble.h"
#include "image/blob_codec.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kOciManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kDockerManifestType[] = "application/vnd.docker.distribution.manifest.v2+json";
constexpr char kOciConfigType[] = "application/vnd.oci.image.config.v1+json";
constexpr char kDockerConfigType[] = "application/vnd.docker.container.image.v1+json";
constexpr char kOciLayerType[] = "application/vnd.oci.image.layer.v1.tar+gzip";
constexpr char kDockerLayerType[] = "application/vnd.docker.image.rootfs.diff.tar.gzip";
constexpr char kOciIndexType[] = "application/vnd.oci.image.index.v1+json";
constexpr char kDockerIndexType[] = "application/vnd.docker.distribution.manifest.list.v2+json";
constexpr char kOciTarType[] = "application/vnd.oci.image.layer.v1.tar";
constexpr char kDockerTarType[] = "application/vnd.docker.image.rootfs.diff.tar";
constexpr char kTurboArtifact[] = "application/vnd.containerd.overlaybd.turbo.v1+json";
constexpr char kNativeArtifact[] = "application/vnd.containerd.overlaybd.native.v1+json";
constexpr char kDigestsType[] = "application/vnd.fastoci.chunk-digests.v1";
constexpr char kEmptyType[] = "application/vnd.oci.empty.v1+json";
constexpr char kReferenceType[] = "vnd.docker.reference.type";
constexpr size_t kMaxIndexEntries = 1000;
constexpr uint64_t kDefaultVsizeGib = 64;
constexpr char kAnnotationPrefix[] = "containerd.io/snapshot/overlaybd/";
constexpr char kTurboVersion[] = "0.1.0-turbo.ociv1", kNativeVersion[] = "0.1.0";
constexpr char kOwnVersion[] = "0.2.0-fastoci";  // of meta layers that turboOCI does not know

// what: the place in the manifest, for messages.
Result<Descriptor> ParseDescriptor(const Json& j, const char* what) {
  if (!j.is_object()) return InvalidError(std::string("the manifest has no ") + what);
  Descriptor d{JsonText(j, "mediaType"), JsonText(j, "digest"), 0};
  FASTOCI_CHECK_OK(ParseDigest(d.digest));
  auto size = j.find("size");
  if (size == j.end() || !size->is_number_unsigned())
    return InvalidError(std::string("a descriptor without a size: ") + d.digest);
  d.bytes = size->get<uint64_t>();
  return d;
}

Json ToJson(const Descriptor& d, const std::string& media_type) {
  return {{"mediaType", media_type}, {"digest", d.digest}, {"size", d.bytes}};
}

std::string Dump(const Json& j) { return j.dump(1, ' ', false, Json::error_handler_t::replace); }

}  // namespace

std::string HostArch() {
  struct utsname name {};
  uname(&name);
  std::string machine = name.machine;
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  return machine;
}

bool IsManifestType(const std::string& type) {
  return type.empty() || type == kOciManifestType || type == kDockerManifestType || type == kOciIndexType ||
         type == kDockerIndexType;
}

Result<std::optional<std::vector<IndexEntry>>> ParseIndex(const std::string& body) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(body, "the manifest"));
  auto manifests = j.find("manifests");
  if (manifests == j.end() || !manifests->is_array())
    return std::optional<std::vector<IndexEntry>>();
  if (manifests->size() > kMaxIndexEntries) return InvalidError("the index has too many entries");
  std::vector<IndexEntry> entries;
  for (const Json& m : *manifests) {
    IndexEntry e;
    FASTOCI_TRY(e.descriptor, ParseDescriptor(m, "manifests"));
    if (m.contains("platform")) {
      e.os = JsonText(m["platform"], "os");
      e.arch = JsonText(m["platform"], "architecture");
      e.variant = JsonText(m["platform"], "variant");
    }
    e.attestation = m.contains("annotations") && m["annotations"].is_object() &&
                    m["annotations"].contains(kReferenceType);
    entries.push_back(std::move(e));
  }
  return std::optional(std::move(entries));
}

Result<std::string> ConvertedIndex(const std::string& body, const std::vector<Descriptor>& replaced,
                                   bool oci, const Descriptor& subject,
                                   const std::string& artifact_type) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(body, "the index"));
  j["mediaType"] = IndexMediaType(oci);
  for (size_t i = 0; i < replaced.size(); i++) {
    if (replaced[i].digest.empty()) continue;
    Json& m = j["manifests"][i];
    m["mediaType"] = replaced[i].media_type;
    m["digest"] = replaced[i].digest;
    m["size"] = replaced[i].bytes;
  }
  if (!subject.digest.empty()) {
    j["artifactType"] = artifact_type;
    j["subject"] = ToJson(subject, subject.media_type);
  }
  return Dump(j);
}

std::string IndexMediaType(bool oci) { return oci ? kOciIndexType : kDockerIndexType; }

Result<std::string> KeeperManifest(const std::string& body, const std::string& digest) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(body, "the manifest"));
  Json& annotations = j["annotations"];
  if (!annotations.is_object()) annotations = Json::object();
  annotations["org.fastoci.original-of"] = digest;
  return Dump(j);
}

bool IsImageManifest(const std::string& body) {
  auto j = ParseForeignObject<Json>(body, "the manifest");
  if (!j.ok()) return false;
  const std::string config = JsonText(JsonChild(*j, "config"), "mediaType");
  if (config != kOciConfigType && config != kDockerConfigType) return false;
  const Json& layers = JsonChild(*j, "layers");
  if (!layers.is_array() || layers.empty()) return true;
  return std::any_of(layers.begin(), layers.end(),
                     [](const Json& layer) { return IsLayerMediaType(JsonText(layer, "mediaType")); });
}

Result<OriginalImage> ParseOriginalManifest(const std::string& body) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(body, "the manifest"));
  auto version = j.find("schemaVersion");
  if (version == j.end() || *version != 2)
    return Error{ErrorKind::kUnsupported, EINVAL, "the manifest is not of schema version 2; push the image again with a current tool"};
  OriginalImage image;
  FASTOCI_TRY(image.config, ParseDescriptor(JsonChild(j, "config"), "config"));
  auto layers = j.find("layers");
  if (layers == j.end() || layers->is_null()) return image;
  if (!layers->is_array()) return InvalidError("the manifest's layers are not a list");
  if (layers->size() > kMaxAssembleLayers)
    return InvalidError("the image has " + std::to_string(layers->size()) + " layers; at most " +
                        std::to_string(kMaxAssembleLayers) + " can be stacked");
  for (const Json& layer : *layers) {
    FASTOCI_TRY(Descriptor d, ParseDescriptor(layer, "layers"));
    if (layer.contains("annotations") &&
        !JsonText(layer["annotations"], "containerd.io/snapshot/overlaybd/version").empty())
      return Error{ErrorKind::kUnsupported, EINVAL, "the image was converted before; name the original image"};
    if (!IsLayerMediaType(d.media_type))
      return CodecOfMediaType(d.media_type)
          .error()
          .Wrap("layer " + std::to_string(image.layers.size() + 1) + " (" + d.digest + ")");
    image.layers.push_back(std::move(d));
  }
  return image;
}

Result<std::vector<std::string>> DiffIds(const std::string& config) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(config, "the image's config"));
  std::vector<std::string> ids;
  if (!j.contains("rootfs") || !j["rootfs"].is_object()) return InvalidError("the image's config has no rootfs");
  if (!j["rootfs"].contains("diff_ids") || j["rootfs"]["diff_ids"].is_null()) return ids;  // no layers
  if (!j["rootfs"]["diff_ids"].is_array()) return InvalidError("the image's config has no diff ids");
  for (const Json& id : j["rootfs"]["diff_ids"]) {
    if (!id.is_string()) return InvalidError("the image's config has a bad diff id");
    ids.push_back(id.get<std::string>());
    FASTOCI_CHECK_OK(ParseDigest(ids.back()));
  }
  return ids;
}

std::string ChainId(const std::string& parent, const std::string& diff_id) {
  return parent.empty() ? diff_id : DigestString(Sha256::Of(AsBytes(parent + " " + diff_id)));
}

Result<std::string> ConvertedConfig(const std::string& config,
                                    const std::vector<ConvertedLayer>& layers) {
  FASTOCI_TRY(Json j, ParseForeignObject<Json>(config, "the image's config"));
  Json ids = Json::array();
  for (const ConvertedLayer& layer : layers) ids.push_back(layer.diff_id);
  j["rootfs"] = {{"type", "layers"}, {"diff_ids", ids}};
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ManifestMediaType(bool oci) { return oci ? kOciManifestType : kDockerManifestType; }

std::string ArtifactType(ImageFormat format) {
  return format == ImageFormat::kTurboOci ? kTurboArtifact : kNativeArtifact;
}

std::string ConvertedManifest(const ManifestOptions& options, const Descriptor& config,
                              const std::vector<ConvertedLayer>& layers) {
  bool turbo = options.format == ImageFormat::kTurboOci;
  const std::string layer_type = options.oci ? kOciLayerType : kDockerLayerType;
  const std::string tar_type = options.oci ? kOciTarType : kDockerTarType;
  Json j = {{"schemaVersion", 2}, {"mediaType", ManifestMediaType(options.oci)}};
  if (!options.subject.digest.empty()) j["artifactType"] = ArtifactType(options.format);
  j["config"] = ToJson(config, options.oci ? kOciConfigType : kDockerConfigType);
  j["layers"] = Json::array();
  std::string prefix = kAnnotationPrefix;
  for (const ConvertedLayer& layer : layers) {
    const bool meta = turbo && !layer.base;
    Json d = ToJson(layer.made, meta ? layer_type : tar_type);
    Json notes = Json::object();
    // overlaybd's snapshotter fails the pull of a layer with a target and without these two; with them it would take the
    // target for a plain tar or for one gzip member, and show wrong bytes.
    if (!(meta && layer.beyond_turbo)) {
      notes[prefix + "blob-digest"] = layer.made.digest;
      notes[prefix + "blob-size"] = std::to_string(layer.made.bytes);
    }
    if (meta) {
      notes[prefix + "turbo-oci/target-digest"] = layer.target.digest;
      notes[prefix + "turbo-oci/target-media-type"] = layer.target.media_type;
    } else if (!layer.base && options.vsize_gib != kDefaultVsizeGib) {
      notes[prefix + "vsize"] = std::to_string(options.vsize_gib);
    }
    if (!meta && options.erofs) notes[prefix + "blob-fs-type"] = "erofs";
    notes[prefix + "version"] = !meta ? kNativeVersion : layer.beyond_turbo ? kOwnVersion : kTurboVersion;
    d["annotations"] = std::move(notes);
    j["layers"].push_back(std::move(d));
  }
  if (!options.subject.digest.empty())
    j["subject"] = ToJson(options.subject, options.subject.media_type);
  return Dump(j);
}

namespace {

// Of something that is no image. What it holds and what it is about are added.
Json ArtifactManifest(const char* type) {
  const Descriptor empty{kEmptyType, DigestString(Sha256::Of(AsBytes(kEmptyConfig))), sizeof(kEmptyConfig) - 1};
  return {{"schemaVersion", 2},
          {"mediaType", kOciManifestType},
          {"artifactType", type},
          {"config", ToJson(empty, kEmptyType)},
          {"layers", Json::array()}};
}

}  // namespace

std::string DigestsManifest(const Descriptor& subject, const std::vector<ConvertedLayer>& layers,
                            const std::vector<Descriptor>& digests) {
  Json j = ArtifactManifest(kDigestsArtifact);
  for (size_t i = 0; i < layers.size(); i++) {
    Json d = ToJson(digests[i], kDigestsType);
    d["annotations"] = {{"org.fastoci.layer", layers[i].made.digest}};
    j["layers"].push_back(std::move(d));
  }
  j["subject"] = ToJson(subject, subject.media_type);
  return Dump(j);
}

std::string StartManifest(const Descriptor& subject, const Descriptor& trace, const std::string& workload,
                          const std::string& created) {
  Json j = ArtifactManifest(kStartArtifact);
  j["layers"].push_back(ToJson(trace, kStartType));
  j["subject"] = ToJson(subject, subject.media_type);
  j["annotations"] = {{kWorkloadAnnotation, workload}, {kCreatedAnnotation, created}};
  return Dump(j);
}

}  // namespace fastoci
