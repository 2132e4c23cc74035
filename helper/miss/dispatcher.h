// SPDX-License-Identifier: Apache-2.0
// Dispatcher knows what is wanted of which data space, and decides what is fetched next, from
// where, and what a failure leads to. It owns the scheduler and the blob sources. The stages'
// threads ask it for work and tell it how the work ended.
//
//   Want -> in the cache?  -> NextCached() -> CachedDone() -> scheduler, if it is not
//        -> scheduler      -> NextFetch()  -> SpansDone() | FetchFailed() | SpansBad() | ...
//
// What a failure means (docs/operations.md has the table):
// - The network failed (no answer, refusals, 5xx): the location is not used until a given time. The
//   spans are queued again, also for other locations. That never fails a read.
// - No location has the blob, in two rounds: its reads fail.
// - Bytes were wrong or did not decode: the other pairs of index and location are tried, in
//   kRounds rounds. Then the read fails.
// - A decoder died or stalled with them: another decoder gets them. If kDecoders in a row are lost
//   with the same span from the same pair, the bytes count as wrong.
// - The cache takes no writes: the read fails. The checker's threads, which look up what is cached,
//   find out when it takes writes again. The fetch stage's thread never waits for the cache device. A
//   decoder's thread does, while all of the writer's memory is taken.
//
// Locking: mutex_ guards all of it and is held only over look-ups in memory. A Cache's and a
// ChunkWriter's locks come after it. FAIL messages, events and callbacks come when it is free.
#ifndef FASTOCI_MISS_DISPATCHER_H_
#define FASTOCI_MISS_DISPATCHER_H_

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "cache/cache.h"
#include "cache/writer.h"
#include "fetcher/client.h"
#include "kernel/kernel_link.h"
#include "miss/blob_source.h"
#include "miss/cached_queue.h"
#include "miss/counters.h"
#include "miss/miss_tracer.h"
#include "miss/readahead.h"
#include "miss/scheduler.h"
#include "miss/span_plan.h"

namespace fastoci {

// What work on a data space needs to know of it. When something changes, a new view replaces it.
struct SpaceView {
  SpaceInfo info;  // the kernel's; nr_present does not count
  std::shared_ptr<Cache> cache;
  std::shared_ptr<ChunkWriter> writer;
  std::shared_ptr<const BlobInfo> blob;  // digests; its spans are the sources'
  uint32_t image = 0;                    // one that has it
  uint32_t chunk_shift() const { return cache->info().chunk_shift; }
};

// Adjacent spans of a space that are decoded as one stream.
struct SpanJob {
  std::shared_ptr<const SpaceView> view;
  uint32_t space = 0;  // the dispatcher's number
  uint32_t first = 0, nr_spans = 0;
  Urgency urgency = Urgency::kBackground;
  uint32_t image = 0;  // that it is for
  uint32_t attempt = 0;
  BlobSource::Pair pair;
  JobRange range;
  uint64_t urgent_begin = 0, urgent_end = 0;  // what readers wait for, of the data space
  std::chrono::steady_clock::time_point picked;
};

// Which locations of a blob may be asked for bytes that are no span's.
struct FetchChoice {
  std::set<uint32_t> not_these;
  uint32_t first = 0;    // this one before the others, if it can be asked; 0: none
  uint64_t fetcher = 0;  // that numbered these; 0: there are none yet
  bool fresh = false;    // past caches
};

// One transfer: input that the jobs need, without gaps.
struct FetchWork {
  uint64_t input_begin = 0, input_end = 0;  // of the blob
  bool fresh = false;
  Urgency urgency = Urgency::kBackground;
  uint32_t image = 0;
  FetchLocation location;
  std::vector<SpanJob> jobs;  // not empty
};

// What a look at the cache came to.
struct CachedEnd {
  enum What {
    kServed,    // by FILL
    kAbsent,    // it is to be fetched
    kRefused,   // it is there, but the kernel does not take the FILL
    kNoWrites,  // it is not there, and the device takes no writes
  };
  What what = kAbsent;
  Error error = {};  // kNoWrites
};

struct DispatcherOptions {
  uint32_t max_spans = 64;  // of one range
  int64_t gone_retry_ms = BlobSource::kGoneRetryMs;
  uint64_t readahead_bytes = 8 << 20;  // compressed; 0: none
  uint64_t job_bytes = 1 << 20;  // of input that one decoder gets at a time, if nobody waits
};

class Dispatcher {
 public:
  static constexpr uint32_t kRounds = 3;    // of tries over all pairs, if bytes are wrong
  static constexpr uint32_t kDecoders = 3;  // lost in a row: then the bytes count as wrong
  using Clock = std::chrono::steady_clock;

  // What others are told, any thread, no lock held.
  struct Hooks {
    std::function<void()> fetch;   // NextFetch() may have something
    std::function<void()> cached;  // NextCached() has something
    std::function<void()> idle;    // some work ended
    // What an image's background work comes to: an error, or OK.
    std::function<void(uint32_t image, const Status&)> ended;
    std::function<EventFields(const char* kind, uint32_t image, const BlobInfo&)> fields;
  };

  Dispatcher(DispatcherOptions options, Counters* counters, MissTracer* tracer);
  void SetHooks(Hooks hooks) { hooks_ = std::move(hooks); }  // before anything else
  void SetLink(KernelLink* link) { link_ = link; }           // likewise

  // ---- spaces: of the thread that follows the kernel ----
  struct User {
    uint32_t image = 0;
    std::shared_ptr<const SpanIndex> index;
    std::vector<FetchLocation> locations;
    uint64_t fetcher = 0;  // that named the locations; those of another one do not count
  };
  // Makes a space known, or changes it. users: not empty. What is wanted of it stays.
  void PutSpace(SpaceView view, const std::vector<User>& users) EXCLUDES(mutex_);
  // No image has the space any more, or it is gone. Returns what readers want of it.
  std::vector<Scheduler::Wanted> RemoveSpace(uint32_t cache, uint32_t space) EXCLUDES(mutex_);
  // Stops serving a space: its reads fail, and why is told with each of them. It holds for the
  // space's id: also after all images with it are gone.
  void Refuse(uint32_t cache, uint32_t space, const std::string& why) EXCLUDES(mutex_);

  // ---- wants ----
  // False: the space is not known (yet). image 0: one that has the space.
  bool Want(uint32_t cache, uint32_t space, uint32_t chunk_no, Urgency urgency,
            Clock::time_point since, uint32_t image = 0) EXCLUDES(mutex_);
  void SetReadahead(uint64_t bytes) EXCLUDES(mutex_);

  // ---- the stages ----
  std::optional<FetchWork> NextFetch(const Scheduler::Room& room) EXCLUDES(mutex_);
  // One more request for a transfer that runs.
  bool TakeRequest(const FetchLocation& location, Urgency urgency) EXCLUDES(mutex_);
  // What NextFetch() gave cannot begin now: queues its jobs again. Hooks::fetch is not called.
  void PutBack(const FetchWork& work) EXCLUDES(mutex_);
  void RequestEnded(const FetchLocation& location) EXCLUDES(mutex_);
  // A location for bytes of a space that are no span's; RequestEnded() when it is done. None: OK in
  // why if one can be asked soon (ask again then), EAGAIN in Error::err if not for some time,
  // ESTALE if another fetcher numbers the locations now, ECANCELED if the space is gone.
  struct Taken {
    std::optional<FetchLocation> location;
    Status why = OkStatus();
  };
  Taken TakeLocation(uint32_t cache, uint32_t space, const FetchChoice& choice) EXCLUDES(mutex_);
  void LocationServed(uint32_t cache, uint32_t space, uint32_t location) EXCLUDES(mutex_);
  // What FetchFailed() does for a location, for such bytes. True: no location has the blob.
  bool LocationFailed(uint32_t cache, uint32_t space, uint32_t location, FetchOutcome outcome,
                      const Error& error, int64_t retry_at_ms) EXCLUDES(mutex_);
  std::optional<CachedWork> NextCached() EXCLUDES(mutex_);
  void CachedDone(const CachedWork& work, const CachedEnd& end) EXCLUDES(mutex_);
  // When NextCached() is to be called again even if nothing happens; none: never.
  std::optional<Clock::time_point> NextCachedAt() EXCLUDES(mutex_);

  // Whether a reader waits for a chunk, before it is handed to the kernel; order is for Resolve().
  struct Awaited {
    bool by_reader = false;
    uint64_t order = 0;
  };
  Awaited IsAwaited(uint32_t space, uint32_t chunk_no) EXCLUDES(mutex_);
  // A chunk of a job was served after IsAwaited() had returned order. A want that came later stays,
  // because the chunk may have been evicted since. The writer's threads may call it, too.
  void Resolve(const SpanJob& job, uint32_t chunk_no, uint64_t order) EXCLUDES(mutex_);
  // The job gave all of its chunks.
  void SpansDone(const SpanJob& job) EXCLUDES(mutex_);
  // The job's input did not come, or only the part that other jobs needed.
  void FetchFailed(const SpanJob& job, FetchOutcome outcome, const Error& error,
                   int64_t retry_at_ms) EXCLUDES(mutex_);
  // Its input came and did not give its chunks.
  void SpansBad(const SpanJob& job, const Error& error) EXCLUDES(mutex_);
  // A decoder was lost with it.
  void DecoderLost(const SpanJob& job, const Error& error) EXCLUDES(mutex_);
  // The try ended, but not because of the job: queues the job again.
  void Requeue(const SpanJob& job) EXCLUDES(mutex_);
  // The cache could not take what came.
  void SpansLost(const SpanJob& job, const Error& error) EXCLUDES(mutex_);

  // ---- hosts: of the thread that hears the fetcher ----
  void SetHost(const HostState& host) EXCLUDES(mutex_);
  void RemoveHost(uint32_t host) EXCLUDES(mutex_);  // no location is there any more
  // The fetcher is gone: no host, no location is known. The next one's number.
  uint64_t ForgetHosts() EXCLUDES(mutex_);
  void CountBytes(uint32_t image, uint64_t bytes, Urgency urgency) EXCLUDES(mutex_);
  void ForgetImage(uint32_t image) EXCLUDES(mutex_);  // it is gone: its bytes_of()
  // When NextFetch() is to be called again even if nothing happens; none: never.
  std::optional<Clock::time_point> NextTimer() EXCLUDES(mutex_);

  // Gives out no more work.
  void Drain() EXCLUDES(mutex_);
  bool draining() EXCLUDES(mutex_);
  void Stop() { stopping_ = true; }  // work that ends now fails no read: the next helper has it
  bool stopping() const { return stopping_; }

  // ---- looks ----
  size_t nr_jobs() EXCLUDES(mutex_);     // wanted spans, and chunks that are looked up
  size_t nr_running() EXCLUDES(mutex_);  // work that was given out
  size_t nr_cached() EXCLUDES(mutex_);   // chunks that are looked up
  // Whether a host of the space answers. What is queued for others does not count in the next three.
  bool CanGoOn(uint32_t cache, uint32_t space) EXCLUDES(mutex_);
  bool HasJobs(uint32_t cache, uint32_t space) EXCLUDES(mutex_);
  bool HasQueued(Urgency at_least) EXCLUDES(mutex_);
  size_t nr_queued_of(uint32_t image, Urgency urgency) EXCLUDES(mutex_);
  uint64_t bytes_of(uint32_t image) EXCLUDES(mutex_);
  // What readers of a space wait for.
  struct Waiting {
    uint64_t chunks = 0;
    Clock::time_point oldest;
    struct At {
      uint32_t host = 0;
      std::string trouble;  // BlobSource::TroubleOf()
    };
    std::vector<At> locations;
    bool can_go_on = false;   // one of them is open and gave no trouble, or has not been told of
    int64_t next_try_ms = 0;  // of a held location, CLOCK_MONOTONIC; 0: not known, or now
  };
  std::map<std::pair<uint32_t, uint32_t>, Waiting> WaitingBySpace() EXCLUDES(mutex_);
  std::vector<HostState> Hosts() EXCLUDES(mutex_);
  std::shared_ptr<const SpaceView> ViewOf(uint32_t cache, uint32_t space) EXCLUDES(mutex_);
  std::vector<std::shared_ptr<const SpaceView>> Views(uint32_t cache) EXCLUDES(mutex_);
  std::shared_ptr<const SpanIndex> IndexOf(uint32_t cache, uint32_t space) EXCLUDES(mutex_);
  uint32_t NumberOf(uint32_t cache, uint32_t space) EXCLUDES(mutex_);  // SpanJob::space
  // The ways to get a space's bytes, and who numbers the locations.
  struct Ways {
    std::vector<BlobSource::Pair> pairs;
    uint64_t fetcher = 0;
  };
  Ways WaysOf(uint32_t cache, uint32_t space) EXCLUDES(mutex_);

  // Fails the reads of chunks that nobody will bring. Leaves out chunks that no reader waits for.
  void FailChunks(uint32_t cache, uint32_t space, const std::vector<Scheduler::Wanted>& chunks,
                  ErrorKind cause) EXCLUDES(mutex_);

 private:
  using SpaceKey = std::pair<uint32_t, uint32_t>;  // the kernel's: cache, space
  struct Space {
    std::shared_ptr<const SpaceView> view;
    uint32_t number = 0;
    BlobSource source;
    std::string refused;
    std::map<uint32_t, uint32_t> rounds;  // by span: of wrong bytes
    std::map<std::pair<uint32_t, uint32_t>, uint32_t> decoders_lost;  // by span and pair, in a row
    std::set<uint32_t> whole_tail;        // spans whose input was cut too short
    Readahead readahead;
    explicit Space(int64_t gone_retry_ms) : source(gone_retry_ms) {}
    uint32_t SpanOf(uint32_t chunk_no) const {
      return SpanOfChunk(source.primary()->table, chunk_no, view->chunk_shift());
    }
    uint64_t BytesOf(uint32_t span) const;
  };
  // What to do once mutex_ is free.
  struct After {
    std::vector<std::function<void()>> calls;
    ~After() {
      for (auto& call : calls) call();
    }
  };
  void WantLocked(Space* space, uint32_t chunk_no, Urgency urgency, int64_t stamp, uint32_t image)
      REQUIRES(mutex_);
  void ReadaheadLocked(Space* space, uint32_t chunk_no, int64_t stamp) REQUIRES(mutex_);
  void UpdateSourcesLocked(Space* space, int64_t now) REQUIRES(mutex_);
  void ReleaseHeldLocked(int64_t now) REQUIRES(mutex_);  // whose time has come
  Space* SpaceOf(uint32_t cache, uint32_t space) REQUIRES(mutex_);
  Space* SpaceOf(uint32_t number) REQUIRES(mutex_);
  bool TakeCachedLocked(Space* space, uint32_t span) REQUIRES(mutex_);
  void LookUpLocked(Space* space, const Scheduler::Wanted& wanted) REQUIRES(mutex_);
  // Fails what is wanted of refused spaces, for a reason that was told when they were refused.
  void FailRefused() EXCLUDES(mutex_);
  std::optional<FetchWork> PlanLocked(Space* space, const Scheduler::Range& range, After* after)
      REQUIRES(mutex_);
  void AddJobsLocked(Space* space, const Scheduler::Range& range, const BlobSource::Pair& pair,
                     FetchWork* work) REQUIRES(mutex_);
  void HoldLocked(Space* space, uint32_t location, FetchOutcome outcome, int64_t retry_at_ms)
      REQUIRES(mutex_);
  bool LocationFailedLocked(Space* space, uint32_t location, FetchOutcome outcome,
                            const Error& error, int64_t retry_at_ms) REQUIRES(mutex_);
  // Gives up what is wanted of a job's spans: reads of it fail.
  void GiveUpLocked(Space* space, const SpanJob& job, std::vector<Scheduler::Wanted> chunks,
                    const Error& error, After* after) REQUIRES(mutex_);
  // name: for the log. picked: when somebody began with it.
  void GiveUpChunksLocked(Space* space, const std::string& name, uint32_t image,
                          Clock::time_point picked, std::vector<Scheduler::Wanted> chunks,
                          const Error& error, After* after) REQUIRES(mutex_);
  void BlameLocked(Space* space, const SpanJob& job, const Error& error, After* after)
      REQUIRES(mutex_);
  void FinishLocked(Space* space, const SpanJob& job, After* after) REQUIRES(mutex_);
  void Ended(After* after) REQUIRES(mutex_);
  void JobEnded(After* after) REQUIRES(mutex_);
  void Trace(const SpaceView& view, const Scheduler::Wanted& w, Clock::time_point picked, bool ok);
  static std::string NameOf(const SpanJob& job);

  const DispatcherOptions options_;
  Counters* const counters_;
  MissTracer* const tracer_;
  Hooks hooks_;
  KernelLink* link_ = nullptr;
  std::atomic<bool> stopping_{false};

  Mutex mutex_;
  bool draining_ GUARDED_BY(mutex_) = false;
  uint64_t fetcher_ GUARDED_BY(mutex_) = 0;  // counts fetchers
  uint64_t readahead_bytes_ GUARDED_BY(mutex_);
  Scheduler scheduler_ GUARDED_BY(mutex_);
  std::map<SpaceKey, std::unique_ptr<Space>> spaces_ GUARDED_BY(mutex_);
  // Why spaces are refused, by cache and data space id: also while no image has them.
  std::map<std::pair<uint32_t, Sha256Digest>, std::string> refused_ GUARDED_BY(mutex_);
  std::map<uint32_t, Space*> by_number_ GUARDED_BY(mutex_);
  uint32_t next_number_ GUARDED_BY(mutex_) = 1;
  std::map<uint32_t, HostState> hosts_ GUARDED_BY(mutex_);
  CachedQueue cached_ GUARDED_BY(mutex_);
  std::vector<CachedWork> to_fail_ GUARDED_BY(mutex_);  // of refused spaces
  std::map<uint32_t, uint64_t> bytes_ GUARDED_BY(mutex_);  // by image
  std::optional<int64_t> timer_ GUARDED_BY(mutex_);  // ms: of the first held location
  size_t nr_fetching_ GUARDED_BY(mutex_) = 0;
  size_t nr_checking_ GUARDED_BY(mutex_) = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_DISPATCHER_H_
