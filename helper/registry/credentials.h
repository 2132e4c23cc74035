// SPDX-License-Identifier: Apache-2.0
// Credentials from docker's config.json, or overlaybd's cred.json (both have
// {"auths": {"host[/path]": {"auth": base64 | "username", "password"}}}). The
// longest key that is a prefix of host/repository by whole components wins.
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
};

class Credentials {
 public:
  static Result<Credentials> Parse(const std::string& json);
  static Result<Credentials> Load(const std::string& path);
  // $DOCKER_CONFIG/config.json or ~/.docker/config.json, or
  // $REGISTRY_AUTH_FILE; none of them: empty.
  static Result<Credentials> LoadDefault();
  // "user:password", used for every host ("convertor -u").
  static Result<Credentials> FromUserPassword(const std::string& text);

  std::optional<Credential> Find(const std::string& host, const std::string& repository) const;
  bool empty() const { return entries_.empty(); }

 private:
  std::map<std::string, Credential> entries_;  // "" matches everything
};

Result<std::string> Base64Decode(const std::string& text);
std::string Base64Encode(const std::string& bytes);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_CREDENTIALS_H_
