// SPDX-License-Identifier: Apache-2.0
#include "http/http_loop.h"

#include <sys/epoll.h>

#include <algorithm>

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxIdleHandles = 64;
constexpr long kMaxConnections = 256;  // kept open
constexpr int kMaxEvents = 64;
constexpr auto kCheckInterval = std::chrono::milliseconds(100);

}  // namespace

Result<std::unique_ptr<HttpLoop>> HttpLoop::Open(HttpOptions options) {
  FASTOCI_CHECK_OK(InitCurl());
  std::unique_ptr<HttpLoop> loop(new HttpLoop(std::move(options)));
  loop->epoll_.reset(epoll_create1(EPOLL_CLOEXEC));
  if (!loop->epoll_.valid()) return ErrnoError("epoll");
  loop->multi_ = curl_multi_init();
  if (loop->multi_ == nullptr)
    return Error{ErrorKind::kInternal, ENOMEM, "libcurl cannot create a handle"};
  curl_multi_setopt(loop->multi_, CURLMOPT_SOCKETFUNCTION, OnSocket);
  curl_multi_setopt(loop->multi_, CURLMOPT_SOCKETDATA, loop.get());
  curl_multi_setopt(loop->multi_, CURLMOPT_TIMERFUNCTION, OnTimer);
  curl_multi_setopt(loop->multi_, CURLMOPT_TIMERDATA, loop.get());
  curl_multi_setopt(loop->multi_, CURLMOPT_MAXCONNECTS, kMaxConnections);
  return loop;
}

HttpLoop::~HttpLoop() {
  for (auto& [id, r] : exchanges_) TakeOut(r.get());
  for (CURL* easy : idle_) curl_easy_cleanup(easy);
  if (multi_ != nullptr) curl_multi_cleanup(multi_);
}

int HttpLoop::OnSocket(CURL*, curl_socket_t socket, int what, void* self, void* known) {
  auto* loop = static_cast<HttpLoop*>(self);
  if (what == CURL_POLL_REMOVE) {
    // It may be closed already, which has taken it out.
    (void)epoll_ctl(loop->epoll_.get(), EPOLL_CTL_DEL, socket, nullptr);
    return 0;
  }
  epoll_event event{};
  event.data.fd = socket;
  if ((what & CURL_POLL_IN) != 0) event.events |= EPOLLIN;
  if ((what & CURL_POLL_OUT) != 0) event.events |= EPOLLOUT;
  // Whether it is known says nothing when its number was used again.
  if (epoll_ctl(loop->epoll_.get(), known != nullptr ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket,
                &event) != 0)
    (void)epoll_ctl(loop->epoll_.get(), errno == EEXIST ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, socket,
                    &event);
  curl_multi_assign(loop->multi_, socket, loop);
  return 0;
}

int HttpLoop::OnTimer(CURLM*, long timeout_ms, void* self) {
  auto* loop = static_cast<HttpLoop*>(self);
  loop->timer_set_ = timeout_ms >= 0;
  if (loop->timer_set_) loop->timer_ = Clock::now() + std::chrono::milliseconds(timeout_ms);
  return 0;
}

uint64_t HttpLoop::Start(HttpRequest request, Done done) {
  uint64_t id = next_id_++;
  auto r = std::make_unique<Running>();
  r->request = std::move(request);
  r->done = std::move(done);
  r->exchange = std::make_unique<Exchange>(options_, r->request, nullptr);
  Status s = Begin(r.get());
  if (!s.ok()) failed_.emplace(id, s.error());
  exchanges_[id] = std::move(r);
  return id;
}

Status HttpLoop::Begin(Running* r) {
  if (!idle_.empty()) {
    r->easy = idle_.back();
    idle_.pop_back();
  } else {
    r->easy = curl_easy_init();
  }
  if (r->easy == nullptr)
    return Error{ErrorKind::kInternal, ENOMEM, "libcurl cannot create a handle"};
  FASTOCI_CHECK_OK(r->exchange->Prepare(r->easy));
  if (curl_multi_add_handle(multi_, r->easy) != CURLM_OK)
    return Error{ErrorKind::kInternal, EIO, "curl_multi_add_handle failed"};
  return OkStatus();
}

void HttpLoop::TakeOut(Running* r) {
  if (r->easy == nullptr) return;
  curl_multi_remove_handle(multi_, r->easy);
  r->exchange->Detach();
  if (idle_.size() < kMaxIdleHandles) {
    idle_.push_back(r->easy);
  } else {
    curl_easy_cleanup(r->easy);
  }
  r->easy = nullptr;
}

void HttpLoop::Cancel(uint64_t id) {
  failed_.erase(id);
  auto it = exchanges_.find(id);
  if (it == exchanges_.end()) return;
  TakeOut(it->second.get());
  exchanges_.erase(it);
}

void HttpLoop::End(uint64_t id, Result<HttpResponse> result) {
  auto it = exchanges_.find(id);
  if (it == exchanges_.end()) return;
  std::unique_ptr<Running> r = std::move(it->second);
  exchanges_.erase(it);
  TakeOut(r.get());
  r->done(std::move(result));
}

int HttpLoop::TimeoutMs() const {
  if (!failed_.empty()) return 0;
  if (exchanges_.empty() && !timer_set_) return -1;
  auto until = next_check_;
  if (exchanges_.empty() || (timer_set_ && timer_ < until)) until = timer_;
  auto left = std::chrono::ceil<std::chrono::milliseconds>(until - Clock::now()).count();
  return static_cast<int>(std::clamp<int64_t>(left, 0, 60000));
}

void HttpLoop::Process() {
  while (!failed_.empty()) {
    auto [id, error] = *failed_.begin();
    failed_.erase(failed_.begin());
    End(id, error);
  }
  int running = 0;
  epoll_event events[kMaxEvents];
  int n = epoll_wait(epoll_.get(), events, kMaxEvents, 0);
  for (int i = 0; i < n; i++) {
    int bits = 0;
    if ((events[i].events & EPOLLIN) != 0) bits |= CURL_CSELECT_IN;
    if ((events[i].events & EPOLLOUT) != 0) bits |= CURL_CSELECT_OUT;
    if ((events[i].events & (EPOLLERR | EPOLLHUP)) != 0) bits |= CURL_CSELECT_ERR;
    curl_multi_socket_action(multi_, events[i].data.fd, bits, &running);
  }
  if (timer_set_ && timer_ <= Clock::now()) {
    timer_set_ = false;
    curl_multi_socket_action(multi_, CURL_SOCKET_TIMEOUT, 0, &running);
  }
  Collect();
  CheckTimes();
}

// Takes what is over out of the multi handle.
void HttpLoop::Collect() {
  int queued = 0;
  while (CURLMsg* m = curl_multi_info_read(multi_, &queued)) {
    if (m->msg != CURLMSG_DONE) continue;
    const CURLcode code = m->data.result;
    CURL* const easy = m->easy_handle;
    auto it = std::find_if(exchanges_.begin(), exchanges_.end(),
                           [easy](const auto& x) { return x.second->easy == easy; });
    if (it == exchanges_.end()) continue;
    Running* r = it->second.get();
    const uint64_t id = it->first;
    curl_multi_remove_handle(multi_, easy);
    bool again = false;
    Status s = r->exchange->Finish(code, &again);
    if (s.ok() && again) {
      s = r->exchange->Prepare(easy);
      if (s.ok() && curl_multi_add_handle(multi_, easy) == CURLM_OK) continue;
      if (s.ok()) s = Error{ErrorKind::kInternal, EIO, "curl_multi_add_handle failed"};
    }
    End(id, s.ok() ? Result<HttpResponse>(std::move(r->exchange->response()))
                   : Result<HttpResponse>(s.error()));
  }
}

void HttpLoop::CheckTimes() {
  auto now = Clock::now();
  if (now < next_check_) return;
  next_check_ = now + kCheckInterval;
  std::vector<std::pair<uint64_t, Error>> late;
  for (auto& [id, r] : exchanges_) {
    if (failed_.count(id) != 0) continue;
    Status s = r->exchange->CheckTime(now);
    if (!s.ok()) late.emplace_back(id, s.error());
  }
  for (auto& [id, error] : late) End(id, error);
}

}  // namespace fastoci
