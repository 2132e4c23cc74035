// SPDX-License-Identifier: Apache-2.0
#include "registry/credentials.h"

#include <algorithm>
#include <cstdint>

#include "base/base64.h"
#include "base/json.h"
#include "base/unique_fd.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxCredentialsBytes = 1 << 20;

constexpr char kDockerServer[] = "https://index.docker.io/v1/";

// "https://index.docker.io/v1/" and the like: docker's old keys, of a whole host. In
// "quay.io/org/v2" it is a part of a repository's name. The host as references have it, so that
// no spelling of it matters.
std::string NormalizeKey(std::string key) {
  for (const char* scheme : {"https://", "http://"})
    if (key.starts_with(scheme)) key.erase(0, std::string(scheme).size());
  while (key.ends_with("/")) key.pop_back();
  for (const char* suffix : {"/v1", "/v2"})
    if (key.ends_with(suffix) && key.find('/') == key.size() - 3) key.resize(key.size() - 3);
  const size_t slash = std::min(key.find('/'), key.size());
  if (!IsRegistryHost(key.substr(0, slash))) return "";
  return CanonicalHost(key.substr(0, slash)) + key.substr(slash);
}

// NAME of docker-credential-NAME: it becomes part of a program's name.
bool IsHelperName(const std::string& name) {
  return !name.empty() && name.size() < 100 && name[0] != '.' &&
         name.find_first_not_of("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                "._-") == std::string::npos;
}

// The entry of the longest key that is a prefix of host/repository.
template <typename Map>
auto FindLongest(const Map& map, const std::string& host, const std::string& repository) {
  std::string key = CanonicalHost(host) + "/" + repository;
  while (true) {
    if (auto it = map.find(key); it != map.end()) return it;
    const size_t slash = key.rfind('/');
    if (slash == std::string::npos) return map.end();
    key.resize(slash);
  }
}

}  // namespace

Result<Credential> ParseUserPassword(const std::string& text) {
  size_t colon = text.find(':');
  if (colon == std::string::npos) return InvalidError("credentials are not user:password");
  Credential c;
  c.username = text.substr(0, colon);
  c.password = Secret(text.substr(colon + 1));
  return c;
}

Result<Credentials> Credentials::Parse(const std::string& json) {
  Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return InvalidError("credentials are not a JSON object");
  Credentials result;
  result.store_ = JsonText(root, "credsStore");
  if (!result.store_.empty() && !IsHelperName(result.store_))
    return InvalidError("\"credsStore\" is no name of a helper: " + result.store_.substr(0, 100));
  if (auto helpers = root.find("credHelpers"); helpers != root.end()) {
    if (!helpers->is_object()) return InvalidError("\"credHelpers\" is not an object");
    for (const auto& [key, name] : helpers->items()) {
      const std::string helper = name.is_string() ? name.get<std::string>() : "";
      if (!IsHelperName(helper))
        return InvalidError("\"credHelpers\" has no name of a helper for " + key.substr(0, 100));
      if (const std::string k = NormalizeKey(key); !k.empty()) result.helpers_[k] = {helper, key};
    }
  }
  auto auths = root.find("auths");
  if (auths == root.end()) return result;
  if (!auths->is_object()) return InvalidError("\"auths\" is not an object");
  for (const auto& [key, entry] : auths->items()) {
    if (!entry.is_object() || NormalizeKey(key).empty()) continue;
    Credential c;
    if (std::string auth = JsonText(entry, "auth"); !auth.empty()) {
      auto plain = Base64Decode(auth);
      if (!plain.ok()) return plain.error().Wrap("auth of " + key.substr(0, 100));
      auto split = ParseUserPassword(*plain);
      if (!split.ok()) return split.error().Wrap("auth of " + key.substr(0, 100));
      c = *split;
    } else {
      c.username = JsonText(entry, "username");
      c.password = Secret(JsonText(entry, "password"));
    }
    c.identity_token = Secret(JsonText(entry, "identitytoken"));
    // An empty entry says that a helper or the store has them.
    if (c.username.empty() && c.identity_token.empty()) continue;
    result.entries_[NormalizeKey(key)] = std::move(c);
  }
  return result;
}

Result<Credentials> Credentials::Load(const std::string& path) {
  FASTOCI_TRY(std::string text, ReadFile(path, kMaxCredentialsBytes));
  auto parsed = Parse(text);
  if (!text.empty()) explicit_bzero(text.data(), text.size());
  if (!parsed.ok()) return parsed.error().Wrap(path);
  return parsed;
}

std::optional<Credential> Credentials::Find(const std::string& host,
                                            const std::string& repository) const {
  auto it = FindLongest(entries_, host, repository);
  if (it == entries_.end()) return std::nullopt;
  return it->second;
}

Credentials::Helper Credentials::FindHelper(const std::string& host,
                                            const std::string& repository) const {
  auto it = FindLongest(helpers_, host, repository);
  if (it == helpers_.end()) return {};
  return {it->second.helper, it->second.server};
}

Credentials::Helper Credentials::Store(const std::string& host) const {
  if (store_.empty()) return {};
  const std::string name = CanonicalHost(host);
  return {store_, name == "docker.io" ? kDockerServer : host};
}

}  // namespace fastoci
