// SPDX-License-Identifier: Apache-2.0
#include "serve/rules.h"

#include <fnmatch.h>

#include "base/json.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

Status Take(const Json& v, std::string* out) {
  if (!v.is_string()) return InvalidError("must be a string");
  *out = v.get<std::string>();
  return OkStatus();
}

Status Take(const Json& v, bool* out) {
  if (!v.is_boolean()) return InvalidError("must be true or false");
  *out = v.get<bool>();
  return OkStatus();
}

Status Take(const Json& v, uint64_t min, uint64_t max, uint64_t* out) {
  if (!v.is_number_unsigned() || v.get<uint64_t>() < min || v.get<uint64_t>() > max)
    return InvalidError("must be a whole number from " + std::to_string(min) + " to " +
                        std::to_string(max));
  *out = v.get<uint64_t>();
  return OkStatus();
}

Status TakePatterns(const Json& v, std::vector<std::string>* out) {
  out->clear();
  if (v.is_string()) {
    out->push_back(v.get<std::string>());
    return OkStatus();
  }
  if (!v.is_array() || v.empty()) return InvalidError("must be a pattern or a list of them");
  for (const Json& item : v) {
    if (!item.is_string()) return InvalidError("must be a pattern or a list of them");
    out->push_back(item.get<std::string>());
  }
  return OkStatus();
}

Status TakeRuleKey(const std::string& key, const Json& v, ServeRule* rule) {
  if (key == "repository") return Take(v, &rule->repository);
  if (key == "tags") return TakePatterns(v, &rule->tags);
  if (key == "platform") {
    std::string text;
    FASTOCI_CHECK_OK(Take(v, &text));
    FASTOCI_TRY(rule->platform, ParsePlatform(text));
    return OkStatus();
  }
  if (key == "minMB") return Take(v, 0, 1 << 20, &rule->min_mb);
  if (key == "skip") return Take(v, &rule->skip);
  if (key != "fstype") return InvalidError("is not known");
  FASTOCI_CHECK_OK(Take(v, &rule->fs_type));
  if (rule->fs_type != "ext4" && rule->fs_type != "erofs")
    return InvalidError("must be \"ext4\" or \"erofs\"");
  return OkStatus();
}

Status TakeRules(const Json& v, std::vector<ServeRule>* rules) {
  if (!v.is_array() || v.empty()) return InvalidError("must be a list of rules");
  for (const Json& item : v) {
    const std::string which = "rule " + std::to_string(rules->size() + 1);
    if (!item.is_object()) return InvalidError(which + " is not an object");
    ServeRule rule;
    for (const auto& [key, value] : item.items()) {
      Status s = TakeRuleKey(key, value, &rule);
      if (!s.ok()) return InvalidError(which + ": \"" + key + "\" " + s.error().message);
    }
    rules->push_back(std::move(rule));
  }
  return OkStatus();
}

Status TakeKey(const std::string& key, const Json& v, ServeConfig* c) {
  if (key == "registry") return Take(v, &c->registry);
  if (key == "plain") return Take(v, &c->plain);
  if (key == "insecure") return Take(v, &c->insecure);
  if (key == "rootCA") return Take(v, &c->root_ca);
  if (key == "clientCert") return Take(v, &c->client_cert);
  if (key == "hostsDir") return Take(v, &c->hosts_dir);
  if (key == "listen") return Take(v, &c->listen);
  if (key == "tokenFile") return Take(v, &c->token_file);
  if (key == "directory") return Take(v, &c->directory);
  if (key == "workers") return Take(v, 1, 64, &c->workers);
  if (key == "layers") return Take(v, 1, 64, &c->layers);
  if (key == "memoryMB") return Take(v, 256, 1 << 20, &c->memory_mb);
  if (key == "timeoutMinutes") return Take(v, 1, 10080, &c->timeout_minutes);
  if (key == "tries") return Take(v, 1, 100, &c->tries);
  if (key == "keepDays") return Take(v, 1, 3650, &c->keep_days);
  if (key == "rules") return TakeRules(v, &c->rules);
  return InvalidError("is not known");
}

bool Matches(const std::string& pattern, const std::string& text) {
  if (pattern.empty() || text.empty()) return pattern == text || pattern == "*";
  return ::fnmatch(pattern.c_str(), text.c_str(), FNM_NOESCAPE) == 0;
}

}  // namespace

Result<ServeConfig> ParseServeConfig(const std::string& text, const std::string& name) {
  const Json j = Json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!j.is_object()) return InvalidError(name + ": the file is not a JSON object");
  ServeConfig c;
  for (const auto& [key, value] : j.items()) {
    Status s = TakeKey(key, value, &c);
    if (!s.ok()) return InvalidError(name + ": \"" + key + "\" " + s.error().message);
  }
  if (!IsRegistryHost(c.registry))
    return InvalidError(name + ": \"registry\" must be the registry's HOST or HOST:PORT");
  if (c.rules.empty()) return InvalidError(name + ": \"rules\" must have a rule; [{}] matches all images");
  if (c.directory.empty() || c.directory[0] != '/')
    return InvalidError(name + ": \"directory\" must be an absolute path");
  return c;
}

const ServeRule* FindRule(const ServeConfig& config, const std::string& repository,
                          const std::string& tag) {
  for (const ServeRule& rule : config.rules) {
    if (!Matches(rule.repository, repository)) continue;
    for (const std::string& pattern : rule.tags)
      if (Matches(pattern, tag)) return rule.skip ? nullptr : &rule;
  }
  return nullptr;
}

}  // namespace fastoci
