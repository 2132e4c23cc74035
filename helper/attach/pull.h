// SPDX-License-Identifier: Apache-2.0
// From a reference to an assembled meta image: manifest, meta layers (verified
// against their digests), sizes of the original layers, assembly.
#ifndef FASTOCI_ATTACH_PULL_H_
#define FASTOCI_ATTACH_PULL_H_

#include <memory>
#include <string>
#include <vector>

#include "attach/manifest.h"
#include "attach/progress.h"
#include "base/result.h"
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

class ImagePuller {
 public:
  static Result<ImagePuller> Open(const RegistryAccess& access);
  // Takes a FastOCI image, an index of them, or an original image that has a
  // FastOCI referrer (whose layers are then compared with the original's).
  Result<ResolvedImage> Resolve(const std::string& ref, Progress* progress);
  // Downloads the meta layers to work_dir and assembles them to meta_path,
  // which appears complete and synced or not at all. The layers are removed.
  Status Assemble(const ResolvedImage& image, const std::string& work_dir,
                  const std::string& meta_path, Progress* progress);

 private:
  ImagePuller() = default;
  Result<Manifest> GetManifest(const Reference& ref);
  Status AskSizes(ResolvedImage* image);
  Result<std::string> Download(const ResolvedImage& image, const MetaLayer& layer,
                               const std::string& work_dir, Progress* progress);
  // In the decoder's sandbox.
  Status RunAssembly(const ResolvedImage& image, const std::vector<std::string>& paths,
                     const std::string& meta_path);
  std::unique_ptr<RegistryClient> client_;
  std::string decoder_;
  bool plain_http_ = false;
};

// sha256 of a file, in hex.
Result<std::string> HashFile(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_PULL_H_
