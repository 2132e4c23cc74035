// SPDX-License-Identifier: Apache-2.0
// What a registry, a helper for credentials or a configuration says in a line or
// a small document. The first byte chooses the parser.
#include "fuzz/fuzz.h"
#include "registry/client.h"
#include "registry/credentials.h"
#include "registry/duration.h"
#include "registry/kubelet_providers.h"
#include "registry/reference.h"
#include "registry/token.h"

namespace fastoci {
namespace {

void References(const std::string& text) {
  auto ref = ParseReference(text);
  if (ref.ok()) {
    auto again = ParseReference(ref->ToString());
    Require(again.ok() && again->ToString() == ref->ToString());
    Require(MatchPrefix(CanonicalHost(ref->host), CanonicalRepository(*ref)) > 0 ||
            CanonicalHost(ref->host).ends_with(":80"));
  }
  auto prefix = CanonicalPrefix(text);
  if (!prefix.ok()) return;
  if (ref.ok() && text.find('/') != std::string::npos)  // else it is an image of docker.io with a tag
    Require(MatchPrefix(*prefix, CanonicalRepository(*ref)) > 0);
  // A host of one label is known by its port alone, and the canonical form drops the default one.
  if (auto again = CanonicalPrefix(*prefix); again.ok()) Require(*again == *prefix);
  else Require(prefix->substr(0, prefix->find('/')).find_first_of(".:[") == std::string::npos);
}

void Headers(const std::string& text) {
  for (const Challenge& c : ParseChallenges(text)) Require(!c.scheme.empty());
  (void)NextLink(text);
  (void)ParseRetryAfterMs(text);
  if (auto range = ParseContentRange(text); range.ok()) Require(range->first <= range->last);
  if (auto ms = ParseDurationMs(text); ms.ok()) Require(*ms >= 0);
}

void Documents(const std::string& text) {
  if (auto c = Credentials::Parse(text); c.ok()) {
    (void)c->Find("docker.io", "library/alpine");
    (void)c->FindHelper("r.example:5000", "a/b");
    (void)c->Store("docker.io");
  }
  if (auto providers = ParseProviderConfig(text); providers.ok())
    for (const KubeletProvider& p : *providers) Require(!p.name.empty() && !p.match_images.empty());
  (void)ParseProviderResponse(text, "credentialprovider.kubelet.k8s.io/v1").ok();
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 3) {
    case 0: References(text); break;
    case 1: Headers(text); break;
    default: Documents(text); break;
  }
  return 0;
}
