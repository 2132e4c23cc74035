// SPDX-License-Identifier: Apache-2.0
// ImageStore: where images come from and go to: one repository of a registry, or
// an OCI layout directory on this machine (no network; tests, air gaps).
#ifndef FASTOCI_IMAGE_IMAGE_STORE_H_
#define FASTOCI_IMAGE_IMAGE_STORE_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "registry/client.h"

namespace fastoci {

class ImageStore {
 public:
  virtual ~ImageStore() = default;
  // name: a tag, or a digest.
  virtual Result<Manifest> GetManifest(const std::string& name) = 0;
  virtual Result<std::string> ReadBlob(const std::string& digest, uint64_t max_bytes) = 0;
  // The bytes that sink got are good only if this succeeds.
  virtual Status GetBlob(const std::string& digest, uint64_t bytes, const BlobSink& sink) = 0;
  // Does nothing if the blob is there already.
  virtual Status PutBlob(const std::string& digest, uint64_t bytes, const BlobSource& source) = 0;
  Status PutBlob(const std::string& digest, ByteSpan data);
  // Takes a blob from another store; its bytes do not pass through this process. False: the
  // stores cannot do that, or the blob is not there.
  virtual Result<bool> MountBlob(ImageStore*, const std::string&) { return false; }
  // name: a tag, or "" to store it under its digest alone. Returns the digest.
  virtual Result<std::string> PutManifest(const std::string& name, const std::string& media_type,
                                          const std::string& body) = 0;
  // An image index of the manifests whose subject is the digest.
  virtual Result<std::string> Referrers(const std::string& digest,
                                        const std::string& artifact_type) = 0;
  // Whether what no manifest names may go away.
  virtual bool collects_garbage() const { return false; }
};

// repository: "host[:port]/repository"; no tag.
Result<std::unique_ptr<ImageStore>> OpenRegistryStore(const std::string& repository,
                                                      RegistryOptions options,
                                                      CredentialSourcePtr credentials);
Result<std::unique_ptr<ImageStore>> OpenRegistryStore(const std::string& repository,
                                                      RegistryOptions options,
                                                      Credentials credentials);
// create: makes it if there is none; else it must be there.
Result<std::unique_ptr<ImageStore>> OpenLayoutStore(const std::string& directory,
                                                    bool create = false);

// The digests of what the index of a layout names, each once.
Result<std::vector<std::string>> ListLayout(const std::string& directory);
// Where a layout has a blob. The digest must be one.
std::string LayoutBlobPath(const std::string& directory, const std::string& digest);

// "oci:DIR" or "oci:DIR:TAG"; null: something else.
struct LayoutName {
  std::string directory, tag;
};
std::optional<LayoutName> ParseLayoutName(const std::string& text);

// The store of "oci:DIR:TAG" or "HOST/REPOSITORY:TAG" (or @DIGEST), and the name of the
// image in that store.
struct NamedImage {
  std::unique_ptr<ImageStore> store;
  std::string name;
};
Result<NamedImage> OpenNamedImage(const std::string& text, RegistryOptions options,
                                  CredentialSourcePtr credentials, bool create);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_IMAGE_STORE_H_
