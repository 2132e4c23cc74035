// SPDX-License-Identifier: Apache-2.0
// RegistryClient: the OCI distribution protocol. Manifests and whole blobs are
// verified against their digest; ranges are checked for exact place and length,
// and their bytes are left to the caller's own digests. All digests are
// "sha256:<hex>" strings, checked here. Retries are http/'s.
//
// Thread-safe. Errors: kNotFound, kDenied (401, 403), kUnavailable (retries
// used up), kMismatch (digest, size, range), kInvalid.
#ifndef FASTOCI_REGISTRY_CLIENT_H_
#define FASTOCI_REGISTRY_CLIENT_H_

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <span>
#include <string>

#include "base/byte_reader.h"
#include "base/result.h"
#include "http/http_client.h"
#include "http/retry.h"
#include "registry/credentials.h"
#include "registry/reference.h"

namespace fastoci {

inline constexpr uint64_t kMaxManifestBytes = 4 << 20;

inline constexpr char kDockerManifest[] = "application/vnd.docker.distribution.manifest.v2+json";
inline constexpr char kDockerManifestList[] =
    "application/vnd.docker.distribution.manifest.list.v2+json";
inline constexpr char kOciManifest[] = "application/vnd.oci.image.manifest.v1+json";
inline constexpr char kOciIndex[] = "application/vnd.oci.image.index.v1+json";

struct RegistryOptions {
  bool plain_http = false;  // http for every host, not only for loopback ones
  HttpOptions http;
  RetryPolicy retry;
  int64_t request_timeout_ms = 60000;     // manifests and other small things
  int64_t transfer_timeout_ms = 1800000;  // whole blobs, up and down
};

// Per call; the defaults come from RegistryOptions.
struct CallOptions {
  SteadyTime deadline = SteadyTime::max();
  Watch* watch = nullptr;
  HttpTally* tally = nullptr;
  bool fresh_connection = false;
  std::string scheme;  // "http" or "https"; empty: by host and plain_http
};

struct Manifest {
  std::string media_type;
  std::string digest;  // of body, computed here
  std::string body;    // JSON, as served
};

using BlobSink = std::function<Status(ByteSpan)>;
// Fills the whole of out with the bytes at offset; may be asked again.
using BlobSource = std::function<Status(uint64_t offset, std::span<uint8_t> out)>;

class RegistryClient {
 public:
  static Result<std::unique_ptr<RegistryClient>> Open(RegistryOptions options,
                                                      Credentials credentials);
  ~RegistryClient();

  // Replaces the credentials and forgets all tokens.
  void SetCredentials(Credentials credentials);
  // Called once when a request is refused with 401; true: credentials were
  // renewed (SetCredentials), try once more.
  void SetCredentialsRefresher(std::function<bool()> refresh);

  // By digest if the reference has one (then verified), else by tag.
  Result<Manifest> GetManifest(const Reference& ref, const CallOptions& call = {});

  // Size of a blob; kNotFound if it is not there.
  Result<uint64_t> HeadBlob(const Reference& repo, const std::string& digest,
                            const CallOptions& call = {});
  // A whole blob of expected_bytes (0: unknown) to sink, sha256 checked at the
  // end: what sink got counts only if this succeeds.
  Status GetBlob(const Reference& repo, const std::string& digest, uint64_t expected_bytes,
                 const BlobSink& sink, const CallOptions& call = {});
  // A whole blob into memory, verified; larger than max_bytes is kInvalid.
  Result<std::string> ReadBlob(const Reference& repo, const std::string& digest,
                               uint64_t max_bytes, const CallOptions& call = {});
  // Just [offset, offset + length); total_bytes is the blob's size (0: unknown).
  Status GetBlobRange(const Reference& repo, const std::string& digest, ByteRange range,
                      const BlobSink& sink, const CallOptions& call = {});

  // Uploads a blob unless the registry has it already.
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
  // distribution spec asks.
  Result<std::string> PutManifest(const Reference& ref, const std::string& media_type,
                                  const std::string& body, const CallOptions& call = {});
  // The image index (JSON) of a manifest's referrers, from the API or from the
  // fallback tag; an empty index if there are none. Not filtered.
  Result<std::string> Referrers(const Reference& repo, const std::string& digest,
                                const CallOptions& call = {});

 private:
  struct Impl;
  explicit RegistryClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CLIENT_H_
