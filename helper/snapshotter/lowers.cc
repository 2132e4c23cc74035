// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/lowers.h"

#include "snapshotter/layer.h"

namespace fastoci {

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

}  // namespace fastoci
