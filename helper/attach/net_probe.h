// SPDX-License-Identifier: Apache-2.0
// What lies between this node and a server, step by step, for `fastoci doctor`:
// its addresses, whether one of them takes a connection, and who vouches for it.
// Each step has a time limit, and sends nothing but what the step needs.
#ifndef FASTOCI_ATTACH_NET_PROBE_H_
#define FASTOCI_ATTACH_NET_PROBE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "http/http_client.h"

namespace fastoci {

struct ServerAddress {
  std::string text;     // "192.0.2.1", "[2001:db8::1]"
  std::string sockaddr;  // its bytes
};

struct Server {
  std::string name;  // without a port and brackets
  std::string port;
};
// Of a registry's host as references have it.
Server ServerOf(const std::string& host, bool plain_http);

// kUnavailable with the resolver's words.
Result<std::vector<ServerAddress>> ResolveServer(const Server& server);
// The first address that takes a connection; which: its text. The error names
// each address and what came of it.
Result<UniqueFd> ConnectServer(const std::vector<ServerAddress>& addresses, int64_t timeout_ms,
                               std::string* which);

struct TlsFacts {
  std::string version;  // "TLSv1.3"
  std::string issuer;   // who signed the server's certificate
  std::string root;     // the CA at the end of the chain that was verified
  std::string expires;  // of the server's certificate
  int64_t days_left = 0;
};
// kDenied: the certificate is not good, and why; the facts are filled in as far as
// they are known then, too.
Status HandshakeServer(UniqueFd fd, const Server& server, const TlsOptions& tls,
                       int64_t timeout_ms, TlsFacts* facts);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_NET_PROBE_H_
