// SPDX-License-Identifier: Apache-2.0
#include "registry/hosts.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <memory>

#include "base/lower.h"
#include "base/unique_fd.h"
#include "http/http_client.h"
#include "registry/duration.h"
#include "registry/toml.h"

namespace fastoci {
namespace {

constexpr char kTomlName[] = "hosts.toml";
constexpr size_t kMaxFiles = 256;  // that are looked at in a directory

std::string WholePath(const std::string& path, const std::string& base_dir) {
  return path.starts_with("/") ? path : base_dir + "/" + path;
}

// "/a//b/./c/" -> "/a/b/c"; kInvalid for "..", a query and the like.
Result<std::string> CleanPath(const std::string& path) {
  std::string clean;
  for (size_t at = 0; at < path.size();) {
    size_t end = std::min(path.find('/', at), path.size());
    std::string part = path.substr(at, end - at);
    at = end + 1;
    if (part.empty() || part == ".") continue;
    if (part == "..") return InvalidError("\"..\" in a path");
    for (char c : part) {
      if (static_cast<unsigned char>(c) <= ' ' || static_cast<unsigned char>(c) >= 127 ||
          std::string("?#\"<>\\^`{|}").find(c) != std::string::npos)
        return InvalidError("a path may not have this character: " + std::string(1, c));
    }
    clean += "/" + part;
  }
  return clean;
}

// One table of the file: a mirror's, or the top one for the server.
class TableReader {
 public:
  TableReader(const TomlTable& table, const std::string& base_dir, bool top)
      : table_(table), base_dir_(base_dir), top_(top) {}

  // What is wrong, with its line, or OK.
  Status Read(HostConfig* out) {
    for (const auto& [key, value] : table_.entries) {
      Status s = Take(key, value, out);
      if (!s.ok())
        return InvalidError("line " + std::to_string(value.line) + ": \"" + key + "\" " +
                            s.error().message);
    }
    return OkStatus();
  }
  bool override_path() const { return override_path_; }

 private:
  Status Take(const std::string& key, const TomlValue& v, HostConfig* out) {
    if (top_ && (key == "server" || key == "host")) return OkStatus();
    if (key == "capabilities") return TakeCapabilities(v, out);
    if (key == "ca") return TakeCa(v, out);
    if (key == "client") return TakeClients(v, out);
    if (key == "header") return TakeHeaders(v, out);
    if (key == "skip_verify") return TakeBool(v, &out->skip_verify);
    if (key == "override_path") return TakeBool(v, &override_path_);
    if (key == "dial_timeout") {
      if (v.kind != TomlValue::Kind::kString) return InvalidError("must be a string, like \"5s\"");
      FASTOCI_TRY(out->dial_timeout_ms, ParseDurationMs(v.text));
      return OkStatus();
    }
    return InvalidError("is not known");
  }

  static Status TakeBool(const TomlValue& v, bool* out) {
    if (v.kind != TomlValue::Kind::kBool) return InvalidError("must be true or false");
    *out = v.boolean;
    return OkStatus();
  }

  // A string, or an array of them.
  static Result<std::vector<std::string>> Strings(const TomlValue& v) {
    if (v.kind == TomlValue::Kind::kString) return std::vector<std::string>{v.text};
    const Error bad = InvalidError("must be a string or an array of strings");
    if (v.kind != TomlValue::Kind::kArray) return bad;
    std::vector<std::string> all;
    for (const TomlValue& item : v.items) {
      if (item.kind != TomlValue::Kind::kString) return bad;
      all.push_back(item.text);
    }
    return all;
  }

  static Status TakeCapabilities(const TomlValue& v, HostConfig* out) {
    if (v.kind != TomlValue::Kind::kArray) return InvalidError("must be an array of strings");
    FASTOCI_TRY(auto names, Strings(v));
    if (names.empty()) return OkStatus();  // as if it were not there
    out->pull = out->resolve = out->push = false;
    for (const std::string& name : names) {
      const std::string n = Lower(name);
      if (n == "pull") out->pull = true;
      else if (n == "resolve") out->resolve = true;
      else if (n == "push") out->push = true;
      else if (n != "referrers") return InvalidError("has an unknown capability: " + name);
    }
    return OkStatus();
  }

  Status TakeCa(const TomlValue& v, HostConfig* out) {
    FASTOCI_TRY(auto files, Strings(v));
    for (const std::string& file : files) out->ca_files.push_back(WholePath(file, base_dir_));
    return OkStatus();
  }

  // A file with both, an array of such files, or an array of [cert, key].
  Status TakeClients(const TomlValue& v, HostConfig* out) {
    if (v.kind == TomlValue::Kind::kString) {
      out->clients.push_back({WholePath(v.text, base_dir_), ""});
      return OkStatus();
    }
    if (v.kind != TomlValue::Kind::kArray)
      return InvalidError("must be a file, or an array of files or of [\"cert\", \"key\"]");
    for (const TomlValue& item : v.items) {
      auto files = Strings(item);
      const bool pair = item.kind == TomlValue::Kind::kArray;
      if (!files.ok() || files->size() != (pair ? 2U : 1U))
        return InvalidError("must be a file, or an array of files or of [\"cert\", \"key\"]");
      // The key's file may be named as "", too: it is in the certificate's.
      const std::string key = pair ? (*files)[1] : "";
      out->clients.push_back({WholePath((*files)[0], base_dir_),
                              key.empty() ? "" : WholePath(key, base_dir_)});
    }
    return OkStatus();
  }

  static Status TakeHeaders(const TomlValue& v, HostConfig* out) {
    if (v.kind != TomlValue::Kind::kTable) return InvalidError("must be a table");
    for (const auto& [name, value] : v.table->entries) {
      auto values = Strings(value);
      if (!values.ok()) return values.error().Wrap("header " + name);
      auto bad = [](unsigned char c) { return c < ' ' && c != '\t'; };
      for (std::string& text : *values) {
        if (name.empty() || name.find_first_of(" :\t\r\n") != std::string::npos ||
            std::any_of(text.begin(), text.end(), bad))
          return InvalidError("header \"" + name + "\" is malformed");
        out->headers.emplace_back(name, Secret(std::move(text)));
      }
    }
    return OkStatus();
  }

  const TomlTable& table_;
  const std::string& base_dir_;
  bool top_;
  bool override_path_ = false;
};

// "https://mirror.example:5000/path", "mirror.example" (https).
Status TakeServer(const std::string& server, bool override_path, HostConfig* out) {
  std::string rest = server;
  out->scheme = "https";
  out->scheme_said = true;
  if (size_t at = rest.find("://"); at != std::string::npos) {
    out->scheme = Lower(rest.substr(0, at));
    rest.erase(0, at + 3);
  }
  if (out->scheme != "https" && out->scheme != "http")
    return InvalidError("\"" + server + "\" is neither http nor https");
  const size_t slash = rest.find('/');
  out->authority = Lower(rest.substr(0, slash));
  if (!IsRegistryHost(out->authority)) return InvalidError("\"" + server + "\" has no proper host");
  FASTOCI_TRY(out->path, CleanPath(slash == std::string::npos ? "" : rest.substr(slash)));
  if (!override_path && !out->path.ends_with("/v2")) out->path += "/v2";
  return OkStatus();
}

bool SameServer(const HostConfig& place, const std::string& host) {
  return CanonicalHost(place.authority) == CanonicalHost(host);
}

std::vector<std::string> FilesIn(const std::string& dir) {
  std::vector<std::string> names;
  std::unique_ptr<DIR, int (*)(DIR*)> open(::opendir(dir.c_str()), ::closedir);
  while (open && names.size() < kMaxFiles) {
    const dirent* e = ::readdir(open.get());
    if (e == nullptr) break;
    names.emplace_back(e->d_name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

// docker's directory: each *.crt is a CA, each *.cert has its *.key.
Status TakeCertFiles(const std::string& dir, HostConfig* out) {
  const std::vector<std::string> names = FilesIn(dir);
  auto there = [&](const std::string& n) {
    return std::find(names.begin(), names.end(), n) != names.end();
  };
  for (const std::string& name : names) {
    if (name.ends_with(".crt")) out->ca_files.push_back(dir + "/" + name);
    if (!name.ends_with(".cert")) continue;
    const std::string key = name.substr(0, name.size() - 4) + "key";
    if (!there(key))
      return InvalidError(dir + "/" + name + " has no " + key + " beside it");
    out->clients.push_back({dir + "/" + name, dir + "/" + key});
  }
  return OkStatus();
}

Status ReadPemFiles(HostConfig* out) {
  for (const std::string& file : out->ca_files) {
    FASTOCI_TRY(std::string pem, ReadFile(file, kMaxHostsBytes));
    out->ca_pem += pem;
    if (!out->ca_pem.ends_with("\n")) out->ca_pem += "\n";
  }
  if (out->clients.empty()) return OkStatus();
  // libcurl presents one certificate.
  const ClientPair& pair = out->clients.front();
  FASTOCI_TRY(out->client_cert_pem, ReadFile(pair.cert_file, kMaxHostsBytes));
  const std::string& key = pair.key_file.empty() ? pair.cert_file : pair.key_file;
  FASTOCI_TRY(std::string pem, ReadFile(key, kMaxHostsBytes));
  out->client_key_pem = Secret(std::move(pem));
  return OkStatus();
}

Result<std::vector<HostConfig>> LoadDirectory(const std::string& dir, const std::string& host,
                                              bool plain_http) {
  std::vector<HostConfig> places;
  auto text = ReadFile(dir + "/" + kTomlName, kMaxHostsBytes);
  if (text.ok() && !text->empty()) {
    auto parsed = ParseHostsToml(*text, dir, host);
    if (!parsed.ok()) return parsed.error().Wrap(dir + "/" + kTomlName);
    places = std::move(*parsed);
  } else if (!text.ok() && text.error().err != ENOENT) {
    return text.error();
  } else {
    places.push_back(DefaultHost(host, plain_http));
    FASTOCI_CHECK_OK(TakeCertFiles(dir, &places.back()));
  }
  for (HostConfig& place : places) FASTOCI_CHECK_OK(ReadPemFiles(&place));
  return places;
}

}  // namespace

std::string HostConfig::Url(const std::string& repository, const std::string& what) const {
  std::string url = scheme + "://" + authority + path + "/" + repository + (repository.empty() ? "" : "/") + what;
  if (!ns.empty()) url += (url.find('?') == std::string::npos ? "?ns=" : "&ns=") + UrlEscape(ns);
  return url;
}

HttpSite HostConfig::Site() const {
  HttpSite site;
  site.ca_pem = ca_pem;
  site.insecure = skip_verify;
  site.client_cert_pem = client_cert_pem;
  site.client_key_pem = client_key_pem;
  site.headers = headers;
  site.connect_timeout_ms = dial_timeout_ms;
  return site;
}

std::vector<HostConfig> HostsFor(const std::vector<HostConfig>& hosts, HostUse use) {
  std::vector<HostConfig> all;
  if (use == HostUse::kPush || use == HostUse::kList) {
    if (!hosts.empty() && (use == HostUse::kList || hosts.back().push)) all.push_back(hosts.back());
    return all;
  }
  for (const HostConfig& host : hosts)
    if (host.pull && (use == HostUse::kPull || host.resolve)) all.push_back(host);
  return all;
}

std::vector<std::string> HostRoots(const std::vector<std::string>& given) {
  if (given.empty()) return HostsOptions().roots;
  std::vector<std::string> roots;
  for (const std::string& root : given)
    if (root != kNoHostRoots) roots.push_back(root);
  return roots;
}

HostConfig DefaultHost(const std::string& host, bool plain_http) {
  HostConfig place;
  place.scheme = plain_http || IsLoopbackHost(host) ? "http" : "https";
  place.authority = ApiHost(host);
  place.path = "/v2";
  return place;
}

Result<std::vector<HostConfig>> ParseHostsToml(const std::string& text,
                                               const std::string& base_dir,
                                               const std::string& host) {
  FASTOCI_TRY(TomlTable top, ParseToml(text));
  std::vector<HostConfig> places;
  if (const TomlValue* hosts = top.Find("host"); hosts != nullptr) {
    if (hosts->kind != TomlValue::Kind::kTable)
      return InvalidError("line " + std::to_string(hosts->line) + ": \"host\" must be a table");
    if (hosts->table->entries.size() > kMaxHosts) return InvalidError("has too many hosts");
    for (const auto& [server, value] : hosts->table->entries) {
      const std::string where = "line " + std::to_string(value.line) + ": ";
      if (value.kind != TomlValue::Kind::kTable)
        return InvalidError(where + "\"host." + server + "\" must be a table");
      HostConfig place;
      TableReader reader(*value.table, base_dir, false);
      FASTOCI_CHECK_OK(reader.Read(&place));
      Status s = TakeServer(server, reader.override_path(), &place);
      if (!s.ok()) return InvalidError(where + "\"host\" " + s.error().message);
      if (!SameServer(place, ApiHost(host))) place.ns = host;
      places.push_back(std::move(place));
    }
  }
  HostConfig place;
  TableReader reader(top, base_dir, true);
  FASTOCI_CHECK_OK(reader.Read(&place));
  const TomlValue* server = top.Find("server");
  if (server == nullptr || (server->kind == TomlValue::Kind::kString && server->text.empty())) {
    const HostConfig own = DefaultHost(host, false);
    place.scheme = own.scheme;
    place.authority = own.authority;
    place.path = own.path;
  } else if (server->kind != TomlValue::Kind::kString) {
    return InvalidError("line " + std::to_string(server->line) + ": \"server\" must be a string");
  } else {
    Status s = TakeServer(server->text, reader.override_path(), &place);
    if (!s.ok())
      return InvalidError("line " + std::to_string(server->line) + ": \"server\" " +
                          s.error().message);
    if (!SameServer(place, ApiHost(host)) && !SameServer(place, host)) place.ns = host;
  }
  places.push_back(std::move(place));
  return places;
}

std::vector<std::string> HostDirectoryNames(const std::string& host) {
  std::vector<std::string> names;
  const size_t colon = host.rfind(':');
  if (colon != std::string::npos && colon > 0 && host.find(']', colon) == std::string::npos) {
    names.push_back(host.substr(0, colon) + "_" + host.substr(colon + 1) + "_");
    names.push_back(host);
    names.push_back(host.substr(0, colon));
  } else {
    names.push_back(host);
  }
  names.emplace_back("_default");
  return names;
}

namespace {

Result<std::vector<HostConfig>> LoadAsWritten(const HostsOptions& options, const Reference& ref) {
  for (const std::string& root : options.roots) {
    for (const std::string& name : HostDirectoryNames(ref.host)) {
      const std::string dir = root + "/" + name;
      struct stat st = {};
      if (::stat(dir.c_str(), &st) == 0 && S_ISDIR(st.st_mode))
        return LoadDirectory(dir, ref.host, options.plain_http);
    }
  }
  return std::vector<HostConfig>{DefaultHost(ref.host, options.plain_http)};
}

}  // namespace

Result<std::vector<HostConfig>> LoadHosts(const HostsOptions& options, const Reference& ref) {
  FASTOCI_TRY(auto hosts, LoadAsWritten(options, ref));
  for (HostConfig& host : hosts)
    if (options.plain_http && host.is_registry()) host.scheme = "http";
  return hosts;
}

}  // namespace fastoci
