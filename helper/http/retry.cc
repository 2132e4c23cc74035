// SPDX-License-Identifier: Apache-2.0
#include "http/retry.h"

#include <curl/curl.h>
#include <poll.h>

#include <algorithm>
#include <charconv>
#include <ctime>
#include <random>

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

// Sleeps, listening to the watch. False: interrupted.
bool Sleep(int64_t ms, Watch* watch) {
  auto until = Clock::now() + std::chrono::milliseconds(ms);
  while (true) {
    auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(until - Clock::now()).count();
    if (left < 0) return true;
    pollfd p{watch != nullptr ? watch->fd : -1, POLLIN, 0};
    if (poll(&p, 1, static_cast<int>(left) + 1) == 1 && watch->on_readable()) return false;
  }
}

int64_t Jitter(int64_t ms) {
  thread_local std::minstd_rand random(std::random_device{}());
  return ms / 2 + static_cast<int64_t>(random() % static_cast<uint64_t>(ms / 2 + 1));
}

bool ParseNumber(const std::string& text, uint64_t* value) {
  auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), *value);
  return code == std::errc() && end == text.data() + text.size() && !text.empty();
}

bool IsRetryableStatus(int status) { return status == 408 || status == 429 || status >= 500; }

// Another attempt is not for the connection that failed.
void PrepareAttempt(const AttemptInfo& info, HttpRequest* request) {
  if (info.number == 0) return;
  request->fresh_connection = true;
  if (request->tally) request->tally->retries++;
}

// What one attempt at a range has to check and to pass on.
struct RangeState {
  ByteRange range;
  uint64_t done = 0;  // bytes given to the sink
  uint64_t skip = 0;  // bytes of a 200 answer before the first wanted one
  bool whole = false;  // a 200 answer: more may follow the wanted bytes
  bool stop = false;

  Status CheckTotal(uint64_t total) const {
    if (range.total_bytes != 0 && total != range.total_bytes)
      return MismatchError("the blob has " + std::to_string(total) + " bytes, not " +
                           std::to_string(range.total_bytes));
    return OkStatus();
  }

  Status OnHead(const HttpResponse& response) {
    skip = 0;
    whole = stop = false;
    uint64_t begin = range.offset + done;
    if (response.status == 206) {
      FASTOCI_TRY(ContentRange got, ParseContentRange(response.Header("content-range")));
      if (got.first != begin || got.last != range.offset + range.length - 1)
        return MismatchError("Content-Range is " + response.Header("content-range").substr(0, 80));
      return got.total_known ? CheckTotal(got.total) : OkStatus();
    }
    if (response.status != 200)
      return MismatchError("HTTP " + std::to_string(response.status) + " to a range request");
    if (begin > kMaxSkipBytes) return MismatchError("the server does not do ranges");
    uint64_t total = 0;
    if (ParseNumber(response.Header("content-length"), &total)) {
      FASTOCI_CHECK_OK(CheckTotal(total));
      if (total < range.offset + range.length)
        return MismatchError("the blob ends at byte " + std::to_string(total));
    }
    skip = begin;
    whole = true;
    return OkStatus();
  }

  Status OnBody(ByteSpan bytes, const std::function<Status(ByteSpan)>& sink) {
    size_t drop = std::min<uint64_t>(skip, bytes.size());
    skip -= drop;
    bytes = bytes.subspan(drop);
    bool excess = bytes.size() > range.length - done;
    if (excess) bytes = bytes.first(range.length - done);
    if (!bytes.empty()) FASTOCI_CHECK_OK(sink(bytes));
    done += bytes.size();
    // A 206 is read to its end, which keeps the connection in the pool.
    stop = done == range.length && (whole || excess);
    return OkStatus();
  }
};

}  // namespace

int64_t BackoffMs(const RetryPolicy& policy, int failures) {
  int64_t ms = policy.first_delay_ms;
  for (int i = 0; i < failures && ms < policy.max_delay_ms; i++) ms *= 2;
  return std::min(ms, policy.max_delay_ms);
}

int64_t ParseRetryAfterMs(const std::string& value) {
  if (value.empty()) return -1;
  uint64_t seconds = 0;
  if (ParseNumber(value, &seconds))
    return static_cast<int64_t>(std::min<uint64_t>(seconds, 86400)) * 1000;
  time_t when = curl_getdate(value.c_str(), nullptr);
  if (when == -1) return -1;
  return std::clamp<int64_t>(when - time(nullptr), 0, 86400) * 1000;
}

Status Retry(const RetryPolicy& policy, SteadyTime deadline, Watch* watch,
             const std::function<Status(AttemptInfo*)>& attempt) {
  int failures = 0;
  std::string before;  // what the attempt before met
  for (int number = 0;; number++) {
    AttemptInfo info;
    info.number = number;
    Status s = attempt(&info);
    if (s.ok() || s.error().kind != ErrorKind::kUnavailable) return s;
    // That the time was up says less than why there was another attempt.
    if (number > 0 && s.error().err == ETIMEDOUT && Clock::now() >= deadline)
      return Error{ErrorKind::kUnavailable, ETIMEDOUT, s.error().message + ", before that: " + before};
    before = s.error().message;
    if (info.progress) failures = 0;
    int64_t delay = Jitter(BackoffMs(policy, failures));
    if (++failures >= policy.max_attempts) return s;
    if (info.retry_after_ms >= 0)
      delay = std::max(delay, std::min(info.retry_after_ms, policy.retry_after_cap_ms));
    // A wait that ends after the deadline is pointless: fail now.
    if (deadline - Clock::now() <= std::chrono::milliseconds(delay)) return s;
    if (!Sleep(delay, watch)) return CanceledError();
  }
}

Result<HttpResponse> SendWithRetry(const HttpSend& send, const HttpRequest& request,
                                   const RetryPolicy& policy) {
  HttpResponse response;
  FASTOCI_CHECK_OK(
      Retry(policy, request.deadline, request.watch, [&](AttemptInfo* info) -> Status {
        HttpRequest copy = request;
        PrepareAttempt(*info, &copy);
        FASTOCI_TRY(response, send(&copy));
        if (!IsRetryableStatus(response.status)) return OkStatus();
        info->retry_after_ms = ParseRetryAfterMs(response.Header("retry-after"));
        return StatusError(response);
      }));
  return response;
}

Status GetRange(const HttpSend& send, const HttpRequest& request, ByteRange range,
                const RetryPolicy& policy, const std::function<Status(ByteSpan)>& sink) {
  if (range.length == 0 || range.offset + range.length < range.offset ||
      (range.total_bytes != 0 && range.offset + range.length > range.total_bytes))
    return InvalidError("bad byte range");
  RangeState state;
  state.range = range;
  return Retry(policy, request.deadline, request.watch, [&](AttemptInfo* info) -> Status {
    uint64_t before = state.done;
    HttpRequest r = request;
    PrepareAttempt(*info, &r);
    r.headers.emplace_back("Range", "bytes=" + std::to_string(range.offset + state.done) + "-" +
                                        std::to_string(range.offset + range.length - 1));
    r.headers.emplace_back("Accept-Encoding", "identity");
    r.on_head = [&](const HttpResponse& head) { return state.OnHead(head); };
    r.on_body = [&](ByteSpan bytes) { return state.OnBody(bytes, sink); };
    r.stop = &state.stop;
    auto response = send(&r);
    info->progress = state.done > before;
    // Complete even if the connection broke after the last byte.
    if (state.done == range.length) return OkStatus();
    if (!response.ok()) return response.error();
    if (response->status / 100 != 2) {
      info->retry_after_ms = ParseRetryAfterMs(response->Header("retry-after"));
      return StatusError(*response);
    }
    return Error{ErrorKind::kUnavailable, EIO,
                 "short body: " + std::to_string(state.done) + " of " +
                     std::to_string(range.length) + " bytes"};
  });
}

Result<ContentRange> ParseContentRange(const std::string& value) {
  Error bad = MismatchError("bad Content-Range");
  constexpr char kUnit[] = "bytes ";
  if (!value.starts_with(kUnit)) return bad;
  std::string rest = value.substr(sizeof(kUnit) - 1);
  size_t dash = rest.find('-');
  size_t slash = rest.find('/');
  if (dash == std::string::npos || slash == std::string::npos || slash < dash) return bad;
  ContentRange r;
  if (!ParseNumber(rest.substr(0, dash), &r.first) ||
      !ParseNumber(rest.substr(dash + 1, slash - dash - 1), &r.last) || r.last < r.first)
    return bad;
  std::string total = rest.substr(slash + 1);
  if (total == "*") return r;
  r.total_known = true;
  if (!ParseNumber(total, &r.total) || r.last >= r.total) return bad;
  return r;
}

}  // namespace fastoci
