// SPDX-License-Identifier: Apache-2.0
// Where the credentials of a registry come from. A source answers for one
// repository at a time. It keeps its answer until it is told that the answer was refused,
// until the answer expires, or until the source's file changes. So no source needs a
// restart. A source never gives the credentials of one registry to another one.
//
// Sources and the order in which a node asks them: docs/operations.md.
#ifndef FASTOCI_REGISTRY_CREDENTIAL_SOURCE_H_
#define FASTOCI_REGISTRY_CREDENTIAL_SOURCE_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "registry/credentials.h"
#include "registry/reference.h"

namespace fastoci {

struct FoundCredential {
  Credential credential;
  std::string way;  // for people: "docker-credential-ecr-login, by /root/.docker/config.json"
};

class CredentialSource {
 public:
  virtual ~CredentialSource() = default;
  // Null: it has no credentials for that repository. fresh: its last answer was refused,
  // so it looks again, but at most once in kMinRefreshMs. Thread-safe. May run a program
  // or ask a server, and takes as long as they do.
  virtual Result<std::optional<FoundCredential>> Find(const Reference& repo, bool fresh) = 0;
};
using CredentialSourcePtr = std::shared_ptr<CredentialSource>;

inline constexpr int64_t kMinRefreshMs = 5000;

// These credentials and no others.
CredentialSourcePtr FixedSource(Credentials credentials, std::string way);
// One credential, for one registry only (canonical spelling of host).
CredentialSourcePtr HostSource(const std::string& host, Credential credential, std::string way);

// A config.json with all that it names: for each repository the helper that
// credHelpers has for it, else the entry of auths, else the store. The file is
// read again when it has changed; a file that is not there is empty.
struct DockerConfigOptions {
  std::string path;
  int64_t helper_timeout_ms = 30000;
  std::string helper_dir;  // where helpers are; "": in PATH
  // A file that is damaged leaves what it said before, with a warning. One that was deleted
  // gives no credentials any more.
  bool keep_old = false;
};
CredentialSourcePtr DockerConfigSource(DockerConfigOptions options);

// What docker and podman would use here: $REGISTRY_AUTH_FILE alone, if it is
// set; else docker's config.json ($DOCKER_CONFIG, ~/.docker), then podman's
// auth.json ($XDG_RUNTIME_DIR/containers, ~/.config/containers).
CredentialSourcePtr DefaultSource();
std::vector<std::string> DefaultCredentialFiles();

// Asks the sources in order and takes the first answer. A source that fails is passed
// over. If no other source has credentials, its error is returned.
CredentialSourcePtr FirstOf(std::vector<CredentialSourcePtr> sources);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CREDENTIAL_SOURCE_H_
