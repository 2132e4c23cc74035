// SPDX-License-Identifier: Apache-2.0
// Exchange: one HTTP request, with the redirects that it leads to, on a curl easy
// handle. What HttpClient (which waits) and HttpLoop (which does not) share: the
// only place that sets curl options, reads headers and decides about redirects.
//
//   Prepare(easy) -> the driver runs the transfer -> Finish(code)
//        ^                                              | *again
//        +----------------------------------------------+
//
// Redirects are followed here and not by libcurl: Authorization must not leave its
// origin, and https must not become http.
#ifndef FASTOCI_HTTP_EXCHANGE_H_
#define FASTOCI_HTTP_EXCHANGE_H_

#include <curl/curl.h>

#include <chrono>
#include <optional>
#include <string>

#include "base/result.h"
#include "http/http_client.h"

namespace fastoci {

// Once per process; before the first handle is made.
Status InitCurl();

class Exchange {
 public:
  // Both must outlive it. share may be null.
  Exchange(const HttpOptions& options, const HttpRequest& request, CURLSH* share);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Sets the handle up for the request, or for the redirect that Finish() found.
  // The handle's pointers lead here until Finish() or Detach().
  Status Prepare(CURL* easy);
  // The transfer on the handle ended with code. *again: it was a redirect that is
  // followed, prepare the next transfer.
  Status Finish(CURLcode code, bool* again);
  void Detach();

  // The transfer is over before its end: a callback failed, or wants no more.
  bool Interrupted() const { return failure_.has_value() || stopped_; }
  // ETIMEDOUT if the deadline has passed, or if the peer is silent for too long.
  Status CheckTime(std::chrono::steady_clock::time_point now);
  // Whether the connection can be used again after what happened.
  bool reusable() const { return reusable_; }
  HttpResponse& response() { return response_; }

 private:
  using Clock = std::chrono::steady_clock;
  static size_t OnHeader(char* data, size_t size, size_t count, void* arg);
  static size_t OnBody(char* data, size_t size, size_t count, void* arg);
  static size_t OnRead(char* data, size_t size, size_t count, void* arg);
  static int OnSeek(void* arg, curl_off_t offset, int origin);

  bool Success() const { return response_.status >= 200 && response_.status < 300; }
  template <typename F>
  bool Outside(F&& call);  // false: the caller's callback failed
  bool TellHead();
  bool TakeBody(ByteSpan bytes);
  // The next request goes to the server that its site is about.
  bool AtSite() const { return with_auth_ && !request_.away; }
  void SetOptions();
  void SetSite(const HttpSite& site);
  void SetMethod();
  Result<bool> FollowRedirect();

  const HttpOptions& options_;
  const HttpRequest& request_;
  CURLSH* share_;
  CURL* easy_ = nullptr;
  curl_slist* headers_ = nullptr;
  char detail_[CURL_ERROR_SIZE] = "";
  std::string url_;     // of this hop
  std::string origin_;  // of the request
  std::string hop_origin_;  // of this hop
  bool with_auth_ = true;
  int hop_ = 0;

  HttpResponse response_;
  size_t header_bytes_ = 0;
  bool head_told_ = false;
  bool stopped_ = false;
  bool reusable_ = false;
  std::optional<Error> failure_;  // what a callback of the caller returned
  uint64_t sent_ = 0;             // bytes of the request body

  // Silence: since when, and what had moved and been spent in callbacks by then.
  uint64_t moved_ = 0;  // bytes both ways, headers included
  Clock::duration in_callbacks_{};
  Clock::time_point begin_, window_;
  uint64_t window_moved_ = 0;
  Clock::duration window_callbacks_{};
};

}  // namespace fastoci

#endif  // FASTOCI_HTTP_EXCHANGE_H_
