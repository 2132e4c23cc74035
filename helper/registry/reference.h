// SPDX-License-Identifier: Apache-2.0
// Image references: [host[:port]/]repository[:tag][@sha256:hex], as docker has
// them. "alpine" is docker.io/library/alpine:latest.
#ifndef FASTOCI_REGISTRY_REFERENCE_H_
#define FASTOCI_REGISTRY_REFERENCE_H_

#include <string>

#include "base/result.h"

namespace fastoci {

struct Reference {
  std::string host;        // "127.0.0.1:5000", "docker.io"
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
// localhost, 127.0.0.0/8, ::1: spoken to in plain HTTP.
bool IsLoopbackHost(const std::string& host);
// The host that serves docker.io is another one.
std::string ApiHost(const std::string& host);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_REFERENCE_H_
