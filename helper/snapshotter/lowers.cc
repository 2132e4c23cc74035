// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/lowers.h"

#include "snapshotter/layer.h"

namespace fastoci {
namespace {

constexpr char kTraceFile[] = "trace";  // in a trace layer
constexpr char kRecordLabel[] = "containerd.io/snapshot/overlaybd/record-trace";
constexpr char kRecordPathLabel[] = "containerd.io/snapshot/overlaybd/record-trace-path";

}  // namespace

std::string RecordPath(const std::string& key, const Labels& labels) {
  const std::string path = LabelOf(labels, kRecordPathLabel);
  const bool from_elsewhere = key.starts_with(kKubernetesKeys) || labels.count(kRefLabel) != 0;
  return LabelOf(labels, kRecordLabel) == "yes" && path.starts_with("/") && !from_elsewhere ? path : "";
}

Result<Lowers> LowerLayers::Of(const std::string& name) const {
  Lowers out;
  if (name.empty()) return out;
  FASTOCI_TRY(auto chain, store_.Chain(name));
  for (const ChainLink& link : chain) {
    if (link.kind != SnapshotKind::kCommitted) continue;  // the snapshot itself
    if (link.layer.empty()) {
      if (!out.lazy.empty())
        return InvalidError("the lazy layer " + out.lazy.back().name + " lies over the ordinary one " + link.name);
      out.dirs.push_back(directories_.Files(link.id));
    } else {
      out.lazy.push_back(link);
    }
  }
  if (!out.lazy.empty()) out.device = out.lazy.front().device;
  return out;
}

Result<LayerStack> LowerLayers::Describe(const std::vector<ChainLink>& lazy) const {
  LayerStack stack;
  for (auto link = lazy.rbegin(); link != lazy.rend(); ++link) {
    FASTOCI_TRY(Layer layer, LayerFromJson(link->layer));
    const std::string dir = directories_.Dir(link->id) + "/";
    for (MetaLayer part : layer.parts) {
      for (std::string* path : {&part.meta_path, &part.members_dir, &part.blob_path})
        if (!path->empty()) path->insert(0, dir);
      stack.layers.layers.push_back(std::move(part));
    }
    stack.image = layer.image.empty() ? link->name : layer.image;
    stack.manifest_digest = layer.manifest_digest;
  }
  if (stack.layers.layers.empty()) return InvalidError("the lazy layers hold no data");
  return stack;
}

StartOrigin LowerLayers::OriginOf(const std::vector<ChainLink>& lazy, const std::string& key, const Labels& labels) const {
  StartOrigin origin;
  if (lazy.empty()) return origin;
  auto top = LayerFromJson(lazy.front().layer);
  if (!top.ok()) return origin;
  origin.image = top->image;
  origin.manifest_digest = top->manifest_digest;
  for (const std::string& workload : {LabelOf(labels, kWorkloadLabel), top->workload}) {
    if (!IsWorkloadName(workload)) continue;
    origin.workload = workload;
    break;
  }
  origin.trace_file = RecordPath(key, labels);
  if (top->kind == LayerKind::kTrace) origin.trace_file = directories_.Files(lazy.front().id) + "/" + kTraceFile;
  if (origin.trace_file.empty()) return origin;
  auto stack = Describe(lazy);
  if (!stack.ok()) return origin;
  for (const MetaLayer& layer : stack->layers.layers) origin.blobs.push_back(layer.target_digest);
  return origin;
}

}  // namespace fastoci
