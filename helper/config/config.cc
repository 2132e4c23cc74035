// SPDX-License-Identifier: Apache-2.0
#include "config/config.h"

#include <unistd.h>

#include <algorithm>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>

#include "base/unique_fd.h"
#include "registry/hosts.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;
constexpr size_t kMaxDepth = 32;

struct Place {
  size_t line = 1, column = 1;
};

Place PlaceOf(const std::string& text, size_t offset) {
  Place p;
  for (size_t i = 0; i < std::min(offset, text.size()); i++) {
    p.column = text[i] == '\n' ? 1 : p.column + 1;
    p.line += text[i] == '\n';
  }
  return p;
}

struct Value {
  nlohmann::json json;  // a scalar, or null with is_container
  bool is_container = false;
  size_t offset = 0;  // of the key
  bool is_array = false;
};

// Flattens the file to dotted paths, with the place of each key. The content
// in arrays is not recorded: no key of ours has one.
class Flattener : public nlohmann::json_sax<nlohmann::json> {
 public:
  Flattener(const std::string* text, const size_t* read) : text_(text), read_(read) {}
  bool null() override { return Put(nullptr); }
  bool boolean(bool v) override { return Put(v); }
  bool number_integer(number_integer_t v) override { return Put(v); }
  bool number_unsigned(number_unsigned_t v) override { return Put(v); }
  bool number_float(number_float_t v, const string_t&) override { return Put(v); }
  bool string(string_t& v) override { return Put(v); }
  bool binary(binary_t&) override { return false; }
  bool start_object(std::size_t) override { return Enter(false); }
  bool end_object() override { return Leave(); }
  bool start_array(std::size_t) override { return Enter(true); }
  bool end_array() override { return Leave(); }
  bool key(string_t& v) override {
    if (arrays_ > 0) return true;
    key_ = v;
    const size_t quote = text_->rfind('"' + v + '"', *read_);
    offset_ = quote == std::string::npos ? *read_ : quote;
    return true;
  }
  bool parse_error(std::size_t position, const std::string&,
                   const nlohmann::detail::exception& e) override {
    error_offset = position > 0 ? position - 1 : 0;
    error = e.what();
    if (size_t at = error.find("syntax error"); at != std::string::npos) error = error.substr(at);
    return false;
  }

  std::map<std::string, Value> values;
  std::string error;
  size_t error_offset = 0;

 private:
  bool Put(nlohmann::json v) {
    if (arrays_ > 0) return true;
    return Record({std::move(v), false, offset_});
  }
  bool Record(Value v) {
    if (path_.empty()) {
      error = "the file is not a JSON object";
      return v.is_container;
    }
    const std::string name = path_.back() + key_;
    if (!values.emplace(name, v).second) {
      error = "\"" + name + "\" is there twice";
      error_offset = v.offset;
      return false;
    }
    return true;
  }
  bool Enter(bool array) {
    if (path_.size() + arrays_ > kMaxDepth) {
      error = "nested too deeply";
      error_offset = *read_;
      return false;
    }
    if (arrays_ > 0 || array) {
      if (arrays_ == 0 && !Record({nullptr, true, offset_, array})) return false;
      arrays_++;
      return true;
    }
    if (!path_.empty()) {
      if (!Record({nullptr, true, offset_})) return false;
      path_.push_back(path_.back() + key_ + ".");
    } else {
      path_.push_back("");
    }
    return true;
  }
  bool Leave() {
    if (arrays_ > 0)
      arrays_--;
    else
      path_.pop_back();
    return true;
  }
  const std::string* text_;
  const size_t* read_;
  std::vector<std::string> path_;
  std::string key_;
  size_t offset_ = 0;
  size_t arrays_ = 0;  // open arrays, and objects within
};

// Tells how far the parser has read.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;
  CountingIterator(const char* at, size_t* read) : at_(at), read_(read) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    if (read_) ++*read_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  bool operator==(const CountingIterator& o) const { return at_ == o.at_; }
  bool operator!=(const CountingIterator& o) const { return at_ != o.at_; }

 private:
  const char* at_;
  size_t* read_;
};

// What a file says, beyond what Config holds.
struct Raw {
  std::optional<uint64_t> gzip_gb, registry_gb;
  std::string gzip_dir, registry_dir, credentials_mode = "file", whole = "fail", p2p, p2p_proxy;
  bool use_p2p = false;
};

// http://host[:port][/path], without what could be a password.
bool IsHttpUrl(const std::string& url) {
  for (const std::string scheme : {"http://", "https://"}) {
    if (!url.starts_with(scheme)) continue;
    const std::string rest = url.substr(scheme.size());
    return IsRegistryHost(rest.substr(0, rest.find('/'))) &&
           rest.find_first_of("?#\"\\ @") == std::string::npos;
  }
  return false;
}

struct Key {
  enum Type { kBool, kNumber, kString, kSection, kIgnored } type;
  uint64_t min = 0, max = 0;  // kNumber
  bool overlaybd_only = false;
  std::function<void(Config*, Raw*, const nlohmann::json&)> set = nullptr;
};

#define SET(expr) [](Config* c, Raw* r, const nlohmann::json& v) { (void)c, (void)r; expr; }

const std::map<std::string, Key>& Keys() {
  using K = Key;
  constexpr uint64_t kMaxGb = 1 << 20;
  constexpr uint64_t kMaxReadaheadMb = 256;
  static const std::map<std::string, Key> keys = {
      {"gzipCacheConfig", {K::kSection}},
      {"gzipCacheConfig.enable", {K::kBool, 0, 0, false, SET(c->keep_cache = v)}},
      {"gzipCacheConfig.cacheDir", {K::kString, 0, 0, false, SET(r->gzip_dir = v)}},
      {"gzipCacheConfig.cacheSizeGB", {K::kNumber, 1, kMaxGb, false, SET(r->gzip_gb = v)}},
      {"gzipCacheConfig.refillSize", {K::kIgnored}},
      {"cacheConfig", {K::kSection}},
      {"cacheConfig.cacheType", {K::kIgnored}},
      {"cacheConfig.cacheDir", {K::kString, 0, 0, false, SET(r->registry_dir = v)}},
      {"cacheConfig.cacheSizeGB", {K::kNumber, 1, kMaxGb, false, SET(r->registry_gb = v)}},
      {"cacheConfig.refillSize", {K::kIgnored}},
      {"cacheConfig.blockSize", {K::kIgnored}},
      {"credentialConfig", {K::kSection}},
      {"credentialConfig.mode", {K::kString, 0, 0, false, SET(r->credentials_mode = v)}},
      {"credentialConfig.path", {K::kString, 0, 0, false, SET(c->credentials = v)}},
      {"credentialConfig.timeout", {K::kIgnored}},
      {"credentialFilePath", {K::kString, 0, 0, true, SET(c->credentials = v)}},
      {"hostsDir", {K::kString, 0, 0, false, SET(c->hosts_dir = v)}},
      {"p2pConfig", {K::kSection}},
      {"p2pConfig.enable", {K::kBool, 0, 0, false, SET(r->use_p2p = v)}},
      {"p2pConfig.address", {K::kString, 0, 0, false, SET(r->p2p = v)}},
      {"p2pConfig.proxy", {K::kString, 0, 0, false, SET(r->p2p_proxy = v)}},
      {"registryCacheDir", {K::kString, 0, 0, true, SET(r->registry_dir = v)}},
      {"registryCacheSizeGB", {K::kNumber, 1, kMaxGb, true, SET(r->registry_gb = v)}},
      {"download", {K::kSection}},
      {"download.enable", {K::kBool, 0, 0, false, SET(c->download.enable = v)}},
      {"download.delay", {K::kNumber, 0, 86400, false, SET(c->download.delay_s = v)}},
      {"download.delayExtra", {K::kNumber, 0, 86400, false, SET(c->download.delay_extra_s = v)}},
      {"download.maxMBps", {K::kNumber, 0, 100000, false, SET(c->download.max_mbps = v)}},
      {"download.tryCnt", {K::kNumber, 1, 1000, false, SET(c->download.tries = v)}},
      {"download.blockSize", {K::kNumber, 65536, 1 << 28, false, SET(c->download.block_bytes = v)}},
      {"exporterConfig", {K::kSection}},
      {"exporterConfig.enable", {K::kBool, 0, 0, false, SET(c->metrics.enable = v)}},
      {"exporterConfig.port", {K::kNumber, 1, 65535, false, SET(c->metrics.port = v)}},
      {"exporterConfig.uriPrefix", {K::kString, 0, 0, false, SET(c->metrics.path = v)}},
      {"exporterConfig.updateInterval", {K::kIgnored}},
      {"cacheDevice", {K::kString, 0, 0, false, SET(c->cache_device = v)}},
      {"chunkKB", {K::kNumber, 64, 4096, false, SET(c->chunk_kb = v)}},
      {"minFreeGB", {K::kNumber, 0, kMaxGb, false, SET(c->min_free_gb = v)}},
      {"maxDiskPercent", {K::kNumber, 1, 100, false, SET(c->max_disk_percent = v)}},
      {"wholeBlob", {K::kString, 0, 0, false, SET(r->whole = v)}},
      {"wholeLayerKB", {K::kNumber, 0, kMaxGb, false, SET(c->whole_layer_kb = v)}},
      {"readaheadMB", {K::kNumber, 0, kMaxReadaheadMb, false, SET(c->readahead_mb = v)}},
      {"verifyOnRead", {K::kBool, 0, 0, false, SET(c->verify_on_read = v)}},
      {"signatures", {K::kSection}},  // its keys are prefixes: ParseSignature()
      {"scrubAtStart", {K::kBool, 0, 0, false, SET(c->scrub_at_start = v)}},
  };
  return keys;
}

#undef SET

// What is wrong with the value, or empty.
std::string Complaint(const Key& key, const Value& value) {
  switch (key.type) {
    case Key::kIgnored: return "";
    case Key::kSection:
      return value.is_container && !value.is_array ? "" : "must be an object";
    case Key::kBool: return value.json.is_boolean() ? "" : "must be true or false";
    case Key::kString: return value.json.is_string() ? "" : "must be a string";
    case Key::kNumber: break;
  }
  const std::string range =
      "must be a whole number from " + std::to_string(key.min) + " to " + std::to_string(key.max);
  if (!value.json.is_number_unsigned()) return range;
  const uint64_t n = value.json.get<uint64_t>();
  return n < key.min || n > key.max ? range : "";
}

bool ParseWhole(const std::string& text, WholePolicy* out) {
  if (text == "fail")
    *out = WholePolicy::kFail;
  else if (text == "report")
    *out = WholePolicy::kReport;
  else if (text == "off")
    *out = WholePolicy::kOff;
  else
    return false;
  return true;
}

constexpr char kSignatures[] = "signatures.";

// What is wrong with the rule, or empty.
std::string ParseSignature(const std::string& path, const Value& value, Config* config) {
  SignatureRule rule;
  rule.prefix = path.substr(sizeof(kSignatures) - 1);
  if (rule.prefix.empty() || rule.prefix == "/")
    return "names no repository; \"*\" is all of them";
  if (rule.prefix != "*") {
    auto canonical = CanonicalPrefix(rule.prefix);
    if (!canonical.ok()) return "can match no image: it " + canonical.error().message;
    rule.prefix = std::move(*canonical);
  }
  for (const SignatureRule& other : config->signatures) {
    if (other.prefix == rule.prefix)
      return "is another spelling of a rule that is there already, for " + rule.prefix;
  }
  if (!value.json.is_string()) return "must be the path of a file of public keys, or \"none\"";
  rule.key_file = value.json.get<std::string>();
  if (rule.key_file == "none")
    rule.key_file.clear();
  else if (rule.key_file.empty() || rule.key_file[0] != '/')
    return "must be the whole path of a file of public keys, or \"none\"";
  config->signatures.push_back(std::move(rule));
  return "";
}

// Where both programs could be, our files are in a directory of our own.
void Settle(const Raw& raw, Config* c) {
  const std::string dir = !raw.gzip_dir.empty() ? raw.gzip_dir : raw.registry_dir;
  if (!dir.empty()) c->cache_dir = dir + "/fastoci";
  if (raw.gzip_gb || raw.registry_gb)
    c->cache_size_gb = raw.gzip_gb.value_or(0) + raw.registry_gb.value_or(0);
}

Result<Config> Load(const std::string& path, ConfigDialect dialect) {
  FASTOCI_TRY(auto bytes, ReadFile(path, kMaxFileBytes));
  return ParseConfig(std::string(bytes.begin(), bytes.end()), path, dialect);
}

}  // namespace

Result<Config> ParseConfig(const std::string& text, const std::string& name,
                           ConfigDialect dialect) {
  auto complain = [&](size_t offset, const std::string& what) {
    const Place p = PlaceOf(text, offset);
    return InvalidError(name + ":" + std::to_string(p.line) + ":" + std::to_string(p.column) +
                        ": " + what);
  };
  const bool ours = dialect == ConfigDialect::kOurs;
  size_t read = 0;
  Flattener flat(&text, &read);
  const bool parsed = nlohmann::json::sax_parse(
      CountingIterator(text.data(), &read), CountingIterator(text.data() + text.size(), nullptr),
      &flat);
  if (!parsed || !flat.error.empty()) return complain(flat.error_offset, flat.error);
  Config config;
  config.source = name;
  Raw raw;
  for (const auto& [path, value] : flat.values) {
    if (path.starts_with(kSignatures)) {
      if (std::string bad = ParseSignature(path, value, &config); !bad.empty())
        return complain(value.offset, "\"" + path + "\" " + bad);
      continue;
    }
    auto key = Keys().find(path);
    if (key == Keys().end() || (ours && key->second.overlaybd_only)) {
      if (ours) return complain(value.offset, "unknown key \"" + path + "\"");
      continue;
    }
    if (std::string bad = Complaint(key->second, value); !bad.empty())
      return complain(value.offset, "\"" + path + "\" " + bad);
    if (key->second.set) key->second.set(&config, &raw, value.json);
  }
  if (raw.credentials_mode != "file")
    return complain(flat.values.at("credentialConfig.mode").offset,
                    "\"credentialConfig.mode\" \"" + raw.credentials_mode.substr(0, 40) +
                        "\" is not supported, only \"file\": name a file in the format of docker's "
                        "config.json with \"credentialConfig.path\"");
  if ((config.chunk_kb & (config.chunk_kb - 1)) != 0)
    return complain(flat.values.at("chunkKB").offset, "\"chunkKB\" must be a power of two");
  if (!ParseWhole(raw.whole, &config.whole))
    return complain(flat.values.at("wholeBlob").offset,
                    "\"wholeBlob\" must be \"fail\", \"report\" or \"off\"");
  if (!config.hosts_dir.empty() && config.hosts_dir[0] != '/' && config.hosts_dir != kNoHostRoots)
    return complain(flat.values.at("hostsDir").offset,
                    "\"hostsDir\" must be the whole path of a directory, or \"none\"");
  if (config.metrics.path.empty() || config.metrics.path[0] != '/')
    return complain(flat.values.at("exporterConfig.uriPrefix").offset,
                    "\"exporterConfig.uriPrefix\" must begin with \"/\"");
  if (raw.use_p2p) {
    if (raw.p2p.empty() && raw.p2p_proxy.empty())
      return complain(flat.values.at("p2pConfig.enable").offset,
                      "\"p2pConfig\" needs an \"address\" or a \"proxy\"");
    for (const auto& [key, url] : {std::pair("p2pConfig.address", &raw.p2p),
                                   std::pair("p2pConfig.proxy", &raw.p2p_proxy)})
      if (!url->empty() && !IsHttpUrl(*url))
        return complain(flat.values.at(key).offset,
                        std::string("\"") + key +
                            "\" must be a URL, like \"http://localhost:9731/accelerator\"");
    config.p2p = raw.p2p;
    while (config.p2p.ends_with("/")) config.p2p.pop_back();
    config.p2p_proxy = raw.p2p_proxy;
  }
  Settle(raw, &config);
  return config;
}

Result<Config> LoadConfig(const std::string& path) {
  // By the names that overlaybd's file has where it is read without being named.
  auto dialect_of = [](const std::string& p) {
    const std::string name = "/" + p;
    const bool theirs = name.ends_with("/overlaybd.json") || name.ends_with("/overlaybd/config.json");
    return theirs ? ConfigDialect::kOverlaybd : ConfigDialect::kOurs;
  };
  if (!path.empty()) return Load(path, dialect_of(path));
  if (::access(kConfigPath, F_OK) == 0) return Load(kConfigPath, ConfigDialect::kOurs);
  for (const char* theirs : {"/etc/overlaybd/overlaybd.json", "/etc/overlaybd/config.json"})
    if (::access(theirs, F_OK) == 0) return Load(theirs, ConfigDialect::kOverlaybd);
  return Config();
}

}  // namespace fastoci
