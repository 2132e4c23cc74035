// SPDX-License-Identifier: Apache-2.0
// Image references: [host[:port]/]repository[:tag][@sha256:hex], as docker has
// them. "alpine" is docker.io/library/alpine:latest.
//
// One repository can be spelled in many ways. What is decided by a repository's
// name (a policy, a password) is decided by the canonical names below.
#ifndef FASTOCI_REGISTRY_REFERENCE_H_
#define FASTOCI_REGISTRY_REFERENCE_H_

#include <string>

#include "base/result.h"
#include "http/loopback_host.h"

namespace fastoci {

struct Reference {
  std::string host;        // "127.0.0.1:5000", "docker.io"; in lower case
  std::string repository;  // "library/alpine"
  std::string tag;         // "" if only a digest was given
  std::string digest;      // "sha256:...", or ""

  // Tag or digest as the manifest URL has it; the digest wins.
  const std::string& Identifier() const { return digest.empty() ? tag : digest; }
  std::string ToString() const;
  Reference WithTag(const std::string& new_tag) const;
  Reference WithDigest(const std::string& new_digest) const;
};

Result<Reference> ParseReference(const std::string& text);
// Checks only a repository name, or a tag.
bool IsRepositoryName(const std::string& text);
bool IsTag(const std::string& text);
bool IsRegistryHost(const std::string& text);
// One spelling for each server: lower case, addresses in their usual form, no
// port 443, docker.io for its other names.
std::string CanonicalHost(const std::string& host);
// host/repository as policies compare it: as above, and without port 80, too.
std::string CanonicalRepository(const Reference& ref);
// The canonical form of a rule's prefix: a host, or a host and the first
// components of a repository. kInvalid for what no reference can begin with; the
// message says what to write instead.
Result<std::string> CanonicalPrefix(const std::string& text);
// By how many bytes a canonical prefix matches a canonical repository, by whole
// components; 0: not at all. docker.io/nginx matches docker.io/library/nginx, too.
size_t MatchPrefix(const std::string& prefix, const std::string& repository);
// The host that serves docker.io is another one.
std::string ApiHost(const std::string& host);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_REFERENCE_H_
