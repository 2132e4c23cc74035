// SPDX-License-Identifier: Apache-2.0
#include "image/seed_manifest.h"

#include <set>

#include "base/foreign_json.h"
#include "base/json.h"
#include "fastoci_meta.h"
#include "registry/client.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;
constexpr char kSpaceAnnotation[] = "org.fastoci.data-space";
constexpr size_t kMaxRefBytes = 4096;

Json ToJson(const Descriptor& d) {
  return {{"mediaType", d.media_type}, {"digest", d.digest}, {"size", d.bytes}};
}

std::string Dump(const Json& j) { return j.dump(1, ' ', false, Json::error_handler_t::replace); }

// type: that the descriptor must have.
Result<Descriptor> FromJson(const Json& j, const char* type) {
  const Descriptor d = {JsonText(j, "mediaType"), JsonText(j, "digest"), JsonNumber(j, "size")};
  if (d.media_type != type)
    return InvalidError("the seed's manifest has \"" + d.media_type.substr(0, 100) + "\" where " +
                        type + " belongs");
  FASTOCI_CHECK_OK(ParseDigest(d.digest));
  return d;
}

}  // namespace

std::string SeedConfigText(const SeedConfig& config) {
  Json j = {{"version", kVersion}, {"ref", config.ref}, {"layers", Json::array()}};
  for (const SeedConfig::Layer& layer : config.layers)
    j["layers"].push_back({{"digest", layer.digest}, {"bytes", layer.bytes}});
  return Dump(j);
}

Result<SeedConfig> ParseSeedConfig(const std::string& text) {
  FASTOCI_TRY(const Json j, ParseForeignObject<Json>(text, "the seed's config"));
  if (JsonChild(j, "version") != kVersion)
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 "the seed is of another version of FastOCI: its config has not version " +
                     std::to_string(kVersion)};
  SeedConfig config;
  config.ref = JsonText(j, "ref");
  if (config.ref.empty() || config.ref.size() > kMaxRefBytes)
    return InvalidError("the seed's config names no image");
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.empty() || layers.size() > FASTOCI_MAX_BLOBS)
    return InvalidError("the seed's config has no layers, or too many");
  for (const Json& layer : layers) {
    config.layers.push_back({JsonText(layer, "digest"), JsonNumber(layer, "bytes")});
    FASTOCI_CHECK_OK(ParseDigest(config.layers.back().digest));
    if (config.layers.back().bytes == 0 || config.layers.back().bytes > FASTOCI_MAX_DATA_BYTES)
      return InvalidError("the seed's config has no size of the layer " + config.layers.back().digest);
  }
  return config;
}

std::string SeedManifestText(const Descriptor& image, const Descriptor& config,
                             const std::vector<SeedManifest::Data>& data,
                             const std::string& created) {
  Json j = {{"schemaVersion", 2},
            {"mediaType", kOciManifest},
            {"artifactType", kSeedArtifact},
            {"config", ToJson(config)},
            {"layers", Json::array()},
            {"subject", ToJson(image)},
            {"annotations", {{kCreatedAnnotation, created}}}};
  for (const SeedManifest::Data& d : data) {
    Json file = ToJson(d.file);
    file["annotations"] = {{kSpaceAnnotation, DigestString(d.space_id)}};
    j["layers"].push_back(std::move(file));
  }
  return Dump(j);
}

Result<SeedManifest> ParseSeedManifest(const std::string& body) {
  const Json j = ParseForeignJson<Json>(body);
  if (JsonText(j, "artifactType") != kSeedArtifact) return MismatchError("it is not of a seed");
  SeedManifest seed;
  seed.image_digest = JsonText(JsonChild(j, "subject"), "digest");
  if (!ParseDigest(seed.image_digest).ok())
    return InvalidError("the seed's manifest names no image as its subject");
  FASTOCI_TRY(seed.config, FromJson(JsonChild(j, "config"), kSeedConfigType));
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.size() > FASTOCI_MAX_BLOBS)
    return InvalidError("the seed's manifest has no layers, or too many");
  std::set<Sha256Digest> seen;
  for (const Json& layer : layers) {
    SeedManifest::Data data;
    FASTOCI_TRY(data.file, FromJson(layer, kSeedDataType));
    FASTOCI_TRY(data.space_id, ParseDigest(JsonText(JsonChild(layer, "annotations"), kSpaceAnnotation)));
    if (!seen.insert(data.space_id).second)
      return InvalidError("the seed's manifest has the data space " + DigestString(data.space_id) + " twice");
    seed.data.push_back(std::move(data));
  }
  return seed;
}

}  // namespace fastoci
