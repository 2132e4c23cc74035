// SPDX-License-Identifier: Apache-2.0
// The dispatcher without its stages: the test takes the work and says how it ended.
#include "miss/dispatcher.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <set>
#include <thread>

#include "base/monotonic.h"
#include "fastoci_meta.h"
#include "fastoci_netlink.h"
#include "testing/fake_kernel.h"
#include "testing/fault_device.h"

namespace fastoci {
namespace {

constexpr uint32_t kCache = FakeKernel::kCache;
constexpr uint64_t kChunk = FakeKernel::kChunk, kSpan = 4 * kChunk, kDataBytes = 100 * kSpan;
constexpr int64_t kNever = INT64_MAX / 2;

std::shared_ptr<const SpanIndex> Index(uint8_t content) {
  BlobInfo blob;
  blob.codec = FASTOCI_CODEC_GZIP;
  blob.data_bytes = kDataBytes;
  blob.blob_bytes = kDataBytes / 2;
  for (uint64_t at = 0; at < kDataBytes; at += kSpan) blob.spans.push_back({at, at / 2});
  blob.index = {content};
  return *SpanIndexes().Take(&blob);
}

class DispatcherTest : public ::testing::Test {
 protected:
  void SetUp() override {
    SetLogLevel(static_cast<LogLevel>(0));
    char name[] = "build/dispatcher_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
    const std::string path = dir_ + "/cache";
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(fd.get(), cache_chunks_ * kChunk), 0);
    ASSERT_TRUE(CacheDevice::Format(path, 16).ok());
    device_ = std::move(*CacheDevice::Open(path));
    blob_.data_bytes = kDataBytes;
    kernel_ = std::make_unique<FakeKernel>(device_.get(), blob_);
    FaultDevice::Hooks hooks;
    hooks.superblock = [this] {
      probes_++;
      return takes_none_ ? Status(ErrnoError("injected", EROFS)) : OkStatus();
    };
    cache_ = *Cache::Open(
        kernel_.get(), kernel_->GetCaches()->at(0),
        std::make_unique<FaultDevice>(std::move(*CacheDevice::Open(path)), std::move(hooks)),
        nullptr, &counters_);
    d_.SetHooks({.fetch = [this] { wakes_++; },
                 .cached = [] {},
                 .idle = [] {},
                 .ended = [](uint32_t, const Status&) {},
                 .fields = [](const char* kind, uint32_t, const BlobInfo&) {
                   return EventFields{.kind = kind};
                 }});
    d_.SetLink(kernel_.get());
    fetcher_ = d_.ForgetHosts();
    for (uint32_t host : {1, 2, 3}) Host(host, HostGate::kOpen);
  }
  void TearDown() override {
    SetLogLevel(LogLevel::kInfo);
    ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0);
  }
  void Host(uint32_t number, HostGate gate, uint32_t openings = 0) {
    HostState h;
    h.host = number;
    h.name = "http://" + std::to_string(number);
    h.gate = gate;
    h.window = gate == HostGate::kGated ? 0 : gate == HostGate::kProbing ? 1 : 8;
    h.openings = openings;
    h.cause = "no answer";
    d_.SetHost(h);
  }
  // One image per location, each with an index of its own content.
  void Put(uint32_t space, std::vector<std::pair<FetchLocation, uint8_t>> places) {
    SpaceView view;
    view.info = {.cache = kCache, .space = space, .data_bytes = kDataBytes, .nr_chunks = 400};
    view.cache = cache_;
    view.blob = std::make_shared<const BlobInfo>(blob_);
    view.image = 1;
    std::vector<Dispatcher::User> users;
    for (const auto& [location, index] : places)
      users.push_back({static_cast<uint32_t>(users.size()) + 1, Index(index), {location}, fetcher_});
    d_.PutSpace(view, users);
  }
  bool Want(uint32_t space, uint32_t chunk) {
    return d_.Want(kCache, space, chunk, Urgency::kDemand, Dispatcher::Clock::now());
  }
  std::optional<FetchWork> Next() { return d_.NextFetch({}); }
  void Done(const FetchWork& work) {
    d_.RequestEnded(work.location);
    for (const SpanJob& job : work.jobs) {
      for (uint32_t c = 0; c < 4 * job.nr_spans; c++) d_.Resolve(job, job.first * 4 + c, UINT64_MAX);
      d_.SpansDone(job);
    }
  }
  void Fail(const FetchWork& work, FetchOutcome outcome, int64_t retry_at_ms = 0) {
    d_.RequestEnded(work.location);
    for (const SpanJob& job : work.jobs)
      d_.FetchFailed(job, outcome, {ErrorKind::kUnavailable, EIO, "injected"}, retry_at_ms);
  }
  void Bad(const FetchWork& work) {
    d_.RequestEnded(work.location);
    for (const SpanJob& job : work.jobs) d_.SpansBad(job, MismatchError("injected"));
  }

  off_t cache_chunks_ = 4000;
  std::string dir_;
  bool takes_none_ = false;  // the cache device
  int probes_ = 0;
  int wakes_ = 0;  // Hooks::fetch
  std::unique_ptr<CacheDevice> device_;
  BlobInfo blob_;
  std::unique_ptr<FakeKernel> kernel_;
  Counters counters_;
  MissTracer tracer_;
  std::shared_ptr<Cache> cache_;
  Dispatcher d_{{.gone_retry_ms = 1000}, &counters_, &tracer_};
  uint64_t fetcher_ = 0;
};

TEST_F(DispatcherTest, AWantOfASpaceThatNobodyKnowsIsNotTaken) {
  EXPECT_FALSE(Want(5, 0));
  Put(5, {{{10, 1}, 1}});
  EXPECT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->location.location, 10u);
  EXPECT_EQ(work->jobs.at(0).urgent_end, kChunk);
  EXPECT_FALSE(Next());
  Done(*work);
  EXPECT_EQ(d_.nr_jobs(), 0u);
}

// There is no place for it in the arena. Whoever finds that out is not told that there is work.
TEST_F(DispatcherTest, WhatCannotBeginNowIsPutBack) {
  Put(5, {{{10, 1}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  const int wakes = wakes_;
  for (int i = 0; i < 20; i++) {  // more often than the host takes requests
    d_.PutBack(*work);
    EXPECT_EQ(d_.nr_running(), 0u);
    work = Next();
    ASSERT_TRUE(work);
  }
  EXPECT_EQ(wakes_, wakes);
  EXPECT_EQ(work->jobs.at(0).attempt, 0u);
  Done(*work);
  EXPECT_EQ(d_.nr_jobs(), 0u);
}

// The fetcher says that a host is gone.
TEST_F(DispatcherTest, AHostThatIsGoneIsForgotten) {
  Put(5, {{{10, 1}, 1}, {{20, 2}, 1}});
  EXPECT_EQ(d_.Hosts().size(), 3u);
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  d_.RemoveHost(work->location.host);
  EXPECT_EQ(d_.Hosts().size(), 2u);
  Done(*work);  // what runs there ends as ever
  ASSERT_TRUE(Want(5, 100));
  auto other = Next();
  ASSERT_TRUE(other);
  EXPECT_NE(other->location.host, work->location.host);
  Done(*other);
}

// The image that was attached first has an index that is wrong under honest digests.
TEST_F(DispatcherTest, ABadIndexOfOneImageBreaksNoOther) {
  Put(5, {{{10, 1}, 1}, {{20, 2}, 2}});
  ASSERT_TRUE(Want(5, 0));
  std::set<std::pair<uint32_t, uint64_t>> tried;
  uint64_t bad = 0;
  for (int tries = 0;; tries++) {
    ASSERT_LT(tries, 4) << "each pair once";
    auto work = Next();
    ASSERT_TRUE(work);
    const auto& pair = work->jobs[0].pair;
    EXPECT_TRUE(tried.insert({pair.location.location, pair.index->key}).second);
    if (bad == 0) bad = pair.index->key;
    if (pair.index->key != bad) {
      Done(*work);
      break;
    }
    Bad(*work);
  }
  EXPECT_EQ(counters_.fails, 0u);
  ASSERT_TRUE(Want(5, 100));
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_NE(work->jobs[0].pair.index->key, bad) << "it is remembered";
  Done(*work);
}

TEST_F(DispatcherTest, ADeadRegistryOfOneImageBreaksNoOther) {
  Put(5, {{{10, 1}, 1}, {{20, 2}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->location.location, 10u);
  Host(1, HostGate::kGated);
  Fail(*work, FetchOutcome::kTransient, kNever);
  work = Next();
  ASSERT_TRUE(work) << "at once";
  EXPECT_EQ(work->location.location, 20u);
  Done(*work);
  EXPECT_EQ(counters_.fails, 0u);
}

TEST_F(DispatcherTest, AGatedHostGetsNothingBeforeItsTimeAndIsTold) {
  Put(5, {{{10, 1}, 1}});
  Host(1, HostGate::kGated);
  for (uint32_t c = 0; c < 20; c++) ASSERT_TRUE(Want(5, c * 8));
  EXPECT_FALSE(Next());
  const auto waiting = d_.WaitingBySpace();
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_EQ(waiting.begin()->second.chunks, 20u);
  EXPECT_FALSE(waiting.begin()->second.can_go_on);
  ASSERT_EQ(waiting.begin()->second.locations.size(), 1u);
  EXPECT_EQ(waiting.begin()->second.locations[0].host, 1u);
  Host(1, HostGate::kProbing);
  auto probe = Next();
  ASSERT_TRUE(probe);
  EXPECT_FALSE(Next()) << "one is let through";
  Host(1, HostGate::kOpen);
  EXPECT_TRUE(Next());
  EXPECT_TRUE(d_.WaitingBySpace().begin()->second.can_go_on);
}

TEST_F(DispatcherTest, WhatFailedIsToldUntilTheLocationGivesBytes) {
  Put(5, {{{10, 1}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_TRUE(d_.WaitingBySpace().begin()->second.can_go_on) << "nothing has failed yet";
  Fail(*work, FetchOutcome::kTransient, 0);
  for (work = Next(); !work; work = Next())
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const auto waiting = d_.WaitingBySpace();
  ASSERT_EQ(waiting.size(), 1u);
  EXPECT_FALSE(waiting.begin()->second.can_go_on) << "although a try runs";
  EXPECT_NE(waiting.begin()->second.locations.at(0).trouble, "");
  Done(*work);
  ASSERT_TRUE(Want(5, 100));
  EXPECT_TRUE(d_.WaitingBySpace().begin()->second.can_go_on);
  EXPECT_EQ(d_.WaitingBySpace().begin()->second.locations.at(0).trouble, "");
}

// Credentials are refused for a repository, not for its host.
TEST_F(DispatcherTest, ARefusedLocationIsHeldUntilItsTimeOrUntilAGateOpens) {
  Put(5, {{{10, 1}, 1}});
  Put(6, {{{11, 1}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  Fail(*work, FetchOutcome::kTransient, kNever);
  EXPECT_FALSE(Next());
  ASSERT_TRUE(Want(6, 0));
  work = Next();
  ASSERT_TRUE(work) << "another repository of the same host";
  EXPECT_EQ(work->location.location, 11u);
  Done(*work);
  Host(1, HostGate::kOpen, 1);
  work = Next();
  ASSERT_TRUE(work) << "new credentials";
  Fail(*work, FetchOutcome::kTransient, MonotonicMs() + 20);
  EXPECT_TRUE(d_.NextTimer());
  while (!(work = Next())) std::this_thread::yield();
  Done(*work);
  EXPECT_EQ(d_.nr_jobs(), 0u);
}

TEST_F(DispatcherTest, ABlackHoleHoldsUpNobodyElse) {
  Put(5, {{{10, 1}, 1}});
  Put(6, {{{11, 2}, 1}});
  for (uint32_t c = 0; c < 12; c++) ASSERT_TRUE(Want(5, c * 8));
  std::vector<FetchWork> hung;
  while (auto work = Next()) hung.push_back(std::move(*work));
  EXPECT_EQ(hung.size(), 8u);
  ASSERT_TRUE(Want(6, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->location.host, 2u);
}

TEST_F(DispatcherTest, BytesThatAreWrongFromEverywhereFailAfterThreeRounds) {
  Put(5, {{{10, 1}, 1}, {{20, 2}, 1}});
  ASSERT_TRUE(Want(5, 0));
  int tries = 0;
  bool fresh = false;
  while (auto work = Next()) {
    tries++;
    fresh = work->fresh;
    Bad(*work);
  }
  EXPECT_EQ(tries, 6);
  EXPECT_TRUE(fresh) << "past caches, after the first round";
  EXPECT_EQ(counters_.fails, 1u);
  EXPECT_EQ(counters_.fails_by[static_cast<size_t>(ErrorKind::kMismatch)], 1u);
}

TEST_F(DispatcherTest, InputThatWasCutTooShortIsNobodysFault) {
  // A chunk of data that needs more input than the guess for it.
  Put(5, {{{10, 1}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  SpanJob job = work->jobs[0];
  job.range.cut = true;
  d_.RequestEnded(work->location);
  d_.SpansBad(job, {ErrorKind::kInvalid, EBADMSG, "input ends too early"});
  work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->jobs[0].attempt, 0u);
  EXPECT_EQ(work->jobs[0].pair.failures, 0u);
  Done(*work);
}

TEST_F(DispatcherTest, OfAFetcherThatIsGoneNoLocationCounts) {
  Put(5, {{{10, 1}, 1}});
  const uint64_t before = fetcher_;
  fetcher_ = d_.ForgetHosts();
  EXPECT_NE(fetcher_, before);
  ASSERT_TRUE(Want(5, 0));
  EXPECT_FALSE(Next());
  fetcher_ = before;
  Put(5, {{{10, 1}, 1}});  // it was on its way
  Host(1, HostGate::kOpen);
  EXPECT_FALSE(Next());
  fetcher_ = before + 1;
  Put(5, {{{77, 1}, 1}});
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->location.location, 77u);
  Done(*work);
}

TEST_F(DispatcherTest, ASequentialReaderHasSpansFetchedAhead) {
  Put(5, {{{10, 1}, 1}});
  uint32_t ahead = 0;
  for (uint32_t c = 0; c < 40; c++) {
    ASSERT_TRUE(Want(5, c));
    while (auto work = Next()) {
      for (const SpanJob& job : work->jobs) ahead = std::max(ahead, job.first + job.nr_spans - 1);
      Done(*work);
    }
  }
  EXPECT_GT(ahead, 12u) << "the reader is in span 9";
}

class SmallCacheDispatcherTest : public DispatcherTest {
 protected:
  SmallCacheDispatcherTest() { cache_chunks_ = 20; }
};

// What is read ahead would take the place of what is read.
TEST_F(SmallCacheDispatcherTest, ASequentialReaderGetsNothingAhead) {
  Put(5, {{{10, 1}, 1}});
  for (uint32_t c = 0; c < 40; c++) {
    ASSERT_TRUE(Want(5, c));
    while (auto work = Next()) {
      for (const SpanJob& job : work->jobs) EXPECT_LE(job.first * kSpan, c * kChunk);
      Done(*work);
    }
  }
}

// A decoder that stalls says nothing about the bytes; three in a row do.
TEST_F(DispatcherTest, ADecoderThatIsLostIsNotWrongBytes) {
  Put(5, {{{10, 1}, 1}, {{20, 2}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto lose = [&](const FetchWork& work) {
    d_.RequestEnded(work.location);
    for (const SpanJob& job : work.jobs)
      d_.DecoderLost(job, {ErrorKind::kUnavailable, EPIPE, "decoder: it stalls"});
  };
  for (uint32_t i = 0; i < Dispatcher::kDecoders; i++) {
    auto work = Next();
    ASSERT_TRUE(work) << i;
    EXPECT_EQ(work->location.location, 10u) << i;
    EXPECT_EQ(work->jobs[0].pair.failures, 0u) << i;
    lose(*work);
  }
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_EQ(work->location.location, 20u) << "now the bytes are to blame";
  Done(*work);
  // Bytes that came through take it back.
  ASSERT_TRUE(Want(5, 0));
  for (int i = 0; i < 10; i++) {
    work = Next();
    ASSERT_TRUE(work) << i;
    if (i % 2 == 0) {
      lose(*work);
      continue;
    }
    Done(*work);
    ASSERT_TRUE(Want(5, 0));
  }
  std::string told;
  SetLogSink([&](LogLevel, const EventFields& fields, const std::string& text) {
    if (fields.kind == std::string("miss_failed")) told = text;
  });
  while ((work = Next())) lose(*work);
  SetLogSink(nullptr);
  EXPECT_EQ(counters_.fails, 1u);
  EXPECT_NE(told.find("it stalls: 3 decoders in a row"), std::string::npos) << told;
}

// Only those who look up what is cached ask the device, which may take its time to answer.
TEST_F(DispatcherTest, NothingIsFetchedForADeviceThatTakesNoWritesAndNobodyElseAsksIt) {
  Put(5, {{{10, 1}, 1}});
  takes_none_ = true;
  ASSERT_FALSE(cache_->Retire(*cache_->TakeSlot(), "injected").ok());
  ASSERT_FALSE(cache_->TakesWrites());
  const int probes = probes_;
  for (uint32_t c = 0; c < 3; c++) ASSERT_TRUE(Want(5, c));
  EXPECT_FALSE(Next());
  EXPECT_EQ(probes_, probes);
  auto cached = d_.NextCached();
  ASSERT_TRUE(cached);
  d_.CachedDone(*cached, {CachedEnd::kNoWrites, {ErrorKind::kIo, EROFS, "injected"}});
  EXPECT_EQ(counters_.fails, 3u) << "those that waited, too";
  EXPECT_FALSE(d_.NextCached());
  takes_none_ = false;
  ASSERT_TRUE(Want(5, 0));
  EXPECT_FALSE(Next()) << "it is asked again before";
  cached = d_.NextCached();
  ASSERT_TRUE(cached);
  ASSERT_TRUE(cache_->Writable().ok());
  d_.CachedDone(*cached, {CachedEnd::kAbsent});
  auto work = Next();
  ASSERT_TRUE(work);
  Done(*work);
}

// As after a takeover, until this helper knows of it.
TEST_F(DispatcherTest, AFillThatTheKernelRefusesIsNotTriedWithoutAPause) {
  Put(5, {{{10, 1}, 1}});
  takes_none_ = true;
  ASSERT_FALSE(cache_->Retire(*cache_->TakeSlot(), "injected").ok());
  ASSERT_TRUE(Want(5, 0));
  EXPECT_FALSE(Next());
  auto cached = d_.NextCached();
  ASSERT_TRUE(cached);
  d_.CachedDone(*cached, {CachedEnd::kRefused});
  EXPECT_FALSE(d_.NextCached());
  const auto at = d_.NextCachedAt();
  ASSERT_TRUE(at);
  EXPECT_EQ(d_.WaitingBySpace().begin()->second.chunks, 1u) << "it waits all the same";
  std::this_thread::sleep_until(*at + std::chrono::milliseconds(1));
  EXPECT_TRUE(d_.NextCached());
}

TEST_F(DispatcherTest, WhatWaitsForAGatedHostHoldsUpNothingInTheBackground) {
  Put(5, {{{10, 1}, 1}});
  Put(6, {{{11, 2}, 1}});
  for (uint32_t c = 0; c < 20; c++) ASSERT_TRUE(Want(5, c * 8));
  EXPECT_TRUE(d_.HasQueued(Urgency::kAhead));
  Host(1, HostGate::kGated);
  EXPECT_FALSE(d_.HasQueued(Urgency::kAhead));
  EXPECT_FALSE(d_.CanGoOn(kCache, 5));
  EXPECT_TRUE(d_.CanGoOn(kCache, 6));
  ASSERT_TRUE(d_.Want(kCache, 6, 0, Urgency::kPrefetch, Dispatcher::Clock::now(), 2));
  EXPECT_EQ(d_.nr_queued_of(2, Urgency::kPrefetch), 1u);
  auto work = Next();
  ASSERT_TRUE(work);
  EXPECT_TRUE(d_.HasJobs(kCache, 6));
  EXPECT_FALSE(d_.HasJobs(kCache, 5));
  Done(*work);
  EXPECT_FALSE(d_.HasJobs(kCache, 6));
  Host(1, HostGate::kProbing);
  EXPECT_FALSE(d_.HasQueued(Urgency::kAhead)) << "it has not answered yet";
  Host(1, HostGate::kOpen);
  EXPECT_TRUE(d_.HasQueued(Urgency::kAhead));
}

// A range that is nobody's span, as a whole check reads it.
TEST_F(DispatcherTest, ARangeComesFromAnyLocationThatMayBeAskedAndDoesNotWaitForTheOthers) {
  EXPECT_EQ(d_.TakeLocation(kCache, 5, {}).why.error().err, ECANCELED);
  Put(5, {{{10, 1}, 1}, {{20, 2}, 1}});
  FetchChoice choice;
  auto taken = d_.TakeLocation(kCache, 5, choice);
  ASSERT_TRUE(taken.location);
  EXPECT_EQ(taken.location->location, 10u);
  choice.first = 20;
  taken = d_.TakeLocation(kCache, 5, choice);
  ASSERT_TRUE(taken.location);
  EXPECT_EQ(taken.location->location, 20u) << "it answered last";
  choice.fetcher = fetcher_;
  choice.not_these = {20};
  EXPECT_EQ(d_.TakeLocation(kCache, 5, choice).location->location, 10u);
  const Error error{ErrorKind::kUnavailable, EIO, "injected"};
  EXPECT_FALSE(d_.LocationFailed(kCache, 5, 10, FetchOutcome::kTransient, error, kNever));
  taken = d_.TakeLocation(kCache, 5, choice);
  EXPECT_FALSE(taken.location);
  ASSERT_FALSE(taken.why.ok());
  EXPECT_EQ(taken.why.error().err, EAGAIN);
  EXPECT_EQ(taken.why.error().message, "injected");
  choice.not_these = {10};
  for (int i = 0; i < 5; i++) ASSERT_TRUE(d_.TakeLocation(kCache, 5, choice).location) << i;
  taken = d_.TakeLocation(kCache, 5, choice);
  EXPECT_FALSE(taken.location);
  EXPECT_TRUE(taken.why.ok()) << "its window is full: soon";
  choice.fetcher = fetcher_ + 1;
  EXPECT_EQ(d_.TakeLocation(kCache, 5, choice).why.error().err, ESTALE);
}

TEST_F(DispatcherTest, WhatIsStoppedFailsNobody) {
  Put(5, {{{10, 1}, 1}});
  ASSERT_TRUE(Want(5, 0));
  auto work = Next();
  ASSERT_TRUE(work);
  d_.Stop();
  d_.SpansBad(work->jobs[0], MismatchError("injected"));
  EXPECT_EQ(counters_.fails, 0u);
}

}  // namespace
}  // namespace fastoci
