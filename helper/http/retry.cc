// SPDX-License-Identifier: Apache-2.0
#include "http/retry.h"

#include <curl/curl.h>
#include <poll.h>

#include <algorithm>
#include <ctime>
#include <random>

#include "http/number.h"

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

bool IsRetryableStatus(int status) { return status == 408 || status == 429 || status >= 500; }

using Attempt = std::function<Status(AttemptInfo*)>;

// deadline: read before each wait, since an attempt may move it.
Status RetryUntil(const RetryPolicy& policy, const SteadyTime& deadline, Watch* watch, const Attempt& attempt) {
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

// Another attempt is not for the connection that failed.
void PrepareAttempt(const AttemptInfo& info, HttpRequest* request) {
  if (info.number == 0) return;
  request->fresh_connection = true;
  if (request->tally) request->tally->retries++;
}

}  // namespace

int64_t BackoffMs(const RetryPolicy& policy, int failures) {
  int64_t ms = policy.first_delay_ms;
  for (int i = 0; i < failures && ms < policy.max_delay_ms; i++) ms *= 2;
  return std::min(ms, policy.max_delay_ms);
}

int64_t ParseRetryAfterMs(const std::string& value) {
  if (value.empty()) return -1;
  uint64_t seconds = 0;
  if (ParseDecimal(value, &seconds))
    return static_cast<int64_t>(std::min<uint64_t>(seconds, 86400)) * 1000;
  time_t when = curl_getdate(value.c_str(), nullptr);
  if (when == -1) return -1;
  return std::clamp<int64_t>(when - time(nullptr), 0, 86400) * 1000;
}

Status Retry(const RetryPolicy& policy, SteadyTime deadline, Watch* watch,
             const std::function<Status(AttemptInfo*)>& attempt) {
  return RetryUntil(policy, deadline, watch, attempt);
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
  RangeReader reader(range);
  FASTOCI_CHECK_OK(reader.CheckRange());
  // The sink may wait for other transfers. Its time does not count, so it moves the deadline,
  // which send looks at again and again.
  SteadyTime deadline = request.deadline;
  HttpRequest r;
  const RangeReader::Sink timed = [&](ByteSpan bytes) -> Status {
    const auto begin = Clock::now();
    Status s = sink(bytes);
    if (deadline != SteadyTime::max()) deadline += Clock::now() - begin;
    r.deadline = deadline;
    return s;
  };
  return RetryUntil(policy, deadline, request.watch, [&](AttemptInfo* info) -> Status {
    uint64_t before = reader.done();
    r = request;
    r.deadline = deadline;
    PrepareAttempt(*info, &r);
    reader.Ask(&r, timed);
    auto response = send(&r);
    info->progress = reader.done() > before;
    // Complete even if the connection broke after the last byte.
    if (reader.complete()) return OkStatus();
    if (!response.ok()) return response.error();
    if (response->status / 100 != 2) {
      info->retry_after_ms = ParseRetryAfterMs(response->Header("retry-after"));
      return StatusError(*response);
    }
    return reader.ShortBody();
  });
}

}  // namespace fastoci
