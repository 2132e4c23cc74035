// SPDX-License-Identifier: Apache-2.0
#include "fetcher/gate.h"

#include <algorithm>
#include <utility>

namespace fastoci {
namespace {

// If a round does not bring more than the one before by this factor, the link or the host
// is full.
constexpr double kWorthIt = 1.05;

int64_t Scaled(int64_t ms, const GateTimes& times) { return ms * times.scale_percent / 100; }

// The wait doubles with each failure. Returns a random time between half of it and all.
int64_t Backoff(int failures, unsigned random, const GateTimes& times) {
  int64_t ms = times.first_delay_ms;
  for (int i = 0; i < failures && ms < times.max_delay_ms; i++) ms *= 2;
  ms = std::min(ms, times.max_delay_ms);
  return ms / 2 + ms / 2 * (random % 1000) / 1000;
}

}  // namespace

HostGate Gate::State(int64_t now) const {
  if (since_ == 0) return HostGate::kOpen;
  return now < until_ ? HostGate::kGated : HostGate::kProbing;
}

bool Gate::Enter(int64_t now, bool* probe) {
  *probe = false;
  HostGate state = State(now);
  if (state == HostGate::kOpen) return true;
  if (state == HostGate::kGated || probing_) return false;
  *probe = probing_ = true;
  return true;
}

void Gate::Fail(int64_t now, int64_t started, int64_t retry_after_ms, unsigned random,
                const GateTimes& times) {
  if (since_ == 0 || started >= closed_) {
    if (since_ == 0) since_ = now;
    closed_ = now;
    until_ = now + std::max<int64_t>(1, Scaled(Backoff(failures_, random, times), times));
    failures_++;
  }
  if (retry_after_ms >= 0)
    until_ = std::max(until_,
                      now + Scaled(std::min(retry_after_ms, times.retry_after_cap_ms), times));
}

void Gate::Succeed(int64_t started) {
  if (since_ == 0 || started < closed_) return;
  Open();
}

bool Gate::Open() {
  if (since_ == 0) return false;
  // A probe may be under way. Its outcome counts as that of any other request.
  failures_ = 0;
  until_ = since_ = 0;
  return true;
}

void Window::Begin(int64_t now, uint32_t in_flight) {
  if (round_begin_ < 0) {
    round_begin_ = now;
    round_size_ = size_;
    successes_ = 0;
    bytes_ = 0;
    full_ = false;
  }
  full_ |= in_flight >= size_;
}

void Window::Succeed(int64_t now, uint64_t bytes) {
  if (std::exchange(is_first_, false)) size_ = kMost;
  if (round_begin_ < 0) return;
  successes_++;
  bytes_ += bytes;
  if (successes_ >= round_size_) EndRound(now);
}

void Window::EndRound(int64_t now) {
  if (full_) {
    double rate = static_cast<double>(bytes_) / static_cast<double>(std::max<int64_t>(1, now - round_begin_));
    if (rate > last_rate_ * kWorthIt) size_ = std::min(kMost, size_ + 1);
    last_rate_ = rate;
  }
  round_begin_ = -1;
}

void Window::Shrink(int64_t now, int64_t started) {
  is_first_ = false;
  round_begin_ = -1;
  if (started < shrunk_) return;
  shrunk_ = now;
  size_ = std::max(1U, size_ / 2);
  last_rate_ = 0;
}

}  // namespace fastoci
