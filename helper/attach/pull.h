// SPDX-License-Identifier: Apache-2.0
// From a reference to an assembled meta image: manifest, meta layers (verified
// against their digests), sizes of the original layers, assembly, for which
// ranges of native layers are fetched, and their chunk digests where a referrer
// has some.
#ifndef FASTOCI_ATTACH_PULL_H_
#define FASTOCI_ATTACH_PULL_H_

#include <memory>
#include <string>
#include <vector>

#include "attach/manifest.h"
#include "attach/progress.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "config/config.h"
#include "image/assemble_sandbox.h"
#include "registry/client.h"

namespace fastoci {

struct RegistryAccess {
  bool plain_http = false;
  std::string user_password;     // "user:password"; empty: docker's config.json
  std::string credentials_file;  // instead of docker's
  TlsOptions tls;
  std::string decoder;  // fastoci-decoderd; empty: beside this program
};

// Those that were named, or docker's.
Result<Credentials> LoadCredentials(const RegistryAccess& access);

struct ResolvedImage {
  Reference ref;
  Manifest manifest;  // of the FastOCI image
  FastociManifest fastoci;
  std::string sources_json;
};

class DownloadBar;

class ImagePuller {
 public:
  static Result<ImagePuller> Open(const RegistryAccess& access);
  // Takes a FastOCI or overlaybd image, an index of them, or an original image
  // that has a FastOCI referrer (whose layers are then compared with the
  // original's).
  Result<ResolvedImage> Resolve(const std::string& ref, Progress* progress);
  // The same from overlaybd's config.v1.json; path is that file. Blobs that lie
  // here are hashed, and must be what the config says.
  Result<ResolvedImage> ResolveConfig(const std::string& path, Progress* progress);
  // Whether the node's policy lets the image in: kMismatch if it demands a signature
  // that the manifest has not.
  Status CheckPolicy(const std::vector<SignatureRule>& rules, const ResolvedImage& image,
                     Progress* progress);
  // Downloads the meta layers to work_dir and assembles them to meta_path,
  // which appears complete and synced or not at all. The layers are removed.
  Status Assemble(const ResolvedImage& image, const std::string& work_dir,
                  const std::string& meta_path, Progress* progress);
  // What is in the layers, see image/inspect.h; work_dir as above.
  Result<std::string> Inspect(const ResolvedImage& image, const std::string& work_dir,
                              Progress* progress);
  // The same of one layer, compared with its blob, which is downloaded for it.
  Result<std::string> CheckLayer(const ResolvedImage& image, size_t layer,
                                 const std::string& work_dir, Progress* progress);

 private:
  ImagePuller() = default;
  Result<Manifest> GetManifest(const Reference& ref);
  Status AskSizes(ResolvedImage* image);
  // What goes wrong here is a warning: those layers are checked as a whole only.
  void FindDigests(ResolvedImage* image, Progress* progress);
  Status AskSize(const Reference& ref, MetaLayer* layer);
  // To a file in work_dir, whose path it returns. Any thread, with another digest.
  Result<std::string> Download(const Reference& ref, const std::string& digest, uint64_t bytes,
                               const std::string& work_dir, DownloadBar* bar);
  static Status Pack(const MetaLayer& layer, AssembleLayer* part, UniqueFd* fd);
  // In the decoder's sandbox.
  // paths: of the meta layers; of a native one's chunk digests, or "".
  Status RunOnLayers(LayerTask task, const ResolvedImage& image,
                     const std::vector<std::string>& paths, int out_fd);
  Result<std::string> Report(LayerTask task, const ResolvedImage& image,
                             const std::vector<std::string>& paths);
  // The paths, one for each layer; unlinked by the caller, also if it fails.
  Status DownloadAll(const ResolvedImage& image, const std::string& work_dir, Progress* progress,
                     std::vector<std::string>* paths);
  std::unique_ptr<RegistryClient> client_;
  std::string decoder_;
  bool plain_http_ = false;
};

// sha256 of a file, in hex.
Result<std::string> HashFile(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_PULL_H_
