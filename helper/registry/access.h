// SPDX-License-Identifier: Apache-2.0
// Access: how one image's registry is accessed, as the options of `fastoci attach` say
// (-u, --credentials, --plain, --insecure, --root-ca, --cert-dir, --client-cert, --hosts-dir). The
// attach keeps it in the image's state directory (mode 0600). There the fetcher's keeper
// finds it, also after a restart of the helper or a reboot. It is never part of a meta
// image, a log or a message. It holds the contents of files, not their names, because its
// users may not open files. The file of --credentials and --hosts-dir are exceptions: the
// keeper reads them, and reads them again when they have changed.
#ifndef FASTOCI_REGISTRY_ACCESS_H_
#define FASTOCI_REGISTRY_ACCESS_H_

#include <string>
#include <vector>

#include "base/result.h"
#include "http/secret.h"
#include "registry/credentials.h"

namespace fastoci {

inline constexpr size_t kMaxAccessBytes = 4 << 20;  // as JSON
inline constexpr size_t kMaxCredentialsPath = 1023;

struct Access {
  // The registry that all of it is for ("registry.example:5000"). No other host gets the
  // credential.
  std::string host;
  // The image's repository there. Another repository may have an image with the same id.
  // "": any.
  std::string repository;
  // The id in the assembled meta image, 64 hex digits: the helper finds this by it. "": the
  // image is not assembled yet.
  std::string image_id;
  bool plain_http = false;
  bool insecure = false;  // take any certificate
  // PEM; "": the system's CAs, no client certificate.
  std::string ca_pem;
  std::string client_cert_pem;
  Secret client_key_pem;
  // Instead of what the node knows; username and identity_token "": nothing.
  Credential credential;
  // Other registries that have layers of the image. For them holds the same, but not the
  // credential and the repository.
  std::vector<std::string> more_hosts;
  // The same, if there is no credential: the absolute path of a file in the format of
  // docker's config.json, at most kMaxCredentialsPath bytes. "": none.
  std::string credentials_file;
  // Directories with hosts.toml files, instead of those that the node has: absolute paths, or
  // "none" (hosts.h). For this registry and more_hosts. Empty: the node's.
  std::vector<std::string> hosts_dirs;

  // Whether it says anything that the node's own settings do not.
  bool empty() const;
  bool HasCredential() const;
  bool operator==(const Access&) const = default;
};

// Secret, since it holds some.
Secret AccessToJson(const Access& access);
// kInvalid: damaged, too large, or of another version. Unknown members are an error,
// because something that the user asked for would be missing.
Result<Access> AccessFromJson(const std::string& json);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_ACCESS_H_
