// SPDX-License-Identifier: Apache-2.0
// TokenSource: the values of Authorization for the repositories of one host. For each
// repository there is one request for a token at a time, and all Fetches that need the
// token wait for it. A token in use is replaced before it expires. If the credentials are
// refused, they are asked for again, once. No function blocks: answers come by callback,
// at once if there is nothing to wait for.
//
// For one thread. What it needs of the world is given to it (Env).
#ifndef FASTOCI_FETCHER_TOKENS_H_
#define FASTOCI_FETCHER_TOKENS_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "http/http_loop.h"
#include "http/retry.h"
#include "registry/credential_source.h"
#include "registry/token.h"

namespace fastoci {

struct TokenScope {
  std::string host;  // as credentials name it
  std::string repository;
  std::string name() const { return host + "/" + repository; }
};

class TokenSource {
 public:
  using Found = Result<std::optional<FoundCredential>>;
  using FoundDone = std::function<void(Found)>;
  struct Env {
    // fresh: what it gave before was refused.
    std::function<void(const TokenScope&, bool fresh, FoundDone)> find_credential;
    // HttpLoop's Start() and Cancel().
    std::function<uint64_t(HttpRequest, HttpLoop::Done)> send;
    std::function<void(uint64_t)> cancel;
    std::function<SteadyTime()> now;
  };
  // What the token cost that somebody waited for: told to one of those who did.
  struct Cost {
    uint32_t requests = 0;
    uint32_t tokens = 0;
    int64_t retry_after_ms = -1;  // as the token server asks, told to all
  };
  // The value, or: kDenied (credentials are missing or refused), kUnavailable (the
  // token server).
  using Ready = std::function<void(Result<Secret>, Cost)>;

  // url: scheme://authority of the registry.
  TokenSource(Env env, std::string url) : env_(std::move(env)), url_(std::move(url)) {}
  ~TokenSource();
  TokenSource(const TokenSource&) = delete;
  TokenSource& operator=(const TokenSource&) = delete;

  // For a first request: empty if the host has not asked for anything so far.
  void Get(const TokenScope& scope, uint64_t waiter, Ready ready);
  // The host refused a request that had `used`. Gives another value, or the error.
  void Renew(const TokenScope& scope, const Secret& used, const HttpResponse& refusal,
             uint64_t waiter, Ready ready);
  // The callback of this waiter is not called any more.
  void Cancel(uint64_t waiter);
  // Asks whether there are other credentials for a repository whose credentials were
  // refused. If so, forgets the value that the old ones gave, and calls changed.
  void Look(const std::string& scope, std::function<void()> changed);

 private:
  struct Waiter {
    uint64_t number;
    Ready ready;
  };
  struct State {
    TokenScope scope;
    Authorization current;
    SteadyTime refresh_at;
    Secret refused;  // that which the host did not take last
    std::optional<Error> refusal;
    std::optional<Credential> credential;  // that gave the last value or refusal
    bool fresh = false;                    // they are asked for again
    std::string complaint;                 // why there are none, or ""
    std::optional<Error> denied;           // the token server's refusal of `credential`
    bool refreshing = false;
    bool looking = false;
    uint64_t exchange = 0;  // the token request that runs, or 0
    std::string body;
    HttpTally tally;
    int64_t retry_after_ms = -1;
    std::vector<Waiter> waiters;
  };
  State* Find(const TokenScope& scope);
  bool Valid(const State& state) const;
  void Refresh(State* state, bool fresh);
  void Ask(State* state, const Found& found);
  void OnToken(State* state, Result<Authorization> result);
  void Finish(State* state, Result<Authorization> result);

  const Env env_;
  const std::string url_;
  std::vector<Challenge> challenges_;  // the host's last
  std::map<std::string, std::unique_ptr<State>> states_;
  std::shared_ptr<char> alive_ = std::make_shared<char>();
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_TOKENS_H_
