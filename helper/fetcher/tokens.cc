// SPDX-License-Identifier: Apache-2.0
#include "fetcher/tokens.h"

#include <utility>

namespace fastoci {
namespace {

constexpr int64_t kTokenRequestMs = 30000;
constexpr size_t kMaxStates = 4096;
// A token is replaced when a quarter of its life is left. If that fails, again soon.
constexpr int kRefreshPercent = 75;
constexpr auto kRefreshAgain = std::chrono::seconds(5);

}  // namespace

TokenSource::~TokenSource() {
  for (auto& [name, state] : states_)
    if (state->exchange != 0) env_.cancel(state->exchange);
}

TokenSource::State* TokenSource::Find(const TokenScope& scope) {
  // Makes room: drops unused states, for example of repositories whose images are gone.
  if (states_.size() >= kMaxStates)
    std::erase_if(states_, [](const auto& s) {
      return !s.second->refreshing && !s.second->looking && s.second->waiters.empty();
    });
  std::unique_ptr<State>& state = states_[scope.name()];
  if (state == nullptr) {
    state = std::make_unique<State>();
    state->scope = scope;
  }
  return state.get();
}

bool TokenSource::Valid(const State& state) const {
  return !state.current.value.empty() && env_.now() < state.current.expires;
}

void TokenSource::Get(const TokenScope& scope, uint64_t waiter, Ready ready) {
  State* state = Find(scope);
  if (Valid(*state)) {
    Secret value = state->current.value;
    if (env_.now() >= state->refresh_at && !state->refreshing) Refresh(state, false);
    ready(value, {});
  } else if (challenges_.empty() && !state->refreshing) {
    ready(Secret(), {});
  } else {
    state->waiters.push_back({waiter, std::move(ready)});
    if (state->refreshing) return;
    state->refusal.reset();  // what was refused once is tried again
    Refresh(state, false);
  }
}

void TokenSource::Renew(const TokenScope& scope, const Secret& used, const HttpResponse& refusal,
                        uint64_t waiter, Ready ready) {
  State* state = Find(scope);
  if (auto challenges = ChallengesOf(refusal); !challenges.empty())
    challenges_ = std::move(challenges);
  if (Valid(*state) && !(state->current.value == used)) {
    ready(state->current.value, {});  // somebody else was refused before
    return;
  }
  state->current = {};
  state->refused = used;
  Error e = StatusError(refusal);
  state->refusal = Error{ErrorKind::kDenied, EACCES, e.message};
  state->waiters.push_back({waiter, std::move(ready)});
  // A first refusal is only the question.
  if (!state->refreshing) Refresh(state, !used.empty());
}

void TokenSource::Cancel(uint64_t waiter) {
  for (auto& [name, state] : states_)
    std::erase_if(state->waiters, [waiter](const Waiter& w) { return w.number == waiter; });
}

void TokenSource::Look(const std::string& scope, std::function<void()> changed) {
  auto it = states_.find(scope);
  if (it == states_.end() || it->second->looking || it->second->refreshing) return;
  State* state = it->second.get();
  state->looking = true;  // which keeps it
  std::weak_ptr<char> alive = alive_;
  env_.find_credential(state->scope, false,
                       [this, alive, state, changed = std::move(changed)](const Found& found) {
                         if (alive.expired()) return;
                         state->looking = false;
                         if (state->refreshing || !found.ok()) return;
                         std::optional<Credential> now;
                         if (*found) now = (*found)->credential;
                         if (now == state->credential) return;
                         state->current = {};
                         changed();
                       });
}

void TokenSource::Refresh(State* state, bool fresh) {
  state->refreshing = true;
  state->fresh = fresh;
  std::weak_ptr<char> alive = alive_;
  env_.find_credential(state->scope, fresh, [this, alive, state](const Found& found) {
    if (!alive.expired()) Ask(state, found);
  });
}

void TokenSource::Ask(State* state, const Found& found) {
  if (challenges_.empty() && state->refusal) {
    Finish(state, *state->refusal);
    return;
  }
  // Without credentials it may be open to everybody.
  state->complaint = found.ok() ? "" : found.error().message;
  std::optional<Credential> before = std::move(state->credential);
  state->credential.reset();
  if (found.ok() && *found) state->credential = (*found)->credential;
  // The same as those that a token server has refused: it would say the same.
  if (state->fresh && state->denied && state->credential == before) {
    Finish(state, *state->denied);
    return;
  }
  auto plan = PlanAuthorization(challenges_, url_, "repository:" + state->scope.repository + ":pull",
                                state->credential);
  if (!plan.ok()) {
    // The repository has refused nothing so far, so it may be open to everybody.
    bool anonymous = plan.error().kind == ErrorKind::kDenied && !state->refusal;
    Finish(state, anonymous ? Result<Authorization>(Authorization()) : plan.error());
    return;
  }
  if (!plan->token_request) {
    // The same password again would be refused again.
    bool refused = state->refusal && plan->ready.value == state->refused;
    if (refused && !state->fresh) return Refresh(state, true);
    Finish(state, refused ? Result<Authorization>(*state->refusal) : plan->ready);
    return;
  }
  HttpRequest request = std::move(*plan->token_request);
  state->body.clear();
  CollectToken(&request, &state->body);
  request.tally = &state->tally;
  request.deadline = env_.now() + std::chrono::milliseconds(kTokenRequestMs);
  state->exchange = env_.send(std::move(request), [this, state](Result<HttpResponse> response) {
    state->exchange = 0;
    state->retry_after_ms = response.ok() ? ParseRetryAfterMs(response->Header("retry-after")) : -1;
    auto result = TokenFrom(response, state->body, env_.now());
    if (!state->body.empty()) explicit_bzero(state->body.data(), state->body.size());
    OnToken(state, std::move(result));
  });
}

void TokenSource::OnToken(State* state, Result<Authorization> result) {
  if (result.ok() || result.error().kind != ErrorKind::kDenied || state->fresh)
    return Finish(state, std::move(result));
  state->denied = result.error();
  Refresh(state, true);
}

void TokenSource::Finish(State* state, Result<Authorization> result) {
  state->refreshing = false;
  state->denied.reset();
  if (!result.ok() && result.error().kind == ErrorKind::kDenied && !state->complaint.empty())
    result = Error{ErrorKind::kDenied, result.error().err,
                   result.error().message + "; credentials: " + state->complaint};
  Cost cost{std::exchange(state->tally.requests, 0), 0, std::exchange(state->retry_after_ms, -1)};
  if (result.ok()) {
    auto now = env_.now();
    state->current = *result;
    state->refresh_at = SteadyTime::max();
    if (result->expires != SteadyTime::max()) {
      state->refresh_at = now + (result->expires - now) * kRefreshPercent / 100;
      cost.tokens = 1;
    }
    state->refusal.reset();
  } else if (Valid(*state)) {
    state->refresh_at = env_.now() + kRefreshAgain;
  }
  for (Waiter& w : std::exchange(state->waiters, {})) {
    w.ready(result.ok() ? Result<Secret>(result->value) : Result<Secret>(result.error()), cost);
    cost.requests = cost.tokens = 0;
  }
}

}  // namespace fastoci
