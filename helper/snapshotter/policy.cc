// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/policy.h"

#include "attach/signature.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "config/config.h"
#include "image/oci_image.h"
#include "image/platform.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;
using Json = nlohmann::json;

constexpr auto kRemember = std::chrono::minutes(15);

Error Refused(const std::string& why) { return {ErrorKind::kDenied, EKEYREJECTED, why}; }

// As the annotations of a descriptor describe it.
Result<Layer> LayerOfDescriptor(const Json& descriptor) {
  Labels labels = {{kLayerDigestLabel, JsonText(descriptor, "digest")}};
  for (const auto& [key, value] : JsonChild(descriptor, "annotations").items())
    if (key.starts_with(kOverlaybdLabel) && value.is_string()) labels[key] = value.get<std::string>();
  return LayerOfLabels(labels);
}

}  // namespace

Status ImagePolicy::Check(const Layer& layer, const std::string& chain_id) {
  auto node = LoadConfig(options_.node_config);
  if (!node.ok()) return node.error().Wrap("which images must be signed is not known");
  if (node->signatures.empty()) return OkStatus();
  if (layer.image.empty() || layer.manifest_digest.empty())
    return Refused("the node demands signatures, and containerd did not say to which image a layer belongs (" +
                   std::string(kImageRefLabel) + ", " + kManifestLabel + "); see fastoci-snapshotter(8)");
  FASTOCI_TRY(Reference ref, ParseReference(layer.image));
  const std::string key_file = KeysFor(node->signatures, ref);
  const MetaLayer* part = layer.parts.empty() ? nullptr : &layer.parts.back();
  // Only an annotation says what the target of such a layer is.
  const bool annotated = layer.kind == LayerKind::kMeta && !layer.describes_itself;
  if (key_file.empty()) {
    if (!annotated || !part->unpacked()) return OkStatus();
    return Refused(layer.image + ": the node demands signatures, of other images than this one. A meta layer that does not "
                   "describe itself, as this one, could be taken for a layer of those; convert the image with fastoci's convertor");
  }
  RegistryAccess access = options_.access;
  access.node_hosts_dir = node->hosts_dir;
  auto image = SignedImageOf(access, ref, layer.manifest_digest, key_file);
  if (!image.ok() && image.error().kind == ErrorKind::kUnavailable) return image.error();
  if (!image.ok()) return Refused(image.error().message);
  auto at = (*image)->layers.find(chain_id);
  if (at == (*image)->layers.end())
    return Refused(layer.image + ": the layer " + chain_id + " is none of " + layer.manifest_digest + ", which is signed");
  if (!annotated) return OkStatus();  // the chain id covers the rest
  const Layer& meant = at->second;
  if (meant.kind != layer.kind || meant.parts.back().target_digest != part->target_digest ||
      meant.parts.back().target_media_type != part->target_media_type)
    return Refused(layer.image + ": the annotations of layer " + chain_id + " are not those of the manifest that is signed");
  return OkStatus();
}

Result<ImagePolicy::SignedImagePtr> ImagePolicy::SignedImageOf(const RegistryAccess& access, const Reference& ref,
                                                               const std::string& manifest_digest, const std::string& key_file) {
  FASTOCI_TRY(std::string keys, HashFile(key_file));  // what a key that is gone has signed is asked again
  const std::string name = CanonicalRepository(ref) + "@" + manifest_digest + " " + keys;
  {
    std::lock_guard lock(mutex_);
    std::erase_if(signed_, [](const auto& entry) { return entry.second->until < Clock::now(); });
    if (auto it = signed_.find(name); it != signed_.end()) return it->second;
  }
  FASTOCI_TRY(SignedImagePtr image, AskRegistry(access, ref, manifest_digest, key_file));
  std::lock_guard lock(mutex_);
  signed_[name] = image;
  return image;
}

Result<ImagePolicy::SignedImagePtr> ImagePolicy::AskRegistry(const RegistryAccess& access, const Reference& ref,
                                                             const std::string& manifest_digest, const std::string& key_file) {
  FASTOCI_TRY(auto client, OpenClient(access, ref.host));
  FASTOCI_CHECK_OK(DemandSignature(client.get(), ref, manifest_digest, key_file));
  // Both are what their digests say.
  FASTOCI_TRY(Manifest manifest, client->GetManifest(ref.WithDigest(manifest_digest)));
  const Json j = ParseForeignJson(manifest.body);
  const std::string config_digest = JsonText(JsonChild(j, "config"), "digest");
  FASTOCI_TRY(std::string config, client->ReadBlob(ref, config_digest, kMaxImageConfigBytes));
  FASTOCI_TRY(auto diff_ids, DiffIds(config));
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.size() != diff_ids.size())
    return InvalidError("the manifest " + manifest_digest + " and its config name different numbers of layers");
  auto image = std::make_shared<SignedImage>();
  image->until = Clock::now() + kRemember;
  std::string chain_id;
  for (size_t i = 0; i < diff_ids.size(); i++) {
    chain_id = ChainId(chain_id, diff_ids[i]);
    auto layer = LayerOfDescriptor(layers[i]);
    image->layers[chain_id] = layer.ok() ? *layer : Layer();  // that one is no lazy layer
  }
  return SignedImagePtr(image);
}

}  // namespace fastoci
