// SPDX-License-Identifier: Apache-2.0
// The options of our tools about registries, and what follows from them: one
// meaning for --root-ca, --cert-dir, --client-cert, -u, --credentials and --hosts-dir,
// whichever tool has them.
#ifndef FASTOCI_REGISTRY_OPTIONS_H_
#define FASTOCI_REGISTRY_OPTIONS_H_

#include <string>
#include <vector>

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
// of docker's and podman's files. If it is "", for host without user, and for other hosts
// (mirrors) in any case: docker's and podman's files, and the providers of this node's kubelet
// (KnownKubeletPaths()).
Result<CredentialSourcePtr> OpenCredentials(const std::string& user, const std::string& host,
                                            const std::string& file);

// For --password-stdin: "USER:PASSWORD" of a user without a password, and of the text that
// comes from fd up to its end, without a line break there. From then on this process dumps
// no core. kInvalid: user has a password or is "", or there is no text.
Result<std::string> WithPasswordFrom(int fd, const std::string& user);

// Overwrites the password of an option's value "USER:PASSWORD" in main()'s arguments, which
// every user of the machine can read (in /proc, by ps) as long as the process lives. If there
// is one, this process dumps no core from then on.
void HidePassword(int argc, char** argv, const std::string& user);

// What each tool does with -u and --password-stdin, once they are parsed: both of the above.
Status TakePassword(int argc, char** argv, bool from_stdin, std::string* user);

// The file of credentials that the environment names ($REGISTRY_AUTH_FILE, $DOCKER_CONFIG),
// if it has some for that repository; "" if not.
std::string CredentialsFileOfEnvironment(const Reference& repo);

// What these options say, for somebody who can open no files.
Result<Access> MakeAccess(const std::string& host, bool plain_http, const TlsOptions& tls,
                          const std::string& user, const std::string& file,
                          const std::vector<std::string>& hosts_dirs);

// The directories of --hosts-dir: HostRoots(), but one that was named and is not there is an
// error.
Result<std::vector<std::string>> ReadHostsDirs(const std::vector<std::string>& given);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_OPTIONS_H_
