// SPDX-License-Identifier: Apache-2.0
// FetchStage: one thread that turns what the dispatcher picks into Fetches of the fetcher, and
// hands the bytes that come to the decode stage. It replaces a fetcher that died. What was under
// way is then fetched again. The caller opens the images again (Hooks::replaced). If a fetcher
// cannot be started, or ends before it has answered, the next start waits for longer each time.
//
//   NextFetch() -> Transfer -> Fetch, Fetch, ... -> segments of the arena -> SpanWork -> decoders
//
// A transfer is a range of one location without gaps. A job of it goes to the decoders when all of
// its input is there. If the input is larger than one Fetch, it goes when the first part is there.
//
// A place in the arena belongs to its Fetch until the Fetch has ended, and to jobs until they are
// decoded. Places that a fetcher may write to are kept until its process is gone.
#ifndef FASTOCI_MISS_FETCH_STAGE_H_
#define FASTOCI_MISS_FETCH_STAGE_H_

#include <atomic>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/mutex.h"
#include "miss/decode_stage.h"

namespace fastoci {

struct FetchStageOptions {
  // Of the arena: what is not for kMaybe and kDemand may use.
  uint64_t other_bytes = 24 << 20;
};

class FetchStage {
 public:
  static constexpr int kMinSpawnPauseMs = 100, kMaxSpawnPauseMs = 5000;
  // Starts a fetcher that writes to the arena.
  using Spawn = std::function<Result<std::unique_ptr<FetchService>>(int arena_fd)>;
  using Locations = std::vector<std::vector<FetchLocation>>;  // by blob

  FetchStage(FetchStageOptions options, Spawn spawn, std::shared_ptr<Arena> arena,
             Dispatcher* dispatcher, DecodeStage* decode, Counters* counters, MissTracer* tracer);
  ~FetchStage();  // Stop()
  // Called by the stage's thread: the fetcher is gone, and its locations with it; another one is
  // there, at which no image is open.
  struct Hooks {
    std::function<void()> gone, replaced;
  };
  Status Start(Hooks hooks);
  void Stop() EXCLUDES(mutex_);
  void Wake();  // the dispatcher may have work; any thread
  const Arena& arena() const { return *arena_; }

  // Any thread. kUnavailable with EPIPE: the fetcher is gone; another one comes, also after
  // ETIMEDOUT: one that does not answer is replaced.
  struct Opened {
    Locations locations;
    uint64_t fetcher = 0;  // Dispatcher::User::fetcher
  };
  Result<Opened> OpenImage(uint32_t image, const std::string& image_id, ByteSpan json)
      EXCLUDES(mutex_);
  void CloseImage(uint32_t image) EXCLUDES(mutex_);
  Status OpenGate(uint32_t host) EXCLUDES(mutex_);

  // Reads bytes of a blob, at most kMaxFetchBytes, after all other work, from any location that the
  // choice allows. Waits while a location is asked, or can be asked soon. In Error::err: EAGAIN if
  // no location can be asked for some time; ESTALE if the choice's fetcher is gone; ECANCELED after
  // Stop() or if the space is gone. kNotFound: no location has the blob, in two rounds. kMismatch:
  // each location that was asked has another blob.
  struct Bytes {
    std::shared_ptr<ArenaPlace> place;
    FetchLocation location;
    uint64_t fetcher = 0;  // that numbers it
  };
  struct BlobRange {
    uint32_t cache = 0, space = 0, image = 0;
    uint64_t offset = 0, length = 0;
  };
  Result<Bytes> Read(const BlobRange& range, const FetchChoice& choice) EXCLUDES(mutex_);

 private:
  struct Segment {  // what one Fetch brings
    uint64_t begin = 0, end = 0;  // of the blob
    uint64_t received = 0;
    bool done = false;
    std::shared_ptr<ArenaPlace> place;
  };
  struct Job {
    std::shared_ptr<SpanWork> work;
    uint64_t begin = 0, end = 0;  // of its input
    uint64_t given = 0;
    bool put = false;
  };
  struct Transfer {
    FetchWork work;
    std::vector<Job> jobs;
    std::list<Segment> segments;  // in order, without gaps
    uint64_t gone = 0;            // blob offset: segments before were handed on
    uint64_t next = 0;            // ... of the next Fetch
    uint32_t outstanding = 0;
    bool failed = false;
    // Of a stream: places that its job has and may not have consumed.
    std::deque<std::weak_ptr<ArenaPlace>> handed;
  };
  struct RangeRead {
    BlobRange range;
    FetchChoice choice;
    std::optional<Error> mismatch = {};  // of a location that is left out since
    bool begun = false, done = false;
    Result<Bytes> result = Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
  };
  struct Flight {
    std::shared_ptr<Transfer> transfer;  // or read
    Segment* segment = nullptr;          // of the transfer
    std::shared_ptr<RangeRead> read;
    std::shared_ptr<ArenaPlace> place;
    FetchLocation location;
    uint32_t image = 0;
    Urgency urgency = Urgency::kBackground;
    uint64_t bytes = 0;  // of the place
    uint64_t counted = 0;
    uint64_t fetcher = 0;  // of a read
  };
  // A fetcher, and places that it may write to until it is gone.
  struct Session {
    std::vector<std::shared_ptr<ArenaPlace>> places;
    uint64_t number = 0;
    std::atomic<bool> hangs = false;        // it does not answer a call
    std::atomic<bool> answered = false;     // it works
    Dispatcher::Clock::time_point since = Dispatcher::Clock::now();
    std::unique_ptr<FetchService> service;  // destroyed first
  };

  void Run();
  void Pump();
  void PumpReads() EXCLUDES(mutex_);
  bool Begin(FetchWork work);
  static bool MayGrow(Transfer* t);
  bool FetchMore(const std::shared_ptr<Transfer>& t);
  bool FetchNext(const std::shared_ptr<Transfer>& t, std::shared_ptr<ArenaPlace> place);
  bool Send(Flight flight, uint64_t offset, uint64_t length, bool fresh);
  void OnEvent(const FetchEvent& event) EXCLUDES(mutex_);
  void OnProgress(Flight* flight, const FetchEvent& event);
  // begin, end: of the blob; they have just come.
  void TraceProgress(const Transfer& t, uint64_t begin, uint64_t end);
  void OnEnd(Flight flight, const FetchEvent& event) EXCLUDES(mutex_);
  void EndRead(Flight* flight, const FetchEvent& event) EXCLUDES(mutex_);
  void FinishRead(const std::shared_ptr<RangeRead>& read, Result<Bytes> result) EXCLUDES(mutex_);
  void Deliver(Transfer* t);
  void FailTransfer(Transfer* t, FetchOutcome outcome, const Error& error, int64_t retry_at_ms);
  void OnWorkEnd(const SpanJob& job, const SpanWork::End& end);
  void Replace() EXCLUDES(mutex_);
  void Lose(Session* session, const std::string& why) EXCLUDES(mutex_);
  // The next start waits; returns for how long.
  int PauseSpawns();
  template <class T>
  T Called(Session* session, T result);
  std::shared_ptr<Session> session() EXCLUDES(mutex_);
  int TimeoutMs();

  const FetchStageOptions options_;
  const Spawn spawn_;
  const std::shared_ptr<Arena> arena_;
  Dispatcher* const dispatcher_;
  DecodeStage* const decode_;
  Counters* const counters_;
  MissTracer* const tracer_;
  Hooks hooks_;
  UniqueFd wake_fd_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
  // Of the thread:
  std::map<uint32_t, Flight> flights_;
  std::unordered_map<uint32_t, uint64_t> held_;  // bytes of their places, by host
  std::list<std::shared_ptr<Transfer>> growing_;  // that need further Fetches
  uint32_t next_id_ = 1;
  int spawn_pause_ms_ = 0;  // after the last start; 0: it was good
  Dispatcher::Clock::time_point spawn_at_ = {};  // no start before
  uint64_t next_session_ = 0;                    // its number
  bool no_room_ = false;  // for a transfer that was to begin

  Mutex mutex_;
  CondVar read_done_;
  std::shared_ptr<Session> session_ GUARDED_BY(mutex_);  // null: none just now
  std::deque<std::shared_ptr<RangeRead>> reads_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_FETCH_STAGE_H_
