// SPDX-License-Identifier: Apache-2.0
// RegistryClient: the OCI distribution protocol. Manifests and whole blobs are
// verified against their digest; ranges are checked for exact place and length,
// and their bytes are left to the caller's own digests. All digests are
// "sha256:<hex>" strings, checked here. Retries are http/'s.
//
// Reads ask the mirrors that hosts.toml names, and then the registry; writes and lists go to
// the registry alone (hosts.h). A mirror that does not connect, refuses, fails or has it not
// costs no read: the next one is asked, and only what the last one says counts.
//
// Thread-safe. Errors: kNotFound, kDenied (401, 403), kUnavailable (retries
// used up), kMismatch (digest, size, range), kInvalid.
#ifndef FASTOCI_REGISTRY_CLIENT_H_
#define FASTOCI_REGISTRY_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "http/http_client.h"
#include "http/retry.h"
#include "registry/credential_source.h"
#include "registry/credentials.h"
#include "registry/hosts.h"
#include "registry/reference.h"

namespace fastoci {

inline constexpr uint64_t kMaxManifestBytes = 4 << 20;

inline constexpr char kDockerManifest[] = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr char kDockerManifestList[] =
    "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr char kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";
inline constexpr char kOciIndex[] = "application/vnd.oci.image.index.v1+json";

struct RegistryOptions {
  // http for every registry, not only for loopback ones. Not for mirrors, whose URL says it.
  bool plain_http = false;
  HttpOptions http;  // its tls is for the registry itself, and wins over hosts.toml
  // Directories with hosts.toml files, see hosts.h. None: a registry is asked itself.
  std::vector<std::string> hosts_dirs;
  // Instead of those: who is asked for every registry, for a diagnosis of one of them.
  std::optional<std::vector<HostConfig>> hosts;
  RetryPolicy retry;
  int64_t request_timeout_ms = 60000;     // manifests and other small things
  int64_t transfer_timeout_ms = 1800000;  // whole blobs, up and down
  // Larger blobs are sent in chunks of that size, each of which can fail and be
  // sent again without the ones before it.
  uint64_t upload_chunk_bytes = 64 << 20;
  // After an update of a fallback tag, the client waits so long and then looks at the tag
  // again: another writer may have overwritten our entry.
  int64_t referrers_settle_ms = 300;
  Watch* watch = nullptr;  // of the calls that have none of their own; not owned
};

// Per call; the defaults come from RegistryOptions.
struct CallOptions {
  SteadyTime deadline = SteadyTime::max();
  Watch* watch = nullptr;
  HttpTally* tally = nullptr;
  bool fresh_connection = false;
};

struct Manifest {
  std::string media_type;  // as served; from body if what was served says nothing
  std::string digest;      // of body, computed here
  std::string body;        // JSON, as served
};

// The URL with rel="next" of a Link header; "" if it has none.
std::string NextLink(const std::string& header);

using BlobSink = std::function<Status(ByteSpan)>;
// Fills the whole of out with the bytes at offset; may be asked again.
using BlobSource = std::function<Status(uint64_t offset, std::span<uint8_t> out)>;

class RegistryClient {
 public:
  // source: asked when the registry wants credentials, and again when it refused
  // what the source had.
  static Result<std::unique_ptr<RegistryClient>> Open(RegistryOptions options,
                                                      CredentialSourcePtr source);
  static Result<std::unique_ptr<RegistryClient>> Open(RegistryOptions options,
                                                      Credentials credentials);
  ~RegistryClient();

  // By digest if the reference has one (then verified), else by tag.
  Result<Manifest> GetManifest(const Reference& ref, const CallOptions& call = {});

  // Size of a blob; kNotFound if it is not there. Asks by HEAD, and where that
  // tells no size, by a GET of the first byte: some registries refuse HEAD, or
  // know a blob only after its first GET.
  Result<uint64_t> BlobSize(const Reference& repo, const std::string& digest,
                            const CallOptions& call = {});
  // Gives a whole blob of expected_bytes (0: unknown) to sink and checks its sha256 at the
  // end. The bytes that sink got are good only if this succeeds.
  Status GetBlob(const Reference& repo, const std::string& digest, uint64_t expected_bytes,
                 const BlobSink& sink, const CallOptions& call = {});
  // A whole blob into memory, verified; larger than max_bytes is kInvalid.
  Result<std::string> ReadBlob(const Reference& repo, const std::string& digest,
                               uint64_t max_bytes, const CallOptions& call = {});
  // Just [offset, offset + length); total_bytes is the blob's size (0: unknown).
  Status GetBlobRange(const Reference& repo, const std::string& digest, ByteRange range,
                      const BlobSink& sink, const CallOptions& call = {});

  // All tags of a repository, all repositories of a registry (where it tells them).
  Result<std::vector<std::string>> ListTags(const Reference& repo, const CallOptions& call = {});
  Result<std::vector<std::string>> ListRepositories(const std::string& host,
                                                    const CallOptions& call = {});

  // For a diagnosis: one attempt, whatever the answer is. The URL in it is after
  // redirects. A range's bytes go to *bytes, as far as they came (at most 1 MiB).
  Result<HttpResponse> ProbeManifest(const Reference& ref, const CallOptions& call = {});
  Result<HttpResponse> ProbeRange(const Reference& repo, const std::string& digest,
                                  ByteRange range, std::string* bytes,
                                  const CallOptions& call = {});

  // Uploads a blob unless the registry has it already. If the upload of a chunk fails, goes
  // on from the last byte that the registry has.
  Status UploadBlob(const Reference& repo, const std::string& digest, uint64_t bytes,
                    const BlobSource& source, const CallOptions& call = {});
  // The same from memory; returns the digest.
  Result<std::string> UploadBlob(const Reference& repo, const std::string& data,
                                 const CallOptions& call = {});
  // Cross-repository mount within one registry; false: not done, upload it.
  Result<bool> MountBlob(const Reference& to, const std::string& digest,
                         const std::string& from_repository, const CallOptions& call = {});

  // Stores body under ref's tag (or its digest, if it has no tag); returns the
  // digest. If the manifest has a subject and the registry does not know the
  // referrers API, the fallback tag (sha256-<hex>) is updated as the
  // distribution spec asks, and without losing entries that other writers add at
  // the same time.
  Result<std::string> PutManifest(const Reference& ref, const std::string& media_type,
                                  const std::string& body, const CallOptions& call = {});
  // The image index (JSON) of a manifest's referrers of that type ("": of all), from all pages
  // of the API; or the fallback tag as it is, with all types, where the API answers anything but
  // an index; an empty index if there are none. An API that fails (5xx) without a fallback tag is an error:
  // whether there are any is not known then. A mirror that has none ends no search, as it may
  // know its own ones only.
  Result<std::string> Referrers(const Reference& repo, const std::string& digest,
                                const std::string& artifact_type,
                                const CallOptions& call = {});

 private:
  friend class BlobUpload;
  friend class HostWalk;
  struct Impl;
  explicit RegistryClient(std::unique_ptr<Impl> impl);
  Result<std::vector<std::string>> ListNames(const Reference& at, const std::string& scope,
                                             const std::string& what, const char* array,
                                             bool (*is_name)(const std::string&),
                                             const CallOptions& call);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CLIENT_H_
