// SPDX-License-Identifier: Apache-2.0
// overlaybd's config.v1.json: one image on a node, as its snapshotter writes it.
// Its lowers are local files, or blobs below repoBlobUrl. They are returned in the form
// of a manifest's layers, so that the rest of attach sees one kind of image. `upper`,
// `resultFile`, `download` and `recordTracePath` matter only to overlaybd, and are ignored.
#ifndef FASTOCI_ATTACH_OVERLAYBD_CONFIG_H_
#define FASTOCI_ATTACH_OVERLAYBD_CONFIG_H_

#include <string>

#include "attach/manifest.h"
#include "base/result.h"

namespace fastoci {

inline constexpr uint64_t kMaxConfigBytes = 4 << 20;

struct OverlaybdConfig {
  BlobLocation location;  // repoBlobUrl; an empty host: there is none
  FastociManifest layers;
};

// Looks for local files: `file`, `dir`/overlaybd.commit, `dir`/.commit,
// `dir`/overlaybd.sealed. Digests and sizes of local blobs are left to the
// caller. Errors name the lower.
Result<OverlaybdConfig> ParseOverlaybdConfig(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_OVERLAYBD_CONFIG_H_
