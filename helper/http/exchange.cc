// SPDX-License-Identifier: Apache-2.0
#include "http/exchange.h"

#include <algorithm>
#include <cstdlib>

#include "base/lower.h"
#include "http/loopback_host.h"

namespace fastoci {
namespace {

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxHeaderBytes = 128 << 10;
constexpr size_t kMaxErrorBody = 4096;
constexpr long kReceiveBytes = 256 << 10;

std::string Trim(const std::string& s) {
  size_t b = s.find_first_not_of(" \t\r\n");
  if (b == std::string::npos) return "";
  return s.substr(b, s.find_last_not_of(" \t\r\n") - b + 1);
}

Error UnavailableError(int err, std::string message) {
  return {ErrorKind::kUnavailable, err, std::move(message)};
}

Error CurlError(CURLcode code, const char* detail) {
  std::string text = detail[0] != '\0' ? detail : curl_easy_strerror(code);
  switch (code) {
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return InvalidError(text);
    case CURLE_PEER_FAILED_VERIFICATION:
    case CURLE_SSL_CERTPROBLEM:
    case CURLE_SSL_CACERT_BADFILE:
    case CURLE_SSL_ISSUER_ERROR:
    case CURLE_SSL_PINNEDPUBKEYNOTMATCH:
      return {ErrorKind::kDenied, EACCES, text};
    case CURLE_OUT_OF_MEMORY:
      return {ErrorKind::kInternal, ENOMEM, text};
    case CURLE_OPERATION_TIMEDOUT:
      return UnavailableError(ETIMEDOUT, text);
    case CURLE_COULDNT_CONNECT:
      return UnavailableError(ECONNREFUSED, text);
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_RESOLVE_PROXY:
      return UnavailableError(EHOSTUNREACH, text);
    default:
      return UnavailableError(EIO, text);
  }
}

bool IsRedirect(int status) {
  return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

bool HasLineBreak(const std::string& text) {
  return text.find_first_of("\r\n") != std::string::npos;
}

}  // namespace

Status InitCurl() {
  static const CURLcode global = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (global != CURLE_OK) return Error{ErrorKind::kInternal, 0, "curl_global_init failed"};
  return OkStatus();
}

Exchange::Exchange(const HttpOptions& options, const HttpRequest& request, CURLSH* share)
    : options_(options), request_(request), share_(share), url_(request.url) {}

Exchange::~Exchange() { Detach(); }

Status Exchange::Prepare(CURL* easy) {
  if (hop_ == 0) {
    for (const auto& [name, value] : request_.headers)
      if (HasLineBreak(name) || HasLineBreak(value))
        return InvalidError("line break in an HTTP header");
    if (HasLineBreak(request_.authorization.Reveal()))
      return InvalidError("line break in an HTTP header");
    if (request_.site)
      for (const auto& [name, value] : request_.site->headers)
        if (HasLineBreak(name) || HasLineBreak(value.Reveal()))
          return InvalidError("line break in an HTTP header");
    FASTOCI_TRY(origin_, UrlOrigin(request_.url));
    hop_origin_ = origin_;
  }
  begin_ = window_ = Clock::now();
  if (begin_ >= request_.deadline) return UnavailableError(ETIMEDOUT, "deadline passed");
  response_ = HttpResponse();
  response_.url = url_;
  header_bytes_ = 0;
  head_told_ = stopped_ = reusable_ = false;
  detail_[0] = '\0';
  sent_ = moved_ = window_moved_ = 0;
  in_callbacks_ = window_callbacks_ = {};
  if (request_.tally) request_.tally->requests++;
  easy_ = easy;
  curl_easy_reset(easy);
  SetOptions();
  SetMethod();
  return OkStatus();
}

void Exchange::SetOptions() {
  curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, detail_);
  curl_easy_setopt(easy_, CURLOPT_URL, url_.c_str());
  curl_easy_setopt(easy_, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(easy_, CURLOPT_NOSIGNAL, 1L);
  // A transfer that ends while its name is looked up must not wait for the resolver's
  // thread, which ends by itself.
  curl_easy_setopt(easy_, CURLOPT_QUICK_EXIT, 1L);
  if (share_ != nullptr) curl_easy_setopt(easy_, CURLOPT_SHARE, share_);
  curl_easy_setopt(easy_, CURLOPT_USERAGENT, options_.user_agent.c_str());
  curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS,
                   static_cast<long>(options_.connect_timeout_ms));
  curl_easy_setopt(easy_, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(easy_, CURLOPT_FRESH_CONNECT, request_.fresh_connection ? 1L : 0L);
  curl_easy_setopt(easy_, CURLOPT_HTTP_VERSION, static_cast<long>(CURL_HTTP_VERSION_2TLS));
  // Whether the server does HTTP/2 decides if other connections are needed.
  if (url_.starts_with("https:") && !request_.fresh_connection)
    curl_easy_setopt(easy_, CURLOPT_PIPEWAIT, 1L);
  curl_easy_setopt(easy_, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(easy_, CURLOPT_HEADERDATA, this);
  curl_easy_setopt(easy_, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(easy_, CURLOPT_WRITEDATA, this);
  curl_easy_setopt(easy_, CURLOPT_PRIVATE, this);
  curl_easy_setopt(easy_, CURLOPT_BUFFERSIZE, kReceiveBytes);
  const TlsOptions& tls = options_.tls;
  if (!tls.ca_file.empty()) curl_easy_setopt(easy_, CURLOPT_CAINFO, tls.ca_file.c_str());
  // Like a password, it is not for another host that the server names.
  if (AtSite()) {
    if (!tls.client_cert.empty())
      curl_easy_setopt(easy_, CURLOPT_SSLCERT, tls.client_cert.c_str());
    if (!tls.client_key.empty()) curl_easy_setopt(easy_, CURLOPT_SSLKEY, tls.client_key.c_str());
  }
  if (tls.insecure || (request_.site && request_.site->insecure)) {
    curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(easy_, CURLOPT_SSL_VERIFYHOST, 0L);
  }
  // As Go's programs do: what is meant for this machine, credentials included, does not leave it.
  if (IsLoopbackHost(hop_origin_.substr(hop_origin_.find("://") + 3)))
    curl_easy_setopt(easy_, CURLOPT_PROXY, "");
  if (request_.site) SetSite(*request_.site);
}

void Exchange::SetSite(const HttpSite& site) {
  auto set_pem = [this](CURLoption option, const std::string& pem) {
    if (pem.empty()) return;
    curl_blob blob{const_cast<char*>(pem.data()), pem.size(), CURL_BLOB_NOCOPY};
    curl_easy_setopt(easy_, option, &blob);
  };
  // The system's directory of CAs stays what it is.
  set_pem(CURLOPT_CAINFO_BLOB, site.ca_pem);
  if (!AtSite()) return;
  set_pem(CURLOPT_SSLCERT_BLOB, site.client_cert_pem);
  set_pem(CURLOPT_SSLKEY_BLOB, site.client_key_pem.Reveal());
  if (site.connect_timeout_ms > 0)
    curl_easy_setopt(easy_, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(site.connect_timeout_ms));
  if (!site.proxy.empty()) curl_easy_setopt(easy_, CURLOPT_PROXY, site.proxy.c_str());
}

void Exchange::SetMethod() {
  bool sends_body = request_.method == "POST" || request_.method == "PUT" ||
                    request_.method == "PATCH";
  if (request_.method == "HEAD") {
    curl_easy_setopt(easy_, CURLOPT_NOBODY, 1L);
  } else if (sends_body) {
    curl_easy_setopt(easy_, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(easy_, CURLOPT_CUSTOMREQUEST, request_.method.c_str());
    curl_easy_setopt(easy_, CURLOPT_INFILESIZE_LARGE,
                     static_cast<curl_off_t>(request_.body_bytes));
    curl_easy_setopt(easy_, CURLOPT_READFUNCTION, OnRead);
    curl_easy_setopt(easy_, CURLOPT_READDATA, this);
    curl_easy_setopt(easy_, CURLOPT_SEEKFUNCTION, OnSeek);
    curl_easy_setopt(easy_, CURLOPT_SEEKDATA, this);
  } else if (request_.method != "GET") {
    curl_easy_setopt(easy_, CURLOPT_CUSTOMREQUEST, request_.method.c_str());
  }
  for (const auto& [name, value] : request_.headers)
    headers_ = curl_slist_append(headers_, (name + ": " + value).c_str());
  if (request_.site && AtSite())
    for (const auto& [name, value] : request_.site->headers)
      headers_ = curl_slist_append(headers_, (name + ": " + value.Reveal()).c_str());
  if (with_auth_ && !request_.authorization.empty())
    headers_ = curl_slist_append(
        headers_, ("Authorization: " + request_.authorization.Reveal()).c_str());
  if (sends_body) headers_ = curl_slist_append(headers_, "Expect:");  // no extra round trip
  curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, headers_);
}

void Exchange::Detach() {
  if (easy_ == nullptr) return;
  curl_easy_setopt(easy_, CURLOPT_ERRORBUFFER, nullptr);
  curl_easy_setopt(easy_, CURLOPT_HTTPHEADER, nullptr);
  curl_slist_free_all(headers_);
  headers_ = nullptr;
  easy_ = nullptr;
}

Status Exchange::Finish(CURLcode code, bool* again) {
  *again = false;
  if (!failure_ && !stopped_ && code == CURLE_OK) (void)TellHead();
  Detach();
  // After anything but a whole answer the connection's state is not known.
  reusable_ = !failure_ && !stopped_ && code == CURLE_OK;
  if (failure_) return *failure_;
  if (stopped_) return OkStatus();
  if (code != CURLE_OK) return CurlError(code, detail_);
  FASTOCI_TRY(*again, FollowRedirect());
  return OkStatus();
}

Result<bool> Exchange::FollowRedirect() {
  std::string location = response_.Header("location");
  if (!request_.follow_redirects || (request_.method != "GET" && request_.method != "HEAD") ||
      !IsRedirect(response_.status) || location.empty())
    return false;
  if (++hop_ > kMaxRedirects) return InvalidError("too many redirects");
  FASTOCI_TRY(std::string next, ResolveUrl(url_, location));
  FASTOCI_TRY(std::string next_origin, UrlOrigin(next));
  if (url_.starts_with("https:") && !next.starts_with("https:"))
    return Error{ErrorKind::kDenied, EACCES, "redirect from https to http refused"};
  if (next_origin != origin_) with_auth_ = false;  // and stays off, even on the way back
  hop_origin_ = std::move(next_origin);
  url_ = std::move(next);
  return true;
}

Status Exchange::CheckTime(Clock::time_point now) {
  if (now >= request_.deadline) return UnavailableError(ETIMEDOUT, "deadline passed");
  auto quiet = now - window_ - (in_callbacks_ - window_callbacks_);
  if (options_.first_byte_ms > 0 && response_.status == 0 &&
      now - begin_ > std::chrono::milliseconds(options_.first_byte_ms))
    return UnavailableError(
        ETIMEDOUT, "no answer in " + std::to_string(options_.first_byte_ms) + " ms");
  if (moved_ - window_moved_ >= options_.stall_bytes) {
    window_ = now;
    window_moved_ = moved_;
    window_callbacks_ = in_callbacks_;
  } else if (quiet > std::chrono::milliseconds(options_.stall_ms)) {
    return UnavailableError(ETIMEDOUT, "stalled for " + std::to_string(options_.stall_ms) + " ms");
  }
  return OkStatus();
}

template <typename F>
bool Exchange::Outside(F&& call) {
  auto begin = Clock::now();
  Status s = call();
  in_callbacks_ += Clock::now() - begin;
  if (!s.ok()) failure_ = s.error();
  return s.ok();
}

bool Exchange::TellHead() {
  if (head_told_ || !Success()) return true;
  head_told_ = true;
  return !request_.on_head || Outside([&] { return request_.on_head(response_); });
}

bool Exchange::TakeBody(ByteSpan bytes) {
  if (!Success()) {
    size_t room = kMaxErrorBody - std::min(kMaxErrorBody, response_.error_body.size());
    response_.error_body.append(reinterpret_cast<const char*>(bytes.data()),
                                std::min(room, bytes.size()));
    return true;
  }
  if (!TellHead()) return false;
  if (request_.on_body && !Outside([&] { return request_.on_body(bytes); })) return false;
  response_.body_bytes += bytes.size();
  stopped_ = request_.stop != nullptr && *request_.stop;
  return !stopped_;
}

size_t Exchange::OnHeader(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  std::string line(data, size * count);
  x->moved_ += line.size();
  x->header_bytes_ += line.size();
  if (x->header_bytes_ > kMaxHeaderBytes) {
    x->failure_ = InvalidError("HTTP response headers are too long");
    return 0;
  }
  if (line.starts_with("HTTP/")) {  // a new response: 100 Continue came before
    x->response_.headers.clear();
    size_t space = line.find(' ');
    x->response_.status = space == std::string::npos ? 0 : std::atoi(line.c_str() + space + 1);
  } else if (size_t colon = line.find(':'); colon != std::string::npos) {
    x->response_.headers.emplace(Lower(Trim(line.substr(0, colon))), Trim(line.substr(colon + 1)));
  }
  return size * count;
}

size_t Exchange::OnBody(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  x->moved_ += size * count;
  bool more = x->TakeBody({reinterpret_cast<const uint8_t*>(data), size * count});
  return more ? size * count : 0;
}

size_t Exchange::OnRead(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  size_t n = std::min<uint64_t>(size * count, x->request_.body_bytes - x->sent_);
  if (n == 0) return 0;
  std::span<uint8_t> out(reinterpret_cast<uint8_t*>(data), n);
  if (!x->Outside([&] { return x->request_.read_body(x->sent_, out); })) return CURL_READFUNC_ABORT;
  x->sent_ += n;
  x->moved_ += n;
  return n;
}

int Exchange::OnSeek(void* arg, curl_off_t offset, int origin) {
  auto* x = static_cast<Exchange*>(arg);
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  x->sent_ = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
}

}  // namespace fastoci
