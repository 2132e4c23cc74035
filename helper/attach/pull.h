// SPDX-License-Identifier: Apache-2.0
// From a reference to an assembled meta image. The steps: get the manifest; get the meta
// layers and verify their digests; find the sizes of the original layers; assemble. For
// native layers, assembly fetches a few ranges, and the chunk digests if a referrer has
// them.
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
#include "image/image_store.h"
#include "image/meta_layer.h"
#include "image/oci_image.h"
#include "image/seed_manifest.h"
#include "registry/client.h"
#include "registry/options.h"

namespace fastoci {

struct RegistryAccess {
  bool plain_http = false;
  std::string user_password;     // "user:password", for the image's registry alone
  std::string credentials_file;  // in the format of docker's config.json
  TlsFlags tls;
  // Directories with hosts.toml files; "none": none. Empty: containerd's and docker's.
  std::vector<std::string> hosts_dirs;
  std::string node_hosts_dir;  // the same of the node's configuration, where hosts_dirs is empty
  std::string decoder;  // fastoci-decoderd; empty: beside this program
  Watch* watch = nullptr;  // ends what waits for a registry; not owned
  // Whether it has anything that an attach keeps.
  bool given() const {
    return plain_http || !user_password.empty() || !credentials_file.empty() || tls.insecure ||
           !tls.root_ca.empty() || !tls.cert_dir.empty() || !tls.client_cert.empty() || !hosts_dirs.empty();
  }
};

// Takes the node's hosts.toml directory from its configuration (config: its file; "": the usual one).
// One that cannot be read changes nothing: who reads it for other reasons says what is wrong with it.
void UseNodeHosts(const std::string& config, RegistryAccess* access);

// "" for an empty text; else a path under which it can be read as long as what is added to files.
Result<std::string> FileInMemory(const std::string& text, std::vector<UniqueFd>* files);

// Fills access from what an earlier attach has kept. The PEM files that access then names are
// in memory, and exist as long as what is added to files.
Status UseAccess(const Access& kept, RegistryAccess* access, std::vector<UniqueFd>* files);

// What the options of a registry mean; an Error: a file of them cannot be read.
Result<RegistryOptions> OptionsOf(const RegistryAccess& access);

// A client for one image's registry.
Result<std::unique_ptr<RegistryClient>> OpenClient(const RegistryAccess& access,
                                                   const std::string& host);

struct ResolvedImage {
  Reference ref;                       // of an image in a layout: host "oci", and its directory
  std::shared_ptr<ImageStore> layout;  // where it is, if not in a registry
  bool seeded = false;                 // it is a seed's copy of what is in the registry
  Descriptor named;   // the manifest that ref names, of this platform
  Manifest manifest;  // of the FastOCI image: that one, or an artifact of it
  FastociManifest fastoci;
  SourcesJson sources;
};

// The layers of an image whose caller knows all of them, as a snapshotter does: bottom
// first, each with its repository.
struct LayerStack {
  std::string image;            // for messages
  std::string manifest_digest;  // of the image that the top layer came with, or ""
  FastociManifest layers;
};

class DownloadBar;

class ImagePuller {
 public:
  // rules: the node's policy of signatures. A puller is for one image.
  static Result<ImagePuller> Open(const RegistryAccess& access, std::vector<SignatureRule> rules = {});
  // The access that the helper needs to read the image as this puller does. Call it after
  // Resolve().
  Result<Access> AccessFor(const ResolvedImage& image) const;
  // ref: HOST/REPOSITORY:TAG (or @DIGEST), or oci:DIR:TAG. Takes a FastOCI or
  // overlaybd image, an index of them, or an original image that has a FastOCI
  // referrer (whose layers are then compared with the original's). Of several referrers
  // it takes the newest that the policy lets in. EKEYREJECTED in err: it lets in none.
  Result<ResolvedImage> Resolve(const std::string& ref, Progress* progress);
  // The same from overlaybd's config.v1.json; path is that file. Blobs that lie
  // here are hashed, and must be what the config says.
  Result<ResolvedImage> ResolveConfig(const std::string& path, Progress* progress);
  // The same from layers that are known. Asks the registry for sizes that are missing.
  Result<ResolvedImage> ResolveStack(const LayerStack& stack, Progress* progress);
  // The same from a seed: the manifest is in the layout, and the config says what the registry
  // would. The layers stay the registry's: whatever is missing is read from there.
  Result<ResolvedImage> ResolveSeed(const std::string& directory, const std::string& manifest_digest,
                                    const SeedConfig& config, Progress* progress);
  // Whether the node's policy lets the image in: kMismatch, with EKEYREJECTED in err, if it
  // demands a signature that the manifest has not.
  Status CheckPolicy(const ResolvedImage& image, Progress* progress);
  // Downloads the meta layers to work_dir and assembles them to meta_path,
  // which appears complete and synced or not at all. The layers are removed.
  Status Assemble(const ResolvedImage& image, const std::string& work_dir,
                  const std::string& meta_path, Progress* progress);
  // Downloads the meta layers to dir, where they stay, and says so in them.
  Status FetchMetaLayers(ResolvedImage* image, const std::string& dir, Progress* progress);
  // Checks that the registry serves a range of the image's largest blob.
  Status TryRange(const ResolvedImage& image);
  // What is in the layers, see image/inspect.h; work_dir as above.
  Result<std::string> Inspect(const ResolvedImage& image, const std::string& work_dir,
                              Progress* progress);
  // The same of one layer, compared with its blob, which is downloaded for it.
  Result<std::string> CheckLayer(const ResolvedImage& image, size_t layer,
                                 const std::string& work_dir, Progress* progress);

 private:
  ImagePuller() = default;
  // In a layout or a registry. name: a tag or a digest.
  Result<Manifest> GetManifest(const ResolvedImage& image, const std::string& name);
  // The digests of those of one type.
  Result<std::vector<std::string>> Referrers(const ResolvedImage& image, const std::string& digest,
                                             const std::string& artifact_type);
  Result<Manifest> ManifestOfHost(const ResolvedImage& image, const std::string& name);
  static Status MeasureLayout(ResolvedImage* image);
  // What FastOCI artifact there is for the image, an ordinary one.
  Status FindArtifact(ResolvedImage* image, Progress* progress);
  Status AskSizes(ResolvedImage* image);
  // Finds the chunk digests for the image of that digest. A failure is only a warning:
  // then the layers are checked as a whole.
  void FindDigests(const std::string& digest, ResolvedImage* image, Progress* progress);
  Status AskSize(const Reference& ref, MetaLayer* layer);
  // To a file in work_dir, whose path it returns. Any thread, with another digest.
  Result<std::string> Download(const ResolvedImage& image, const std::string& digest, uint64_t bytes,
                               const std::string& work_dir, DownloadBar* bar);
  static Status Pack(const MetaLayer& layer, AssembleLayer* part, UniqueFd* fd);
  static Status PackTo(const MetaLayerFiles& files, AssembleLayer* part, UniqueFd* fd);
  // In the decoder's sandbox.
  // paths: of the meta layers; of a native one's chunk digests, or "".
  Status RunOnLayers(LayerTask task, const ResolvedImage& image,
                     const std::vector<std::string>& paths, int out_fd);
  Result<std::string> Report(LayerTask task, const ResolvedImage& image,
                             const std::vector<std::string>& paths);
  // The paths, one for each layer; unlinked by the caller, also if it fails.
  Status DownloadAll(const ResolvedImage& image, const std::string& work_dir, Progress* progress,
                     std::vector<std::string>* paths);
  RegistryAccess access_;
  std::vector<SignatureRule> rules_;
  std::string approved_;  // the manifest that the policy let in
  std::unique_ptr<RegistryClient> client_;  // from Resolve() on
};

// "oci:DIR:TAG", or an image in a registry that is spoken to in that way.
Result<NamedImage> OpenImageStore(const std::string& text, const RegistryAccess& access,
                                  bool create);

// sha256 of a file, in hex.
Result<std::string> HashFile(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_PULL_H_
