// SPDX-License-Identifier: Apache-2.0
// HttpClient: one HTTP exchange at a time per caller, over pooled libcurl
// handles. Send() makes a single attempt (plus redirects); retry.h repeats it.
//
// A body goes to HttpRequest::on_body as it arrives, for a 2xx status only; the
// start of any other body is kept for the error text. Connections live in the
// pooled handles; DNS answers and TLS sessions are shared through a CURLSH.
// (Sharing connections through it is documented as unsafe between threads.)
//
// Thread-safe: any number of threads may call Send() on one client.
#ifndef FASTOCI_HTTP_HTTP_CLIENT_H_
#define FASTOCI_HTTP_HTTP_CLIENT_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "http/secret.h"

namespace fastoci {

using SteadyTime = std::chrono::steady_clock::time_point;

inline SteadyTime DeadlineIn(int64_t ms) {
  return std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
}

struct TlsOptions {
  std::string ca_file;      // PEM; empty: the system's
  std::string client_cert;  // PEM
  std::string client_key;   // PEM
  bool insecure = false;    // accept any certificate
};

// How one server is accessed, beyond HttpOptions, for a client of many servers. All of it is
// for the origin of the request alone, except the CA and `insecure`: a registry's store and
// its token server often have certificates of the same CA.
struct HttpSite {
  std::string ca_pem;  // besides the system's
  bool insecure = false;
  std::string client_cert_pem;
  Secret client_key_pem;
  std::vector<std::pair<std::string, Secret>> headers;
  int64_t connect_timeout_ms = 0;  // 0: as HttpOptions have it
  std::string proxy;  // URL; "": as the environment says
  bool operator==(const HttpSite&) const = default;
};

struct HttpOptions {
  TlsOptions tls;
  int64_t connect_timeout_ms = 10000;
  int64_t first_byte_ms = 0;  // from the request to the first header; 0: no limit
  // An exchange that moves less than stall_bytes in stall_ms is given up. Time
  // spent in the caller's own callbacks does not count.
  int64_t stall_ms = 20000;
  uint64_t stall_bytes = 1024;
  std::string user_agent = "fastoci";
};

// Something that may interrupt a wait: when fd is readable, on_readable() is
// called in the waiting thread; true ends the exchange with ECANCELED.
struct Watch {
  int fd = -1;
  std::function<bool()> on_readable;
};

// The usual Watch: Cancel() may be called from any thread, once and for all.
class Cancellation {
 public:
  Cancellation();
  void Cancel();
  bool cancelled() const;
  Watch* watch() { return &watch_; }

 private:
  UniqueFd event_;
  Watch watch_;
};

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpResponse {
  int status = 0;
  std::string url;                             // after redirects
  std::multimap<std::string, std::string> headers;  // names in lower case
  std::string error_body;                      // start of a body that is not 2xx
  uint64_t body_bytes = 0;                     // given to on_body
  std::string who;  // for StatusError(): whose answer it is, where that is not obvious

  // First header of that (lower-case) name, or "".
  std::string Header(const std::string& name) const;
};

// What calls cost. Counted by the thread that sends.
struct HttpTally {
  uint32_t requests = 0;  // one by one: redirects, refusals and token servers' too
  uint32_t retries = 0;   // attempts after one that failed
  uint32_t tokens = 0;    // received from token servers
};

struct HttpRequest {
  std::string method = "GET";
  std::string url;
  HttpHeaders headers;
  Secret authorization;  // value of Authorization; dropped when a redirect leaves the origin

  // Request body: body_bytes bytes given by read_body(offset, buffer), which
  // fills the whole buffer; called from offset 0 again when the body is resent.
  uint64_t body_bytes = 0;
  std::function<Status(uint64_t offset, std::span<uint8_t> out)> read_body;

  // Called once with status and headers before any on_body, for 2xx only.
  std::function<Status(const HttpResponse&)> on_head;
  std::function<Status(ByteSpan)> on_body;  // may block; an error ends the exchange
  // Set to true by on_body: nothing more is wanted, end with success.
  const bool* stop = nullptr;

  SteadyTime deadline = SteadyTime::max();
  Watch* watch = nullptr;
  HttpTally* tally = nullptr;
  bool fresh_connection = false;  // do not reuse a pooled connection
  std::shared_ptr<const HttpSite> site;  // null: HttpOptions alone
  // The URL is not at the server of `site`, but that one named it: no client certificate.
  bool away = false;
  bool follow_redirects = true;   // GET and HEAD only
};

// Sets a body held in memory (copied).
void SetBody(HttpRequest* request, std::string body);

class HttpClient {
 public:
  static Result<std::shared_ptr<HttpClient>> Open(HttpOptions options);
  ~HttpClient();
  // One attempt. Any HTTP status is a success here; see StatusError().
  // Errors: kUnavailable (connect, timeout, closed in mid-body), kDenied (TLS),
  // kInvalid (URL), CanceledError(), or what a callback returned.
  Result<HttpResponse> Send(const HttpRequest& request);

 private:
  struct Impl;
  explicit HttpClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// The Error for a status that is not 2xx; "HTTP 404" and the server's words.
Error StatusError(const HttpResponse& response);
Error CanceledError();
bool IsCanceled(const Error& error);

// "scheme://host:port" in lower case with the port filled in.
Result<std::string> UrlOrigin(const std::string& url);
Result<std::string> ResolveUrl(const std::string& base, const std::string& reference);
std::string UrlEscape(const std::string& text);

}  // namespace fastoci

#endif  // FASTOCI_HTTP_HTTP_CLIENT_H_
