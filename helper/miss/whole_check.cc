// SPDX-License-Identifier: Apache-2.0
#include "miss/whole_check.h"

#include <algorithm>

#include "base/event.h"

namespace fastoci {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(200);
constexpr auto kUnusedPoll = std::chrono::milliseconds(20);
constexpr auto kTryAgain = std::chrono::seconds(60);
constexpr auto kAskAgain = std::chrono::seconds(1);  // if its hosts did not answer

Error Stopping() { return {ErrorKind::kUnavailable, ECANCELED, "stopping"}; }

}  // namespace

WholeCheck::WholeCheck(WholePolicy policy, const DecodeOptions& decode, Catalog* catalog,
                       Dispatcher* dispatcher, FetchStage* fetch, Checker* checker,
                       Download* download, Counters* counters)
    : policy_(policy),
      reader_parts_({.decode = decode,
                     .dispatcher = dispatcher,
                     .fetch = fetch,
                     .counters = counters,
                     .stop = [this] { return stop_.load(); },
                     .pace = [this](Clock::time_point begin,
                                    uint64_t bytes) { return Pace(begin, bytes); }}),
      catalog_(catalog),
      dispatcher_(dispatcher),
      checker_(checker),
      download_(download) {}

WholeCheck::~WholeCheck() { Stop(); }

void WholeCheck::Start() {
  if (policy_ != WholePolicy::kOff) thread_ = std::thread([this] { Run(); });
}

void WholeCheck::Stop() {
  {
    MutexLock lock(mutex_);
    stop_ = true;
    changed_.NotifyAll();
  }
  if (thread_.joinable()) thread_.join();
}

bool WholeCheck::AwaitsLocked(const SpaceView& view) {
  if (policy_ == WholePolicy::kOff || !view.blob->unproven()) return false;
  auto it = states_.find({view.info.cache, view.info.space});
  return it == states_.end() || !it->second.ended;
}

bool WholeCheck::Awaits(const SpaceInfo& space) {
  auto view = dispatcher_->ViewOf(space.cache, space.space);
  if (!view) return false;
  MutexLock lock(mutex_);
  auto it = states_.find({space.cache, space.space});
  return AwaitsLocked(*view) && (it == states_.end() || !it->second.unread);
}

std::string WholeCheck::WhyOf(const SpaceInfo& space) {
  MutexLock lock(mutex_);
  auto it = states_.find({space.cache, space.space});
  return it == states_.end() ? "" : it->second.why;
}

std::shared_ptr<const SpaceView> WholeCheck::Next() {
  if (dispatcher_->draining()) return nullptr;
  const auto now = Clock::now();
  for (const auto& cache : catalog_->Caches()) {
    const auto views = dispatcher_->Views(cache->info().cache);
    MutexLock lock(mutex_);
    for (const auto& view : views) {
      if (!AwaitsLocked(*view)) continue;
      auto it = states_.find({view->info.cache, view->info.space});
      if (it != states_.end() && it->second.at > now) continue;
      if (!dispatcher_->CanGoOn(view->info.cache, view->info.space)) continue;
      // A small blob does not wait for the download's delay.
      // A copy: ReplaceBlob() must be able to tell it from the view that jobs share.
      if (download_->IsDue(view->image) || catalog_->IsSmall(*view->blob))
        return std::make_shared<const SpaceView>(*view);
    }
  }
  return nullptr;
}

void WholeCheck::Run() {
  while (!stop_) {
    if (auto view = Next()) {
      Check(view);
      continue;
    }
    MutexLock lock(mutex_);
    changed_.WaitFor(mutex_, kPoll, [&] { return stop_.load(); });
  }
}

void WholeCheck::SetWhy(const SpaceView& view, const std::string& why, Clock::duration pause,
                        bool unread) {
  MutexLock lock(mutex_);
  State& state = states_[{view.info.cache, view.info.space}];
  state.why = why;
  state.unread |= unread;
  state.at = Clock::now() + pause;
}

// ---- reading ----

// Behind all that somebody waits for, and not faster than the download may.
Status WholeCheck::Pace(Clock::time_point begin, uint64_t bytes) {
  const uint64_t rate = download_->config().max_mbps * 1000;
  const auto due = begin + std::chrono::milliseconds(rate ? bytes / rate : 0);
  const bool others = dispatcher_->HasQueued(Urgency::kAhead);
  MutexLock lock(mutex_);
  auto stop = [&] { return stop_.load(); };
  changed_.WaitUntil(mutex_, due, stop);
  if (others) changed_.WaitFor(mutex_, kPoll, stop);
  return stop_ ? Status(Stopping()) : OkStatus();
}

// Whether what the check reads is to be cached.
bool WholeCheck::IsDownload(const SpaceView& view) {
  if (!download_->config().enable) return false;
  for (const Catalog::Image& image : catalog_->Images())
    if (image.info.image == view.image) return catalog_->Fits(image).ok();
  return false;
}

// Those of blobs that nobody has any more.
void WholeCheck::DropReaders() {
  std::erase_if(readers_, [&](const auto& r) {
    auto view = dispatcher_->ViewOf(r.first.first, r.first.second);
    return !view || view->blob->data_space_id != r.second.id;
  });
}

bool WholeCheck::WaitUntil(const std::function<bool()>& condition) {
  while (!condition()) {
    MutexLock lock(mutex_);
    if (changed_.WaitFor(mutex_, kUnusedPoll, [&] { return stop_.load(); })) return false;
  }
  return true;
}

void WholeCheck::Check(const std::shared_ptr<const SpaceView>& view) {
  const std::string name = DigestString(view->blob->blob_digest);
  SetWhy(*view, "the whole blob is being checked", kTryAgain, false);
  DropReaders();
  const SpaceKey key{view->info.cache, view->info.space};
  Reader& reader = readers_[key];
  if (!reader.reader)
    reader = {view->blob->data_space_id, std::make_unique<WholeReader>(reader_parts_)};
  // A copy again, as chunks that it caches may be in the writer's queue after its end.
  auto digests = reader.reader->Run(std::make_shared<const SpaceView>(*view), IsDownload(*view));
  if (stop_ || dispatcher_->stopping() || !dispatcher_->ViewOf(key.first, key.second)) return;
  const bool lied = !digests.ok() && digests.error().kind == ErrorKind::kMismatch;
  if (digests.ok() || lied) readers_.erase(key);
  if (digests.ok()) return Adopt(view, *digests);
  const std::string& why = digests.error().message;
  if (!lied && digests.error().err == EAGAIN) {  // the hosts' events have told it
    SetWhy(*view, "the check of the whole blob waits: " + why, kAskAgain, false);
    return;
  }
  if (!lied) {
    LogEvent(LogLevel::kWarning, catalog_->FieldsOf("whole_unread", view->image, *view->blob),
             "%s: the whole blob could not be checked: %s", name.c_str(), why.c_str());
    SetWhy(*view, "the whole blob could not be read: " + why, kTryAgain, true);
    return;
  }
  const bool refuse = policy_ == WholePolicy::kFail;
  const std::string text = name + " as a whole does not match its digest: " + why;
  LogEvent(LogLevel::kError, catalog_->FieldsOf("whole_wrong", view->image, *view->blob), "%s%s",
           text.c_str(),
           refuse ? ": the helper serves nothing of it any more"
                  : ": the helper serves it all the same, because wholeBlob is report");
  if (refuse) dispatcher_->Refuse(view->info.cache, view->info.space, text);
  {
    MutexLock lock(mutex_);
    State& state = states_[{view->info.cache, view->info.space}];
    state.ended = true;
    state.why = text;
  }
  if (!refuse) return;
  // Wait until no job is left that does not know of the refusal.
  if (WaitUntil(catalog_->ReplaceBlob(view, [](BlobInfo*) {})))
    (void)view->cache->EvictSpaces({view->info.space});
}

void WholeCheck::Adopt(std::shared_ptr<const SpaceView> view,
                       const std::vector<Sha256Digest>& digests) {
  const BlobInfo blob = *view->blob;
  if (!blob.digests.empty() && blob.digests != digests)
    Log(LogLevel::kError,
        "%s: the referrer's chunk digests do not match the blob: the helper now uses digests of "
        "the whole blob; delete that referrer",
        DigestString(blob.blob_digest).c_str());
  if (!WaitUntil(catalog_->ReplaceBlob(view, [&](BlobInfo* b) {
        b->digests = digests;
        b->whole = true;
      })))
    return;
  auto now = dispatcher_->ViewOf(view->info.cache, view->info.space);
  if (!now) return;
  const auto compared = checker_->Compare(now->cache, *now);
  if (!compared) return;
  const uint64_t planted = *compared;
  // Not earlier: the record says that all chunks that are served were compared.
  if (view->cache->db()) {
    Status s = view->cache->db()->RecordDigests(blob.data_space_id, digests);
    if (!s.ok()) Log(LogLevel::kWarning, "%s", s.error().message.c_str());
  }
  EventFields fields = catalog_->FieldsOf("whole_verified", view->image, blob);
  fields.count = planted;
  LogEvent(planted ? LogLevel::kError : LogLevel::kInfo, fields,
           "%s: verified as a whole, %llu cached chunks differed%s", fields.blob.c_str(),
           static_cast<unsigned long long>(planted),
           planted ? ": a source lied; files that were read from them may still be in the page "
                     "cache: restart what runs from this image"
                   : "");
}

}  // namespace fastoci
