// SPDX-License-Identifier: Apache-2.0
#include "image/oci_image.h"

#include <sys/utsname.h>

#include <nlohmann/json.hpp>

#include "base/digest.h"
#include "image/assemble.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kOciManifestType[] = "application/vnd.oci.image.manifest.v1+json";
constexpr char kDockerManifestType[] = "application/vnd.docker.distribution.manifest.v2+json";
constexpr char kOciConfigType[] = "application/vnd.oci.image.config.v1+json";
constexpr char kDockerConfigType[] = "application/vnd.docker.container.image.v1+json";
constexpr char kOciLayerType[] = "application/vnd.oci.image.layer.v1.tar+gzip";
constexpr char kDockerLayerType[] = "application/vnd.docker.image.rootfs.diff.tar.gzip";
constexpr char kArtifactType[] = "application/vnd.containerd.overlaybd.turbo.v1+json";
constexpr char kAnnotationPrefix[] = "containerd.io/snapshot/overlaybd/";
constexpr char kTurboVersion[] = "0.1.0-turbo.ociv1";

std::string Text(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

Result<Json> ParseObject(const std::string& body, const char* what) {
  Json j = Json::parse(body, nullptr, false);
  if (!j.is_object()) return InvalidError(std::string(what) + " is not a JSON object");
  return j;
}

Result<Descriptor> ParseDescriptor(const Json& object, const char* key) {
  auto it = object.find(key);
  if (it == object.end() || !it->is_object())
    return InvalidError(std::string("the manifest has no ") + key);
  Descriptor d{Text(*it, "mediaType"), Text(*it, "digest"), 0};
  FASTOCI_CHECK_OK(ParseDigest(d.digest));
  auto size = it->find("size");
  if (size == it->end() || !size->is_number_unsigned())
    return InvalidError(std::string("a descriptor without a size: ") + d.digest);
  d.bytes = size->get<uint64_t>();
  return d;
}

Json ToJson(const Descriptor& d, const std::string& media_type) {
  return {{"mediaType", media_type}, {"digest", d.digest}, {"size", d.bytes}};
}

}  // namespace

std::string HostArch() {
  struct utsname name {};
  uname(&name);
  std::string machine = name.machine;
  if (machine == "x86_64") return "amd64";
  if (machine == "aarch64") return "arm64";
  return machine;
}

Result<std::string> PickManifest(const std::string& body, const std::string& arch) {
  FASTOCI_TRY(Json j, ParseObject(body, "the manifest"));
  auto manifests = j.find("manifests");
  if (manifests == j.end() || !manifests->is_array()) return std::string();
  for (const Json& m : *manifests) {
    if (!m.is_object() || !m.contains("platform")) continue;
    const Json& platform = m["platform"];
    if (Text(platform, "os") != "linux" || Text(platform, "architecture") != arch) continue;
    std::string digest = Text(m, "digest");
    FASTOCI_CHECK_OK(ParseDigest(digest));
    return digest;
  }
  return NotFoundError("the image has no manifest for linux/" + arch);
}

Result<OriginalImage> ParseOriginalManifest(const std::string& body) {
  FASTOCI_TRY(Json j, ParseObject(body, "the manifest"));
  auto version = j.find("schemaVersion");
  if (version == j.end() || *version != 2)
    return Error{ErrorKind::kUnsupported, EINVAL, "a manifest of schema version 2 is needed"};
  OriginalImage image;
  FASTOCI_TRY(image.config, ParseDescriptor(j, "config"));
  auto layers = j.find("layers");
  if (layers == j.end() || !layers->is_array() || layers->empty())
    return InvalidError("the manifest has no layers");
  if (layers->size() > kMaxAssembleLayers) return InvalidError("the image has too many layers");
  for (const Json& layer : *layers) {
    Json wrapped = {{"layers", layer}};
    FASTOCI_TRY(Descriptor d, ParseDescriptor(wrapped, "layers"));
    if (layer.contains("annotations") &&
        !Text(layer["annotations"], "containerd.io/snapshot/overlaybd/version").empty())
      return Error{ErrorKind::kUnsupported, EINVAL, "the image is a converted one already"};
    Result<fastoci_codec> codec = CodecOfMediaType(d.media_type);
    if (!codec.ok()) return codec.error();
    image.layers.push_back(std::move(d));
  }
  return image;
}

Result<std::vector<std::string>> DiffIds(const std::string& config) {
  FASTOCI_TRY(Json j, ParseObject(config, "the image's config"));
  std::vector<std::string> ids;
  if (!j.contains("rootfs") || !j["rootfs"].is_object() || !j["rootfs"].contains("diff_ids") ||
      !j["rootfs"]["diff_ids"].is_array())
    return InvalidError("the image's config has no diff ids");
  for (const Json& id : j["rootfs"]["diff_ids"]) {
    if (!id.is_string()) return InvalidError("the image's config has a bad diff id");
    ids.push_back(id.get<std::string>());
    FASTOCI_CHECK_OK(ParseDigest(ids.back()));
  }
  return ids;
}

Result<std::string> ConvertedConfig(const std::string& config,
                                    const std::vector<ConvertedLayer>& layers) {
  FASTOCI_TRY(Json j, ParseObject(config, "the image's config"));
  Json ids = Json::array();
  for (const ConvertedLayer& layer : layers) ids.push_back(layer.diff_id);
  j["rootfs"] = {{"type", "layers"}, {"diff_ids", ids}};
  return j.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ManifestMediaType(const ManifestOptions& options) {
  return options.oci ? kOciManifestType : kDockerManifestType;
}

std::string ConvertedManifest(const ManifestOptions& options, const Descriptor& config,
                              const std::vector<ConvertedLayer>& layers) {
  Json j = {{"schemaVersion", 2}, {"mediaType", ManifestMediaType(options)}};
  if (!options.subject.digest.empty()) j["artifactType"] = kArtifactType;
  j["config"] = ToJson(config, options.oci ? kOciConfigType : kDockerConfigType);
  j["layers"] = Json::array();
  std::string prefix = kAnnotationPrefix;
  for (const ConvertedLayer& layer : layers) {
    Json d = ToJson(layer.meta, options.oci ? kOciLayerType : kDockerLayerType);
    d["annotations"] = {{prefix + "blob-digest", layer.meta.digest},
                        {prefix + "blob-size", std::to_string(layer.meta.bytes)},
                        {prefix + "turbo-oci/target-digest", layer.target.digest},
                        {prefix + "turbo-oci/target-media-type", layer.target.media_type},
                        {prefix + "version", kTurboVersion}};
    j["layers"].push_back(std::move(d));
  }
  if (!options.subject.digest.empty())
    j["subject"] = ToJson(options.subject, options.subject.media_type);
  return j.dump(1, ' ', false, Json::error_handler_t::replace);
}

}  // namespace fastoci
