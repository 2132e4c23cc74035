// SPDX-License-Identifier: Apache-2.0
#include "attach/manifest.h"

#include <algorithm>
#include <charconv>

#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "fastoci_meta.h"
#include "image/oci_image.h"
#include "kernel/dm_control.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr char kPrefix[] = "containerd.io/snapshot/overlaybd/";
constexpr uint64_t kMaxDigestsBytes = (FASTOCI_MAX_DATA_BYTES >> FASTOCI_DIGEST_SHIFT) * FASTOCI_DIGEST_BYTES;

std::string Annotation(const Json& annotations, const std::string& name) {
  return JsonText(annotations, kPrefix + name);
}

std::string Number(size_t layer) { return "layer " + std::to_string(layer); }

Error NotFastoci(size_t layer, const std::string& what) {
  return {ErrorKind::kUnsupported, EINVAL,
          Number(layer) + " is " + what +
              ": not a FastOCI image; make one with `convertor -r HOST/REPOSITORY -i TAG --fastoci "
              "NEWTAG` and name NEWTAG"};
}

Result<MetaLayer> ParseLayer(const Json& layer, size_t number) {
  MetaLayer out;
  out.digest = JsonText(layer, "digest");
  FASTOCI_CHECK_OK(ParseDigest(out.digest));
  const Json& size = JsonChild(layer, "size");
  if (!size.is_number_unsigned()) return InvalidError("a layer has no size");
  out.bytes = size.get<uint64_t>();
  const Json& notes = JsonChild(layer, "annotations");
  for (const char* name : {"turbo-oci/target-", "fastoci/target-"}) {
    if (!out.target_digest.empty()) break;
    out.target_digest = Annotation(notes, std::string(name) + "digest");
    out.target_media_type = Annotation(notes, std::string(name) + "media-type");
  }
  std::string named = Annotation(notes, "blob-digest");
  out.native = out.target_digest.empty();
  if (out.native) {
    if (named.empty()) return NotFastoci(number, "an ordinary layer");
    out.target_digest = out.digest;
    out.target_bytes = out.bytes;
    out.target_media_type = JsonText(layer, "mediaType");
  }
  uint64_t limit = out.native ? FASTOCI_MAX_DATA_BYTES : kMaxMetaLayerBytes;
  if (out.bytes == 0 || out.bytes > limit) {
    return InvalidError(Number(number) + " (" + out.digest + ") has " + std::to_string(out.bytes) +
                        " bytes; the limit is " + std::to_string(limit));
  }
  FASTOCI_CHECK_OK(ParseDigest(out.target_digest));
  if (!named.empty() && named != out.digest) {
    return MismatchError(Number(number) +
                         ": its annotation blob-digest names another blob than its descriptor");
  }
  return out;
}

Result<std::vector<std::string>> LayerDigests(const std::string& body) {
  FASTOCI_TRY(Json j, ParseForeignObject(body, "the original's manifest"));
  std::vector<std::string> digests;
  const Json& layers = JsonChild(j, "layers");
  if (layers.is_null()) return digests;
  if (!layers.is_array()) return InvalidError("the original's layers are not a list");
  for (const Json& layer : layers) digests.push_back(JsonText(layer, "digest"));
  return digests;
}

}  // namespace

Result<FastociManifest> ParseFastociManifest(const std::string& body) {
  FASTOCI_TRY(Json j, ParseForeignObject(body, "the manifest"));
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.empty()) return InvalidError("the manifest has no layers");
  if (layers.size() > kMaxLayers)
    return InvalidError("the manifest has " + std::to_string(layers.size()) + " layers; at most " +
                        std::to_string(kMaxLayers) + " can be stacked");
  FastociManifest out;
  out.subject = JsonText(JsonChild(j, "subject"), "digest");
  for (const Json& layer : layers) {
    FASTOCI_TRY(MetaLayer parsed, ParseLayer(layer, out.layers.size() + 1));
    const Json& notes = JsonChild(layer, "annotations");
    if (Annotation(notes, "acceleration-layer") == "yes") {
      if (&layer != &layers.back())
        return InvalidError(Number(out.layers.size() + 1) +
                            " is an acceleration layer, but not the top one");
      out.acceleration_layer = parsed.digest;
      break;
    }
    if (std::string type = Annotation(notes, "blob-fs-type"); !type.empty()) out.fs_type = type;
    out.layers.push_back(std::move(parsed));
  }
  if (out.layers.empty()) return InvalidError("the manifest has only an acceleration layer");
  return out;
}

Result<std::vector<std::string>> ReferrersOfType(const std::string& index_body,
                                                 const std::string& artifact_type) {
  FASTOCI_TRY(Json j, ParseForeignObject(index_body, "the list of referrers"));
  std::vector<std::string> found;
  for (const Json& m : JsonChild(j, "manifests")) {
    if (JsonText(m, "artifactType") != artifact_type) continue;
    std::string digest = JsonText(m, "digest");
    if (ParseDigest(digest).ok()) found.push_back(digest);
  }
  return found;
}

Status TakeDigests(const std::string& artifact_body, const std::string& image_digest,
                   FastociManifest* manifest) {
  FASTOCI_TRY(Json j, ParseForeignObject(artifact_body, "the artifact with chunk digests"));
  if (JsonText(j, "artifactType") != kDigestsArtifact || JsonText(JsonChild(j, "subject"), "digest") != image_digest)
    return MismatchError("it does not hold the chunk digests of " + image_digest);
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.size() > kMaxLayers)
    return InvalidError("it has no layers, or too many");
  for (const Json& layer : layers) {
    std::string digest = JsonText(layer, "digest");
    FASTOCI_CHECK_OK(ParseDigest(digest));
    const uint64_t bytes = JsonNumber(layer, "size");
    if (bytes == 0 || bytes > kMaxDigestsBytes || bytes % FASTOCI_DIGEST_BYTES != 0)
      return InvalidError(digest + " cannot be a list of digests: " + std::to_string(bytes) + " bytes");
    std::string about = JsonText(JsonChild(layer, "annotations"), "org.fastoci.layer");
    for (MetaLayer& native : manifest->layers) {
      if (!native.native || native.digest != about || !native.digests_digest.empty()) continue;
      native.digests_digest = digest;
      native.digests_bytes = bytes;
    }
  }
  return OkStatus();
}

Status CheckBelongsTo(const FastociManifest& manifest, const std::string& original_digest,
                      const std::string& original_body) {
  if (manifest.subject != original_digest) {
    return MismatchError("the FastOCI manifest's subject is not the image that was named");
  }
  FASTOCI_TRY(auto digests, LayerDigests(original_body));
  // A base layer lies below the original's layers and is not one of them.
  const size_t base = manifest.layers.size() == digests.size() + 1 && manifest.layers[0].native ? 1 : 0;
  bool same = digests.size() + base == manifest.layers.size();
  for (size_t i = 0; same && i < digests.size(); i++) {
    same = manifest.layers[i + base].target_digest == digests[i];
  }
  if (!same) return MismatchError("the FastOCI manifest does not map the layers of its subject");
  return OkStatus();
}

void TakeSizes(const std::string& original_body, FastociManifest* manifest) {
  const Json j = ParseForeignJson(original_body);
  for (const Json& layer : JsonChild(j, "layers")) {
    for (MetaLayer& ours : manifest->layers) {
      if (ours.target_bytes == 0 && ours.target_digest == JsonText(layer, "digest"))
        ours.target_bytes = JsonNumber(layer, "size");
    }
  }
}

SourcesJson MakeSourcesJson(const std::string& ref, const std::string& manifest_digest,
                            const FastociManifest& manifest, const BlobLocation& location) {
  Json source = {{"type", "registry"},
                 {"scheme", location.scheme},
                 {"host", location.host},
                 {"repository", location.repository}};
  auto text = [](const Json& j) { return j.dump(-1, ' ', false, Json::error_handler_t::replace); };
  SourcesJson out;
  for (const MetaLayer& layer : manifest.layers) {
    Json file = {{"type", "file"}, {"path", layer.blob_path}};
    Json own = source;
    if (const size_t slash = layer.repository.find('/'); slash != std::string::npos) {
      own["host"] = layer.repository.substr(0, slash);
      own["repository"] = layer.repository.substr(slash + 1);
      if (const std::string host = layer.repository.substr(0, slash); host != location.host)
        own["scheme"] = location.plain_http || IsLoopbackHost(host) ? "http" : "https";
    }
    out.blobs.push_back(text({{"digest", layer.target_digest},
                              {"size", layer.target_bytes},
                              {"media_type", layer.target_media_type},
                              {"sources", Json::array({layer.blob_path.empty() ? own : file})}}));
  }
  const std::string about = text({{"image", ref}, {"manifest_digest", manifest_digest}, {"version", 1}});
  out.head = about.substr(0, about.size() - 1) + ",\"blobs\":[";
  out.tail = "]}";
  return out;
}

std::string DefaultImageName(const std::string& repository, const std::string& identifier) {
  std::string name = repository.substr(repository.rfind('/') + 1);
  // A digest's first 12 digits say enough.
  size_t colon = identifier.find(':');
  name += "-" + (colon == std::string::npos ? identifier : identifier.substr(colon + 1, 12));
  for (char& c : name) {
    if (!IsImageName(std::string("x") + c)) c = '_';
  }
  if (name[0] == '.' || name[0] == '-') name.insert(0, "x");
  return name.substr(0, 100);
}

}  // namespace fastoci
