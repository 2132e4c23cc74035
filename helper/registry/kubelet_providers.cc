// SPDX-License-Identifier: Apache-2.0
#include "registry/kubelet_providers.h"

#include <fnmatch.h>
#include <unistd.h>

#include <chrono>
#include <mutex>
#include <optional>

#include "base/json.h"
#include "base/unique_fd.h"
#include "registry/duration.h"
#include "registry/file_version.h"
#include "registry/plugin.h"
#include "registry/yaml.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;
using Clock = std::chrono::steady_clock;
using Found = Result<std::optional<FoundCredential>>;

constexpr size_t kMaxConfigBytes = 1 << 20;
constexpr size_t kMaxProviders = 64;
constexpr size_t kMaxCached = 1024;
constexpr char kGroup[] = "credentialprovider.kubelet.k8s.io/";

struct Pattern {
  std::vector<std::string> domains;
  std::string port, path;
};

std::vector<std::string> Split(const std::string& text, char at) {
  std::vector<std::string> parts;
  for (size_t begin = 0;;) {
    const size_t end = text.find(at, begin);
    parts.push_back(text.substr(begin, end - begin));
    if (end == std::string::npos) return parts;
    begin = end + 1;
  }
}

// "https://*.example:5000/path/" and the same without a scheme.
Pattern Parse(std::string text) {
  for (const char* scheme : {"https://", "http://"})
    if (text.starts_with(scheme)) text.erase(0, std::string(scheme).size());
  Pattern p;
  const size_t slash = text.find('/');
  std::string host = text.substr(0, slash);
  if (slash != std::string::npos) p.path = text.substr(slash + 1);
  while (p.path.ends_with("/")) p.path.pop_back();
  if (const size_t colon = host.rfind(':');
      colon != std::string::npos && host.find(']', colon) == std::string::npos) {
    p.port = host.substr(colon + 1);
    host.resize(colon);
  }
  p.domains = Split(host, '.');
  return p;
}

Result<std::vector<std::string>> StringList(const Json& list, const std::string& what) {
  std::vector<std::string> all;
  if (list.is_null()) return all;
  if (!list.is_array()) return InvalidError(what + " is not a list");
  for (const Json& item : list) {
    if (!item.is_string()) return InvalidError(what + " has an item that is not a string");
    all.push_back(item.get<std::string>());
  }
  return all;
}

Result<KubeletProvider> ParseProvider(const Json& j) {
  KubeletProvider p;
  p.name = JsonText(j, "name");
  if (p.name.empty() || p.name.find('/') != std::string::npos || p.name[0] == '.')
    return InvalidError("a provider has no valid name");
  auto wrap = [&](const Error& e) { return e.Wrap("provider " + p.name); };
  auto match = StringList(JsonChild(j, "matchImages"), "matchImages");
  auto args = StringList(JsonChild(j, "args"), "args");
  if (!match.ok()) return wrap(match.error());
  if (!args.ok()) return wrap(args.error());
  if (match->empty()) return wrap(InvalidError("matchImages is empty"));
  p.match_images = std::move(*match);
  p.args = std::move(*args);
  p.api_version = JsonText(j, "apiVersion");
  if (!p.api_version.starts_with(kGroup))
    return wrap(InvalidError("apiVersion is not one of " + std::string(kGroup)));
  auto cache = ParseDurationMs(JsonText(j, "defaultCacheDuration"));
  if (!cache.ok()) return wrap(cache.error());
  p.default_cache_ms = *cache;
  for (const Json& variable : JsonChild(j, "env")) {
    const std::string name = JsonText(variable, "name");
    if (name.empty() || name.find('=') != std::string::npos)
      return wrap(InvalidError("env has a variable without a valid name"));
    p.env.push_back(name + "=" + JsonText(variable, "value"));
  }
  const Json& token = JsonChild(j, "tokenAttributes");
  p.needs_service_account = JsonText(token, "requireServiceAccount") == "true";
  return p;
}

class Kubelet : public CredentialSource {
 public:
  Kubelet(KubeletPaths paths, int64_t timeout_ms)
      : paths_(std::move(paths)), timeout_ms_(timeout_ms) {}

  Found Find(const Reference& repo, bool fresh) override {
    std::vector<KubeletProvider> providers;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      FASTOCI_CHECK_OK(Reload());
      providers = providers_;
    }
    const std::string image = repo.host + "/" + repo.repository;
    std::optional<Error> failure;
    for (const KubeletProvider& p : providers) {
      if (!Matches(p, image)) continue;
      Found found = Ask(p, repo, image, fresh);
      if (found.ok() && *found) return found;
      if (!found.ok() && !failure)
        failure = found.error().Wrap("credential provider " + p.name + " of " + paths_.config);
    }
    if (failure) return *failure;
    return std::optional<FoundCredential>();
  }

 private:
  struct Cached {
    ProviderResponse response;
    std::optional<Clock::time_point> renewed;  // when it was asked for as something fresh
    Clock::time_point expires;
  };

  static bool Matches(const KubeletProvider& p, const std::string& image) {
    for (const std::string& pattern : p.match_images)
      if (MatchesImage(pattern, image)) return true;
    return false;
  }

  Status Reload() {
    const FileVersion now(paths_.config);
    if (now == version_) return OkStatus();
    cache_.clear();
    providers_.clear();
    version_.reset();
    if (now.error != ENOENT) {
      FASTOCI_TRY(std::string text, ReadFile(paths_.config, kMaxConfigBytes));
      auto parsed = ParseProviderConfig(text);
      if (!parsed.ok()) return parsed.error().Wrap(paths_.config);
      providers_ = std::move(*parsed);
    }
    version_ = now;
    return OkStatus();
  }

  // The most special pattern that matches.
  std::optional<FoundCredential> Pick(const ProviderResponse& response, const std::string& image,
                                      const std::string& name) const {
    const std::pair<const std::string, Credential>* best = nullptr;
    for (const auto& entry : response.auth) {
      if (!MatchesImage(entry.first, image)) continue;
      if (best == nullptr || entry.first.size() > best->first.size()) best = &entry;
    }
    if (best == nullptr) return std::nullopt;
    return FoundCredential{best->second,
                           "kubelet's credential provider " + name + ", by " + paths_.config};
  }

  Found Ask(const KubeletProvider& p, const Reference& repo, const std::string& image,
            bool fresh) {
    const std::string keys[] = {p.name + " image " + image, p.name + " registry " + repo.host,
                                p.name + " global"};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto now = Clock::now();
      for (const std::string& key : keys) {
        auto it = cache_.find(key);
        if (it == cache_.end()) continue;
        const bool young = it->second.renewed && now - *it->second.renewed <
                                                     std::chrono::milliseconds(kMinRefreshMs);
        if (fresh ? young : now < it->second.expires) return Pick(it->second.response, image, p.name);
      }
    }
    if (p.needs_service_account)
      return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                   "it needs a pod's service account (requireServiceAccount), and a node has none"};
    FASTOCI_TRY(ProviderResponse response, Run(p, image));
    auto found = Pick(response, image, p.name);
    const int64_t ms = response.cache_ms >= 0 ? response.cache_ms : p.default_cache_ms;
    const auto now = Clock::now();
    std::lock_guard<std::mutex> lock(mutex_);
    if (cache_.size() >= kMaxCached) cache_.clear();
    const std::string& key = keys[static_cast<size_t>(response.key)];
    cache_[key] = {std::move(response), fresh ? std::optional(now) : std::nullopt,
                   now + std::chrono::milliseconds(ms)};
    return found;
  }

  Result<ProviderResponse> Run(const KubeletProvider& p, const std::string& image) {
    PluginCommand command;
    command.program = paths_.bin_dir + "/" + p.name;
    command.args = p.args;
    command.env = p.env;
    command.timeout_ms = timeout_ms_;
    // They may have configuration that only root reads (Azure's).
    command.may_read_files = true;
    command.input = Json{{"apiVersion", p.api_version},
                         {"kind", "CredentialProviderRequest"},
                         {"image", image}}
                        .dump();
    FASTOCI_TRY(PluginResult result, RunPlugin(command));
    if (result.exit_code != 0)
      return Error{ErrorKind::kDenied, EACCES,
                   "it ended with " + std::to_string(result.exit_code) + ": " + result.errors};
    return ParseProviderResponse(result.output.Reveal(), p.api_version);
  }

  const KubeletPaths paths_;
  const int64_t timeout_ms_;
  std::mutex mutex_;
  // All below are guarded by mutex_.
  std::optional<FileVersion> version_;
  std::vector<KubeletProvider> providers_;
  std::map<std::string, Cached> cache_;
};

}  // namespace

bool MatchesImage(const std::string& pattern, const std::string& image) {
  const Pattern p = Parse(pattern), i = Parse(image);
  if (p.domains.size() != i.domains.size() || p.port != i.port) return false;
  for (size_t n = 0; n < p.domains.size(); n++)
    if (::fnmatch(p.domains[n].c_str(), i.domains[n].c_str(), FNM_NOESCAPE) != 0) return false;
  return p.path.empty() || i.path == p.path || i.path.starts_with(p.path + "/");
}

Result<std::vector<KubeletProvider>> ParseProviderConfig(const std::string& text) {
  FASTOCI_TRY(Json j, ParseYaml(text));
  if (JsonText(j, "kind") != "CredentialProviderConfig")
    return InvalidError("it is not a CredentialProviderConfig");
  const Json& list = JsonChild(j, "providers");
  if (!list.is_array()) return InvalidError("it has no list of providers");
  if (list.size() > kMaxProviders) return InvalidError("it has too many providers");
  std::vector<KubeletProvider> all;
  for (const Json& item : list) {
    FASTOCI_TRY(KubeletProvider p, ParseProvider(item));
    all.push_back(std::move(p));
  }
  return all;
}

Result<ProviderResponse> ParseProviderResponse(const std::string& text,
                                               const std::string& api_version) {
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (JsonText(j, "kind") != "CredentialProviderResponse" ||
      JsonText(j, "apiVersion") != api_version)
    return InvalidError("its answer is not a CredentialProviderResponse of " + api_version);
  ProviderResponse r;
  const std::string key = JsonText(j, "cacheKeyType");
  if (key == "Image") r.key = ProviderResponse::Key::kImage;
  else if (key == "Registry") r.key = ProviderResponse::Key::kRegistry;
  else if (key == "Global") r.key = ProviderResponse::Key::kGlobal;
  else return InvalidError("its answer has an unknown cacheKeyType: " + key.substr(0, 40));
  if (const std::string duration = JsonText(j, "cacheDuration"); !duration.empty()) {
    FASTOCI_TRY(r.cache_ms, ParseDurationMs(duration));
  }
  const Json& auth = JsonChild(j, "auth");
  if (!auth.is_object()) return r;
  for (const auto& [pattern, entry] : auth.items()) {
    Credential c;
    c.username = JsonText(entry, "username");
    c.password = Secret(JsonText(entry, "password"));
    if (!c.username.empty()) r.auth[pattern] = std::move(c);
  }
  return r;
}

std::vector<KubeletPaths> KnownKubeletPaths() {
  const KubeletPaths known[] = {
      // EKS, GKE and AKS
      {"/etc/eks/image-credential-provider/config.json", "/etc/eks/image-credential-provider"},
      {"/etc/srv/kubernetes/cri_auth_config.yaml", "/home/kubernetes/bin"},
      {"/var/lib/kubelet/credential-provider-config.yaml", "/var/lib/kubelet/credential-provider"},
  };
  std::vector<KubeletPaths> here;
  for (const KubeletPaths& p : known)
    if (::access(p.config.c_str(), F_OK) == 0) here.push_back(p);
  return here;
}

CredentialSourcePtr KubeletSource(KubeletPaths paths, int64_t timeout_ms) {
  return std::make_shared<Kubelet>(std::move(paths), timeout_ms);
}

}  // namespace fastoci
