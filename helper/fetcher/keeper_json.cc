// SPDX-License-Identifier: Apache-2.0
#include "fetcher/keeper_json.h"

#include "base/json.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

Secret Dump(const Json& j) { return Secret(j.dump(-1, ' ', false, Json::error_handler_t::replace)); }

Json Parse(const Secret& json) {
  return Json::parse(json.Reveal(), nullptr, /*allow_exceptions=*/false);
}

Error Damaged() { return InvalidError("the keeper's answer is damaged"); }

bool JsonFlag(const Json& j, const char* key) { return JsonChild(j, key) == true; }

}  // namespace

Secret CredentialToJson(const std::optional<FoundCredential>& found) {
  if (!found) return Secret("null");
  const Credential& c = found->credential;
  return Dump({{"username", c.username},
               {"password", c.password.Reveal()},
               {"identity_token", c.identity_token.Reveal()},
               {"way", found->way}});
}

Result<std::optional<FoundCredential>> CredentialFromJson(const Secret& json) {
  const Json j = Parse(json);
  if (j.is_null()) return std::optional<FoundCredential>();
  if (!j.is_object()) return Damaged();
  FoundCredential found;
  found.credential.username = JsonText(j, "username");
  found.credential.password = Secret(JsonText(j, "password"));
  found.credential.identity_token = Secret(JsonText(j, "identity_token"));
  found.way = JsonText(j, "way");
  return std::optional<FoundCredential>(std::move(found));
}

Secret AccessesToJson(const std::vector<Access>& all) {
  Json list = Json::array();
  for (const Access& a : all) list.push_back(AccessToJson(a).Reveal());
  return Dump(list);
}

Result<std::vector<Access>> AccessesFromJson(const Secret& json) {
  const Json list = Parse(json);
  if (!list.is_array()) return Damaged();
  std::vector<Access> all;
  for (const Json& j : list) {
    if (!j.is_string()) return Damaged();
    FASTOCI_TRY(Access a, AccessFromJson(j.get<std::string>()));
    all.push_back(std::move(a));
  }
  return all;
}

Secret HostsToJson(const std::vector<HostConfig>& hosts) {
  Json list = Json::array();
  for (const HostConfig& h : hosts) {
    Json headers = Json::array();
    for (const auto& [name, value] : h.headers) headers.push_back({name, value.Reveal()});
    list.push_back({{"scheme", h.scheme},
                    {"scheme_said", h.scheme_said},
                    {"authority", h.authority},
                    {"path", h.path},
                    {"pull", h.pull},
                    {"skip_verify", h.skip_verify},
                    {"headers", std::move(headers)},
                    {"dial_timeout_ms", static_cast<uint64_t>(h.dial_timeout_ms)},
                    {"ns", h.ns},
                    {"ca_pem", h.ca_pem},
                    {"client_cert_pem", h.client_cert_pem},
                    {"client_key_pem", h.client_key_pem.Reveal()}});
  }
  return Dump(list);
}

Result<std::vector<HostConfig>> HostsFromJson(const Secret& json) {
  const Json list = Parse(json);
  if (!list.is_array() || list.size() > kMaxHosts + 1) return Damaged();
  std::vector<HostConfig> hosts;
  for (const Json& j : list) {
    HostConfig h;
    h.scheme = JsonText(j, "scheme");
    h.authority = JsonText(j, "authority");
    h.path = JsonText(j, "path");
    if ((h.scheme != "http" && h.scheme != "https") || !IsRegistryHost(h.authority))
      return Damaged();
    h.scheme_said = JsonFlag(j, "scheme_said");
    h.pull = JsonFlag(j, "pull");
    h.skip_verify = JsonFlag(j, "skip_verify");
    for (const Json& header : JsonChild(j, "headers")) {
      if (!header.is_array() || header.size() != 2 || !header[0].is_string() ||
          !header[1].is_string())
        return Damaged();
      h.headers.emplace_back(header[0].get<std::string>(), Secret(header[1].get<std::string>()));
    }
    h.dial_timeout_ms = static_cast<int64_t>(JsonNumber(j, "dial_timeout_ms"));
    h.ns = JsonText(j, "ns");
    h.ca_pem = JsonText(j, "ca_pem");
    h.client_cert_pem = JsonText(j, "client_cert_pem");
    h.client_key_pem = Secret(JsonText(j, "client_key_pem"));
    hosts.push_back(std::move(h));
  }
  return hosts;
}

}  // namespace fastoci
