// SPDX-License-Identifier: Apache-2.0
// The options of our tools about registries, and what follows from them: one
// meaning for --root-ca, --cert-dir, --client-cert, -u and --credentials,
// whichever tool has them.
#ifndef FASTOCI_REGISTRY_OPTIONS_H_
#define FASTOCI_REGISTRY_OPTIONS_H_

#include <string>

#include "base/result.h"
#include "http/http_client.h"
#include "registry/access.h"
#include "registry/credential_source.h"
#include "registry/reference.h"

namespace fastoci {

struct TlsFlags {
  bool insecure = false;
  std::string root_ca;      // a PEM file
  std::string cert_dir;     // with ca.crt, client.cert and client.key, as far as they are there
  std::string client_cert;  // "CERT:KEY", PEM files; overrides those of cert_dir
};

// kInvalid: a client certificate without its key, a file that cannot be read.
Result<TlsOptions> ReadTlsFlags(const TlsFlags& flags);

// The source of our credentials. user: "USER:PASSWORD", only for host. file: read instead
// of docker's and podman's files. If both are "", docker's and podman's files, and the
// providers of this node's kubelet (KnownKubeletPaths()).
Result<CredentialSourcePtr> OpenCredentials(const std::string& user, const std::string& host,
                                            const std::string& file);

// The file of credentials that the environment names ($REGISTRY_AUTH_FILE, $DOCKER_CONFIG),
// if it has some for that repository; "" if not.
std::string CredentialsFileOfEnvironment(const Reference& repo);

// What these options say, for somebody who can open no files.
Result<Access> MakeAccess(const std::string& host, bool plain_http, const TlsOptions& tls,
                          const std::string& user, const std::string& file);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_OPTIONS_H_
