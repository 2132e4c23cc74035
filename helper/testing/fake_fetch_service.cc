// SPDX-License-Identifier: Apache-2.0
#include "testing/fake_fetch_service.h"

#include <sys/eventfd.h>

#include <algorithm>

#include "base/json.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr uint32_t kFakeWindow = 64;

Error Gone() { return {ErrorKind::kUnavailable, EPIPE, "fetcher: the other end is gone"}; }

}  // namespace

FakeFetchService::FakeFetchService(std::span<uint8_t> arena)
    : arena_(arena), event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  host_numbers_["files"] = kLocalHost;
}

void FakeFetchService::AddBlob(const std::string& digest, std::string data) {
  std::lock_guard<std::mutex> lock(mutex_);
  blobs_[digest] = std::move(data);
}

void FakeFetchService::SetData(uint32_t location, std::string data) {
  std::lock_guard<std::mutex> lock(mutex_);
  data_[location] = std::move(data);
}

void FakeFetchService::Fail(uint32_t location, Failure failure) {
  std::lock_guard<std::mutex> lock(mutex_);
  failures_[location].push_back(std::move(failure));
}

void FakeFetchService::Hold(uint32_t host, bool on) {
  std::lock_guard<std::mutex> lock(mutex_);
  held_[host] = on;
  if (!on) AnswerAll(host);
}

void FakeFetchService::AnswerHeld(uint32_t host, std::optional<uint8_t> miss_class) {
  std::lock_guard<std::mutex> lock(mutex_);
  AnswerAll(host, miss_class);
}

void FakeFetchService::AnswerAll(uint32_t host, std::optional<uint8_t> miss_class) {
  std::vector<FetchRequest> waiting;
  for (const auto& [id, request] : running_)
    if (auto it = places_.find(request.location);
        it != places_.end() && it->second.host == host &&
        miss_class.value_or(request.miss_class) == request.miss_class)
      waiting.push_back(request);
  for (const FetchRequest& request : waiting) Answer(request);
}

void FakeFetchService::SetHost(HostState state) {
  std::lock_guard<std::mutex> lock(mutex_);
  hosts_[state.host] = state;
  FetchEvent e;
  e.kind = FetchEvent::kHost;
  e.host = std::move(state);
  Push(std::move(e));
}

void FakeFetchService::Die() {
  std::lock_guard<std::mutex> lock(mutex_);
  dead_ = true;
  events_.clear();
  (void)eventfd_write(event_.get(), 1);
}

std::vector<FetchRequest> FakeFetchService::Fetches() {
  std::lock_guard<std::mutex> lock(mutex_);
  return fetches_;
}

size_t FakeFetchService::running() {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_.size();
}

int FakeFetchService::gates_opened() {
  std::lock_guard<std::mutex> lock(mutex_);
  return gates_opened_;
}

Result<std::vector<std::vector<FetchLocation>>> FakeFetchService::OpenImage(uint32_t, const std::string&,
                                                                            ByteSpan json) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (dead_) return Gone();
  Json root = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!root.is_object()) return InvalidError("image JSON: not a JSON object");
  auto number = [](std::map<std::string, uint32_t>* numbers, const std::string& name) {
    return numbers->try_emplace(name, static_cast<uint32_t>(numbers->size())).first->second;
  };
  std::vector<std::vector<FetchLocation>> blobs;
  for (const Json& blob : JsonChild(root, "blobs")) {
    std::string digest = JsonText(blob, "digest");
    blobs.emplace_back();
    for (const Json& source : JsonChild(blob, "sources")) {
      bool file = JsonText(source, "type") == "file";
      std::string host =
          file ? "files" : JsonText(source, "scheme") + "://" + JsonText(source, "host");
      std::string place =
          digest + " " + host + " " + JsonText(source, file ? "path" : "repository");
      FetchLocation l{number(&location_numbers_, place) + 1, number(&host_numbers_, host)};
      places_[l.location] = {digest, l.host};
      blobs.back().push_back(l);
      if (hosts_.count(l.host) != 0) continue;
      FetchEvent e;
      e.kind = FetchEvent::kHost;
      e.host.host = l.host;
      e.host.name = host;
      e.host.window = kFakeWindow;
      hosts_[l.host] = e.host;
      Push(std::move(e));
    }
  }
  return blobs;
}

Status FakeFetchService::CloseImage(uint32_t) {
  std::lock_guard<std::mutex> lock(mutex_);
  return dead_ ? Status(Gone()) : OkStatus();
}

Status FakeFetchService::Fetch(const FetchRequest& request) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (dead_) return Gone();
  if (request.length == 0 || request.length > kMaxFetchBytes ||
      request.arena_offset > arena_.size() ||
      request.length > arena_.size() - request.arena_offset)
    return InvalidError("fetch out of bounds");
  if (running_.count(request.id) != 0 || running_.size() >= kMaxFetches)
    return InvalidError("fetch runs already");
  fetches_.push_back(request);
  running_[request.id] = request;
  auto place = places_.find(request.location);
  if (place == places_.end()) {
    Finish(request.id, 0, FetchOutcome::kRefused, InvalidError("no such location"), 0);
    return OkStatus();
  }
  const uint32_t host = place->second.host;
  const HostState& state = hosts_[host];
  auto here = std::count_if(running_.begin(), running_.end(), [&](const auto& r) {
    auto it = places_.find(r.second.location);
    return it != places_.end() && it->second.host == host;
  });
  if (host != kLocalHost && (state.gate == HostGate::kGated || here > state.window)) {
    Finish(request.id, 0, FetchOutcome::kGated, {ErrorKind::kUnavailable, EAGAIN, "gated"},
           state.gated_until_ms);
    return OkStatus();
  }
  if (!held_[host]) Answer(request);
  return OkStatus();
}

void FakeFetchService::Answer(const FetchRequest& request) {
  const Place& place = places_[request.location];
  auto own = data_.find(request.location);
  const std::string& data = own != data_.end() ? own->second : blobs_[place.digest];
  std::deque<Failure>& failures = failures_[request.location];
  uint64_t total = request.length;
  FetchOutcome outcome = FetchOutcome::kDone;
  Failure failure;
  if (!failures.empty()) {
    failure = failures.front();
    if (--failures.front().count <= 0) failures.pop_front();
    outcome = failure.outcome;
    total = std::min(failure.total, request.length);
  }
  if (request.offset > data.size() || total > data.size() - request.offset) {
    Finish(request.id, 0, FetchOutcome::kGone, NotFoundError("not in the fake"), 0);
    return;
  }
  std::copy_n(data.begin() + static_cast<ptrdiff_t>(request.offset), total,
              arena_.begin() + static_cast<ptrdiff_t>(request.arena_offset));
  Finish(request.id, total, outcome, failure.error, failure.retry_at_ms);
}

void FakeFetchService::Finish(uint32_t id, uint64_t total, FetchOutcome outcome, Error error,
                              int64_t retry_at_ms) {
  running_.erase(id);
  FetchEvent e;
  e.kind = outcome == FetchOutcome::kDone ? FetchEvent::kDone : FetchEvent::kFailed;
  e.id = id;
  e.total = total;
  e.outcome = outcome;
  e.tally.requests = outcome == FetchOutcome::kGated ? 0 : 1;
  e.retry_at_ms = retry_at_ms;
  if (outcome != FetchOutcome::kDone) e.error = std::move(error);
  Push(std::move(e));
}

void FakeFetchService::Push(FetchEvent event) {
  events_.push_back(std::move(event));
  (void)eventfd_write(event_.get(), 1);
}

Status FakeFetchService::Cancel(uint32_t id) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (dead_) return Gone();
  if (running_.count(id) != 0)
    Finish(id, 0, FetchOutcome::kCanceled, {ErrorKind::kInternal, ECANCELED, "canceled"}, 0);
  return OkStatus();
}

Status FakeFetchService::OpenGate(uint32_t) {
  std::lock_guard<std::mutex> lock(mutex_);
  gates_opened_++;
  return dead_ ? Status(Gone()) : OkStatus();
}

Result<FetchEvent> FakeFetchService::Receive() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (dead_) return Gone();
  if (events_.empty()) {
    eventfd_t ignored;
    (void)eventfd_read(event_.get(), &ignored);
    return Error{ErrorKind::kUnavailable, ETIMEDOUT, "timeout"};
  }
  FetchEvent e = std::move(events_.front());
  events_.pop_front();
  return e;
}

}  // namespace fastoci
