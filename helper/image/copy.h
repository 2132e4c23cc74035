// SPDX-License-Identifier: Apache-2.0
// CopyImage copies an image with everything that it needs from one store to another. A
// converted image needs the layers of its original, but its manifest does not name them.
// They are copied, too, and kept from being deleted (KeepOriginal).
#ifndef FASTOCI_IMAGE_COPY_H_
#define FASTOCI_IMAGE_COPY_H_

#include <functional>
#include <string>

#include "base/result.h"
#include "image/image_store.h"

namespace fastoci {

struct CopyOptions {
  std::string scratch_dir = "/var/tmp";  // for one blob at a time
  // False: without the original image and its layers, which a node with the data does not need.
  bool originals = true;
  bool signatures = false;  // cosign's, of the manifest, too
  std::function<void(const std::string& warning)> warn;
};

// name: as for ImageStore::GetManifest(); tag: as for PutManifest(). Stores each manifest
// after what it names, and the tag last. Returns the digest.
Result<std::string> CopyImage(ImageStore* from, const std::string& name, ImageStore* to,
                              const std::string& tag, const CopyOptions& options);

// Where cosign puts signatures of a manifest: under a tag, or in referrers of a type.
std::string SignatureTag(const std::string& digest);
inline constexpr char kSignatureArtifact[] = "application/vnd.dev.cosign.artifact.sig.v1+json";

// The tag under which the original of the image `tag` is kept.
std::string KeeperTag(const std::string& tag);
// Stores the original image once more, under KeeperTag(tag) and a digest of its
// own. So its layers stay when its own tag and manifest are deleted. original: its
// manifest or index. What the manifest names is in the store already.
Status KeepOriginal(ImageStore* store, const std::string& tag, const Manifest& original);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_COPY_H_
