// SPDX-License-Identifier: Apache-2.0
// Authentication to a registry: WWW-Authenticate challenges, bearer tokens and
// the cache of them. Passwords go to the registry itself (Basic) or to the
// realm that it names (Bearer), and to a plain-HTTP realm only if the registry
// is spoken to in plain HTTP too.
#ifndef FASTOCI_REGISTRY_TOKEN_H_
#define FASTOCI_REGISTRY_TOKEN_H_

#include <map>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/http_client.h"
#include "registry/credentials.h"

namespace fastoci {

struct Challenge {
  std::string scheme;                         // lower case: "basic", "bearer"
  std::map<std::string, std::string> params;  // names in lower case
};

// A header may hold several challenges; what cannot be read ends the list.
std::vector<Challenge> ParseChallenges(const std::string& header);

// Values for Authorization by key (origin and scope), each until it expires.
// Thread-safe.
class TokenCache {
 public:
  Secret Find(const std::string& key);
  void Put(const std::string& key, Secret authorization, SteadyTime expires);
  void Remove(const std::string& key);

 private:
  struct Entry {
    Secret authorization;
    SteadyTime expires;
  };
  std::mutex mutex_;
  std::map<std::string, Entry> entries_;  // guarded by mutex_
};

struct Authorization {
  Secret value;  // of the Authorization header
  SteadyTime expires = SteadyTime::max();
};

std::vector<Challenge> ChallengesOf(const HttpResponse& response);

// How challenges are answered: with a value at once (Basic), or with one that a
// token server gives (Bearer, which is preferred). scope is
// "repository:<name>:pull[,push]", or several, with spaces between them. kDenied if
// there is nothing to answer with.
struct AuthorizationPlan {
  Authorization ready;
  std::optional<HttpRequest> token_request;  // deadline and callbacks are the caller's
};
Result<AuthorizationPlan> PlanAuthorization(const std::vector<Challenge>& challenges,
                                            const std::string& registry_url,
                                            const std::string& scope,
                                            const std::optional<Credential>& credential);
// Has the request's answer collected in body, which must live until it has ended.
void CollectToken(HttpRequest* request, std::string* body);
// What a token server answered.
Result<Authorization> TokenFrom(const Result<HttpResponse>& response, const std::string& body,
                                SteadyTime now);

// Does all of this, and waits for the token. The token request has the deadline, watch, tally
// and site of like.
Result<Authorization> Authenticate(HttpClient* http, const HttpResponse& response,
                                   const std::string& scope,
                                   const std::optional<Credential>& credential,
                                   const HttpRequest& like);

}  // namespace fastoci

#endif  // FASTOCI_REGISTRY_TOKEN_H_
