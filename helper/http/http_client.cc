// SPDX-License-Identifier: Apache-2.0
// Each exchange drives its own curl multi handle, so that the wait can include
// the caller's Watch and so that time in callbacks is told apart from a stalled
// peer. Redirects are followed here and not by libcurl: Authorization must not
// leave its origin and https must not become http.
#include "http/http_client.h"

#include <curl/curl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <mutex>

namespace fastoci {
namespace {

constexpr int kMaxRedirects = 10;
constexpr size_t kMaxHeaderBytes = 128 << 10;
constexpr size_t kMaxErrorBody = 4096;
constexpr size_t kMaxErrorText = 120;
constexpr size_t kMaxIdleHandles = 16;
constexpr int64_t kPollMs = 500;

using Clock = std::chrono::steady_clock;

std::string Lower(std::string s) {
  for (char& c : s) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
  return s;
}

std::string Trim(const std::string& s) {
  size_t b = s.find_first_not_of(" \t\r\n");
  if (b == std::string::npos) return "";
  return s.substr(b, s.find_last_not_of(" \t\r\n") - b + 1);
}

Error UnavailableError(int err, std::string message) {
  return {ErrorKind::kUnavailable, err, std::move(message)};
}

// A pooled pair: connections live in the multi handle.
struct Handle {
  CURLM* multi = nullptr;
  CURL* easy = nullptr;
  Handle() : multi(curl_multi_init()), easy(curl_easy_init()) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (easy != nullptr) curl_easy_cleanup(easy);
    if (multi != nullptr) curl_multi_cleanup(multi);
  }
};

// The state that libcurl's callbacks see during one exchange.
struct Exchange {
  const HttpRequest* request = nullptr;
  HttpResponse response;
  size_t header_bytes = 0;
  bool head_told = false;
  std::optional<Error> failure;  // what a callback of the caller returned
  uint64_t sent = 0;
  uint64_t moved = 0;            // bytes both ways, headers included
  Clock::duration in_callbacks{};
  bool stopped = false;

  bool Success() const { return response.status >= 200 && response.status < 300; }

  template <typename F>
  Status Outside(F&& call) {
    auto begin = Clock::now();
    Status s = call();
    in_callbacks += Clock::now() - begin;
    return s;
  }
  bool Fail(Status s) {
    if (s.ok()) return false;
    failure = s.error();
    return true;
  }
  bool TellHead() {
    if (head_told || !Success()) return true;
    head_told = true;
    if (!request->on_head) return true;
    return !Fail(Outside([&] { return request->on_head(response); }));
  }
};

size_t OnHeader(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  std::string line(data, size * count);
  x->moved += line.size();
  x->header_bytes += line.size();
  if (x->header_bytes > kMaxHeaderBytes) {
    x->failure = InvalidError("HTTP response headers are too long");
    return 0;
  }
  if (line.starts_with("HTTP/")) {  // a new response: 100 Continue came before
    x->response.headers.clear();
    size_t space = line.find(' ');
    x->response.status = space == std::string::npos ? 0 : std::atoi(line.c_str() + space + 1);
  } else if (size_t colon = line.find(':'); colon != std::string::npos) {
    x->response.headers.emplace(Lower(Trim(line.substr(0, colon))), Trim(line.substr(colon + 1)));
  }
  return size * count;
}

size_t OnBody(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  size_t n = size * count;
  x->moved += n;
  if (!x->Success()) {
    size_t room = kMaxErrorBody - std::min(kMaxErrorBody, x->response.error_body.size());
    x->response.error_body.append(data, std::min(room, n));
    return n;
  }
  if (!x->TellHead()) return 0;
  if (x->request->on_body) {
    ByteSpan bytes(reinterpret_cast<const uint8_t*>(data), n);
    if (x->Fail(x->Outside([&] { return x->request->on_body(bytes); }))) return 0;
  }
  x->response.body_bytes += n;
  if (x->request->stop != nullptr && *x->request->stop) {
    x->stopped = true;
    return 0;
  }
  return n;
}

size_t OnRead(char* data, size_t size, size_t count, void* arg) {
  auto* x = static_cast<Exchange*>(arg);
  size_t n = std::min<uint64_t>(size * count, x->request->body_bytes - x->sent);
  if (n == 0) return 0;
  std::span<uint8_t> out(reinterpret_cast<uint8_t*>(data), n);
  if (x->Fail(x->Outside([&] { return x->request->read_body(x->sent, out); })))
    return CURL_READFUNC_ABORT;
  x->sent += n;
  x->moved += n;
  return n;
}

int OnSeek(void* arg, curl_off_t offset, int origin) {
  auto* x = static_cast<Exchange*>(arg);
  if (origin != SEEK_SET || offset < 0) return CURL_SEEKFUNC_CANTSEEK;
  x->sent = static_cast<uint64_t>(offset);
  return CURL_SEEKFUNC_OK;
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

}  // namespace

Cancellation::Cancellation() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  watch_.fd = event_.get();
  watch_.on_readable = [] { return true; };
}

void Cancellation::Cancel() {
  uint64_t one = 1;
  // The counter is never read, so this can only fail once it is readable anyway.
  [[maybe_unused]] ssize_t n = write(event_.get(), &one, sizeof(one));
}

bool Cancellation::cancelled() const {
  pollfd p{event_.get(), POLLIN, 0};
  return poll(&p, 1, 0) == 1;
}

std::string HttpResponse::Header(const std::string& name) const {
  auto it = headers.find(name);
  return it == headers.end() ? "" : it->second;
}

void SetBody(HttpRequest* request, std::string body) {
  auto shared = std::make_shared<const std::string>(std::move(body));
  request->body_bytes = shared->size();
  request->read_body = [shared](uint64_t offset, std::span<uint8_t> out) -> Status {
    if (offset > shared->size() || out.size() > shared->size() - offset)
      return InvalidError("read past the end of a request body");
    std::copy_n(shared->begin() + static_cast<ptrdiff_t>(offset), out.size(), out.begin());
    return OkStatus();
  };
}

struct HttpClient::Impl {
  explicit Impl(HttpOptions o) : options(std::move(o)) {
    share = curl_share_init();
    curl_share_setopt(share, CURLSHOPT_USERDATA, this);
    curl_share_setopt(share, CURLSHOPT_LOCKFUNC,
                      +[](CURL*, curl_lock_data d, curl_lock_access, void* self) {
                        static_cast<Impl*>(self)->locks[d].lock();
                      });
    curl_share_setopt(share, CURLSHOPT_UNLOCKFUNC, +[](CURL*, curl_lock_data d, void* self) {
      static_cast<Impl*>(self)->locks[d].unlock();
    });
    curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_DNS);
    curl_share_setopt(share, CURLSHOPT_SHARE, CURL_LOCK_DATA_SSL_SESSION);
  }
  ~Impl() {
    idle.clear();
    curl_share_cleanup(share);
  }

  std::unique_ptr<Handle> Take() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      if (!idle.empty()) {
        auto h = std::move(idle.back());
        idle.pop_back();
        return h;
      }
    }
    return std::make_unique<Handle>();
  }
  void Give(std::unique_ptr<Handle> h) {
    std::lock_guard<std::mutex> lock(mutex);
    if (idle.size() < kMaxIdleHandles) idle.push_back(std::move(h));
  }

  Status SendOnce(const HttpRequest& request, const std::string& url, bool with_auth,
                  Exchange* x);
  Status Drive(Handle* h, const HttpRequest& request, const char* detail, Exchange* x);

  HttpOptions options;
  CURLSH* share = nullptr;
  std::array<std::mutex, CURL_LOCK_DATA_LAST> locks;
  std::mutex mutex;
  std::vector<std::unique_ptr<Handle>> idle;  // guarded by mutex
};

Status HttpClient::Impl::Drive(Handle* h, const HttpRequest& request, const char* detail,
                               Exchange* x) {
  auto window = Clock::now();
  uint64_t window_moved = 0;
  auto window_callbacks = x->in_callbacks;
  while (true) {
    int running = 0;
    if (curl_multi_perform(h->multi, &running) != CURLM_OK)
      return Error{ErrorKind::kInternal, EIO, "curl_multi_perform failed"};
    if (x->failure) return *x->failure;
    if (x->stopped) return OkStatus();
    int queued = 0;
    if (CURLMsg* m = curl_multi_info_read(h->multi, &queued); m != nullptr) {
      if (m->msg == CURLMSG_DONE && m->data.result != CURLE_OK)
        return CurlError(m->data.result, detail);
      return OkStatus();
    }
    if (running == 0) return Error{ErrorKind::kInternal, EIO, "HTTP exchange got lost"};

    auto now = Clock::now();
    if (now >= request.deadline) return UnavailableError(ETIMEDOUT, "deadline passed");
    auto quiet = now - window - (x->in_callbacks - window_callbacks);
    if (x->moved - window_moved >= options.stall_bytes) {
      window = now;
      window_moved = x->moved;
      window_callbacks = x->in_callbacks;
    } else if (quiet > std::chrono::milliseconds(options.stall_ms)) {
      return UnavailableError(ETIMEDOUT, "stalled for " + std::to_string(options.stall_ms) +
                                             " ms");
    }

    int64_t wait = kPollMs;
    if (request.deadline != SteadyTime::max()) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(request.deadline - now);
      wait = std::min<int64_t>(wait, left.count() + 1);
    }
    curl_waitfd extra{};
    unsigned nr_extra = 0;
    if (request.watch != nullptr && request.watch->fd >= 0) {
      extra.fd = request.watch->fd;
      extra.events = CURL_WAIT_POLLIN;
      nr_extra = 1;
    }
    curl_multi_poll(h->multi, &extra, nr_extra, static_cast<int>(wait), nullptr);
    // Not from extra.revents: a busy transfer must not starve the watch.
    if (nr_extra != 0) {
      pollfd p{request.watch->fd, POLLIN, 0};
      if (poll(&p, 1, 0) == 1 && request.watch->on_readable()) return CanceledError();
    }
  }
}

Status HttpClient::Impl::SendOnce(const HttpRequest& request, const std::string& url,
                                  bool with_auth, Exchange* x) {
  if (Clock::now() >= request.deadline) return UnavailableError(ETIMEDOUT, "deadline passed");
  std::unique_ptr<Handle> h = Take();
  if (h->easy == nullptr || h->multi == nullptr)
    return Error{ErrorKind::kInternal, ENOMEM, "no curl handle"};
  CURL* c = h->easy;
  curl_easy_reset(c);
  char detail[CURL_ERROR_SIZE] = "";
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, detail);
  curl_easy_setopt(c, CURLOPT_URL, url.c_str());
  curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
  curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(c, CURLOPT_SHARE, share);
  curl_easy_setopt(c, CURLOPT_USERAGENT, options.user_agent.c_str());
  curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(options.connect_timeout_ms));
  curl_easy_setopt(c, CURLOPT_TCP_KEEPALIVE, 1L);
  curl_easy_setopt(c, CURLOPT_FRESH_CONNECT, request.fresh_connection ? 1L : 0L);
  curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, OnHeader);
  curl_easy_setopt(c, CURLOPT_HEADERDATA, x);
  curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, OnBody);
  curl_easy_setopt(c, CURLOPT_WRITEDATA, x);
  curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 128L << 10);
  const TlsOptions& tls = options.tls;
  if (!tls.ca_file.empty()) curl_easy_setopt(c, CURLOPT_CAINFO, tls.ca_file.c_str());
  if (!tls.client_cert.empty()) curl_easy_setopt(c, CURLOPT_SSLCERT, tls.client_cert.c_str());
  if (!tls.client_key.empty()) curl_easy_setopt(c, CURLOPT_SSLKEY, tls.client_key.c_str());
  if (tls.insecure) {
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 0L);
    curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 0L);
  }

  bool sends_body = request.method == "POST" || request.method == "PUT" ||
                    request.method == "PATCH";
  if (request.method == "HEAD") {
    curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
  } else if (sends_body) {
    curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, request.method.c_str());
    curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, static_cast<curl_off_t>(request.body_bytes));
    curl_easy_setopt(c, CURLOPT_READFUNCTION, OnRead);
    curl_easy_setopt(c, CURLOPT_READDATA, x);
    curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, OnSeek);
    curl_easy_setopt(c, CURLOPT_SEEKDATA, x);
  } else if (request.method != "GET") {
    curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, request.method.c_str());
  }

  curl_slist* list = nullptr;
  for (const auto& [name, value] : request.headers)
    list = curl_slist_append(list, (name + ": " + value).c_str());
  if (with_auth && !request.authorization.empty())
    list = curl_slist_append(list, ("Authorization: " + request.authorization.Reveal()).c_str());
  if (sends_body) list = curl_slist_append(list, "Expect:");  // no extra round trip
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, list);

  x->request = &request;
  curl_multi_add_handle(h->multi, c);
  Status s = Drive(h.get(), request, detail, x);
  if (s.ok() && !x->stopped && !x->TellHead()) s = *x->failure;
  curl_multi_remove_handle(h->multi, c);
  curl_easy_setopt(c, CURLOPT_ERRORBUFFER, nullptr);
  curl_easy_setopt(c, CURLOPT_HTTPHEADER, nullptr);
  curl_slist_free_all(list);
  // After a failure the connection's state is unknown, so the handle goes too.
  if (s.ok() && !x->stopped) Give(std::move(h));
  return s;
}

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;

Result<std::shared_ptr<HttpClient>> HttpClient::Open(HttpOptions options) {
  static const CURLcode global = curl_global_init(CURL_GLOBAL_DEFAULT);
  if (global != CURLE_OK) return Error{ErrorKind::kInternal, 0, "curl_global_init failed"};
  return std::shared_ptr<HttpClient>(new HttpClient(std::make_unique<Impl>(std::move(options))));
}

Result<HttpResponse> HttpClient::Send(const HttpRequest& request) {
  for (const auto& [name, value] : request.headers)
    if ((name + value).find_first_of("\r\n") != std::string::npos)
      return InvalidError("line break in an HTTP header");
  if (request.authorization.Reveal().find_first_of("\r\n") != std::string::npos)
    return InvalidError("line break in an HTTP header");
  FASTOCI_TRY(std::string origin, UrlOrigin(request.url));
  std::string url = request.url;
  bool with_auth = true;
  for (int hop = 0;; hop++) {
    Exchange x;
    x.response.url = url;
    if (request.tally) request.tally->requests++;
    FASTOCI_CHECK_OK(impl_->SendOnce(request, url, with_auth, &x));
    bool may_follow = request.follow_redirects &&
                      (request.method == "GET" || request.method == "HEAD");
    std::string location = x.response.Header("location");
    if (!may_follow || !IsRedirect(x.response.status) || location.empty())
      return std::move(x.response);
    if (hop == kMaxRedirects) return InvalidError("too many redirects");
    FASTOCI_TRY(std::string next, ResolveUrl(url, location));
    FASTOCI_TRY(std::string next_origin, UrlOrigin(next));
    if (url.starts_with("https:") && !next.starts_with("https:"))
      return Error{ErrorKind::kDenied, EACCES, "redirect from https to http refused"};
    if (next_origin != origin) with_auth = false;  // and stays off, even on the way back
    url = std::move(next);
  }
}

Error StatusError(const HttpResponse& response) {
  std::string text = "HTTP " + std::to_string(response.status);
  // The server's words are hostile: printable ASCII only, and few of them.
  std::string words;
  for (char c : response.error_body) {
    if (words.size() >= kMaxErrorText) break;
    if (c >= 0x20 && c < 0x7f) words += c;
  }
  if (!words.empty()) text += " (" + words + ")";
  int s = response.status;
  if (s == 401 || s == 403) return {ErrorKind::kDenied, EACCES, text};
  if (s == 404 || s == 410) return NotFoundError(text);
  if (s == 416) return MismatchError(text);
  if (s == 408 || s == 429 || s >= 500) return {ErrorKind::kUnavailable, EIO, text};
  return InvalidError(text);
}

Error CanceledError() { return {ErrorKind::kInternal, ECANCELED, "canceled"}; }
bool IsCanceled(const Error& error) { return error.err == ECANCELED; }

namespace {

struct CurlUrl {
  CURLU* u = curl_url();
  ~CurlUrl() { curl_url_cleanup(u); }
  std::string Get(CURLUPart part, unsigned flags) {
    char* text = nullptr;
    if (curl_url_get(u, part, &text, flags) != CURLUE_OK) return "";
    std::string s = text;
    curl_free(text);
    return s;
  }
};

}  // namespace

Result<std::string> UrlOrigin(const std::string& url) {
  CurlUrl u;
  if (curl_url_set(u.u, CURLUPART_URL, url.c_str(), 0) != CURLUE_OK)
    return InvalidError("bad URL");
  std::string scheme = Lower(u.Get(CURLUPART_SCHEME, 0));
  if (scheme != "http" && scheme != "https") return InvalidError("URL is not http or https");
  return scheme + "://" + Lower(u.Get(CURLUPART_HOST, 0)) + ":" +
         u.Get(CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

Result<std::string> ResolveUrl(const std::string& base, const std::string& reference) {
  CurlUrl u;
  if (curl_url_set(u.u, CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(u.u, CURLUPART_URL, reference.c_str(), 0) != CURLUE_OK)
    return InvalidError("bad redirect URL");
  return u.Get(CURLUPART_URL, 0);
}

std::string UrlEscape(const std::string& text) {
  std::string out;
  for (unsigned char c : text) {
    if (std::isalnum(c) || c == '-' || c == '.' || c == '_' || c == '~') {
      out += static_cast<char>(c);
    } else {
      constexpr char kHex[] = "0123456789ABCDEF";
      out += '%';
      out += kHex[c >> 4];
      out += kHex[c & 15];
    }
  }
  return out;
}

}  // namespace fastoci
