// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/taking.h"

#include <unistd.h>

#include "base/digest.h"
#include "base/event.h"
#include "image/oci_image.h"

namespace fastoci {
namespace {

constexpr char kMetaFile[] = "layer.meta";
constexpr auto kKeepTried = std::chrono::seconds(120);  // a device that no layer names yet

}  // namespace

std::string ChainIdIn(const std::string& name) {
  for (const std::string& part : {name.substr(0, name.find(' ')), name.substr(name.rfind('/') + 1)})
    if (ParseDigest(part).ok()) return part;
  return "";
}

void ReportFallback(SnapshotterMetrics* metrics, const std::string& reason, const Layer& layer, const std::string& why) {
  metrics->Fallback(reason);
  LogEvent(LogLevel::kWarning, {.kind = "fallback", .image = layer.image}, "%s is handled in the ordinary way (%s): %s",
           layer.image.empty() ? "a layer" : layer.image.c_str(), reason.c_str(), why.c_str());
}

// The device of the whole image, of which the lowest layers may be there already.
Status LayerTaker::TryImage(const Lowers& lowers, const ResolvedImage& image, const std::string& workload) {
  LayerStack stack;
  if (!lowers.lazy.empty()) {
    FASTOCI_TRY(stack, p_.lowers->Describe(lowers.lazy));
  }
  std::string device = lowers.device;
  std::vector<MetaLayer>& layers = stack.layers.layers;
  const auto& all = image.fastoci.layers;
  Layer layer;
  layer.kind = LayerKind::kArtifact;
  for (size_t i = layers.size(); i < all.size(); i++) {
    layer.parts.push_back(all[i]);
    layers.push_back(all[i]);
    if (all[i].native && i + 1 < all.size()) continue;  // a base layer goes with what lies on it
    device = p_.devices->NameFor(device, layer);
    layer.parts.clear();
  }
  stack.image = image.ref.ToString();
  StartOrigin origin;
  origin.image = stack.image;
  origin.manifest_digest = image.named.digest;
  if (!workload.empty()) origin.workload = workload;
  auto mounted = p_.devices->Ensure(device, [&] { return Result<LayerStack>(stack); }, origin);
  p_.devices->Release(device, mounted.ok() ? kKeepTried : std::chrono::seconds(0));
  return mounted.ok() ? OkStatus() : Status(mounted.error());
}

Status LayerTaker::AskArtifact(const std::string& key, const Labels& labels, const Lowers& lowers, Layer* layer,
                               std::string* meta_file) {
  if (referrers_ == ReferrerMode::kOff || layer->image.empty() || layer->manifest_digest.empty()) return OkStatus();
  if (referrers_ == ReferrerMode::kCri && !key.starts_with(kKubernetesKeys)) return OkStatus();
  auto digest = labels.find(kLayerDigestLabel);
  if (digest == labels.end()) return OkStatus();
  if (!lowers.dirs.empty()) return OkStatus();  // of an image that is taken in the ordinary way
  const auto found = p_.artifacts->Find(layer->image, layer->manifest_digest, [&](const ResolvedImage& image) {
    return TryImage(lowers, image, layer->workload);
  });
  if (!found.image) {
    if (found.reason == "no_artifact") Log(LogLevel::kDebug, "%s: %s", layer->image.c_str(), found.why.c_str());
    else FallBack(found.reason, *layer, found.why);
    return OkStatus();
  }
  // What is below must be what the artifact says, as its metadata continue it.
  const auto& all = found.image->fastoci.layers;
  size_t at = 0;
  for (auto link = lowers.lazy.rbegin(); link != lowers.lazy.rend(); ++link) {
    FASTOCI_TRY(Layer below, LayerFromJson(link->layer));
    for (const MetaLayer& part : below.parts) {
      if (at >= all.size() || all[at].digest != part.digest || all[at].target_digest != part.target_digest) {
        FallBack("parent_differs", *layer, "the layer below comes from another conversion");
        return OkStatus();
      }
      at++;
    }
  }
  std::vector<MetaLayer> parts;
  if (at == 0) parts.assign(all.begin(), all.begin() + static_cast<ptrdiff_t>(found.base));
  at += parts.size();
  if (at >= all.size() || all[at].target_digest != digest->second) {
    FallBack("artifact_differs", *layer, "it does not name the layer " + digest->second + " at this place");
    return OkStatus();
  }
  parts.push_back(all[at]);
  *meta_file = parts.back().meta_path;
  parts.back().meta_path = kMetaFile;
  layer->kind = LayerKind::kArtifact;
  layer->parts = std::move(parts);
  return OkStatus();
}

bool LayerTaker::Fits(const Layer& layer, const Lowers& lowers, const std::string& parent, const std::string& ref) {
  if (layer.kind == LayerKind::kNative && layer.parts[0].repository.empty()) {
    FallBack("no_repository", layer, "containerd did not pass on the image's reference");
    return false;
  }
  if (!lowers.dirs.empty()) {
    FallBack("order", layer, "the layer below is an ordinary one");
    return false;
  }
  if (layer.kind == LayerKind::kArtifact) return true;
  const std::string below = ChainIdIn(parent);
  if (below.empty() == parent.empty() && ref == ChainId(below, layer.digest)) return true;
  FallBack("chain_id", layer, "the layer " + layer.digest + " is not the one that containerd asks for, " + ref);
  return false;
}

Result<LayerTaker::Standing> LayerTaker::Look(const std::string& key, const Layer& layer, Snapshot* snapshot) {
  auto there = p_.store->Get(snapshot->name);
  if (!there.ok()) return there.error().kind == ErrorKind::kNotFound ? Result<Standing>(Standing::kFree) : there.error();
  if (there->kind != SnapshotKind::kCommitted || there->parent != snapshot->parent) {
    snapshot->name += " " + key;
    return Standing::kFree;
  }
  FASTOCI_TRY(Layer other, LayerFromJson(there->layer));
  return SameContent(other, layer) ? Standing::kThere : Standing::kOther;
}

Result<bool> LayerTaker::Put(const std::string& key, Snapshot snapshot, const Layer& layer, const std::string& meta_file) {
  constexpr int kTries = 3;  // somebody else may make it, or remove it
  for (int i = 0; i < kTries; i++) {
    FASTOCI_TRY(Standing standing, Look(key, layer, &snapshot));
    if (standing == Standing::kThere) return true;
    if (standing == Standing::kOther) {
      FallBack("layer_differs", layer, "another layer is there as " + snapshot.name);
      return false;
    }
    FASTOCI_TRY(snapshot.id, p_.directories->Make(false));
    const std::string dir = p_.directories->Dir(snapshot.id), kept = dir + "/" + kMetaFile;
    if (!meta_file.empty() && ::link(meta_file.c_str(), kept.c_str()) != 0) {
      const Error error = ErrnoError("link " + meta_file);
      p_.directories->Discard(snapshot.id);
      FallBack("meta_layers", layer, error.message);
      return false;
    }
    snapshot.usage = MeasureDirectory(dir);
    Status status = meta_file.empty() ? OkStatus() : p_.disk->Sync();  // a native layer has no file here
    if (status.ok()) status = p_.store->Create(snapshot);
    if (!status.ok()) {
      p_.directories->Discard(snapshot.id);
      if (status.error().err == kMarkTaken) continue;
      return status.error();
    }
    p_.directories->Adopt(snapshot.id);
    p_.metrics->Layer(LayerKindName(layer.kind));
    Log(LogLevel::kInfo, "layer %s is taken without a download", snapshot.name.c_str());
    Committed(snapshot.name, snapshot.labels);
    return true;
  }
  FallBack("layer_differs", layer, "others make and remove " + snapshot.name + " at this time");
  return false;
}

Result<bool> LayerTaker::Take(const std::string& key, const std::string& parent, const Labels& labels) {
  Snapshot snapshot;
  snapshot.name = labels.at(kRefLabel);
  auto told = LayerOfLabels(labels);
  if (!told.ok()) {
    FallBack("labels", Layer(), told.error().message);
    return false;
  }
  Layer layer = *told;
  if (layer.lazy()) FASTOCI_CHECK_OK(p_.policy->Check(layer, snapshot.name));
  FASTOCI_TRY(Lowers lowers, p_.lowers->Of(parent));
  std::string meta_file;
  if (!layer.lazy()) FASTOCI_CHECK_OK(AskArtifact(key, labels, lowers, &layer, &meta_file));
  if (layer.kind != LayerKind::kNative && layer.kind != LayerKind::kArtifact) return false;
  if (!Fits(layer, lowers, parent, snapshot.name)) return false;
  snapshot.parent = parent;
  snapshot.kind = SnapshotKind::kCommitted;
  snapshot.labels = labels;
  snapshot.layer = LayerToJson(layer);
  snapshot.device = p_.devices->NameFor(lowers.device, layer);
  return Put(key, std::move(snapshot), layer, meta_file);
}

void LayerTaker::Committed(const std::string& name, const Labels& labels) {
  const std::string rest = LabelOf(labels, kLayersLabel);
  if (rest.empty() || rest.find(',') != std::string::npos) return;  // there are more, or it is not known
  auto lowers = p_.lowers->Of(name);
  if (!lowers.ok() || lowers->device.empty() || !lowers->dirs.empty()) return;
  const LowerLayers* layers = p_.lowers;
  p_.devices->Pulled(lowers->device, [layers, lazy = lowers->lazy] { return layers->Describe(lazy); },
                     layers->OriginOf(lowers->lazy, name, labels));
}

}  // namespace fastoci
