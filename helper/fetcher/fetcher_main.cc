// SPDX-License-Identifier: Apache-2.0
// fastoci-fetcherd: the process that has the network and the credentials.
// Started by the broker with the control socket as fd 3; protocol.h says the
// rest. Files (blobs, CA certificates) are opened as nobody.
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <string>

#include "base/log.h"
#include "fetcher/credentials_keeper.h"
#include "fetcher/fetcher.h"
#include "fetcher/protocol.h"
#include "fetcher/sandbox.h"
#include "registry/client.h"

namespace fastoci {
namespace {

struct Options {
  std::string credentials;
  std::string ca_file;
  bool plain_http = false;
};

Result<Options> ParseOptions(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; i++) {
    std::string name = argv[i];
    if (name == "--plain-http") {
      o.plain_http = true;
    } else if (name == "--credentials" && i + 1 < argc) {
      o.credentials = argv[++i];
    } else if (name == "--ca-file" && i + 1 < argc) {
      o.ca_file = argv[++i];
    } else {
      return InvalidError("unknown argument " + name +
                          "; this program is started by fastoci-helperd");
    }
  }
  return o;
}

// After a 401: once more with the file as it is now. Old tokens go only with a
// file that parses.
bool Renew(CredentialsKeeper* keeper, RegistryClient* registry) {
  auto credentials = keeper->Load();
  if (!credentials.ok()) {
    Log(LogLevel::kWarning, "credentials: %s", credentials.error().message.c_str());
    return false;
  }
  registry->SetCredentials(std::move(*credentials));
  return true;
}

Status Serve(const Options& options) {
  std::unique_ptr<CredentialsKeeper> keeper;
  if (!options.credentials.empty()) {
    FASTOCI_TRY(keeper, CredentialsKeeper::Start(options.credentials));
  }
  RegistryOptions registry_options;
  registry_options.plain_http = options.plain_http;
  registry_options.http.tls.ca_file = options.ca_file;
  registry_options.http.user_agent = "fastoci/" FASTOCI_VERSION;
  FASTOCI_TRY(std::unique_ptr<RegistryClient> registry,
              RegistryClient::Open(registry_options, Credentials()));
  FASTOCI_CHECK_OK(EnterFetcherSandbox());
  if (keeper != nullptr) {
    // Without them what needs none still works.
    (void)Renew(keeper.get(), registry.get());
    registry->SetCredentialsRefresher(
        [k = keeper.get(), r = registry.get()] { return Renew(k, r); });
  }
  Fetcher fetcher(UniqueFd(kFetcherControlFd), registry.get(), options.plain_http);
  Status s = fetcher.Run();
  if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
  _exit(s.ok() ? 0 : 1);  // lanes may be in the middle of something
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  using namespace fastoci;
  SetLogProgram("fastoci-fetcherd");
  std::signal(SIGPIPE, SIG_IGN);  // TLS writes to sockets that may be closed
  auto options = ParseOptions(argc, argv);
  Status s = options.ok() ? Serve(*options) : Status(options.error());
  if (!s.ok()) Log(LogLevel::kError, "%s", s.error().message.c_str());
  return 2;
}
