// SPDX-License-Identifier: Apache-2.0
// Retrying, the only place: kUnavailable alone is repeated, with exponential
// backoff and jitter, always within a deadline. A server's Retry-After is
// honoured up to a cap.
#ifndef FASTOCI_HTTP_RETRY_H_
#define FASTOCI_HTTP_RETRY_H_

#include <cstdint>
#include <functional>
#include <string>

#include "base/result.h"
#include "http/http_client.h"
#include "http/range.h"

namespace fastoci {

struct RetryPolicy {
  int max_attempts = 6;  // in a row without progress
  int64_t first_delay_ms = 100;
  int64_t max_delay_ms = 5000;
  int64_t retry_after_cap_ms = 30000;
};

// What an attempt tells the retry loop besides its Error.
struct AttemptInfo {
  int number = 0;                // 0 for the first
  bool progress = false;         // set by the attempt: bytes arrived, count anew
  int64_t retry_after_ms = -1;   // set by the attempt from Retry-After
};

// Backoff for the n-th failure in a row (from 0), before jitter.
int64_t BackoffMs(const RetryPolicy& policy, int failures);
// Milliseconds of a Retry-After value (delta seconds or HTTP date), -1 if none.
int64_t ParseRetryAfterMs(const std::string& value);

// Runs attempt until it returns success, an Error that is not kUnavailable, or
// the policy or the deadline is used up; then its last Error, and if only the
// deadline ended that attempt, what the one before met.
Status Retry(const RetryPolicy& policy, SteadyTime deadline, Watch* watch,
             const std::function<Status(AttemptInfo*)>& attempt);

// One exchange: fills in authorization and the like, then sends.
using HttpSend = std::function<Result<HttpResponse>(HttpRequest*)>;

// Sends until the status is not 408, 429 or 5xx. Other statuses are successes.
Result<HttpResponse> SendWithRetry(const HttpSend& send, const HttpRequest& request,
                                   const RetryPolicy& policy);

// GETs just that range, as RangeReader does. A transfer cut short goes on from the
// byte reached.
Status GetRange(const HttpSend& send, const HttpRequest& request, ByteRange range,
                const RetryPolicy& policy, const std::function<Status(ByteSpan)>& sink);

}  // namespace fastoci

#endif  // FASTOCI_HTTP_RETRY_H_
