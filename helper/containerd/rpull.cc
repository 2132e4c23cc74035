// SPDX-License-Identifier: Apache-2.0
#include "containerd/rpull.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <vector>

#include "attach/start_trace.h"
#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "image/oci_image.h"
#include "registry/client.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int64_t kConnectMs = 10000;
constexpr int64_t kLeaseS = 24 * 3600;
constexpr size_t kMaxLabel = 4096;  // key and value, containerd's limit
constexpr char kSnapshotPrefix[] = "containerd.io/snapshot/";
constexpr char kCri[] = "containerd.io/snapshot/cri.";

ContentDescriptor DescriptorOf(const Json& j) {
  ContentDescriptor d = {JsonText(j, "mediaType"), JsonText(j, "digest"), JsonNumber(j, "size"), {}};
  for (const auto& [key, value] : JsonChild(j, "annotations").items())
    if (value.is_string()) d.annotations[key] = value.get<std::string>();
  return d;
}

struct Plan {
  Manifest top;                         // what the reference names
  Manifest manifest;                    // of the platform; the same, if it is no index
  ContentDescriptor config;
  std::vector<ContentDescriptor> layers;  // bottom first
  std::vector<std::string> chain_ids;     // one a layer
};

class Pull {
 public:
  Pull(const RpullRequest& request, Progress* progress) : r_(request), progress_(*progress) {}

  Result<RpullResult> Run() {
    FASTOCI_TRY(ref_, ParseReference(r_.ref));
    FASTOCI_TRY(registry_, OpenClient(r_.access, ref_.host));
    FASTOCI_TRY(containerd_, ContainerdClient::Connect(r_.address, r_.name_space, kConnectMs));
    progress_.Step("resolving " + ref_.ToString());
    FASTOCI_TRY(Plan plan, MakePlan());
    FASTOCI_CHECK_OK(containerd_->Lease(kLeaseS));
    FASTOCI_CHECK_OK(StoreMetadata(plan));
    result_.layers = plan.layers.size();
    for (size_t i = 0; i < plan.layers.size(); i++) {
      Status status = Layer(plan, i);
      if (!status.ok()) return status.error().Wrap("layer " + std::to_string(i + 1) + " of " + std::to_string(plan.layers.size()));
    }
    // From now on the config names the top layer's snapshot, and the image the manifest.
    FASTOCI_CHECK_OK(containerd_->SetContentLabels(
        plan.config.digest, {{"containerd.io/gc.ref.snapshot." + r_.snapshotter, plan.chain_ids.back()}}));
    result_.name = ref_.ToString();
    result_.digest = plan.top.digest;
    result_.chain_id = plan.chain_ids.back();
    const ContentDescriptor target = {plan.top.media_type, plan.top.digest, plan.top.body.size(), {}};
    FASTOCI_CHECK_OK(containerd_->PutImage(result_.name, target, {}));
    return result_;
  }

 private:
  Result<Plan> MakePlan() {
    Plan plan;
    FASTOCI_TRY(plan.top, registry_->GetManifest(ref_));
    const ManifestReader reader{
        [&](const std::string& digest) { return registry_->GetManifest(ref_.WithDigest(digest)); },
        [&](const std::string& digest) { return registry_->ReadBlob(ref_, digest, kMaxImageConfigBytes); }};
    FASTOCI_TRY(plan.manifest, ManifestOfPlatform(plan.top, r_.platform.any() ? HostPlatform() : r_.platform, reader));
    const Json j = ParseForeignJson(plan.manifest.body);
    plan.config = DescriptorOf(JsonChild(j, "config"));
    for (const Json& layer : JsonChild(j, "layers")) plan.layers.push_back(DescriptorOf(layer));
    if (plan.config.digest.empty() || plan.layers.empty())
      return InvalidError(ref_.ToString() + " is not an image: its manifest has no config or no layers");
    FASTOCI_TRY(config_, registry_->ReadBlob(ref_, plan.config.digest, kMaxImageConfigBytes));
    if (const Platform is = PlatformOfConfig(config_);
        plan.top.digest == plan.manifest.digest && !r_.platform.any() && !r_.platform.Takes(is))
      return MismatchError(ref_.ToString() + " is for " + is.Text() + ", not for " + r_.platform.Text());
    const Json config = ParseForeignJson(config_);
    const Json& diff_ids = JsonChild(JsonChild(config, "rootfs"), "diff_ids");
    if (!diff_ids.is_array() || diff_ids.size() != plan.layers.size())
      return InvalidError("the image's config names " + std::to_string(diff_ids.size()) + " layers, its manifest " +
                          std::to_string(plan.layers.size()));
    for (const Json& diff_id : diff_ids) {
      const std::string text = diff_id.is_string() ? diff_id.get<std::string>() : "";
      FASTOCI_CHECK_OK(ParseDigest(text));
      diff_ids_.push_back(text);
      plan.chain_ids.push_back(ChainId(plan.chain_ids.empty() ? "" : plan.chain_ids.back(), text));
    }
    return plan;
  }

  LabelMap SourceLabel() const { return {{"containerd.io/distribution.source." + ref_.host, ref_.repository}}; }

  Status Store(const std::string& media_type, const std::string& digest, const std::string& body, LabelMap labels) {
    labels.merge(SourceLabel());
    return containerd_->WriteContent({media_type, digest, body.size(), {}}, labels,
                                     [&](const ContainerdClient::Sink& sink) { return sink(AsBytes(body)); });
  }

  // Labels are what containerd's garbage collector follows.
  Status StoreMetadata(const Plan& plan) {
    FASTOCI_CHECK_OK(Store(plan.config.media_type, plan.config.digest, config_, {}));
    LabelMap names = {{"containerd.io/gc.ref.content.config", plan.config.digest}};
    for (size_t i = 0; i < plan.layers.size(); i++)
      names["containerd.io/gc.ref.content.l." + std::to_string(i)] = plan.layers[i].digest;
    FASTOCI_CHECK_OK(Store(plan.manifest.media_type, plan.manifest.digest, plan.manifest.body, names));
    if (plan.top.digest == plan.manifest.digest) return OkStatus();
    // Not "m.0", by which a client that pulled all platforms may hold another manifest.
    const std::string name = "containerd.io/gc.ref.content.m." + plan.manifest.digest.substr(sizeof("sha256:") - 1, 12);
    return Store(plan.top.media_type, plan.top.digest, plan.top.body, {{name, plan.manifest.digest}});
  }

  // As containerd's CRI plugin makes them, and the annotations that it lets through.
  LabelMap LabelsOf(const Plan& plan, size_t i) const {
    LabelMap labels = {{"containerd.io/snapshot.ref", plan.chain_ids[i]},
                       {std::string(kCri) + "image-ref", ref_.ToString()},
                       {std::string(kCri) + "manifest-digest", plan.manifest.digest},
                       {std::string(kCri) + "layer-digest", plan.layers[i].digest}};
    if (!r_.workload.empty()) labels[kWorkloadLabel] = r_.workload;
    const std::string key = std::string(kCri) + "image-layers";
    std::string& rest = labels[key];
    for (size_t k = i; k < plan.layers.size(); k++) {
      if (key.size() + rest.size() + 1 + plan.layers[k].digest.size() > kMaxLabel) break;
      rest += (k > i ? "," : "") + plan.layers[k].digest;
    }
    for (const auto& [name, value] : plan.layers[i].annotations)
      if (name.rfind(kSnapshotPrefix, 0) == 0 && name.size() + value.size() <= kMaxLabel) labels.emplace(name, value);
    return labels;
  }

  Status Layer(const Plan& plan, size_t i) {
    const std::string& chain_id = plan.chain_ids[i];
    FASTOCI_TRY(bool there, containerd_->HasSnapshot(r_.snapshotter, chain_id));
    if (there) {
      result_.present++;
      return OkStatus();
    }
    const auto now = std::chrono::steady_clock::now().time_since_epoch().count();
    const std::string key = "extract-" + std::to_string(now) + "-" + std::to_string(::getpid()) + " " + chain_id;
    const LabelMap labels = LabelsOf(plan, i);
    auto mounts = containerd_->PrepareSnapshot(r_.snapshotter, key, i > 0 ? plan.chain_ids[i - 1] : "", labels);
    if (!mounts.ok() && mounts.error().err == EEXIST) {
      FASTOCI_TRY(bool taken, containerd_->HasSnapshot(r_.snapshotter, chain_id));
      if (!taken) return mounts.error();
      result_.taken++;
      return OkStatus();
    }
    if (!mounts.ok()) return mounts.error();
    Status status = Unpack(plan, i, *mounts);
    if (status.ok()) status = containerd_->CommitSnapshot(r_.snapshotter, chain_id, key, labels);
    if (status.ok()) return status;
    if (status.error().err == EEXIST) status = OkStatus();  // by somebody else, meanwhile
    (void)containerd_->RemoveSnapshot(r_.snapshotter, key).ok();
    return status;
  }

  Status Unpack(const Plan& plan, size_t i, const std::vector<ContainerdMount>& mounts) {
    const ContentDescriptor& layer = plan.layers[i];
    progress_.Step("layer " + std::to_string(i + 1) + " of " + std::to_string(plan.layers.size()));
    uint64_t done = 0;
    FASTOCI_CHECK_OK(containerd_->WriteContent(layer, SourceLabel(), [&](const ContainerdClient::Sink& sink) {
      return registry_->GetBlob(ref_, layer.digest, layer.bytes, [&](ByteSpan data) {
        done += data.size();
        progress_.Bytes(done, layer.bytes);
        return sink(data);
      });
    }));
    result_.fetched_bytes += done;
    FASTOCI_TRY(std::string diff_id, containerd_->Apply(layer, mounts));
    if (diff_id == diff_ids_[i]) return OkStatus();
    return MismatchError(layer.digest + " unpacks to " + diff_id + ", the config says " + diff_ids_[i]);
  }

  const RpullRequest& r_;
  Progress& progress_;
  Reference ref_;
  std::unique_ptr<RegistryClient> registry_;
  std::unique_ptr<ContainerdClient> containerd_;
  std::string config_;
  std::vector<std::string> diff_ids_;
  RpullResult result_;
};

}  // namespace

Result<RpullResult> Rpull(const RpullRequest& request, Progress* progress) { return Pull(request, progress).Run(); }

}  // namespace fastoci
