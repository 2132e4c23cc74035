// SPDX-License-Identifier: Apache-2.0
// fastoci-fetcherd: the process that has the network and the credentials.
// Started by the broker with the descriptors of protocol.h. Files (blobs, CA
// certificates) are opened as nobody.
//   --credentials FILE    of docker's format; before what docker, podman and kubelet have
//   --state-dir DIR       of attached images, may be repeated
//   --hosts-dir DIR       with hosts.toml directories, may be repeated; instead of
//                         /etc/containerd/certs.d and /etc/docker/certs.d; "none": none
//   --ca-file FILE        PEM, instead of the system's certificates
//   --p2p URL             of a peer, which is asked for URL/<URL of the blob> first
//   --p2p-proxy URL       of an HTTP proxy, which is tried before the direct way
//   --plain-http          http for every host, not only for loopback ones
// For tests:
//   --retry-scale PERCENT  of all times after which something is tried again
//   --patience MS          with a peer that does not connect, answer or send
//   --helper-patience MS   with a program that knows credentials
//   --no-node-credentials  use only those of --credentials
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>
#include <utility>

#include "base/log.h"
#include "base/process.h"
#include "fetcher/fetcher.h"
#include "fetcher/keeper.h"
#include "fetcher/protocol.h"
#include "fetcher/sandbox.h"
#include "http/exchange.h"
#include "http/number.h"

namespace fastoci {
namespace {

constexpr int64_t kFirstByteMs = 10000;

struct Options {
  KeeperOptions keeper;
  Fetcher::Options fetcher;
};

Result<int64_t> ParseNumber(const std::string& name, const std::string& text, int64_t most) {
  uint64_t n = 0;
  if (!ParseDecimal(text, &n) || n > static_cast<uint64_t>(most))
    return InvalidError(name + " takes a number up to " + std::to_string(most));
  return static_cast<int64_t>(n);
}

Result<Options> ParseOptions(int argc, char** argv) {
  Options o;
  HttpOptions& http = o.fetcher.http;
  http.user_agent = "fastoci/" FASTOCI_VERSION;
  http.first_byte_ms = kFirstByteMs;
  std::vector<std::string> hosts_dirs;
  for (int i = 1; i < argc; i++) {
    std::string name = argv[i];
    if (name == "--plain-http") {
      o.fetcher.plain_http = true;
    } else if (name == "--credentials" && i + 1 < argc) {
      o.keeper.credentials = argv[++i];
    } else if (name == "--state-dir" && i + 1 < argc) {
      o.keeper.state_dirs.push_back(argv[++i]);
    } else if (name == "--hosts-dir" && i + 1 < argc) {
      hosts_dirs.push_back(argv[++i]);
    } else if (name == "--helper-patience" && i + 1 < argc) {
      FASTOCI_TRY(o.keeper.program_ms, ParseNumber(name, argv[++i], 3600000));
    } else if (name == "--no-node-credentials") {
      o.keeper.node_credentials = false;
    } else if (name == "--p2p" && i + 1 < argc) {
      o.fetcher.p2p = argv[++i];
    } else if (name == "--p2p-proxy" && i + 1 < argc) {
      o.fetcher.p2p_proxy = argv[++i];
    } else if (name == "--ca-file" && i + 1 < argc) {
      http.tls.ca_file = argv[++i];
    } else if (name == "--retry-scale" && i + 1 < argc) {
      FASTOCI_TRY(o.fetcher.times.scale_percent, ParseNumber(name, argv[++i], 1000));
    } else if (name == "--patience" && i + 1 < argc) {
      FASTOCI_TRY(http.first_byte_ms, ParseNumber(name, argv[++i], 3600000));
      http.connect_timeout_ms = http.stall_ms = http.first_byte_ms;
    } else {
      return InvalidError("unknown argument " + name +
                          ": only fastoci-helperd starts this program");
    }
  }
  o.keeper.hosts_dirs = HostRoots(hosts_dirs);
  return o;
}

Status Serve(const Options& options) {
  FASTOCI_TRY(std::unique_ptr<Keeper> keeper, Keeper::Start(options.keeper));
  // While the libraries may still load what they need.
  FASTOCI_CHECK_OK(InitCurl());
  FASTOCI_CHECK_OK(EnterFetcherSandbox());
  FASTOCI_TRY(std::unique_ptr<Fetcher> fetcher,
              Fetcher::Open(UniqueFd(kFetcherControlFd), UniqueFd(kFetcherWorkFd),
                            UniqueFd(kFetcherArenaFd), options.fetcher, keeper.get()));
  Status s = fetcher->Run();
  if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
  _exit(s.ok() ? 0 : 1);  // threads of libcurl and of files may be in the middle of something
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  using namespace fastoci;
  SetLogProgram("fastoci-fetcherd");
  SetProcessName("fastoci-fetcherd");
  std::signal(SIGPIPE, SIG_IGN);  // TLS writes to sockets that may be closed
  auto options = ParseOptions(argc, argv);
  Status s = options.ok() ? Serve(*options) : Status(options.error());
  if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
  return 2;
}
