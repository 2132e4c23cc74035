// SPDX-License-Identifier: Apache-2.0
#include "registry/access.h"

#include <string.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "registry/hosts.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kVersion = 1;

// A string member.
Status Take(const Json& j, const std::string& key, std::string* out) {
  if (!j.is_string()) return InvalidError("\"" + key + "\" is not a string");
  *out = j.get<std::string>();
  return OkStatus();
}

Status TakeSecret(const Json& j, const std::string& key, Secret* out) {
  if (!j.is_string()) return InvalidError("\"" + key + "\" is not a string");
  *out = Secret(j.get<std::string>());
  return OkStatus();
}

Status TakeBool(const Json& j, const std::string& key, bool* out) {
  if (!j.is_boolean()) return InvalidError("\"" + key + "\" is not true or false");
  *out = j.get<bool>();
  return OkStatus();
}

Status TakeList(const Json& j, const std::string& key, std::vector<std::string>* out) {
  if (!j.is_array()) return InvalidError("\"" + key + "\" is not a list");
  for (const Json& v : j) FASTOCI_CHECK_OK(Take(v, key, &out->emplace_back()));
  return OkStatus();
}

Status TakeMember(const std::string& key, const Json& v, Access* a) {
  if (key == "host") return Take(v, key, &a->host);
  if (key == "repository") return Take(v, key, &a->repository);
  if (key == "image_id") return Take(v, key, &a->image_id);
  if (key == "plain_http") return TakeBool(v, key, &a->plain_http);
  if (key == "insecure") return TakeBool(v, key, &a->insecure);
  if (key == "ca_pem") return Take(v, key, &a->ca_pem);
  if (key == "client_cert_pem") return Take(v, key, &a->client_cert_pem);
  if (key == "client_key_pem") return TakeSecret(v, key, &a->client_key_pem);
  if (key == "username") return Take(v, key, &a->credential.username);
  if (key == "password") return TakeSecret(v, key, &a->credential.password);
  if (key == "identity_token") return TakeSecret(v, key, &a->credential.identity_token);
  if (key == "more_hosts") return TakeList(v, key, &a->more_hosts);
  if (key == "credentials_file") return Take(v, key, &a->credentials_file);
  if (key == "hosts_dirs") return TakeList(v, key, &a->hosts_dirs);
  if (key == "version")
    return v == kVersion ? OkStatus() : Status(InvalidError("it is of another version"));
  return InvalidError("\"" + key.substr(0, 100) + "\" is not known");
}

}  // namespace

bool Access::HasCredential() const {
  return !credential.username.empty() || !credential.identity_token.empty();
}

bool Access::empty() const {
  return !plain_http && !insecure && ca_pem.empty() && client_cert_pem.empty() && !HasCredential() &&
         credentials_file.empty() && hosts_dirs.empty();
}

Secret AccessToJson(const Access& a) {
  Json j = {{"version", kVersion}, {"host", a.host}};
  auto put = [&](const char* key, const std::string& value) {
    if (!value.empty()) j[key] = value;
  };
  put("repository", a.repository);
  put("image_id", a.image_id);
  if (a.plain_http) j["plain_http"] = true;
  if (a.insecure) j["insecure"] = true;
  put("ca_pem", a.ca_pem);
  put("client_cert_pem", a.client_cert_pem);
  put("client_key_pem", a.client_key_pem.Reveal());
  put("username", a.credential.username);
  put("password", a.credential.password.Reveal());
  put("identity_token", a.credential.identity_token.Reveal());
  if (!a.more_hosts.empty()) j["more_hosts"] = a.more_hosts;
  put("credentials_file", a.credentials_file);
  if (!a.hosts_dirs.empty()) j["hosts_dirs"] = a.hosts_dirs;
  return Secret(j.dump(-1, ' ', false, Json::error_handler_t::replace));
}

Result<Access> AccessFromJson(const std::string& json) {
  if (json.size() > kMaxAccessBytes) return InvalidError("registry access: too large");
  const Json j = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!j.is_object() || !j.contains("version")) return InvalidError("registry access: damaged");
  Access a;
  for (const auto& [key, value] : j.items()) {
    Status s = TakeMember(key, value, &a);
    if (!s.ok()) return s.error().Wrap("registry access");
  }
  if (!a.image_id.empty() &&
      (a.image_id.size() != 64 ||
       a.image_id.find_first_not_of("0123456789abcdef") != std::string::npos))
    return InvalidError("registry access: bad image id");
  if (!IsRegistryHost(a.host) || !std::all_of(a.more_hosts.begin(), a.more_hosts.end(), IsRegistryHost))
    return InvalidError("registry access: bad host");
  if (!a.repository.empty() && !IsRepositoryName(a.repository))
    return InvalidError("registry access: bad repository");
  if (!a.credentials_file.empty() &&
      (a.credentials_file[0] != '/' || a.credentials_file.size() > kMaxCredentialsPath ||
       a.credentials_file.find('\0') != std::string::npos))
    return InvalidError("registry access: the file of credentials needs an absolute path of at most " +
                        std::to_string(kMaxCredentialsPath) + " bytes");
  for (const std::string& dir : a.hosts_dirs)
    if (dir != kNoHostRoots && (dir.empty() || dir[0] != '/' || dir.find('\0') != std::string::npos))
      return InvalidError("registry access: --hosts-dir needs an absolute path, or \"none\"");
  if (a.client_cert_pem.empty() != a.client_key_pem.empty())
    return InvalidError("registry access: a client certificate needs its key");
  return a;
}

}  // namespace fastoci
