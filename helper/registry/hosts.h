// SPDX-License-Identifier: Apache-2.0
// Where a registry's repositories can be had, as the node's administrator says
// it: containerd's hosts.toml directories (/etc/containerd/certs.d) and the
// directories of certificates that docker has (/etc/docker/certs.d), which
// containerd reads in the same places.
//
//   <root>/<host>_<port>_/   or <host>:<port>/, <host>/, and _default/ at last
//     hosts.toml             mirrors in the file's order, then the server
//     *.crt, *.cert, *.key   where there is no hosts.toml: CAs, client pairs
//
// The result is a list of places in the order in which they are asked. The
// registry itself comes last, unless hosts.toml names another server. Parsing
// is pure; LoadHosts() reads directories and the PEM files that they name, so
// that a process without files can use the result.
#ifndef FASTOCI_REGISTRY_HOSTS_H_
#define FASTOCI_REGISTRY_HOSTS_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "http/http_client.h"
#include "http/secret.h"
#include "registry/reference.h"

namespace fastoci {

inline constexpr size_t kMaxHostsBytes = 1 << 20;  // of a hosts.toml, of a PEM file
inline constexpr size_t kMaxHosts = 64;            // in one hosts.toml

// What of HostConfig is in files.
struct ClientPair {
  std::string cert_file;
  std::string key_file;  // "": the key is in cert_file
};

// One place. URLs are scheme://authority + path + "/<repository>/...".
struct HostConfig {
  std::string scheme;     // "http" or "https"
  bool scheme_said = false;  // by hosts.toml; else it is the default for the host
  std::string authority;  // host[:port], to connect to
  std::string path;       // the API's root: "/v2", or whatever override_path says
  bool pull = true;       // blobs, and manifests by digest
  bool resolve = true;    // tags
  bool push = true;
  bool skip_verify = false;
  std::vector<std::string> ca_files;  // whole paths; besides the system's CAs
  std::vector<ClientPair> clients;    // whole paths
  std::vector<std::pair<std::string, Secret>> headers;  // may hold tokens
  int64_t dial_timeout_ms = 0;  // 0: the default
  // The registry that a mirror is asked for, as its query's "ns"; "" for the
  // registry itself.
  std::string ns;

  // Contents of the files above, filled in by LoadHosts().
  std::string ca_pem;
  std::string client_cert_pem;
  Secret client_key_pem;

  // "https://mirror.example/v2/library/alpine/blobs/sha256:..?ns=docker.io";
  // what: "blobs/<digest>", "manifests/<tag>", with an own query or none. repository "": what
  // belongs to none, as "_catalog".
  std::string Url(const std::string& repository, const std::string& what) const;
  // The registry itself. What a user gives for the registry (a password, a CA) is for it alone.
  bool is_registry() const { return ns.empty(); }
  // How it is accessed, by what hosts.toml says.
  HttpSite Site() const;
};

// What a request is for. As in containerd a tag asks for both capabilities, "pull" and
// "resolve". Unlike there, a mirror is never pushed to, whatever its capabilities are.
enum class HostUse {
  kPull,     // blobs, manifests by digest
  kResolve,  // tags, referrers
  kPush,     // the server alone
  kList,     // the same: lists of tags and repositories, of which a mirror knows a part
};

// The one place that decides who is asked, and in which order: that of the file, the server
// last. Empty: nobody may be asked.
std::vector<HostConfig> HostsFor(const std::vector<HostConfig>& hosts, HostUse use);

// text: of a hosts.toml. base_dir: where relative paths in it begin. host: the
// registry that it is about. kInvalid: message with line and what is wrong.
Result<std::vector<HostConfig>> ParseHostsToml(const std::string& text,
                                               const std::string& base_dir,
                                               const std::string& host);

// The registry itself, without any configuration. Loopback hosts are accessed in plain
// HTTP. plain_http: so are all other hosts.
HostConfig DefaultHost(const std::string& host, bool plain_http);

// Names of the directory for a host, the best first.
std::vector<std::string> HostDirectoryNames(const std::string& host);

struct HostsOptions {
  // Looked at in this order; the first that has a directory for the host counts.
  std::vector<std::string> roots = {"/etc/containerd/certs.d", "/etc/docker/certs.d"};
  bool plain_http = false;  // for the registry itself, whatever the file says
};

// The roots that --hosts-dir names: those of HostsOptions if it was not given, none for "none".
std::vector<std::string> HostRoots(const std::vector<std::string>& given);
inline constexpr char kNoHostRoots[] = "none";

// Loads the places for ref.host. A root or a directory that does not exist is passed over.
// A file that cannot be read or parsed is an error, because a mirror or a CA that is
// silently missing would be worse.
Result<std::vector<HostConfig>> LoadHosts(const HostsOptions& options, const Reference& ref);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_HOSTS_H_
