// SPDX-License-Identifier: Apache-2.0
// HttpLoop: any number of HTTP exchanges at a time in one thread, over one pool of
// connections (HTTP/2 where offered). It never waits: put fd() into a poll loop and
// call Process() when it is readable or TimeoutMs() has passed.
//
// For one thread. Callbacks run inside Process(), never inside Start() or Cancel();
// on_head and on_body must not call this object, done may.
#ifndef FASTOCI_HTTP_HTTP_LOOP_H_
#define FASTOCI_HTTP_HTTP_LOOP_H_

#include <curl/curl.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "http/exchange.h"
#include "http/http_client.h"

namespace fastoci {

class HttpLoop {
 public:
  // As HttpClient::Send()'s: any status is a success.
  using Done = std::function<void(Result<HttpResponse>)>;

  static Result<std::unique_ptr<HttpLoop>> Open(HttpOptions options);
  ~HttpLoop();  // cancels what runs
  HttpLoop(const HttpLoop&) = delete;
  HttpLoop& operator=(const HttpLoop&) = delete;

  // One attempt, redirects included. request's watch is not used; its callbacks
  // must not block. Returns a number for Cancel(); never 0.
  uint64_t Start(HttpRequest request, Done done);
  // No callback of that exchange is called from now on. A number that is not known
  // is ignored.
  void Cancel(uint64_t id);

  int fd() const { return epoll_.get(); }
  int TimeoutMs() const;  // -1: none
  void Process();
  size_t running() const { return exchanges_.size(); }

 private:
  struct Running {
    HttpRequest request;
    Done done;
    std::unique_ptr<Exchange> exchange;
    CURL* easy = nullptr;
  };
  explicit HttpLoop(HttpOptions options) : options_(std::move(options)) {}
  static int OnSocket(CURL* easy, curl_socket_t socket, int what, void* self, void* known);
  static int OnTimer(CURLM* multi, long timeout_ms, void* self);
  Status Begin(Running* r);
  void TakeOut(Running* r);
  void Collect();
  void CheckTimes();
  void End(uint64_t id, Result<HttpResponse> result);

  const HttpOptions options_;
  UniqueFd epoll_;
  CURLM* multi_ = nullptr;
  bool timer_set_ = false;
  std::chrono::steady_clock::time_point timer_;
  std::chrono::steady_clock::time_point next_check_;
  uint64_t next_id_ = 1;
  std::map<uint64_t, std::unique_ptr<Running>> exchanges_;
  std::map<uint64_t, Error> failed_;  // could not begin, to be told in Process()
  std::vector<CURL*> idle_;
};

}  // namespace fastoci

#endif  // FASTOCI_HTTP_HTTP_LOOP_H_
