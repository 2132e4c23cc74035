// SPDX-License-Identifier: Apache-2.0
// What a registry says in headers: ranges, when to come again, challenges, and the
// URLs that it redirects to. The first byte chooses.
#include <cctype>

#include "fetcher/redirects.h"
#include "fuzz/fuzz.h"
#include "http/range.h"
#include "http/retry.h"
#include "registry/token.h"

namespace fastoci {
namespace {

void CheckContentRange(const std::string& text) {
  auto r = ParseContentRange(text);
  if (!r.ok()) return;
  Require(r->first <= r->last && (!r->total_known || r->last < r->total));
  auto again = ParseContentRange("bytes " + std::to_string(r->first) + "-" + std::to_string(r->last) +
                                 "/" + (r->total_known ? std::to_string(r->total) : "*"));
  Require(again.ok() && again->first == r->first && again->last == r->last &&
          again->total == r->total);
}

void CheckChallenges(const std::string& text) {
  auto challenges = ParseChallenges(text);
  Require(challenges.size() <= text.size());
  for (const Challenge& c : challenges) {
    Require(!c.scheme.empty());
    for (char ch : c.scheme) Require(std::tolower(static_cast<unsigned char>(ch)) == ch);
  }
  // However it is put, a password leaves only for a server that may have it.
  for (const char* registry : {"https://h.io/v2/", "http://h.io/v2/"}) {
    for (bool refresh : {false, true}) {
      Credential credential{"user", Secret("password"), Secret(refresh ? "token" : "")};
      auto plan = PlanAuthorization(challenges, registry, "repository:a:pull", credential);
      if (!plan.ok()) continue;
      Require(plan->token_request.has_value() != !plan->ready.value.empty());
      if (!plan->token_request) continue;
      auto origin = UrlOrigin(plan->token_request->url);
      Require(origin.ok());
      Require(origin->starts_with("https:") || std::string(registry).starts_with("http:"));
    }
  }
}

}  // namespace
}  // namespace fastoci

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  if (size == 0) return 0;
  std::string text(reinterpret_cast<const char*>(data + 1), size - 1);
  switch (data[0] & 3) {
    case 0:
      CheckContentRange(text);
      break;
    case 1: {
      int64_t ms = ParseRetryAfterMs(text);
      Require(ms >= -1 && ms <= 86400 * 1000);
      break;
    }
    case 2:
      CheckChallenges(text);
      break;
    default:
      Require(UrlExpiry(text, 1700000000) <= 1700000000 + 3600);
  }
  return 0;
}
