// SPDX-License-Identifier: Apache-2.0
// Whole blobs: what makes a data space trusted that has no chunk digests, or
// digests that the manifest does not vouch for (a referrer's: BlobInfo::unproven()).
// Ranges of its blob could be anything; the blob as a whole has a digest. So,
// behind the images' download delay and at the download's rate, the blob is read
// once from end to end by a hashing lane, which gives the digest of what went in
// and the 64 KiB pieces that came out. If the former is right, the pieces' digests
// are what the meta layer should have said:
//
//   1. they are recorded, and every job from now on verifies by them;
//   2. once no job is left that does not, all that is cached is compared, and
//      what differs is evicted.
//
// With download.enable this is the download of such a layer: its chunks are cached as they come.
//
// A blob that is not what its digest says, from no source, is a mismatch: by
// policy it is reported, or refused, so that nothing of it is served any more.
#include <algorithm>

#include "base/log.h"
#include "broker/chunk_check.h"
#include "broker/job_context.h"

namespace fastoci {
namespace {

constexpr uint32_t kMaxTries = 3;  // from one source after another
constexpr auto kPoll = std::chrono::milliseconds(200);
constexpr auto kUsersPoll = std::chrono::milliseconds(20);
constexpr auto kTryAgain = std::chrono::seconds(60);
constexpr uint64_t kSlowestBytesPerMs = 64;  // of a source that is not given up
constexpr char kNoDigests[] = "its meta layer has no chunk digests";
constexpr char kReferred[] = "its chunk digests come from a referrer, which the manifest does not name";

}  // namespace

bool MissService::AwaitsWholeLocked(const Space& space) const {
  return options_.whole != WholePolicy::kOff && space.info_of_blob().unproven() &&
         !space.whole_ended;
}

std::optional<MissService::SpaceKey> MissService::NextWholeLocked() {
  const auto now = Clock::now();
  for (const auto& [key, space] : spaces_) {
    if (!space.meta || !AwaitsWholeLocked(space)) continue;
    auto image = images_.find(space.image);
    if (image == images_.end() || space.whole_at > now) continue;
    // A small blob is not waited with.
    if (image->second.download_at > now && !IsSmall(space.info_of_blob())) continue;
    return key;
  }
  return std::nullopt;
}

void MissService::CheckWhole() {
  std::unique_lock lock(mutex_);
  while (!stop_) {
    auto key = draining_ ? std::nullopt : NextWholeLocked();
    if (!key) {
      idle_.wait_for(lock, kPoll);
      continue;
    }
    auto cache = caches_.find(key->first);
    if (cache == caches_.end()) {
      spaces_[*key].whole_at = Clock::now() + kPoll;
      continue;
    }
    const Space space = spaces_[*key];
    auto c = cache->second;
    lock.unlock();
    CheckWholeBlob(c, space);
    lock.lock();
  }
}

bool MissService::DownloadsWhole(const Space& space) {
  std::lock_guard lock(mutex_);
  auto image = images_.find(space.image);
  return options_.download.enable && image != images_.end() &&
         caches_.count(image->second.info.cache) &&
         FitsLocked(image->second, SpacesOfLocked(image->second)).ok();
}

// Reads the blob: OK with its pieces' digests if it is what its own says. What comes is cached as
// well where that is wanted: as good, until the end, as what a range of it brings.
Result<std::vector<Sha256Digest>> MissService::ReadWhole(const Space& space, uint32_t attempt) {
  const BlobInfo& blob = space.info_of_blob();
  FASTOCI_TRY(auto lane, lanes_->NewLane(LaneKind::kHashing));
  LaneJob job;
  job.image = space.image;
  job.blob = space.blob;
  job.info = &blob;
  job.range = {.input_end = blob.blob_bytes, .out_end = blob.data_bytes};
  job.deadline_ms = options_.fetch_deadline_ms +
                    static_cast<uint32_t>(std::min<uint64_t>(blob.blob_bytes / kSlowestBytesPerMs,
                                                             86400000));
  job.attempt = attempt;
  JobContext kept;
  bool keep = DownloadsWhole(space) &&
              Prepare({.first = {space.info.cache, space.info.space, 0}}, &kept).ok();
  std::vector<Sha256Digest> digests;
  uint64_t next = 0, counted = 0;
  auto count = [&] {
    CountBytes(lane->bytes_fetched() - counted, true);
    counted = lane->bytes_fetched();
  };
  const auto begin = Clock::now();
  Status ran = lane->Run(job, [&](uint64_t at, ByteSpan piece) -> Status {
    if (at != next || piece.size() != std::min<uint64_t>(kDigestBytes, blob.data_bytes - at))
      return MismatchError("the decoder's pieces are out of order");
    next += piece.size();
    digests.push_back(Sha256::Of(piece));
    // A referrer's digests hold until the end, too.
    keep = keep && (blob.digests.empty() || blob.digests[digests.size() - 1] == digests.back()) &&
           KeepPiece(&kept, at, piece, digests.back()).ok();
    count();
    return Pace(begin, lane->bytes_fetched());
  });
  count();
  CountRequests(*lane);
  if (!ran.ok()) return ran.error();
  if (next != blob.data_bytes) return MismatchError("the lane ended before its range");
  if (const Sha256Digest got = lane->input_digest(); got != blob.blob_digest)
    return MismatchError("what the source sends is " + DigestString(got));
  return digests;
}

// Behind all that somebody waits for, and not faster than the download may.
Status MissService::Pace(Clock::time_point begin, uint64_t bytes) {
  std::unique_lock lock(mutex_);
  const auto due = begin + std::chrono::milliseconds(bytes / (options_.download.max_mbps * 1000));
  idle_.wait_until(lock, due, [&] { return stop_; });
  if (!stop_ && queue_.HasWork(Urgency::kAhead)) idle_.wait_for(lock, kPoll);
  return stop_ ? Status(Error{ErrorKind::kUnavailable, ECANCELED, "stopping"}) : OkStatus();
}

void MissService::CheckWholeBlob(const std::shared_ptr<Cache>& cache, const Space& space) {
  const std::string name = DigestString(space.info_of_blob().blob_digest);
  SetWhy(space, "the whole blob is being checked");
  Result<std::vector<Sha256Digest>> digests = NotFoundError("not tried");
  bool lied = false;
  for (uint32_t tries = 0; tries < kMaxTries; tries++) {
    digests = ReadWhole(space, tries);
    if (stopping()) return;
    if (digests.ok()) break;
    const ErrorKind kind = digests.error().kind;
    lied = kind == ErrorKind::kMismatch || kind == ErrorKind::kInvalid;
    if (!lied) break;
    counters_.mismatches++;
  }
  if (digests.ok()) return AdoptWhole(cache, space, *digests);
  const std::string& why = digests.error().message;
  if (!lied) {
    LogEvent(LogLevel::kWarning, FieldsOf("whole_unread", space.image, space.info_of_blob()),
             "%s: not checked as a whole: %s", name.c_str(), why.c_str());
    SetWhy(space, "the whole blob could not be read: " + why, true);
    return;
  }
  const bool refuse = options_.whole == WholePolicy::kFail;
  const std::string text = name + " as a whole does not match its digest: " + why;
  LogEvent(LogLevel::kError, FieldsOf("whole_wrong", space.image, space.info_of_blob()), "%s%s",
           text.c_str(),
           refuse ? ": nothing of it is served any more"
                  : ": served all the same (wholeBlob is report)");
  {
    std::lock_guard lock(mutex_);
    auto it = spaces_.find({space.info.cache, space.info.space});
    if (it != spaces_.end()) {
      it->second.whole_ended = true;
      it->second.why = text;
      if (refuse) it->second.refused = text;
    }
  }
  if (!refuse) return;
  ReplaceMeta(space, [](BlobInfo*) {});  // no job is left that does not know
  (void)cache->EvictSpaces({space.info.space});
}

void MissService::SetWhy(const Space& space, const std::string& why, bool unread) {
  std::lock_guard lock(mutex_);
  auto it = spaces_.find({space.info.cache, space.info.space});
  if (it == spaces_.end()) return;
  it->second.why = why;
  it->second.whole_unread |= unread;
  it->second.whole_at = Clock::now() + kTryAgain;
}

void MissService::AdoptWhole(const std::shared_ptr<Cache>& cache, const Space& space,
                             const std::vector<Sha256Digest>& digests) {
  const BlobInfo& blob = space.info_of_blob();
  if (!blob.digests.empty() && blob.digests != digests)
    Log(LogLevel::kError, "%s: the referrer's chunk digests are not those of the blob: from now on "
        "the blob's hold; delete that referrer", DigestString(blob.blob_digest).c_str());
  if (cache->db()) {
    Status s = cache->db()->RecordDigests(blob.data_space_id, digests);
    if (!s.ok()) Log(LogLevel::kWarning, "%s", s.error().message.c_str());
  }
  ReplaceMeta(space, [&](BlobInfo* b) {
    b->digests = digests;
    b->whole = true;
  });
  const uint64_t before = counters_.planted;
  Space now;
  {
    std::lock_guard lock(mutex_);
    auto it = spaces_.find({space.info.cache, space.info.space});
    if (it == spaces_.end() || !it->second.meta) return;
    now = it->second;
  }
  AlignedBuffer buffer(cache->chunk_bytes());
  for (uint32_t slot = 0; buffer.ok() && slot < cache->info().nr_slots && !stopping(); slot++) {
    auto what = cache->PresentIn(slot);
    if (what && what->space == now.info.space)
      (void)CheckSlot(cache.get(), now, *what, &buffer, &counters_.planted);
  }
  const uint64_t planted = counters_.planted - before;
  EventFields fields = FieldsOf("whole_verified", space.image, blob);
  fields.count = planted;
  LogEvent(planted ? LogLevel::kError : LogLevel::kInfo, fields,
      "%s: verified as a whole, %llu cached chunks differed%s", fields.blob.c_str(),
      static_cast<unsigned long long>(planted),
      planted ? ": a source lied; files that were read from them may still be in the page cache: "
                "restart what runs from this image"
              : "");
}

// Changes one blob in all images of its cache that have it, and returns when
// nobody works with what was there before.
void MissService::ReplaceMeta(const Space& space, const std::function<void(BlobInfo*)>& change) {
  const Sha256Digest id = space.info.id;
  std::vector<std::weak_ptr<const MetaImage>> old;
  std::unique_lock lock(mutex_);
  for (auto& [no, image] : images_) {
    if (!image.meta || image.info.cache != space.info.cache) continue;
    auto copy = std::make_shared<MetaImage>(*image.meta);
    bool any = false;
    for (BlobInfo& b : copy->blobs) {
      if (b.data_space_id != id) continue;
      change(&b);
      any = true;
    }
    if (!any) continue;
    for (auto& [key, s] : spaces_)
      if (s.meta == image.meta) s.meta = copy;
    old.push_back(std::exchange(image.meta, std::move(copy)));
  }
  // The caller's own copy of the space counts as one.
  auto in_use = [&] {
    return std::any_of(old.begin(), old.end(), [&](const auto& o) {
      return o.use_count() > (!space.meta.owner_before(o) && !o.owner_before(space.meta) ? 1 : 0);
    });
  };
  while (!stop_ && in_use()) idle_.wait_for(lock, kUsersPoll);
}

// What an earlier whole check recorded for blobs whose meta layer has no digests.
void MissService::ApplyRecorded(uint32_t cache_no, MetaImage* meta) {
  std::shared_ptr<Cache> cache;
  {
    std::lock_guard lock(mutex_);
    if (auto it = caches_.find(cache_no); it != caches_.end()) cache = it->second;
  }
  if (!cache || !cache->db()) return;
  for (BlobInfo& blob : meta->blobs) {
    if (!blob.unproven()) continue;
    auto digests = cache->db()->Digests(blob.data_space_id);
    if (!digests.ok() || digests->size() != (blob.data_bytes + kDigestBytes - 1) / kDigestBytes)
      continue;
    blob.digests = std::move(*digests);
    blob.whole = true;
  }
}

MissService::SpaceStat MissService::StatOfLocked(const Space& space) {
  SpaceStat s;
  s.info = space.info;
  s.used = space.meta != nullptr;
  if (!space.meta) {
    s.why = "no attached image uses it";
    return s;
  }
  const BlobInfo& blob = space.info_of_blob();
  s.blob = blob.blob_digest;
  if (!blob.digests.empty()) s.verified = blob.whole ? Verified::kWhole : Verified::kByChunk;
  if (!blob.unproven()) return s;
  s.why = blob.digests.empty() ? kNoDigests : kReferred;
  if (!space.why.empty())
    s.why += "; " + space.why;
  else
    s.why += options_.whole == WholePolicy::kOff ? "; wholeBlob is off"
                                                 : "; the whole blob will be checked";
  return s;
}

}  // namespace fastoci
