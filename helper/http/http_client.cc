// SPDX-License-Identifier: Apache-2.0
// Each exchange drives a curl multi handle of its own, so that the wait can include
// the caller's Watch.
#include "http/http_client.h"

#include <curl/curl.h>
#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <mutex>

#include "base/lower.h"
#include "http/exchange.h"

namespace fastoci {
namespace {

constexpr size_t kMaxErrorText = 120;
constexpr size_t kMaxIdleHandles = 16;
constexpr int64_t kPollMs = 500;

using Clock = std::chrono::steady_clock;

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

  Status SendOnce(const HttpRequest& request, Exchange* x, bool* again);
  Result<CURLcode> Drive(Handle* h, const HttpRequest& request, Exchange* x);

  HttpOptions options;
  CURLSH* share = nullptr;
  std::array<std::mutex, CURL_LOCK_DATA_LAST> locks;
  std::mutex mutex;
  std::vector<std::unique_ptr<Handle>> idle;  // guarded by mutex
};

// The code that the transfer ended with; CURLE_OK if a callback ended it.
Result<CURLcode> HttpClient::Impl::Drive(Handle* h, const HttpRequest& request, Exchange* x) {
  while (true) {
    int running = 0;
    if (curl_multi_perform(h->multi, &running) != CURLM_OK)
      return Error{ErrorKind::kInternal, EIO, "curl_multi_perform failed"};
    if (x->Interrupted()) return CURLE_OK;
    int queued = 0;
    if (CURLMsg* m = curl_multi_info_read(h->multi, &queued); m != nullptr)
      return m->msg == CURLMSG_DONE ? m->data.result : CURLE_OK;
    if (running == 0) return Error{ErrorKind::kInternal, EIO, "libcurl lost an HTTP request"};

    auto now = Clock::now();
    FASTOCI_CHECK_OK(x->CheckTime(now));
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

Status HttpClient::Impl::SendOnce(const HttpRequest& request, Exchange* x, bool* again) {
  std::unique_ptr<Handle> h = Take();
  if (h->easy == nullptr || h->multi == nullptr)
    return Error{ErrorKind::kInternal, ENOMEM, "libcurl cannot create a handle"};
  FASTOCI_CHECK_OK(x->Prepare(h->easy));
  curl_multi_add_handle(h->multi, h->easy);
  auto code = Drive(h.get(), request, x);
  curl_multi_remove_handle(h->multi, h->easy);
  if (!code.ok()) {
    x->Detach();
    return code.error();
  }
  Status s = x->Finish(*code, again);
  if (x->reusable()) Give(std::move(h));
  return s;
}

HttpClient::HttpClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
HttpClient::~HttpClient() = default;

Result<std::shared_ptr<HttpClient>> HttpClient::Open(HttpOptions options) {
  FASTOCI_CHECK_OK(InitCurl());
  return std::shared_ptr<HttpClient>(new HttpClient(std::make_unique<Impl>(std::move(options))));
}

Result<HttpResponse> HttpClient::Send(const HttpRequest& request) {
  Exchange x(impl_->options, request, impl_->share);
  for (bool again = true; again;) FASTOCI_CHECK_OK(impl_->SendOnce(request, &x, &again));
  return std::move(x.response());
}

Error StatusError(const HttpResponse& response) {
  std::string text = (response.who.empty() ? "" : response.who + ": ") + "HTTP " + std::to_string(response.status);
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
    return InvalidError("the URL is malformed");
  std::string scheme = Lower(u.Get(CURLUPART_SCHEME, 0));
  if (scheme != "http" && scheme != "https")
    return InvalidError("the URL does not begin with http:// or https://");
  return scheme + "://" + Lower(u.Get(CURLUPART_HOST, 0)) + ":" +
         u.Get(CURLUPART_PORT, CURLU_DEFAULT_PORT);
}

Result<std::string> ResolveUrl(const std::string& base, const std::string& reference) {
  CurlUrl u;
  if (curl_url_set(u.u, CURLUPART_URL, base.c_str(), 0) != CURLUE_OK ||
      curl_url_set(u.u, CURLUPART_URL, reference.c_str(), 0) != CURLUE_OK)
    return InvalidError("the server redirects to a malformed URL");
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
