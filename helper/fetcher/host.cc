// SPDX-License-Identifier: Apache-2.0
#include "fetcher/host.h"

#include <algorithm>

#include "fetcher/reply.h"

namespace fastoci {
namespace {

constexpr uint32_t kFileWindow = 32;
// When a gate's probe is under way, others are told to ask again after this time, because
// nobody knows when the probe ends.
constexpr int64_t kProbeMs = 100;
constexpr int64_t kForgetMs = 600000;

}  // namespace

uint32_t Host::WindowSize(int64_t now) const {
  if (local()) return kFileWindow;
  switch (gate_.State(now)) {
    case HostGate::kGated: return 0;
    case HostGate::kProbing: return 1;
    default: return window_.size();
  }
}

bool Host::Enter(int64_t now, const std::string& scope, uint32_t location, Ticket* ticket,
                 Refusal* refusal) {
  *ticket = {scope, location, now};
  *refusal = {};
  auto refuse = [&](const Gate& gate, const std::string& cause) {
    int64_t until = std::max(gate.until_ms(), now + kProbeMs);
    if (until > refusal->retry_at_ms) *refusal = {until, cause};
  };
  // All gates are asked, so that the answer has the longest wait. If one of them refuses,
  // the probes of the others are given back.
  bool in = true;
  auto ask = [&](Gate* gate, bool* probe, const std::string& cause) {
    if (gate->Enter(now, probe)) return;
    in = false;
    refuse(*gate, cause);
  };
  if (auto it = locations_.find(location); it != locations_.end())
    ask(&it->second.gate, &ticket->location_probe, it->second.cause);
  if (auto it = scopes_.find(scope); it != scopes_.end())
    ask(&it->second.gate, &ticket->scope_probe, it->second.cause);
  ask(&gate_, &ticket->host_probe, cause_);
  if (in && !ticket->host_probe && in_flight_ >= WindowSize(now)) {
    in = false;
    refusal->cause = std::to_string(WindowSize(now)) + " requests run already, which is its limit now";
  }
  if (!in) {
    if (ticket->host_probe) gate_.EndProbe();
    if (ticket->scope_probe) scopes_[scope].gate.EndProbe();
    if (ticket->location_probe) locations_[location].gate.EndProbe();
    outcomes_[static_cast<size_t>(FetchOutcome::kGated)]++;
    ended_++;
    return false;
  }
  in_flight_++;
  window_.Begin(now, in_flight_);
  return true;
}

int64_t Host::Leave(int64_t now, const Ticket& ticket, const FetchVerdict& verdict) {
  in_flight_--;
  requests_ += verdict.requests;
  bytes_ += verdict.bytes;
  ended_++;
  outcomes_[static_cast<size_t>(verdict.outcome)]++;
  auto scope = scopes_.find(ticket.scope);
  auto location = locations_.find(ticket.location);
  if (ticket.host_probe) gate_.EndProbe();
  if (ticket.scope_probe && scope != scopes_.end()) scope->second.gate.EndProbe();
  if (ticket.location_probe && location != locations_.end()) location->second.gate.EndProbe();
  Judge(now, ticket, verdict);

  int64_t until = gate_.until_ms();
  if (auto it = scopes_.find(ticket.scope); it != scopes_.end())
    until = std::max(until, it->second.gate.until_ms());
  if (auto it = locations_.find(ticket.location); it != locations_.end())
    until = std::max(until, it->second.gate.until_ms());
  return until;
}

template <typename Key>
void Host::Succeed(std::map<Key, NarrowGate>* gates, const Key& key, int64_t started) {
  auto it = gates->find(key);
  if (it == gates->end()) return;
  it->second.gate.Succeed(started);
  if (it->second.gate.since_ms() == 0) gates->erase(it);
}

void Host::Judge(int64_t now, const Ticket& ticket, const FetchVerdict& verdict) {
  switch (verdict.outcome) {
    case FetchOutcome::kDone:
      window_.Succeed(now, verdict.bytes);
      last_success_ = now;
      Succeed(&locations_, ticket.location, ticket.started);
      [[fallthrough]];
    case FetchOutcome::kGone:
    case FetchOutcome::kMismatch:  // the host works, and it let us in
      gate_.Succeed(ticket.started);
      Succeed(&scopes_, ticket.scope, ticket.started);
      break;
    case FetchOutcome::kTransient:
      Fail(now, ticket, verdict);
      break;
    default:
      break;
  }
}

void Host::Fail(int64_t now, const Ticket& ticket, const FetchVerdict& verdict) {
  using Fault = FetchVerdict::Fault;
  cause_ = verdict.cause;
  http_status_ = verdict.http_status;
  auto close = [&](Gate* gate) {
    gate->Fail(now, ticket.started, verdict.retry_after_ms, random_(), times_);
  };
  auto close_narrow = [&](NarrowGate* narrow) {
    narrow->cause = verdict.cause;
    narrow->credentials = verdict.fault == Fault::kCredentials;
    close(&narrow->gate);
  };
  const bool others_succeed = last_success_ >= ticket.started;
  switch (verdict.fault) {
    case Fault::kOverload:
      window_.Shrink(now, ticket.started);
      close(&gate_);
      break;
    case Fault::kServer:
    case Fault::kNone:
      window_.Shrink(now, ticket.started);
      if (local() || others_succeed) {
        close_narrow(&locations_[ticket.location]);
      } else {
        close(&gate_);
      }
      break;
    case Fault::kCredentials:
    case Fault::kTokenServer:
      gate_.Succeed(ticket.started);
      close_narrow(&scopes_[ticket.scope]);
      break;
    case Fault::kLocation:
      gate_.Succeed(ticket.started);
      close_narrow(&locations_[ticket.location]);
      break;
  }
}

bool Host::Open() {
  bool opened = gate_.Open() || !scopes_.empty() || !locations_.empty();
  scopes_.clear();
  locations_.clear();
  if (opened) openings_++;
  return opened;
}

bool Host::OpenForCredentials(const std::string& scope) {
  auto it = scopes_.find(scope);
  if (it == scopes_.end() || !it->second.credentials) return false;
  scopes_.erase(it);
  openings_++;
  return true;
}

void Host::Prune(int64_t now) {
  auto stale = [now](const auto& g) { return g.second.gate.until_ms() + kForgetMs < now; };
  std::erase_if(scopes_, stale);
  std::erase_if(locations_, stale);
}

std::vector<std::string> Host::WaitForCredentials() const {
  std::vector<std::string> scopes;
  for (const auto& [scope, gate] : scopes_)
    if (gate.credentials) scopes.push_back(scope);
  return scopes;
}

bool Host::TakeChanged(int64_t now) {
  HostGate gate = gate_.State(now);
  uint32_t window = WindowSize(now);
  if (gate == told_gate_ && window == told_window_ && openings_ == told_openings_) return false;
  told_gate_ = gate;
  told_window_ = window;
  told_openings_ = openings_;
  return true;
}

int64_t Host::NextChangeMs(int64_t now) const {
  return gate_.State(now) == HostGate::kGated ? gate_.until_ms() : INT64_MAX;
}

WorkReply Host::Reply(int64_t now) const {
  WorkReply m{};
  m.op = WorkOp::kHost;
  m.host = number_;
  m.gate = gate_.State(now);
  m.window = WindowSize(now);
  m.in_flight = in_flight_;
  m.openings = openings_;
  m.gated_until_ms = gate_.until_ms();
  m.since_ms = gate_.since_ms();
  m.http_status = http_status_;
  m.host_requests = requests_;
  m.host_bytes = bytes_;
  std::copy(outcomes_.begin(), outcomes_.end(), m.outcomes);
  SetText(m.name, name_);
  SetText(m.text, cause_);
  return m;
}

}  // namespace fastoci
