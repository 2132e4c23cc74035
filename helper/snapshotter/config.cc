// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/config.h"

#include <functional>
#include <map>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint64_t kMaxConfigBytes = 1 << 20;
constexpr uint64_t kMaxLearnS = 3600;
constexpr uint64_t kMaxPort = 65535;
constexpr uint64_t kMaxMs = 86400000;

// What is wrong with the value; "": nothing.
using Setter = std::function<std::string(const Json&, SnapshotterConfig*)>;

Setter Text(std::string* (*where)(SnapshotterConfig*)) {
  return [where](const Json& v, SnapshotterConfig* c) -> std::string {
    if (!v.is_string()) return "a string";
    *where(c) = v.get<std::string>();
    return "";
  };
}
Setter Path(std::string* (*where)(SnapshotterConfig*)) {
  return [where](const Json& v, SnapshotterConfig* c) -> std::string {
    if (!v.is_string() || v.get<std::string>().substr(0, 1) != "/") return "an absolute path";
    *where(c) = v.get<std::string>();
    return "";
  };
}
Setter Flag(bool* (*where)(SnapshotterConfig*)) {
  return [where](const Json& v, SnapshotterConfig* c) -> std::string {
    if (!v.is_boolean()) return "true or false";
    *where(c) = v.get<bool>();
    return "";
  };
}

#define AT(expr) [](SnapshotterConfig* c) { return &c->expr; }

const std::map<std::string, Setter>& Keys() {
  static const std::map<std::string, Setter> keys = {
      {"address", Path(AT(address))},
      {"root", Path(AT(options.device.root))},
      {"controlSocket", Path(AT(options.device.control_socket))},
      {"cacheDevice", Path(AT(options.device.cache_device))},
      {"nodeConfig", Path(AT(options.device.node_config))},
      {"credentials", Path(AT(options.device.access.credentials_file))},
      {"plainHttp", Flag(AT(options.device.access.plain_http))},
      {"rootCa", Path(AT(options.device.access.tls.root_ca))},
      {"mountContext", Text(AT(options.device.context))},
      {"referrers",
       [](const Json& v, SnapshotterConfig* c) -> std::string {
         auto mode = v.is_string() ? ParseReferrerMode(v.get<std::string>()) : InvalidError("");
         if (!mode.ok()) return "\"off\", \"cri\" or \"all\"";
         c->options.referrers = *mode;
         return "";
       }},
      {"failAfterMs",
       [](const Json& v, SnapshotterConfig* c) -> std::string {
         if (!v.is_number_unsigned() || v.get<uint64_t>() > kMaxMs) return "a number from 0 to 86400000";
         c->options.device.policy = "fail_after_ms " + std::to_string(v.get<uint64_t>());
         return "";
       }},
      {"prefetch.learn", Flag(AT(options.device.learn))},
      {"prefetch.recorded", Flag(AT(options.device.fetch_traces))},
      {"prefetch.seconds",
       [](const Json& v, SnapshotterConfig* c) -> std::string {
         if (!v.is_number_unsigned() || v.get<uint64_t>() == 0 || v.get<uint64_t>() > kMaxLearnS)
           return "a number from 1 to 3600";
         c->options.device.learn_s = v.get<uint64_t>();
         return "";
       }},
      {"exporterConfig.enable", Flag(AT(metrics.enable))},
      {"exporterConfig.uriPrefix", Text(AT(metrics.path))},
      {"exporterConfig.port",
       [](const Json& v, SnapshotterConfig* c) -> std::string {
         if (!v.is_number_unsigned() || v.get<uint64_t>() == 0 || v.get<uint64_t>() > kMaxPort)
           return "a number from 1 to 65535";
         c->metrics.port = v.get<uint64_t>();
         return "";
       }},
  };
  return keys;
}

Status Take(const Json& object, const std::string& prefix, const std::string& name, SnapshotterConfig* config) {
  for (const auto& [key, value] : object.items()) {
    const std::string path = prefix + key;
    if ((path == "exporterConfig" || path == "prefetch") && value.is_object()) {
      FASTOCI_CHECK_OK(Take(value, path + ".", name, config));
      continue;
    }
    auto it = Keys().find(path);
    if (it == Keys().end()) return InvalidError(name + ": unknown key \"" + path + "\"; see fastoci-snapshotter(8)");
    const std::string wanted = it->second(value, config);
    if (!wanted.empty())
      return InvalidError(name + ": \"" + path + "\" is " + value.dump().substr(0, 80) + "; " + wanted + " is expected");
  }
  return OkStatus();
}

}  // namespace

Status ParseSnapshotterConfig(const std::string& text, const std::string& name, SnapshotterConfig* config) {
  Json j;
  try {
    j = Json::parse(text);
  } catch (const Json::parse_error& e) {
    const std::string what = e.what();  // "[...] parse error at line 1, column 2: ..."
    return InvalidError(name + ": " + what.substr(what.find(']') + 2));
  }
  if (!j.is_object()) return InvalidError(name + " is not a JSON object");
  return Take(j, "", name, config);
}

Status LoadSnapshotterConfig(const std::string& path, SnapshotterConfig* config) {
  const std::string file = path.empty() ? kSnapshotterConfigPath : path;
  auto text = ReadFile(file, kMaxConfigBytes);
  if (!text.ok() && path.empty() && text.error().err == ENOENT) return OkStatus();
  if (!text.ok()) return text.error();
  return ParseSnapshotterConfig(*text, file, config);
}

}  // namespace fastoci
