// SPDX-License-Identifier: Apache-2.0
#include "miss/miss_service.h"

#include <algorithm>

#include "base/monotonic.h"

namespace fastoci {
namespace {

constexpr auto kDrainPoll = std::chrono::milliseconds(10);
constexpr uint32_t kMaxLooks = 1 << 16;  // chunks, and
constexpr size_t kMaxRuns = 1 << 12;     // runs of them, that one answer is about
constexpr char kNoDigests[] = "its meta layer has no chunk digests";
constexpr char kReferred[] =
    "its chunk digests come from a referrer, which the manifest does not name";

}  // namespace

Result<std::unique_ptr<MissService>> MissService::Make(MissServiceOptions options,
                                                       FetchStage::Spawn spawn_fetcher,
                                                       Catalog::Devices devices) {
  FASTOCI_TRY(auto arena, Arena::Make(options.arena_bytes));
  std::unique_ptr<MissService> service(new MissService(
      std::move(options), std::move(spawn_fetcher), std::move(devices), std::move(arena)));
  return service;
}

MissService::MissService(MissServiceOptions options, FetchStage::Spawn spawn_fetcher,
                         Catalog::Devices devices, std::shared_ptr<Arena> arena)
    : options_(std::move(options)),
      arena_(std::move(arena)),
      dispatcher_(options_.dispatcher, &counters_, &tracer_) {
  decode_ = std::make_unique<DecodeStage>(options_.decode, arena_, &dispatcher_, &counters_);
  fetch_ = std::make_unique<FetchStage>(options_.fetch, std::move(spawn_fetcher), arena_,
                                        &dispatcher_, decode_.get(), &counters_, &tracer_);
  catalog_ = std::make_unique<Catalog>(options_.catalog, std::move(devices), &dispatcher_,
                                       fetch_.get(), &counters_);
  checker_ = std::make_unique<Checker>(catalog_.get(), &dispatcher_, &counters_,
                                       options_.verify_on_read, options_.check_threads);
  download_ = std::make_unique<Download>(catalog_.get(), &dispatcher_, &counters_,
                                         options_.download);
  whole_ = std::make_unique<WholeCheck>(options_.whole, options_.decode, catalog_.get(),
                                        &dispatcher_, fetch_.get(), checker_.get(),
                                        download_.get(), &counters_);
  seeds_ = std::make_unique<SeedIntake>(catalog_.get(), &dispatcher_, &counters_);
  SetHooks();
}

void MissService::SetHooks() {
  dispatcher_.SetHooks(
      {.fetch = [this] { fetch_->Wake(); },
       .cached = [this] { checker_->Wake(); },
       .idle = [this] { download_->Wake(); },
       .ended = [this](uint32_t image, const Status& s) { download_->OnEnded(image, s); },
       .fields =
           [this](const char* kind, uint32_t image, const BlobInfo& blob) {
             return catalog_->FieldsOf(kind, image, blob);
           }});
  catalog_->SetHooks(
      {.spaces_changed = [this] { checker_->CheckSoon(); },
       .image_added =
           [this](const Catalog::Image& i) { download_->OnImageAdded(i.info.image); },
       .image_removed =
           [this](const Catalog::Image& i) {
             download_->OnImageRemoved(i.info.image);
             dispatcher_.ForgetImage(i.info.image);
           }});
}

MissService::~MissService() { Stop(); }

Status MissService::Start(KernelLink* link, bool takeover) {
  link_ = link;  // before the first event, which follows the registration
  dispatcher_.SetLink(link);
  catalog_->SetLink(link);
  FASTOCI_CHECK_OK(link->Register(takeover));
  FASTOCI_CHECK_OK(fetch_->Start({.gone = [this] { catalog_->ForgetLocations(); },
                                  // Images that wait for their next try are opened at once.
                                  .replaced = [this] { catalog_->ForgetLocations(); }}));
  started_ = true;
  decode_->Start();
  checker_->Start();
  catalog_->Start();
  download_->Start([this](const SpaceInfo& space) { return whole_->Awaits(space); });
  whole_->Start();
  return OkStatus();
}

void MissService::Stop() {
  if (!std::exchange(started_, false)) return;
  dispatcher_.Stop();
  dispatcher_.Drain();
  for (auto& cache : catalog_->Caches()) cache->Interrupt();
  fetch_->Stop();
  download_->Stop();
  checker_->Stop();
  whole_->Stop();
  seeds_->Stop();
  catalog_->Stop();
  decode_->Stop();
  catalog_->EndCaches();
}

void MissService::Drain(int timeout_ms) {
  dispatcher_.Drain();
  const auto deadline = Clock::now() + std::chrono::milliseconds(timeout_ms);
  while (dispatcher_.nr_running() > 0 && Clock::now() < deadline)
    std::this_thread::sleep_for(kDrainPoll);
  catalog_->CommitAll();
}

void MissService::Reconfigure(bool keep_cache, const CacheLimits& limits,
                              const DownloadConfig& download, uint64_t readahead_bytes) {
  catalog_->Reconfigure(keep_cache, limits);
  dispatcher_.SetReadahead(readahead_bytes);
  download_->Reconfigure(download);
}

void MissService::ReopenImages() { catalog_->ReopenImages(); }

// ---- events, on the link's thread ----

void MissService::OnMiss(uint32_t cache, std::span<const ChunkEntry> chunks) {
  link_->Ack(cache, static_cast<uint32_t>(chunks.size()));
  counters_.misses += chunks.size();
  const auto now = Clock::now();
  for (const ChunkEntry& c : chunks)
    if (!dispatcher_.Want(cache, c.space, c.chunk_no, UrgencyOfMiss(c.miss_class), now))
      catalog_->AddOrphan(cache, c, now);
}

void MissService::OnEvicted(uint32_t number, std::span<const ChunkEntry> chunks) {
  if (auto cache = catalog_->CacheOf(number)) cache->OnEvicted(chunks);
}

void MissService::OnSlotBad(uint32_t number, std::span<const ChunkEntry> chunks) {
  if (auto cache = catalog_->CacheOf(number)) cache->OnSlotBad(chunks);
}

void MissService::OnReplaced() {
  if (ends_.replaced) ends_.replaced();
}

void MissService::OnBroken() {
  if (ends_.broken) ends_.broken();
}

void MissService::OnImage(const ImageInfo&, bool) { catalog_->RefreshSoon(); }

void MissService::OnCacheRemoved(uint32_t) { catalog_->RefreshSoon(); }

void MissService::OnLost() { catalog_->RefreshSoon(true); }

// ---- for the control socket ----

std::vector<Cache::Stat> MissService::Caches() {
  std::vector<Cache::Stat> out;
  for (auto& cache : catalog_->Caches()) out.push_back(cache->GetStat());
  return out;
}

std::string MissService::CacheRefuses(uint32_t dev) {
  for (auto& cache : catalog_->Caches())
    if (cache->info().dev == dev) return cache->Refuses();
  return "";
}

Result<MissService::Cached> MissService::CachedChunks(const Sha256Digest& image_id,
                                                      const Sha256Digest& space_id, uint64_t from) {
  for (const Catalog::Image& image : catalog_->Images()) {
    auto cache = catalog_->CacheOf(image.info.cache);
    if (image.info.image_id != image_id || !cache) continue;
    for (const SpaceInfo& space : catalog_->SpacesOf(image)) {
      if (space.id != space_id) continue;
      Cached found;
      found.device = cache->device()->path();
      found.nr_chunks = space.nr_chunks;
      found.next = static_cast<uint32_t>(std::min<uint64_t>(from, space.nr_chunks));
      const uint32_t end = found.next + std::min(kMaxLooks, space.nr_chunks - found.next);
      for (; found.next < end && found.runs.size() < kMaxRuns; found.next++) {
        const auto where = cache->Find(space.space, found.next);
        if (!where) continue;
        Cached::Run* last = found.runs.empty() ? nullptr : &found.runs.back();
        if (last && last->chunk_no + last->count == found.next && last->slot + last->count == where->slot)
          last->count++;
        else
          found.runs.push_back({found.next, where->slot, 1});
      }
      return found;
    }
  }
  return NotFoundError("no attached image has that data space");
}

// A read that has waited for so long is reported even if nothing has failed yet.
static constexpr std::chrono::seconds kSlowAnswer{3};

std::vector<MissService::WaitsFor> MissService::WaitsOf(
    const Dispatcher::Waiting& waiting, const std::map<uint32_t, HostState>& hosts) {
  std::vector<WaitsFor> out;
  const bool is_slow = Clock::now() - waiting.oldest > kSlowAnswer;
  if (waiting.can_go_on && !is_slow) return out;
  const int64_t now = MonotonicMs();
  for (const Dispatcher::Waiting::At& at : waiting.locations) {
    auto host = hosts.find(at.host);
    if (host == hosts.end()) continue;
    const HostState& h = host->second;
    WaitsFor w;
    w.host = h.name;
    w.cause = h.gate == HostGate::kOpen || h.cause.empty() ? at.trouble : h.cause;
    if (w.cause.empty()) w.cause = "no answer yet";
    if (h.since_ms > 0) w.since = std::chrono::milliseconds(std::max<int64_t>(now - h.since_ms, 0));
    const int64_t next = std::max(h.gated_until_ms, waiting.next_try_ms);
    w.next_try = std::chrono::milliseconds(std::max<int64_t>(next - now, 0));
    out.push_back(std::move(w));
  }
  return out;
}

std::vector<MissService::ImageStat> MissService::Images() {
  std::vector<ImageStat> out;
  const auto waiting = dispatcher_.WaitingBySpace();
  std::map<uint32_t, HostState> hosts;
  for (HostState& h : dispatcher_.Hosts()) hosts[h.host] = std::move(h);
  for (const Catalog::Image& image : catalog_->Images()) {
    ImageStat s{.info = image.info, .error = image.error};
    s.bytes_fetched = dispatcher_.bytes_of(image.info.image);
    s.pinned = catalog_->IsPinned(image.info.cache, image.info.image_id);
    const auto download = download_->StatOf(image.info.image);
    s.prefetching = download.prefetching;
    s.prefetch_error = download.error;
    auto cache = catalog_->CacheOf(image.info.cache);
    if (cache) {
      for (const SpaceInfo& space : catalog_->SpacesOf(image)) {
        s.chunks += space.nr_chunks;
        s.present += cache->CountPresent(space.space);
        auto w = waiting.find({space.cache, space.space});
        if (w == waiting.end()) continue;
        s.in_flight += w->second.chunks;
        s.oldest = std::max(s.oldest, std::chrono::duration_cast<std::chrono::milliseconds>(
                                          Clock::now() - w->second.oldest));
        for (WaitsFor& why : WaitsOf(w->second, hosts))
          if (std::none_of(s.waits_for.begin(), s.waits_for.end(),
                           [&](const WaitsFor& o) { return o.host == why.host; }))
            s.waits_for.push_back(std::move(why));
      }
    }
    if (image.meta && !image.opened && image.at.locations.empty() && s.in_flight > 0)
      s.waits_for.push_back({.host = "",
                             .cause = image.open_error.empty() ? "the fetcher is being started"
                                                               : image.open_error,
                             .since = std::chrono::milliseconds(0),
                             .next_try = std::max(
                                 std::chrono::milliseconds(0),
                                 std::chrono::duration_cast<std::chrono::milliseconds>(
                                     image.open_at - Clock::now()))});
    out.push_back(std::move(s));
  }
  return out;
}

Result<std::vector<ImageInfo>> MissService::ReadCounts() {
  if (!link_) return std::vector<ImageInfo>();
  return link_->GetImages();
}

std::vector<MissService::SpaceStat> MissService::Spaces() {
  std::vector<SpaceStat> out;
  for (const SpaceInfo& info : catalog_->Spaces()) {
    SpaceStat s;
    s.info = info;
    auto cache = catalog_->CacheOf(info.cache);
    s.info.nr_present = cache ? cache->CountPresent(info.space) : 0;
    auto view = dispatcher_.ViewOf(info.cache, info.space);
    s.used = view != nullptr;
    if (!view) {
      s.why = "no attached image uses it";
      out.push_back(std::move(s));
      continue;
    }
    const BlobInfo& blob = *view->blob;
    s.blob = blob.blob_digest;
    if (!blob.digests.empty()) s.verified = blob.whole ? Verified::kWhole : Verified::kByChunk;
    if (blob.unproven()) {
      s.why = blob.digests.empty() ? kNoDigests : kReferred;
      const std::string why = whole_->WhyOf(info);
      if (!why.empty())
        s.why += "; " + why;
      else
        s.why += options_.whole == WholePolicy::kOff ? "; wholeBlob is off"
                                                     : "; the whole blob will be checked";
    }
    out.push_back(std::move(s));
  }
  return out;
}

}  // namespace fastoci
