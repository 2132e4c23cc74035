// SPDX-License-Identifier: Apache-2.0
// What the layer of a committed snapshot is: an ordinary one, whose files lie in its
// directory, or a lazy one, which together with all layers below it makes a device.
// The labels that containerd passes on say which (annotations of the layer's descriptor,
// and what CRI adds), and so does what was unpacked.
//
//   native     an overlaybd layer: taken without a download; or its file, if it was
//              unpacked nevertheless
//   meta       a meta layer of turboOCI or FastOCI, unpacked to the directory
//   artifact   a layer of an ordinary image whose meta layer was found by the
//              image's referrers, and lies in the directory as a file
//   trace      overlaybd's prefetch trace, unpacked to the directory as the file "trace": no
//              data, the device is that of the parent
#ifndef FASTOCI_SNAPSHOTTER_LAYER_H_
#define FASTOCI_SNAPSHOTTER_LAYER_H_

#include <optional>
#include <string>
#include <vector>

#include "attach/manifest.h"
#include "base/result.h"
#include "snapshotter/store.h"

namespace fastoci {

inline constexpr char kRefLabel[] = "containerd.io/snapshot.ref";
inline constexpr char kImageRefLabel[] = "containerd.io/snapshot/cri.image-ref";
inline constexpr char kManifestLabel[] = "containerd.io/snapshot/cri.manifest-digest";
inline constexpr char kLayerDigestLabel[] = "containerd.io/snapshot/cri.layer-digest";
inline constexpr char kLayersLabel[] = "containerd.io/snapshot/cri.image-layers";  // this one and those above it
inline constexpr char kOverlaybdLabel[] = "containerd.io/snapshot/overlaybd/";
inline constexpr char kKubernetesKeys[] = "k8s.io/";  // how the keys of its snapshots begin

// The label's text; "" if there is none.
std::string LabelOf(const Labels& labels, const std::string& key);

enum class LayerKind { kOrdinary, kNative, kMeta, kArtifact, kTrace };
const char* LayerKindName(LayerKind kind);

struct Layer {
  LayerKind kind = LayerKind::kOrdinary;
  std::string image;            // as containerd names it; "": not known
  std::string manifest_digest;  // of the image; "": not known
  std::string workload;         // whose start trace it was pulled with; "": the default one's
  // What the layer adds to the device, bottom first: one part, or a base layer and one part.
  // Paths are relative to the snapshot's directory. Ordinary layers and traces have none.
  std::vector<MetaLayer> parts;
  // Not kept in the database. digest: of the blob that the annotations say it is, which is also
  // that of the layer's descriptor, if that is known. describes_itself: a meta layer whose own
  // files name its target; other ones have it from an annotation, which no digest covers.
  std::string digest;
  bool describes_itself = false;
  bool lazy() const { return kind != LayerKind::kOrdinary; }
};

// What the labels say before anything is unpacked. For an ordinary layer, and for a meta layer
// that will be unpacked: the kind and what is known. kInvalid: the labels contradict each other,
// or the layer's descriptor.
Result<Layer> LayerOfLabels(const Labels& labels);

// What was unpacked to dir. told: what the labels said of it. kInvalid: it looks like a lazy
// layer, but cannot be one. Which layer it is, so DeviceName(), follows from what lies there,
// whatever the labels say.
Result<Layer> LayerOfFiles(const Layer& told, const std::string& dir);

std::string LayerToJson(const Layer& layer);  // "" for an ordinary one
Result<Layer> LayerFromJson(const std::string& text);

// Whether two layers add the same to a device.
bool SameContent(const Layer& a, const Layer& b);

// Eight hex digits that tell what is this root's from what belongs to another one on the node.
std::string RootTag(const std::string& root);
// What names the device of a lazy layer: layers of one name hold the same data.
// ChainDevices::NameFor() adds the root. parent_device: its parent's device; "": none.
std::string DeviceName(const std::string& parent_device, const Layer& layer);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_LAYER_H_
