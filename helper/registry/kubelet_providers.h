// SPDX-License-Identifier: Apache-2.0
// Kubelet's credential providers: the programs that give a node the credentials
// of its cloud's registry. Kubelet's own configuration is read as it stands
// (CredentialProviderConfig, YAML or JSON), and its programs are asked as it asks
// them (CredentialProviderRequest on stdin, CredentialProviderResponse on stdout).
//
// A provider that works only with a pod's service account (tokenAttributes with
// requireServiceAccount) cannot be asked here: there is no pod. It is an error
// for the images that it matches, unless another provider has credentials.
#ifndef FASTOCI_REGISTRY_KUBELET_PROVIDERS_H_
#define FASTOCI_REGISTRY_KUBELET_PROVIDERS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/result.h"
#include "registry/credential_source.h"

namespace fastoci {

struct KubeletProvider {
  std::string name;  // of the program in kubelet's directory for them
  std::vector<std::string> match_images;
  int64_t default_cache_ms = 0;
  std::string api_version;
  std::vector<std::string> args;
  std::vector<std::string> env;  // NAME=VALUE
  bool needs_service_account = false;
};

// What a provider answered, in kubelet's terms.
struct ProviderResponse {
  enum class Key { kImage, kRegistry, kGlobal } key = Key::kImage;
  int64_t cache_ms = -1;  // -1: as the provider's default; 0: not at all
  std::map<std::string, Credential> auth;  // by pattern
};

Result<std::vector<KubeletProvider>> ParseProviderConfig(const std::string& text);
Result<ProviderResponse> ParseProviderResponse(const std::string& text,
                                               const std::string& api_version);
// Whether kubelet would ask a provider (or use a credential) with that pattern:
// "*.dkr.ecr.*.amazonaws.com", "registry.example:5000/path". image:
// host[:port]/repository.
bool MatchesImage(const std::string& pattern, const std::string& image);

struct KubeletPaths {
  std::string config;   // kubelet's --image-credential-provider-config
  std::string bin_dir;  // kubelet's --image-credential-provider-bin-dir
};
// Where the managed nodes of the big clouds have them; those that exist here.
std::vector<KubeletPaths> KnownKubeletPaths();

// The configuration is read again when it has changed.
CredentialSourcePtr KubeletSource(KubeletPaths paths, int64_t timeout_ms = 30000);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_KUBELET_PROVIDERS_H_
