// SPDX-License-Identifier: Apache-2.0
// Credentials that lie in a file: docker's config.json, podman's auth.json and
// overlaybd's cred.json. All have
//   {"auths": {"host[/path]": {"auth": base64 | "username", "password",
//                              "identitytoken"}}}
// The longest key that is a prefix of host/repository by whole components wins.
// Docker's and podman's may also name programs that know credentials:
//   {"credHelpers": {"host[/path]": "NAME"}, "credsStore": "NAME"}
// Who runs those is credential_source.h.
#ifndef FASTOCI_REGISTRY_CREDENTIALS_H_
#define FASTOCI_REGISTRY_CREDENTIALS_H_

#include <map>
#include <optional>
#include <string>

#include "base/result.h"
#include "http/secret.h"

namespace fastoci {

struct Credential {
  std::string username;
  Secret password;
  Secret identity_token;  // OAuth2 refresh token, instead of a password
  bool operator==(const Credential&) const = default;
};

// "user:password"; a password may have colons. Whose credential it is, the caller must know.
Result<Credential> ParseUserPassword(const std::string& text);

class Credentials {
 public:
  static Result<Credentials> Parse(const std::string& json);
  static Result<Credentials> Load(const std::string& path);

  std::optional<Credential> Find(const std::string& host, const std::string& repository) const;
  bool empty() const { return entries_.empty() && helpers_.empty() && store_.empty(); }

  // The helper for a repository (NAME of docker-credential-NAME), and what it is
  // asked for; "" if there is none.
  struct Helper {
    std::string name;
    std::string server;  // as docker says it: the key, or docker's old URL for docker.io
  };
  Helper FindHelper(const std::string& host, const std::string& repository) const;
  // The one for all registries.
  Helper Store(const std::string& host) const;

 private:
  std::map<std::string, Credential> entries_;  // by key, its host as references have it
  struct Named {
    std::string helper, server;
  };
  std::map<std::string, Named> helpers_;
  std::string store_;
};

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CREDENTIALS_H_
