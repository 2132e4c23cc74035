// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/access_options.h"

namespace fastoci {

void AddAccessOptions(CLI::App* command, RegistryAccess* access, bool* password_stdin,
                      const std::string& user) {
  command->add_flag("--plain", access->plain_http, "use HTTP instead of HTTPS");
  command->add_option(user, access->user_password,
                      "user:password for the registry (default: docker's, podman's and kubelet's)")
      ->type_name("USER:PASSWORD");
  command->add_flag("--password-stdin", *password_stdin,
                    "read the password of -u USER from standard input");
  command->add_option("--credentials", access->credentials_file,
                      "file with credentials, in the format of docker's config.json")
      ->type_name("FILE");
  command->add_option("--root-ca", access->tls.root_ca, "PEM file with the CA certificates to trust")
      ->type_name("FILE");
  command->add_option("--cert-dir", access->tls.cert_dir,
                      "directory with ca.crt, client.cert and client.key")
      ->type_name("DIR");
  command->add_option("--client-cert", access->tls.client_cert,
                      "PEM files with a client certificate and its key")
      ->type_name("CERT:KEY");
  command->add_flag("--insecure", access->tls.insecure, "accept any certificate of the registry");
  command->add_option("--hosts-dir", access->hosts_dirs,
                      "directory with hosts.toml directories, or \"none\" (default: hostsDir of the "
                      "node's configuration, else containerd's and docker's)")
      ->allow_extra_args(false)
      ->type_name("DIR");
}

}  // namespace fastoci
