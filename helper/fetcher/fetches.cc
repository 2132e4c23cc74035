// SPDX-License-Identifier: Apache-2.0
#include "fetcher/fetches.h"

#include <algorithm>
#include <chrono>
#include <utility>

#include "base/log.h"
#include "base/monotonic.h"
#include "fetcher/reply.h"

namespace fastoci {
namespace {

// How often a host is told of if only its counters changed, and how often a repository
// whose credentials were refused looks for others.
constexpr int64_t kCountersMs = 1000;
constexpr int64_t kLookMs = 1000;

Error RangeError(const WorkRequest& m, const Location& l) {
  return InvalidError("blob " + l.digest + ": bad range, " + std::to_string(m.length) +
                      " bytes at " + std::to_string(m.offset) + " of " +
                      std::to_string(l.blob_bytes));
}

// Whether the range lies within `bytes` bytes.
bool Fits(uint64_t offset, uint64_t length, uint64_t bytes) {
  return offset <= bytes && length <= bytes - offset;
}

}  // namespace

int KernelErrno(const Error& error) {
  if (error.err > 0 && error.err <= 4095) return error.err;
  switch (error.kind) {
    case ErrorKind::kNotFound: return ENOENT;
    case ErrorKind::kDenied: return EACCES;
    case ErrorKind::kMismatch: return EBADMSG;
    case ErrorKind::kInvalid: return EINVAL;
    case ErrorKind::kUnsupported: return EOPNOTSUPP;
    default: return EIO;
  }
}

Fetches::Fetches(Env env) : env_(std::move(env)) { AddHost(kLocalHost, "files", {}); }

TokenSource::Env Fetches::TokenEnv(const Server& server) {
  auto find = [this, server](const TokenScope& scope, bool fresh, TokenSource::FoundDone done) {
    if (server.credential) return FindGiven(server, scope, std::move(done));
    env_.keeper->FindCredential(scope.host, scope.repository, server.credentials_file, fresh,
                                std::move(done));
  };
  return {
      .find_credential = find,
      .send =
          [this, server](HttpRequest request, HttpLoop::Done done) {
            request.site = server.site;
            // A token server need not be the registry.
            auto to = UrlOrigin(request.url), own = UrlOrigin(server.origin);
            request.away = !to.ok() || !own.ok() || *to != *own;
            return env_.http->Start(std::move(request), std::move(done));
          },
      .cancel = [this](uint64_t id) { env_.http->Cancel(id); },
      .now = [] { return std::chrono::steady_clock::now(); },
  };
}

// The credentials that attach was given. If they are not kept any more, then those that a
// later attach of the image was given; if there are none, those that the node has.
void Fetches::FindGiven(const Server& server, const TokenScope& scope,
                        TokenSource::FoundDone done) {
  env_.keeper->FindAccess(
      server.image_id,
      [this, server, scope, done = std::move(done)](const Result<std::vector<Access>>& all) {
        FoundCredential found{*server.credential, "fastoci attach"};
        bool kept = !all.ok();
        const Access* other = nullptr;
        for (size_t i = 0; all.ok() && i < all->size(); i++) {
          const Access& a = (*all)[i];
          if (!a.HasCredential() || a.repository != server.repository ||
              CanonicalHost(a.host) != CanonicalHost(scope.host) ||
              (server.http_by_attach && !a.plain_http))
            continue;
          kept |= a.credential == *server.credential;
          if (other == nullptr) other = &a;
        }
        if (!kept && other == nullptr)
          return env_.keeper->FindCredential(scope.host, scope.repository, "", false, done);
        if (!kept) found.credential = other->credential;
        done(std::optional<FoundCredential>(std::move(found)));
      });
}

void Fetches::AddHost(uint32_t number, const std::string& name, const Server& server) {
  auto random = [this] { return static_cast<unsigned>(random_() % 1000); };
  hosts_[number].reset(
      new HostEntry{{number, name, env_.times, random}, {TokenEnv(server), server.origin}});
}

void Fetches::DropHost(uint32_t number) {
  auto node = hosts_.extract(number);
  if (node.empty()) return;
  node.mapped()->dropped = true;
  if (node.mapped()->sent_ms == 0) return;
  WorkReply m{};
  m.op = WorkOp::kHostGone;
  m.host = number;
  env_.outbox->Push(m);
}

void Fetches::Forget(const Location& location) {
  redirects_.Drop(location.number);
  if (auto it = hosts_.find(location.host); it != hosts_.end())
    it->second->host.Forget(location.number);
}

Status Fetches::Handle(const WorkRequest& request) {
  switch (request.op) {
    case WorkOp::kFetch:
      return Start(request);
    case WorkOp::kCancel:
      if (auto it = running_.find(request.id); it != running_.end()) it->second->transfer->Cancel();
      return OkStatus();
    case WorkOp::kOpenGate:
      OpenGates(request.host);
      return OkStatus();
    default:
      return InvalidError("unknown request");
  }
}

Status Fetches::Start(const WorkRequest& m) {
  if (running_.count(m.id) != 0 || running_.size() >= kMaxFetches)
    return InvalidError("fetch " + std::to_string(m.id) + " runs already, or too many do");
  std::shared_ptr<const Location> location = env_.locations->Find(m.location);
  if (location == nullptr) {
    Refuse(m, FetchOutcome::kRefused,
           {ErrorKind::kInvalid, ESTALE, "location " + std::to_string(m.location) + " does not exist"});
    return OkStatus();
  }
  if (m.length == 0 || m.length > kMaxFetchBytes ||
      !Fits(m.offset, m.length, location->blob_bytes) ||
      !Fits(m.arena_offset, m.length, env_.arena.size())) {
    Refuse(m, FetchOutcome::kRefused, RangeError(m, *location));
    return OkStatus();
  }
  std::shared_ptr<HostEntry> entry = hosts_.at(location->host);
  auto r = std::make_unique<Running>();
  Host::Refusal refusal;
  if (!entry->host.Enter(MonotonicMs(), location->scope.name(), location->number, &r->ticket,
                         &refusal)) {
    Refuse(m, FetchOutcome::kGated,
           {ErrorKind::kUnavailable, EAGAIN,
            entry->host.name() + " is not asked now: " + refusal.cause},
           refusal.retry_at_ms);
    return OkStatus();
  }
  r->request = m;
  r->told_ms = r->ticket.started;
  r->host = std::move(entry);
  if (location->host != kLocalHost) r->token_host = hosts_.at(location->token_host);
  Running* p = r.get();
  r->transfer = std::make_unique<Transfer>(
      Transfer::Env{
          .http = env_.http,
          .files = env_.files,
          .redirects = &redirects_,
          .tokens = r->token_host ? &r->token_host->tokens : nullptr,
          .on_data = [this, p] { OnData(p); },
          .on_end = [this, p](const std::optional<Error>& error) { OnEnd(p, error); },
      },
      next_transfer_++, location, m.offset, env_.arena.subspan(m.arena_offset, m.length),
      (m.flags & kFetchFresh) != 0);
  running_[m.id] = std::move(r);
  p->transfer->Start();
  return OkStatus();
}

void Fetches::Refuse(const WorkRequest& request, FetchOutcome outcome, const Error& error,
                     int64_t retry_at_ms) {
  WorkReply m{};
  m.op = WorkOp::kFailed;
  m.id = request.id;
  m.outcome = outcome;
  m.retry_at_ms = retry_at_ms;
  SetFailure(&m, error);
  env_.outbox->Push(m);
}

void Fetches::OnData(Running* r) {
  r->last_byte_ms = MonotonicMs();
  // Tick() tells, so that what came at once is one Data, or none if Done follows.
  if (!std::exchange(r->untold, true)) untold_.insert(r->request.id);
}

void Fetches::TellData(Running* r, int64_t now) {
  r->untold = false;
  WorkReply m{};
  m.op = WorkOp::kData;
  m.id = r->request.id;
  m.total = r->told = r->transfer->total();
  r->told_ms = now;
  untold_.erase(m.id);
  env_.outbox->Push(m);
}

void Fetches::OnEnd(Running* r, const std::optional<Error>& error) {
  int64_t now = MonotonicMs();
  const FetchVerdict& verdict = r->transfer->verdict();
  int64_t until = r->host->host.Leave(now, r->ticket, verdict);
  WorkReply m{};
  m.op = error ? WorkOp::kFailed : WorkOp::kDone;
  m.id = r->request.id;
  m.total = r->transfer->total();
  m.outcome = verdict.outcome;
  m.http_status = verdict.http_status;
  const HttpTally& tally = r->transfer->tally();
  m.requests = tally.requests;
  m.retries = tally.retries;
  m.tokens = tally.tokens;
  if (error) {
    SetFailure(&m, *error);
    if (error->message.size() >= sizeof(m.text))
      Log(LogLevel::kWarning, "%s", error->message.c_str());  // whole, at least here
  }
  if (verdict.outcome == FetchOutcome::kTransient) {
    m.retry_at_ms = until;
    // The broker learns of the gate first.
    r->host->changed |= r->host->host.TakeChanged(now);
    if (r->host->changed) SendHost(r->host.get(), now);
    if (verdict.fault == FetchVerdict::Fault::kCredentials) next_look_ms_ = now + kLookMs;
  }
  env_.outbox->Push(m);
  if (env_.locations->Find(r->request.location) == nullptr) Forget(r->transfer->location());
  auto node = running_.extract(r->request.id);
  untold_.erase(r->request.id);
  ended_.push_back(std::move(node.mapped()));
}

void Fetches::SendHost(HostEntry* entry, int64_t now) {
  if (entry->dropped) return;
  entry->host.Prune(now);
  entry->changed = false;
  entry->sent_ms = now;
  entry->sent_activity = entry->host.Activity();
  env_.outbox->Push(entry->host.Reply(now));
}

void Fetches::OpenGates(uint32_t host) {
  for (auto& [number, entry] : hosts_)
    if (host == kAllHosts || host == number) entry->host.Open();
}

// Credentials that changed while a repository waits for better ones open its gate.
void Fetches::LookForCredentials(int64_t now) {
  if (now < next_look_ms_) return;
  bool wanted = false;
  for (auto& [number, entry] : hosts_) {
    entry->host.Prune(now);
    for (const std::string& scope : entry->host.WaitForCredentials()) {
      wanted = true;
      entry->tokens.Look(scope, [host = &entry->host, scope] { host->OpenForCredentials(scope); });
    }
  }
  next_look_ms_ = wanted ? now + kLookMs : INT64_MAX;
}

void Fetches::Tick() {
  ended_.clear();
  int64_t now = MonotonicMs();
  std::vector<uint32_t> ids(untold_.begin(), untold_.end());
  for (uint32_t id : ids) {
    if (env_.outbox->full()) break;
    Running* r = running_[id].get();
    const bool step = r->transfer->total() - r->told >= kDataStepBytes && now > r->told_ms;
    if (step || now - r->last_byte_ms >= kDataQuietMs) TellData(r, now);
  }
  LookForCredentials(now);
  for (auto& [number, entry] : hosts_) {
    entry->changed |= entry->host.TakeChanged(now);
    bool counted = entry->host.Activity() != entry->sent_activity;
    if (env_.outbox->full()) continue;
    if ((entry->changed && now - entry->sent_ms >= kHostEventMs) ||
        (counted && now - entry->sent_ms >= kCountersMs))
      SendHost(entry.get(), now);
  }
}

int Fetches::TimeoutMs() const {
  if (!ended_.empty()) return 0;
  int64_t until = next_look_ms_;
  int64_t now = MonotonicMs();
  if (!env_.outbox->full())
    for (uint32_t id : untold_)
      until = std::min(until, running_.at(id)->last_byte_ms + kDataQuietMs);
  for (const auto& [number, entry] : hosts_) {
    until = std::min(until, entry->host.NextChangeMs(now));
    if (env_.outbox->full()) continue;
    if (entry->changed) until = std::min(until, entry->sent_ms + kHostEventMs);
    if (entry->host.Activity() != entry->sent_activity)
      until = std::min(until, entry->sent_ms + kCountersMs);
  }
  if (until == INT64_MAX) return -1;
  return static_cast<int>(std::clamp<int64_t>(until - now, 0, 60000));
}

}  // namespace fastoci
