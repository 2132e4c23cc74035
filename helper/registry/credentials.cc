// SPDX-License-Identifier: Apache-2.0
#include "registry/credentials.h"

#include <cstdint>
#include <cstdlib>

#include "base/json.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxCredentialsBytes = 1 << 20;
constexpr char kAlphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

// "https://index.docker.io/v1/" and the like: docker's old keys.
std::string NormalizeKey(std::string key) {
  for (const char* scheme : {"https://", "http://"})
    if (key.starts_with(scheme)) key.erase(0, std::string(scheme).size());
  while (key.ends_with("/")) key.pop_back();
  for (const char* suffix : {"/v1", "/v2"})
    if (key.ends_with(suffix)) key.resize(key.size() - 3);
  if (key == "index.docker.io" || key == "registry-1.docker.io") return "docker.io";
  return key;
}

Result<Credential> SplitUserPassword(const std::string& text) {
  size_t colon = text.find(':');
  if (colon == std::string::npos) return InvalidError("credentials are not user:password");
  Credential c;
  c.username = text.substr(0, colon);
  c.password = Secret(text.substr(colon + 1));
  return c;
}

}  // namespace

Result<std::string> Base64Decode(const std::string& text) {
  std::string out;
  uint32_t bits = 0;
  int nr_bits = 0;
  size_t end = text.find_last_not_of("=\r\n");
  for (size_t i = 0; end != std::string::npos && i <= end; i++) {
    const char* p = text[i] == '\0' ? nullptr : std::char_traits<char>::find(kAlphabet, 64, text[i]);
    if (p == nullptr) return InvalidError("bad base64");
    bits = (bits << 6 | static_cast<uint32_t>(p - kAlphabet)) & 0xffffff;
    nr_bits += 6;
    if (nr_bits >= 8) {
      nr_bits -= 8;
      out += static_cast<char>(bits >> nr_bits & 0xff);
    }
  }
  return out;
}

std::string Base64Encode(const std::string& bytes) {
  std::string out;
  for (size_t i = 0; i < bytes.size(); i += 3) {
    uint32_t v = 0;
    size_t n = std::min<size_t>(3, bytes.size() - i);
    for (size_t k = 0; k < 3; k++)
      v = v << 8 | (k < n ? static_cast<uint8_t>(bytes[i + k]) : 0U);
    for (size_t k = 0; k < 4; k++)
      out += k <= n ? kAlphabet[v >> (18 - 6 * k) & 63] : '=';
  }
  return out;
}

Result<Credentials> Credentials::Parse(const std::string& json) {
  Json root = Json::parse(json, nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return InvalidError("credentials are not a JSON object");
  Credentials result;
  auto auths = root.find("auths");
  if (auths == root.end()) return result;
  if (!auths->is_object()) return InvalidError("\"auths\" is not an object");
  for (const auto& [key, entry] : auths->items()) {
    if (!entry.is_object() || NormalizeKey(key).empty()) continue;
    Credential c;
    if (std::string auth = JsonText(entry, "auth"); !auth.empty()) {
      auto plain = Base64Decode(auth);
      if (!plain.ok()) return plain.error().Wrap("auth of " + key.substr(0, 100));
      auto split = SplitUserPassword(*plain);
      if (!split.ok()) return split.error().Wrap("auth of " + key.substr(0, 100));
      c = *split;
    } else {
      c.username = JsonText(entry, "username");
      c.password = Secret(JsonText(entry, "password"));
    }
    c.identity_token = Secret(JsonText(entry, "identitytoken"));
    // An empty entry points to a credential helper, which nobody runs here.
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

Result<Credentials> Credentials::LoadDefault() {
  std::string path;
  if (const char* file = std::getenv("REGISTRY_AUTH_FILE"); file != nullptr) {
    return Load(file);
  } else if (const char* dir = std::getenv("DOCKER_CONFIG"); dir != nullptr) {
    path = std::string(dir) + "/config.json";
  } else if (const char* home = std::getenv("HOME"); home != nullptr) {
    path = std::string(home) + "/.docker/config.json";
  }
  if (path.empty() || access(path.c_str(), F_OK) != 0) return Credentials();
  return Load(path);
}

Result<Credentials> Credentials::FromUserPassword(const std::string& text) {
  FASTOCI_TRY(Credential c, SplitUserPassword(text));
  Credentials result;
  result.entries_[""] = std::move(c);
  return result;
}

std::optional<Credential> Credentials::Find(const std::string& host,
                                            const std::string& repository) const {
  std::string key = host + "/" + repository;
  while (true) {
    if (auto it = entries_.find(key); it != entries_.end()) return it->second;
    if (key.empty()) return std::nullopt;
    size_t slash = key.rfind('/');
    key.resize(slash == std::string::npos ? 0 : slash);
  }
}

}  // namespace fastoci
