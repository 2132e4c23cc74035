// SPDX-License-Identifier: Apache-2.0
// MissService between a model of the kernel (slots, reservations, misses,
// eviction with a delay) and a fetcher that serves from memory and can be told to
// lie, fail or die; the decoders are real. Readers of the model compare every byte.
#include "miss/miss_service.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <set>
#include <shared_mutex>
#include <sstream>

#include "base/event.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/packet.h"
#include "codec/zfile.h"
#include "fastoci_meta.h"
#include "fastoci_netlink.h"
#include "testing/fake_fetch_service.h"
#include "testing/fake_kernel.h"

namespace fastoci {
namespace {

constexpr uint32_t kCache = FakeKernel::kCache;
constexpr uint64_t kChunk = FakeKernel::kChunk;

Bytes RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  Bytes b(n);
  for (uint8_t& v : b) v = static_cast<uint8_t>(rng());
  return b;
}

// What the next Fetches come to; each consumed by one of them.
enum class Trick { kNone, kFlipByte, kTransient, kGone };

// What all fetchers of a test have in common.
struct Source {
  std::atomic<int> jobs{0};    // Fetches
  // Of fetchers while they open an image, yet to come.
  std::atomic<int> deaths{0}, hangs{0}, refusals{0};
  std::atomic<int> opens{0};
  std::atomic<int> spawns{0}, spawned{0};  // begun, and done
  std::atomic<bool> stillborn{false}, no_starts{false};  // fetchers, as long as it is true
  bool has_index = false;
  void Play(std::vector<Trick> tricks) {
    std::lock_guard lock(mutex);
    left.assign(tricks.begin(), tricks.end());
  }
  Trick Next() {
    std::lock_guard lock(mutex);
    if (left.empty()) return Trick::kNone;
    const Trick trick = left.front();
    left.pop_front();
    return trick;
  }
  std::mutex mutex;
  std::deque<Trick> left;
};

class TrickyFetcher : public FakeFetchService {
 public:
  TrickyFetcher(Source* source, std::span<uint8_t> arena)
      : FakeFetchService(arena), source_(source), arena_(arena) {}
  ~TrickyFetcher() override { ::munmap(arena_.data(), arena_.size()); }
  Result<std::vector<std::vector<FetchLocation>>> OpenImage(uint32_t image,
                                                            const std::string& image_id,
                                                            ByteSpan json) override {
    if (source_->deaths > 0) {
      source_->deaths--;
      Die();
    }
    source_->opens++;
    if (source_->refusals > 0) {
      source_->refusals--;
      return InvalidError("what attach was given is damaged");
    }
    if (source_->hangs > 0) {
      source_->hangs--;
      return Error{ErrorKind::kUnavailable, ETIMEDOUT, "no answer"};
    }
    return FakeFetchService::OpenImage(image, image_id, json);
  }
  // Of the thread that calls Receive().
  Status Fetch(const FetchRequest& r) override {
    source_->jobs++;
    const Trick trick = source_->Next();
    if (trick == Trick::kTransient) FakeFetchService::Fail(r.location, {});
    if (trick == Trick::kGone)
      FakeFetchService::Fail(r.location, {.outcome = FetchOutcome::kGone,
                                          .error = {ErrorKind::kNotFound, ENOENT, "404"}});
    Status s = FakeFetchService::Fetch(r);
    // In the last chunk of raw data, and in the midst of a blob that has an index at its end.
    if (trick == Trick::kFlipByte)
      arena_[r.arena_offset + (source_->has_index ? r.length / 2 : r.length - 100)] ^= 1;
    return s;
  }

 private:
  Source* const source_;
  const std::span<uint8_t> arena_;
};

std::string DecoderPath() {
  // build/test/miss -> bin/fastoci-decoderd
  auto self = std::filesystem::read_symlink("/proc/self/exe");
  return (self.parent_path().parent_path().parent_path() / "bin/fastoci-decoderd").string();
}

class MissServiceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    grace_ = std::thread([this] {
      while (!done_) {
        {
          std::lock_guard lock(kernel_mutex_);
          if (kernel_) kernel_->EndGracePeriods();
        }
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
      }
    });
    SetLogLevel(std::getenv("VERBOSE") ? LogLevel::kInfo : static_cast<LogLevel>(0));
    char name[] = "build/miss_test.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    dir_ = name;
  }
  void TearDown() override {
    Stop();
    SetLogSink(nullptr);
    done_ = true;
    grace_.join();
    if (kernel_) {
      EXPECT_EQ(kernel_->nr_astray(), 0u);
    }
    SetLogLevel(LogLevel::kInfo);
    ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0);
  }
  // Events whole_verified: each comes when the result is in the database.
  void CountRecorded() {
    SetLogSink([this](LogLevel, const EventFields& fields, const std::string&) {
      recorded_ += fields.kind == std::string("whole_verified");
    });
  }
  void Make(size_t data_bytes, uint32_t nr_slots, bool with_digests = true) {
    data_ = RandomBytes(data_bytes, 1);
    blob_.data_space_id[0] = 9;
    blob_.data_bytes = data_bytes;
    if (blob_.codec == FASTOCI_CODEC_ZFILE) {
      MakeZFile();
    } else {
      file_.assign(data_.begin(), data_.end());
      for (uint64_t at = 0; at < data_bytes; at += 300000) blob_.spans.push_back({at, at});
    }
    blob_.blob_bytes = file_.size();
    blob_.blob_digest = Sha256::Of(AsBytes(file_));
    for (size_t at = 0; with_digests && at < data_bytes; at += kChunk)
      blob_.digests.push_back(
          Sha256::Of(ByteSpan(data_).subspan(at, std::min<size_t>(kChunk, data_bytes - at))));
    const std::string path = dir_ + "/cache";
    UniqueFd fd(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600));
    ASSERT_EQ(::ftruncate(fd.get(), static_cast<off_t>((nr_slots + 1) * kChunk)), 0);
    ASSERT_TRUE(CacheDevice::Format(path, 16).ok());
    auto device = CacheDevice::Open(path);
    ASSERT_TRUE(device.ok());
    device_ = std::move(*device);
    {
      std::lock_guard lock(kernel_mutex_);
      kernel_ = std::make_unique<FakeKernel>(device_.get(), blob_);
    }
    source_ = std::make_unique<Source>();
    source_->has_index = blob_.codec == FASTOCI_CODEC_ZFILE;
    source_->Play(tricks_);
    Start();
  }
  void MakeZFile() {
    Bytes file;
    auto w = ZFileWriter::Create({.block_bytes = 65536}, [&](ByteSpan s) {
      file.insert(file.end(), s.begin(), s.end());
      return OkStatus();
    });
    ASSERT_TRUE(w->Update(data_).ok());
    auto header = w->Finish();
    ASSERT_TRUE(header.ok());
    std::copy(header->begin(), header->end(), file.begin());
    MemoryFile whole(file);
    auto index = ZFileIndex::Read(SubFile(&whole, 0, file.size()));
    ASSERT_TRUE(index.ok()) << index.error().message;
    blob_.index = index->Serialize(0);
    for (uint64_t at = 0; at < data_.size(); at += 5 * 65536)
      blob_.spans.push_back({at, index->payload_offset() + index->block_offset(at / 65536)});
    file_.assign(file.begin(), file.end());
  }
  Result<std::unique_ptr<FetchService>> SpawnFetcher(int arena_fd) {
    void* p = ::mmap(nullptr, kArenaBytes, PROT_READ | PROT_WRITE, MAP_SHARED, arena_fd, 0);
    if (p == MAP_FAILED) return ErrnoError("arena");
    source_->spawns++;
    if (source_->no_starts) return ErrnoError("fork", EAGAIN);
    auto fetcher = std::make_unique<TrickyFetcher>(
        source_.get(), std::span(static_cast<uint8_t*>(p), kArenaBytes));
    fetcher->AddBlob(DigestString(blob_.blob_digest), file_);
    for (uint32_t location : liars_) fetcher->SetData(location, std::string(file_.size(), 'x'));
    for (uint32_t host : held_) fetcher->Hold(host, true);
    if (source_->stillborn) fetcher->Die();
    fetcher_ = fetcher.get();
    source_->spawned++;
    return std::unique_ptr<FetchService>(std::move(fetcher));
  }
  void Start() {
    MissServiceOptions o;
    o.decode.program = decoder_;
    o.decode.stall_ms = stall_ms_;
    o.decode.nr_decoders = nr_decoders_;
    o.decode.nr_streams = 1;
    o.dispatcher.gone_retry_ms = 50;
    o.dispatcher.readahead_bytes = readahead_bytes_;
    o.catalog.miss_deadline_ms = 1000;
    o.catalog.commit_ms = 20;
    o.catalog.db_path = dir_ + "/db";
    o.catalog.limits = limits_;
    o.catalog.whole_layer_bytes = whole_layer_bytes_;
    o.download = download_;
    o.whole = whole_;
    o.verify_on_read = verify_on_read_;
    Catalog::Devices devices;
    devices.open_cache = [this](uint32_t) { return CacheDevice::Open(dir_ + "/cache"); };
    devices.read_meta = [this](uint32_t) -> Result<MetaImage> {
      if (unread_ > 0 && unread_-- > 0) return ErrnoError("meta image", EMFILE);
      MetaImage m;
      m.blobs.push_back(blob_);
      std::string sources;
      for (int i = 0; i < nr_sources_; i++)
        sources += std::string(i ? "," : "") + R"({"type":"registry","scheme":"http","host":")" +
                   static_cast<char>('a' + i) + R"(","repository":"r"})";
      const std::string json = R"({"blobs":[{"digest":")" + DigestString(blob_.blob_digest) +
                               R"(","sources":[)" + sources + "]}]}";
      m.json.assign(json.begin(), json.end());
      return Result<MetaImage>(std::move(m));
    };
    auto made = MissService::Make(
        o, [this](int fd) { return SpawnFetcher(fd); }, devices);
    ASSERT_TRUE(made.ok()) << made.error().message;
    service_ = std::move(*made);
    kernel_->Connect(service_.get());
    ASSERT_TRUE(service_->Start(kernel_.get(), false).ok());
  }
  void Stop() {
    if (!service_) return;
    service_->Stop();
    kernel_->HelperLost();
    service_ = nullptr;
  }
  uint32_t nr_chunks() const { return static_cast<uint32_t>((data_.size() + kChunk - 1) / kChunk); }
  Status Prefetch() {
    // Known with its data spaces.
    for (auto images = service_->Images(); images.empty() || images[0].chunks == 0; images = service_->Images())
      std::this_thread::yield();
    return service_->Prefetch(service_->Images()[0].info.image_id);
  }
  void WaitForPrefetch() {
    for (int i = 0; i < 2000 && service_->Images().at(0).prefetching; i++)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_FALSE(service_->Images()[0].prefetching);
  }
  bool ReadsRight(uint32_t chunk) {
    Bytes got, want(kChunk);
    if (int err = kernel_->Read(chunk, &got)) {
      ADD_FAILURE() << "chunk " << chunk << ": errno " << err;
      return false;
    }
    const size_t at = chunk * kChunk;
    std::copy_n(data_.begin() + static_cast<ptrdiff_t>(at),
                std::min<size_t>(kChunk, data_.size() - at), want.begin());
    return got == want;
  }
  int ErrnoOf(uint32_t chunk) {
    Bytes got;
    return kernel_->Read(chunk, &got);
  }

  // A decoder's program that runs a line of shell first; the directory is in $dir.
  void MakeDecoder(const std::string& line) {
    decoder_ = std::filesystem::absolute(dir_ + "/decoder").string();
    std::ofstream(decoder_) << "#!/bin/sh\ndir=" << std::filesystem::absolute(dir_).string() << "\n"
                            << line << "\nexec " << DecoderPath() << "\n";
    ASSERT_EQ(::chmod(decoder_.c_str(), 0700), 0);
  }
  static HostState Host(HostGate gate) {
    HostState host;
    host.host = 1;
    host.name = "http://a";
    host.gate = gate;
    if (gate == HostGate::kGated)
      host.gated_until_ms = MonotonicMs() + 1000000;
    else
      host.window = 8;
    return host;
  }
  bool IsWhole() {
    auto spaces = service_->Spaces();
    return !spaces.empty() && spaces[0].verified == MissService::Verified::kWhole;
  }
  // The check of a whole blob came to this, within a minute.
  void WaitForWhole() {
    for (int i = 0; i < 12000 && !IsWhole(); i++)
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    ASSERT_TRUE(IsWhole()) << service_->Spaces().at(0).why;
  }

  std::string dir_;
  std::string decoder_ = DecoderPath();
  int stall_ms_ = 10000, nr_decoders_ = 2;
  int nr_sources_ = 1;                 // registries: location n at host n
  std::vector<uint32_t> liars_, held_;  // of the next fetcher: locations, hosts
  DownloadConfig download_;
  WholePolicy whole_ = WholePolicy::kOff;
  CacheLimits limits_;
  bool verify_on_read_ = false;
  uint64_t whole_layer_bytes_ = 0;
  std::atomic<int> recorded_{0};
  std::atomic<int> unread_{0};  // tries to read the meta image, yet to fail
  std::vector<Trick> tricks_;  // of the first Fetches
  uint64_t readahead_bytes_ = DispatcherOptions().readahead_bytes;
  Bytes data_;
  BlobInfo blob_;
  std::unique_ptr<CacheDevice> device_;
  std::mutex kernel_mutex_;  // guards the pointer
  std::unique_ptr<FakeKernel> kernel_;
  std::thread grace_;
  std::atomic<bool> done_{false};
  std::string file_;  // the blob
  std::unique_ptr<Source> source_;
  FakeFetchService* fetcher_ = nullptr;  // the last one
  std::unique_ptr<MissService> service_;
};

TEST_F(MissServiceTest, AMissFillsItsWholeSpan) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_EQ(kernel_->nr_present(), 5u);  // chunks that start in the first 300000 bytes
  EXPECT_EQ(source_->jobs, 1);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_LE(source_->jobs, 4);
  EXPECT_EQ(kernel_->acked, service_->counters().misses);
  EXPECT_EQ(service_->counters().unverified, 0u);
  EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kByChunk);
}

TEST_F(MissServiceTest, TellsWhereTheTimeOfAMissWent) {
  tricks_ = {Trick::kFlipByte};
  Make(250000, 64);
  EventRing* ring = service_->tracer()->ring();
  auto tracing = service_->tracer()->Begin();
  EXPECT_TRUE(ReadsRight(3));  // the last one, where the byte is flipped
  while (service_->nr_jobs()) std::this_thread::yield();
  uint64_t cursor = 0;
  std::map<std::string, std::vector<nlohmann::json>> told;  // by event
  std::istringstream lines(ring->TakeBehind(&cursor, 1 << 20));
  for (std::string line; std::getline(lines, line);) {
    auto j = nlohmann::json::parse(line);
    told[j["event"].get<std::string>()].push_back(j);
  }
  ASSERT_EQ(told["chunk"].size(), 1U);
  EXPECT_EQ(told["chunk"][0]["chunk"], 3);
  EXPECT_EQ(told["begun"].size(), 2U);
  ASSERT_EQ(told["request"].size(), 2U);
  EXPECT_NE(told["request"][0].dump().find("differs"), std::string::npos);
  ASSERT_GE(told["progress"].size(), 2U) << "what has come is told before it ends";
  EXPECT_EQ(told["progress"].back()["bytes"], told["request"].back()["bytes"]);
  EXPECT_EQ(told["progress"].back()["begin"], told["request"].back()["begin"]);
  const Counters& n = service_->counters();
  auto count = [](const Histogram& h) {
    uint64_t sum = 0;
    for (uint64_t b : h.buckets()) sum += b;
    return sum;
  };
  EXPECT_EQ(count(n.miss), 1U);
  EXPECT_EQ(count(n.phases[static_cast<size_t>(Phase::kQueue)]), 1U);
  EXPECT_EQ(count(n.phases[static_cast<size_t>(Phase::kVerify)]), 2U);
  EXPECT_GT(n.phases[static_cast<size_t>(Phase::kWrite)].sum_ns(), 0U);
  EXPECT_EQ(n.retries_by[static_cast<size_t>(ErrorKind::kMismatch)], 1U);
  EXPECT_EQ(service_->Images().at(0).bytes_fetched, n.bytes_fetched);
  tracing = nullptr;
  EXPECT_FALSE(service_->tracer()->on());
  cursor = 0;
  EXPECT_EQ(ring->TakeBehind(&cursor, 1 << 20), "");
}

TEST_F(MissServiceTest, WrongBytesAreFetchedAgainAndNeverServed) {
  Make(250000, 64);
  source_->Play({Trick::kFlipByte, Trick::kFlipByte});
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_EQ(service_->counters().mismatches, 2u);
  EXPECT_EQ(source_->jobs, 3);
  EXPECT_EQ(service_->counters().bytes_fetched, 3 * data_.size()) << "the lies cost traffic, too";
}

TEST_F(MissServiceTest, AfterThreeTriesTheReadFails) {
  Make(60000, 64);
  source_->Play({Trick::kFlipByte, Trick::kFlipByte, Trick::kFlipByte});
  EXPECT_EQ(ErrnoOf(0), EIO);
  EXPECT_EQ(kernel_->nr_present(), 0u);
  EXPECT_TRUE(ReadsRight(0)) << "a later read tries anew";
}

// No fault of the network fails a read, however often it comes back.
TEST_F(MissServiceTest, AnOutageIsWaitedFor) {
  Make(60000, 64);
  source_->Play(std::vector<Trick>(20, Trick::kTransient));
  EXPECT_TRUE(ReadsRight(0));
  EXPECT_EQ(source_->jobs, 21);
  EXPECT_EQ(service_->counters().fails, 0u);
}

TEST_F(MissServiceTest, ABlobThatIsNowhereFailsAfterTwoRounds) {
  Make(60000, 64);
  source_->Play({Trick::kGone});
  EXPECT_TRUE(ReadsRight(0)) << "it was there in the second round";
  EXPECT_EQ(source_->jobs, 2);
  Stop();
  kernel_->Forget();
  ASSERT_EQ(std::system(("rm -f " + dir_ + "/db*").c_str()), 0);
  Start();
  source_->Play(std::vector<Trick>(4, Trick::kGone));
  EXPECT_EQ(ErrnoOf(0), EIO);
  EXPECT_EQ(source_->jobs, 4);
  for (int i = 0; i < 2; i++) EXPECT_EQ(ErrnoOf(0), EIO) << "one round each, now that it is lost";
  EXPECT_EQ(source_->jobs, 6);
  EXPECT_EQ(service_->counters().fails_by[static_cast<size_t>(ErrorKind::kNotFound)], 3u);
  EXPECT_TRUE(ReadsRight(0)) << "it is there again";
}

TEST_F(MissServiceTest, AFetcherThatDiesIsReplacedAndAllIsFetchedAgain) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  for (int i = 0; i < 5; i++) {
    fetcher_->Hold(1, true);
    const uint32_t chunk = 5 + static_cast<uint32_t>(i) * 2;
    std::thread reader([&] { EXPECT_TRUE(ReadsRight(chunk)); });
    std::this_thread::sleep_for(std::chrono::milliseconds(i * 3));
    const int spawned = source_->spawned;
    fetcher_->Die();
    reader.join();
    while (source_->spawned == spawned) std::this_thread::yield();
  }
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_EQ(service_->counters().fails, 0u);
}

TEST_F(MissServiceTest, AFetcherThatDiesWhileAnImageIsAnnouncedFailsNoRead) {
  Make(1000001, 64);
  Stop();
  source_->deaths = 3;
  Start();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_EQ(source_->deaths, 0);
  EXPECT_EQ(service_->counters().fails, 0u);
}

// One that ends before it has answered, or cannot be started: nothing spins, and all is well as
// soon as one works.
TEST_F(MissServiceTest, AFetcherThatDoesNotWorkIsStartedAgainAfterAPause) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  uint32_t chunk = 5;
  for (std::atomic<bool>* trouble : {&source_->stillborn, &source_->no_starts}) {
    const int spawns = source_->spawns;
    *trouble = true;
    fetcher_->Die();
    std::this_thread::sleep_for(std::chrono::seconds(1));
    EXPECT_GE(source_->spawns - spawns, 2);
    EXPECT_LE(source_->spawns - spawns, 6);
    *trouble = false;
    EXPECT_TRUE(ReadsRight(chunk));
    chunk += 5;
  }
  EXPECT_EQ(service_->counters().fails, 0u);
}

TEST_F(MissServiceTest, AFetcherThatDoesNotAnswerIsReplaced) {
  Make(1000001, 64);
  Stop();
  source_->hangs = 2;
  const int spawns = source_->spawns;
  Start();
  EXPECT_TRUE(ReadsRight(0));
  EXPECT_EQ(source_->spawns, spawns + 3);
}

// Opened again, and refused then: it is read from where it was, and tried again.
TEST_F(MissServiceTest, AnImageThatIsOpenedAgainIsReadMeanwhile) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  const int before = source_->opens;
  source_->refusals = 1;
  service_->ReopenImages();
  while (source_->opens == before) std::this_thread::yield();
  EXPECT_TRUE(ReadsRight(3));
  while (source_->opens < before + 2) std::this_thread::yield();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_EQ(service_->counters().fails, 0u);
}

TEST_F(MissServiceTest, WhatTheKernelDoesNotTellIsAskedForAgain) {
  Make(1000001, 64);
  Stop();
  kernel_->space_errors = 2;
  Start();
  while (service_->Spaces().empty()) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(kernel_->space_errors, 0);
}

// Its work stays with its input: nothing is fetched again for it.
TEST_F(MissServiceTest, ADecoderThatCannotBeStartedIsWaitedFor) {
  std::atomic<int> failed{0}, works{0};
  SetLogSink([&](LogLevel, const EventFields& fields, const std::string&) {
    failed += fields.kind == std::string("decoder_failed");
    works += fields.kind == std::string("decoder_works");
  });
  MakeDecoder("[ -e $dir/ok ] || exit 1");
  Make(250000, 64);
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(0)); });
  while (failed < 2) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT_EQ(source_->jobs, 1);
  std::ofstream(dir_ + "/ok") << "ok";
  reader.join();
  Stop();
  SetLogSink(nullptr);
  EXPECT_EQ(source_->jobs, 1);
  EXPECT_EQ(works, 1);
}

TEST_F(MissServiceTest, AReadDoesNotWaitForADecoderThatIsBeingStarted) {
  MakeDecoder("mkdir $dir/once 2>/dev/null || /bin/sleep 3");
  readahead_bytes_ = 0;
  Make(1000001, 64);
  for (uint32_t chunk : {0, 5, 10, 15}) {
    const auto begin = std::chrono::steady_clock::now();
    EXPECT_TRUE(ReadsRight(chunk));
    EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(2500)) << chunk;
  }
}

TEST_F(MissServiceTest, WithoutDigestsBytesAreCountedAsUnverified) {
  Make(200000, 64, false);
  EXPECT_TRUE(ReadsRight(2));
  EXPECT_GT(service_->counters().unverified, 0u);
  EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kNo);
  EXPECT_EQ(service_->Spaces().at(0).why, "its meta layer has no chunk digests; wholeBlob is off");
}

TEST_F(MissServiceTest, AtALimitTheCacheEvictsInsteadOfGrowing) {
  for (bool percent : {false, true}) {
    limits_ = CacheLimits();
    limits_.dir = dir_;
    if (percent)
      limits_.max_disk_percent = 0;  // below what any file system has in use
    else
      limits_.min_free_bytes = 1ULL << 62;
    Stop();
    if (!kernel_) {
      Make(4000000, 64);
    } else {
      kernel_->Forget();
      Start();
    }
    for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
    EXPECT_GT(service_->counters().evictions, nr_chunks() / 2);
    EXPECT_LT(kernel_->nr_present(), nr_chunks() / 2);
    EXPECT_EQ(service_->counters().fails, 0u);
    Stop();
    ASSERT_EQ(std::system(("rm -f " + dir_ + "/db*").c_str()), 0);
  }
}

TEST_F(MissServiceTest, WithVerifyOnReadWhatWasReadIsCompared) {
  verify_on_read_ = true;
  Make(200000, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  AlignedBuffer junk(kChunk);
  std::vector<uint32_t> slots;
  (void)kernel_->GetSlots(kCache, false, [&](const SlotInfo& i) {
    if (i.state == FASTOCI_SLOT_PRESENT && i.chunk_no == 1) slots.push_back(i.slot);
  });
  ASSERT_EQ(slots.size(), 1u);
  ASSERT_TRUE(device_->WriteSlot(slots[0], junk.span()).ok());
  Bytes got;
  ASSERT_EQ(kernel_->Read(1, &got), 0);
  while (service_->counters().rotten == 0) std::this_thread::yield();
  while (kernel_->nr_present() == nr_chunks()) std::this_thread::yield();
  EXPECT_TRUE(ReadsRight(1));
  EXPECT_GE(service_->counters().scrubbed, 1u);
}

TEST_F(MissServiceTest, ACacheThatEndedIsWrittenNoMore) {
  Make(200000, 64);
  Stop();
  CacheInfo info = kernel_->GetCaches()->at(0);
  for (int round = 0; round < 50; round++) {
    Counters counters;
    auto cache = Cache::Open(kernel_.get(), info, std::move(*CacheDevice::Open(dir_ + "/cache")),
                             nullptr, &counters);
    ASSERT_TRUE(cache.ok());
    AlignedBuffer theirs(kChunk), ours(kChunk), got(kChunk);
    std::fill_n(theirs.data(), kChunk, 'a');
    std::fill_n(ours.data(), kChunk, 'b');
    std::atomic<int> writes{0};
    std::thread writer([&] {
      while ((*cache)->WriteSlot(7, theirs.span()).ok()) writes++;
    });
    while (writes < 3) std::this_thread::yield();
    (*cache)->End();
    ASSERT_TRUE(device_->WriteSlot(7, ours.span()).ok());  // the successor's
    writer.join();
    ASSERT_TRUE(device_->ReadSlot(7, got.span()).ok());
    EXPECT_EQ(got.data()[kChunk / 2], 'b') << round;
    EXPECT_EQ((*cache)->WriteSlot(7, theirs.span()).error().err, ECANCELED);
  }
}

TEST_F(MissServiceTest, ACacheThatComesBackHasAllItsSlots) {
  Make(200000, 64);
  Stop();
  CacheInfo info = kernel_->GetCaches()->at(0);
  Counters counters;
  auto open = [&] {
    return Cache::Open(kernel_.get(), info, std::move(*CacheDevice::Open(dir_ + "/cache")), nullptr,
                       &counters);
  };
  auto gone = open();
  ASSERT_TRUE(gone.ok());
  ASSERT_TRUE((*gone)->TakeSlot().ok());
  ASSERT_GT(kernel_->nr_reserved(), 0u);
  (*gone)->End();
  ASSERT_TRUE(open().ok());
  EXPECT_EQ(kernel_->nr_reserved(), 0u) << "the kernel has kept them for us";
}

TEST_F(MissServiceTest, AWholeBlobFindsWhatRangesHadPlanted) {
  CountRecorded();
  Make(1000001, 64, false);
  source_->Play({Trick::kFlipByte});  // chunk 4: the last one of its span
  Bytes planted;
  ASSERT_EQ(kernel_->Read(0, &planted), 0);
  while (service_->nr_jobs()) std::this_thread::yield();
  ASSERT_EQ(kernel_->nr_present(), 5u);
  Stop();
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  Start();
  while (service_->Spaces().empty() ||
         service_->Spaces().at(0).verified != MissService::Verified::kWhole ||
         service_->counters().planted == 0)
    std::this_thread::yield();
  EXPECT_EQ(service_->counters().planted, 1u);
  while (kernel_->nr_present() != 4) std::this_thread::yield();
  source_->Play({Trick::kFlipByte});
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_GE(service_->counters().mismatches, 1u) << "lies are found at once from now on";
  EXPECT_EQ(service_->counters().unverified, 0u);
  // What was recorded holds without another look at the blob.
  while (recorded_ == 0) std::this_thread::yield();
  Stop();
  whole_ = WholePolicy::kOff;
  kernel_->Forget();
  Start();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kWhole);
}

TEST_F(MissServiceTest, ABlobThatIsNotWhatItsDigestSaysIsRefusedOrReported) {
  for (WholePolicy policy : {WholePolicy::kReport, WholePolicy::kFail}) {
    Stop();
    whole_ = policy;
    download_.delay_s = download_.delay_extra_s = 0;
    if (!source_) {
      Make(300000, 64, false);
      Stop();
      blob_.blob_digest[0] ^= 1;
    }
    Start();
    auto told = [&] {
      auto spaces = service_->Spaces();
      return !spaces.empty() &&
             spaces[0].why.find("as a whole does not match") != std::string::npos;
    };
    while (!told()) std::this_thread::yield();
    EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kNo);
    EXPECT_EQ(service_->counters().mismatches, 3u);
    if (policy == WholePolicy::kReport) {
      EXPECT_TRUE(ReadsRight(1));
    } else {
      while (kernel_->nr_present()) std::this_thread::yield();
      EXPECT_EQ(ErrnoOf(1), EIO);
      EXPECT_EQ(service_->counters().fails, 1u);
    }
  }
}

TEST_F(MissServiceTest, TheCheckOfAWholeBlobIsItsDownload) {
  whole_ = WholePolicy::kFail;
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  Make(1000001, 64, false);
  while (service_->Spaces().empty() ||
         service_->Spaces().at(0).verified != MissService::Verified::kWhole)
    std::this_thread::yield();
  while (kernel_->nr_present() < nr_chunks()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // for who would fetch again
  EXPECT_EQ(service_->counters().bytes_fetched, data_.size());
  EXPECT_EQ(service_->counters().bytes_background, data_.size());
  EXPECT_EQ(service_->counters().planted, 0u);
  const int jobs = source_->jobs;
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  EXPECT_EQ(source_->jobs, jobs) << "without a source";
}

TEST_F(MissServiceTest, ABlobThatCannotBeCheckedIsDownloadedAllTheSame) {
  whole_ = WholePolicy::kFail;
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  tricks_ = {Trick::kGone, Trick::kGone};  // the check's, in two rounds
  Make(300000, 64, false);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kNo);
}

TEST_F(MissServiceTest, ACheckGoesOnWhereItWasAfterA404) {
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  tricks_ = {Trick::kNone, Trick::kNone, Trick::kGone, Trick::kNone, Trick::kGone};
  Make(4 << 20, 128, false);
  WaitForWhole();
  EXPECT_EQ(service_->counters().bytes_fetched, data_.size());
  EXPECT_EQ(source_->jobs, 6);
}

TEST_F(MissServiceTest, ACheckWhoseRegistryIsDownGoesOnNearWhereItWas) {
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  held_ = {1};
  Make(8 << 20, 160, false);
  auto answer = [&](bool gated) {
    while (fetcher_->running() == 0) std::this_thread::yield();
    if (gated)
      fetcher_->Fail(1, {.retry_at_ms = MonotonicMs() + 1000000,
                         .error = {ErrorKind::kUnavailable, EIO, "injected"}});
    fetcher_->AnswerHeld(1);
  };
  for (int i = 0; i < 7; i++) answer(false);
  answer(true);
  while (service_->Spaces().at(0).why.find("the check of the whole blob waits: injected") ==
         std::string::npos)
    std::this_thread::yield();
  HostState host = Host(HostGate::kOpen);
  host.openings = 1;
  fetcher_->SetHost(host);
  fetcher_->Hold(1, false);
  WaitForWhole();
  EXPECT_LT(service_->counters().bytes_fetched, data_.size() + (3 << 20)) << "not from its begin";
}

// However many mirrors lie: one that has the blob is enough.
TEST_F(MissServiceTest, ABadMirrorIsNoReasonToRefuseALayer) {
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  nr_sources_ = 5;
  liars_ = {1, 2, 3, 4};
  Make(3 << 20, 128, false);
  WaitForWhole();
  EXPECT_GE(service_->counters().mismatches, 5u);
}

TEST_F(MissServiceTest, ACheckReplacesADecoderThatStalls) {
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  stall_ms_ = 2000;  // of the first one; the next ones are slow at most
  MakeDecoder("mkdir $dir/once 2>/dev/null && exec /bin/sleep 1000");
  Make(1000001, 64, false);
  WaitForWhole();
  EXPECT_EQ(service_->counters().mismatches, 0u);
}

// What works with an old view of a blob may do so for as long as a registry is down.
TEST_F(MissServiceTest, ACheckThatWaitsForOthersToEndHoldsUpNoStop) {
  CountRecorded();
  whole_ = WholePolicy::kFail;
  download_.delay_s = download_.delay_extra_s = 0;
  held_ = {1};
  Make(300000, 64, false);
  // The check's range and the read's.
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(1)); });
  while (fetcher_->running() < 2) std::this_thread::yield();
  for (const FetchRequest& r : fetcher_->Fetches())
    if (r.miss_class != FASTOCI_CLASS_DEMAND) fetcher_->AnswerHeld(1, r.miss_class);
  while (!IsWhole()) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  EXPECT_EQ(recorded_, 0) << "what the read fetches was not compared";
  Stop();
  held_.clear();
  Start();
  ASSERT_TRUE(kernel_->GetPending().ok());
  reader.join();
}

// Neither is a lie kept that a referrer's digests know, though it is all that the check gets.
TEST_F(MissServiceTest, TheDownloadOfAWholeBlobKeepsToItsDigests) {
  blob_.codec = FASTOCI_CODEC_ZFILE;
  Make(300000, 64);
  Stop();
  whole_ = WholePolicy::kReport;
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  blob_.blob_digest[0] ^= 1;
  source_->Play(std::vector<Trick>(3, Trick::kFlipByte));
  Start();
  while (service_->Spaces().empty() ||
         service_->Spaces().at(0).why.find("does not match") == std::string::npos)
    std::this_thread::yield();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
}

// A referrer's digests hold from the first read on, but its blob is checked as a whole
// all the same, and that decides.
TEST_F(MissServiceTest, DigestsOfAReferrerHoldUntilTheWholeBlobWasRead) {
  CountRecorded();
  for (bool lie : {false, true}) {
    recorded_ = 0;
    blob_ = {};
    blob_.codec = FASTOCI_CODEC_ZFILE;
    whole_ = WholePolicy::kOff;
    Make(300000, 64);
    Stop();
    if (lie) blob_.digests[3][0] ^= 1;
    Start();
    source_->Play({Trick::kFlipByte});
    EXPECT_TRUE(ReadsRight(0));
    EXPECT_EQ(ErrnoOf(3), lie ? EIO : 0) << "never anything but what they say";
    while (service_->nr_jobs()) std::this_thread::yield();  // the flipped byte is in the last chunk
    EXPECT_GE(service_->counters().retries, lie ? 3u : 1u);
    EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kByChunk);
    EXPECT_NE(service_->Spaces().at(0).why.find("referrer"), std::string::npos);
    EXPECT_EQ(service_->counters().unverified, 0u);
    Stop();
    whole_ = WholePolicy::kFail;
    download_.delay_s = download_.delay_extra_s = 0;
    Start();
    while (service_->Spaces().empty() ||
           service_->Spaces().at(0).verified != MissService::Verified::kWhole)
      std::this_thread::yield();
    EXPECT_EQ(service_->Spaces().at(0).why, "");
    while (recorded_ == 0) std::this_thread::yield();
    for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
    // Recorded: it holds without another look at the blob.
    Stop();
    whole_ = WholePolicy::kOff;
    kernel_->Forget();
    Start();
    for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
    EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kWhole);
    Stop();
    ::unlink((dir_ + "/db").c_str());
    ::unlink((dir_ + "/cache").c_str());
  }
}

TEST_F(MissServiceTest, ASmallLayerIsFetchedAsAWhole) {
  whole_layer_bytes_ = 1000000;
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(7));
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_LT(kernel_->nr_present(), nr_chunks()) << "it is larger by a byte";
  Stop();
  whole_layer_bytes_ = 1000001;
  ::unlink((dir_ + "/db").c_str());
  ::unlink((dir_ + "/cache").c_str());
  blob_ = {};
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(7));
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(source_->jobs, 1);
  EXPECT_EQ(service_->counters().bytes_fetched, data_.size());
}

TEST_F(MissServiceTest, ASmallLayerWithoutDigestsIsCheckedAsAWholeAtOnce) {
  whole_ = WholePolicy::kFail;
  whole_layer_bytes_ = 300000;
  ASSERT_GT(download_.delay_s, 0u);
  Make(300000, 64, false);
  while (service_->Spaces().empty() ||
         service_->Spaces().at(0).verified != MissService::Verified::kWhole)
    std::this_thread::yield();
  EXPECT_TRUE(ReadsRight(1));
  EXPECT_EQ(service_->counters().unverified, 0u);
}

TEST_F(MissServiceTest, AMissBeforeItsImageIsServedLaterOrFailsInTime) {
  Make(200000, 64);
  Stop();
  kernel_->ShowImage(false);
  Start();
  EXPECT_EQ(ErrnoOf(0), EIO) << "deadline";
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(1)); });
  while (service_->counters().misses < 2) std::this_thread::yield();
  kernel_->ShowImage(true);
  service_->OnImage({}, true);
  reader.join();
}

TEST_F(MissServiceTest, AnImageThatCannotBeReadAtOnceIsReadAgain) {
  unread_ = 2;
  Make(200000, 64);
  EXPECT_TRUE(ReadsRight(1));
}

TEST_F(MissServiceTest, ACacheThatGoesAmidFetchesTakesNoDecoderAlong) {
  nr_decoders_ = 1;
  held_ = {1};
  Make(200000, 64);
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(1)); });
  while (fetcher_->running() == 0) std::this_thread::yield();
  kernel_->ShowImage(false);
  kernel_->ShowCache(false);
  service_->OnCacheRemoved(1);
  while (!service_->Caches().empty()) std::this_thread::yield();
  fetcher_->Hold(1, false);
  kernel_->ShowCache(true);
  kernel_->ShowImage(true);
  service_->OnImage({}, true);
  while (service_->Images().empty()) std::this_thread::yield();
  service_->OnLost();
  reader.join();
}

TEST_F(MissServiceTest, ACacheGoesSomeTimeAfterItsLastImage) {
  Make(200000, 64);
  while (service_->Images().empty()) std::this_thread::yield();
  kernel_->ShowImage(false);
  service_->OnImage({}, false);
  while (!service_->Images().empty()) std::this_thread::yield();
  EXPECT_EQ(service_->Caches().size(), 1u);
  kernel_->ShowCache(false);
  service_->OnCacheRemoved(1);
  while (!service_->Caches().empty()) std::this_thread::yield();
}

TEST_F(MissServiceTest, LostEventsAreAskedForAgain) {
  Make(200000, 64);
  kernel_->Connect(nullptr);  // silently: no event comes
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(1)); });
  while (kernel_->GetPending().ok() && service_->counters().misses == 0) {
    kernel_->Connect(service_.get());
    ASSERT_TRUE(kernel_->Register(false).ok());
    service_->OnLost();
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
  reader.join();
}

TEST_F(MissServiceTest, ARestartServesFromTheDatabaseAfterVerification) {
  Make(1000001, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  Stop();
  kernel_->Forget();
  const int jobs = source_->jobs;
  {  // One chunk rots meanwhile.
    AlignedBuffer rot(512);
    auto db = CacheDb::Open(dir_ + "/db", device_->geometry().uuid);
    ASSERT_EQ((*db)->Count(), nr_chunks());
    ASSERT_TRUE((*db)->ForEach([&](const SlotRow& r) {
      if (r.chunk_no != 7) return;
      EXPECT_TRUE(device_->WriteSlot(r.slot, rot.span().first(512)).ok());
    }).ok());
  }
  Start();
  EXPECT_TRUE(ReadsRight(3));
  EXPECT_EQ(source_->jobs, jobs) << "from the slot";
  while (service_->counters().restored < nr_chunks() - 1) std::this_thread::yield();
  EXPECT_EQ(kernel_->nr_present(), nr_chunks() - 1) << "the rest in the background";
  EXPECT_TRUE(ReadsRight(7));
  EXPECT_EQ(source_->jobs, jobs + 1) << "the rotten one is fetched";
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  EXPECT_EQ(source_->jobs, jobs + 1);
}

TEST_F(MissServiceTest, WhatIsKeptNeedsNoSourceInWhateverOrderMissesCome) {
  Make(40 * kChunk - 1000, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  const int jobs = source_->jobs;
  for (int round = 0; round < 10; round++) {
    Stop();
    kernel_->Forget();
    Start();
    std::vector<std::thread> readers;
    for (uint32_t t = 0; t < 8; t++)
      readers.emplace_back([&, t] {
        for (uint32_t c = t; c < nr_chunks(); c += 8) EXPECT_TRUE(ReadsRight(c));
      });
    for (auto& r : readers) r.join();
  }
  EXPECT_EQ(source_->jobs, jobs);
}

TEST_F(MissServiceTest, ARestartWhileTheKernelServesLosesNoSlot) {
  Make(1000001, 16);
  EXPECT_TRUE(ReadsRight(0));
  while (service_->nr_jobs()) std::this_thread::yield();
  Stop();  // the kernel keeps its five chunks
  Start();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  Stop();
  auto all = kernel_->Alloc(kCache, 256);
  ASSERT_TRUE(all.ok() || kernel_->nr_present() == 16);
  EXPECT_EQ(kernel_->nr_present() + (all.ok() ? all->size() : 0), 16u);
}

TEST_F(MissServiceTest, ASmallCacheEvictsAndEveryReadIsRight) {
  Make(40 * kChunk - 1000, 8);
  std::atomic<int> wrong{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 4; t++)
    readers.emplace_back([&, t] {
      std::mt19937 rng(static_cast<uint32_t>(t));
      for (int i = 0; i < 150; i++)
        if (!ReadsRight(rng() % nr_chunks())) wrong++;
    });
  for (auto& r : readers) r.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GT(service_->counters().evictions, 0u);
  EXPECT_EQ(service_->counters().fails, 0u);
}

TEST_F(MissServiceTest, SlotsAreReservedInModestBatches) {
  Make(40 * kChunk, 512);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  EXPECT_LE(kernel_->most_reserved, 64u);
}

TEST_F(MissServiceTest, ARestartTakesOverWhatTheKernelServes) {
  Make(1000001, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  Stop();
  {  // Two rows are lost, one is wrong.
    auto db = CacheDb::Open(dir_ + "/db", device_->geometry().uuid);
    SlotRow wrong;
    ASSERT_TRUE((*db)->ForEach([&](const SlotRow& r) {
      if (r.chunk_no < 2) (*db)->Remove(r.slot);
      if (r.chunk_no == 4) wrong = r;
    }).ok());
    wrong.chunk_no = 1;
    (*db)->Add(wrong);
    ASSERT_TRUE((*db)->Commit([] { return OkStatus(); }).ok());
    ASSERT_EQ((*db)->Count(), nr_chunks() - 2);
  }
  const int jobs = source_->jobs;
  Start();
  auto durable = [&] {
    auto caches = service_->Caches();
    return caches.empty() ? 0 : caches[0].durable;
  };
  for (int i = 0; i < 2000 && durable() != nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(durable(), nr_chunks());
  EXPECT_EQ(service_->Caches().at(0).present, nr_chunks());
  EXPECT_EQ(source_->jobs, jobs) << "nothing is fetched for that";
}

TEST_F(MissServiceTest, AScrubFindsRotAndTheChunkIsFetchedAgain) {
  Make(1000001, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  AlignedBuffer rot(512);
  ASSERT_TRUE(device_->WriteSlot(3, rot.span().first(512)).ok());
  service_->Scrub();
  while (service_->counters().scrubbed < nr_chunks()) std::this_thread::yield();
  EXPECT_EQ(service_->counters().rotten, 1u);
  EXPECT_EQ(kernel_->nr_present(), nr_chunks() - 1);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
}

TEST_F(MissServiceTest, ASlotThatCannotBeReadIsRetiredAndItsChunkFetchedAgain) {
  for (bool told : {true, false}) {
    Make(10 * kChunk, 64);
    EXPECT_TRUE(ReadsRight(3));
    auto all_durable = [&] {
      const Cache::Stat s = service_->Caches().at(0);
      return service_->nr_jobs() == 0 && s.durable == s.present;
    };
    auto wait_until_durable = [&] {
      for (int i = 0; i < 2000 && !all_durable(); i++)
        std::this_thread::sleep_for(std::chrono::milliseconds(5));
      return service_->Caches().at(0).durable;
    };
    const uint64_t durable = wait_until_durable();
    ASSERT_GT(durable, 0U);
    const uint32_t slot = kernel_->Retire(3, told);
    EXPECT_TRUE(ReadsRight(3)) << told;
    Cache::Stat stat = service_->Caches().at(0);
    EXPECT_EQ(stat.retired, 1u) << told;
    EXPECT_NE(stat.trouble.find("slot " + std::to_string(slot) + " cannot be read"),
              std::string::npos)
        << stat.trouble;
    EXPECT_EQ(service_->counters().fails, 0u);
    // A next helper learns of it from the kernel.
    Stop();
    Start();
    while (service_->Caches().empty()) std::this_thread::yield();
    EXPECT_TRUE(ReadsRight(3));
    stat = service_->Caches().at(0);
    EXPECT_EQ(stat.retired, 1u);
    EXPECT_NE(stat.trouble, "");
    EXPECT_EQ(wait_until_durable(), durable) << "the other slot has the row";
    Stop();
    ASSERT_EQ(std::system(("rm -rf " + dir_ + "/*").c_str()), 0);
    blob_ = BlobInfo();
  }
}

TEST_F(MissServiceTest, ACacheWithoutAGoodSlotFailsAtOnceAndSaysItOnce) {
  constexpr uint32_t kSlots = 8;
  int faults = 0;
  SetLogSink([&](LogLevel, const EventFields& fields, const std::string&) {
    faults += fields.kind == std::string("cache_fault");
  });
  Make(kChunk, kSlots);
  for (uint32_t i = 0; i < kSlots; i++) {
    EXPECT_TRUE(ReadsRight(0)) << i;
    while (service_->nr_jobs()) std::this_thread::yield();
    kernel_->Retire(0, true);
  }
  const Cache::Stat stat = service_->Caches().at(0);
  EXPECT_EQ(stat.retired, kSlots);
  EXPECT_NE(stat.trouble.find("8 in all"), std::string::npos) << stat.trouble;
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_NE(ErrnoOf(0), 0);
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(5));
  Stop();
  SetLogSink(nullptr);
  EXPECT_EQ(faults, 1);
}

// As of a file system that became read-only: the limit also holds for what is written over.
class NoWrites {
 public:
  NoWrites() {
    ::signal(SIGXFSZ, SIG_IGN);
    ::getrlimit(RLIMIT_FSIZE, &before_);
    rlimit none = before_;
    none.rlim_cur = 0;
    ::setrlimit(RLIMIT_FSIZE, &none);
  }
  ~NoWrites() { ::setrlimit(RLIMIT_FSIZE, &before_); }

 private:
  rlimit before_;
};

TEST_F(MissServiceTest, ADeviceThatTakesNoWritesServesWhatItHasAndNothingIsFetchedForIt) {
  readahead_bytes_ = 0;  // it would bring what is to be read later
  for (uint32_t nr_slots : {64U, 12U}) {  // with free slots, and with none
    Make(24 * kChunk, nr_slots);
    const uint32_t last = nr_chunks() - 1;
    for (uint32_t c = 0; c < nr_chunks() - 5; c++) EXPECT_TRUE(ReadsRight(c));
    while (service_->nr_jobs()) std::this_thread::yield();
    {
      NoWrites none;
      for (int i = 0; i < 3; i++) EXPECT_EQ(ErrnoOf(last), EIO);
      while (service_->nr_jobs()) std::this_thread::yield();
      const int jobs = source_->jobs;
      const Cache::Stat stat = service_->Caches().at(0);
      EXPECT_GT(stat.present, 5U);
      for (int i = 0; i < 10; i++) EXPECT_EQ(ErrnoOf(last), EIO);
      EXPECT_EQ(source_->jobs, jobs);
      EXPECT_EQ(service_->Caches().at(0).present, stat.present) << "evicted for nothing";
      EXPECT_EQ(stat.retired, 0U);
      EXPECT_NE(stat.trouble.find("refuses writes: check it, and whether the file system behind it "
                                  "is read-only"),
                std::string::npos)
          << stat.trouble;
      EXPECT_EQ(kernel_->nr_present(), stat.present);
      EXPECT_TRUE(ReadsRight(kernel_->AnyPresent()));
    }
    for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
    for (int i = 0; i < 1000 && service_->Caches().at(0).trouble != ""; i++)  // the database's, too
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    EXPECT_EQ(service_->Caches().at(0).trouble, "");
    Stop();
    ASSERT_EQ(std::system(("rm -rf " + dir_ + "/*").c_str()), 0);
    blob_ = BlobInfo();
  }
}

TEST_F(MissServiceTest, APinnedImageStaysAndOthersStillReadOn) {
  Make(20 * kChunk, 8);
  EXPECT_FALSE(service_->Pin({1}, true).ok()) << "no such image";
  while (service_->Images().empty()) std::this_thread::yield();
  ASSERT_TRUE(service_->Pin({}, true).ok());
  EXPECT_TRUE(service_->Images().at(0).pinned);
  EXPECT_EQ(service_->CollectGarbage(), 0u);
  ASSERT_TRUE(service_->Pin({}, false).ok());
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
}

// The cache goes with its last image, and its pins must not be looked for in it any more.
TEST_F(MissServiceTest, AnImageThatIsDetachedCanBeUnpinned) {
  Make(10 * kChunk, 64);
  while (service_->Images().empty()) std::this_thread::yield();
  ASSERT_TRUE(service_->Pin({}, true).ok());
  auto detach = [&] {
    kernel_->ShowImage(false);
    kernel_->ShowCache(false);
    service_->OnCacheRemoved(kCache);
    while (!service_->Images().empty() || !service_->Caches().empty()) std::this_thread::yield();
  };
  detach();
  EXPECT_FALSE(service_->Pin({1}, false).ok()) << "another image";
  EXPECT_TRUE(service_->Pin({}, false).ok());
  EXPECT_FALSE(service_->Pin({}, false).ok()) << "it is not pinned any more";
  EXPECT_TRUE(service_->Caches().empty());
  EXPECT_EQ(service_->CollectGarbage(), 0u);
  kernel_->Forget();
  kernel_->ShowCache(true);
  kernel_->ShowImage(true);
  kernel_->Connect(service_.get());
  ASSERT_TRUE(kernel_->Register(false).ok());
  service_->OnImage({}, true);
  while (service_->Images().empty()) std::this_thread::yield();
  EXPECT_FALSE(service_->Images().at(0).pinned);
  EXPECT_TRUE(ReadsRight(3));
}

TEST_F(MissServiceTest, TheDownloadBringsAllAndCountsIt) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  Make(1000001, 64);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(service_->counters().misses, 0u);
  // A chunk over the end of a span is part of two requests.
  EXPECT_GE(service_->counters().bytes_background, data_.size());
  EXPECT_LE(service_->counters().bytes_background, data_.size() + 4 * kChunk);
  EXPECT_EQ(service_->Images().at(0).present, nr_chunks());
  const int jobs = source_->jobs;
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  EXPECT_EQ(source_->jobs, jobs) << "without a source";
}

// Each of its requests costs a look at what it asks for, and not at all chunks from the first on.
TEST_F(MissServiceTest, ADownloadLooksAtEachChunkOnceInAPass) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  download_.block_bytes = 65536;
  Make(300 * kChunk, 512);
  for (int i = 0; i < 6000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_GT(source_->jobs, 50);
  EXPECT_LE(service_->download_looks(), 4 * nr_chunks());
}

// Its share of what is queued is there for those whose registry answers.
TEST_F(MissServiceTest, ADownloadQueuesNothingForARegistryThatIsDown) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  while (service_->nr_jobs()) std::this_thread::yield();
  fetcher_->SetHost(Host(HostGate::kGated));
  while (service_->Hosts().at(0).gate != HostGate::kGated) std::this_thread::yield();
  ASSERT_TRUE(Prefetch().ok());
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  service_->Reconfigure(true, {}, download_, 0);
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(service_->nr_jobs(), 0u);
  EXPECT_TRUE(service_->Images().at(0).prefetching) << "it waits";
  fetcher_->SetHost(Host(HostGate::kOpen));
  WaitForPrefetch();
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
}

TEST_F(MissServiceTest, ADownloadWithoutALimitBringsAll) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  download_.max_mbps = 0;
  Make(300 * kChunk, 512);
  for (int i = 0; i < 6000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
}

TEST_F(MissServiceTest, TheDownloadGivesUpAfterItsTriesAndFailsNobody) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  download_.tries = 2;
  const int nr_tricks = 20;
  tricks_ = std::vector<Trick>(nr_tricks, Trick::kGone);
  Make(200000, 64);
  int jobs = 0;
  while (source_->jobs < 3 || source_->jobs != jobs) {
    jobs = source_->jobs;
    std::this_thread::sleep_for(std::chrono::milliseconds(300));
  }
  // How many depends on how many of them fail together and count as one.
  EXPECT_LT(jobs, nr_tricks) << "it ended because nothing failed any more";
  EXPECT_EQ(service_->counters().fails, 0u);
  source_->Play({});
  EXPECT_TRUE(ReadsRight(1)) << "a read asks again";
}

TEST_F(MissServiceTest, AReloadBeginsTheDownloadAndTriesAgainWhatWasGivenUp) {
  download_.delay_s = download_.delay_extra_s = 0;
  download_.tries = 2;
  tricks_ = std::vector<Trick>(3, Trick::kGone);
  Make(200000, 64);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(source_->jobs, 0);
  download_.enable = true;
  service_->Reconfigure(true, {}, download_, 0);
  while (source_->jobs < 3) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(kernel_->nr_present(), 0u) << "given up";
  service_->Reconfigure(true, {}, download_, 0);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  download_.enable = false;
  service_->Reconfigure(true, {}, download_, 0);
}

TEST_F(MissServiceTest, AnImageThatDoesNotFitIsNotDownloaded) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  Make(20 * kChunk, 16);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_EQ(source_->jobs, 0);
}

// A client of the seed intake, without a control socket between.
class SeedClient {
 public:
  explicit SeedClient(MissService* service, const Sha256Digest& image_id) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends), 0);
    socket_.reset(ends[0]);
    memory_.reset(::memfd_create("seed", MFD_CLOEXEC));
    EXPECT_EQ(::ftruncate(memory_.get(), kSeedMemoryBytes), 0);
    begun = service->BeginSeed(image_id, UniqueFd(ends[1]), UniqueFd(::dup(memory_.get())));
  }
  int memory() const { return memory_.get(); }
  SeedReply Ask(const SeedRequest& request) {
    EXPECT_TRUE(SendPacket(socket_.get(), ObjectBytes(request)).ok());
    SeedReply reply = {};
    EXPECT_TRUE(ReceivePacket(socket_.get(), WritableObjectBytes(&reply), 30000).ok());
    return reply;
  }
  SeedReply Fill(const BlobInfo& blob, ByteSpan data, uint64_t offset, uint64_t bytes, uint64_t at = 0) {
    EXPECT_TRUE(PwriteFull(memory_.get(), data.subspan(offset, bytes), at, "memory").ok());
    SeedRequest r = {};
    r.op = SeedOp::kFill;
    std::copy(blob.data_space_id.begin(), blob.data_space_id.end(), r.space_id);
    r.data_offset = offset;
    r.bytes = bytes;
    r.memory_offset = at;
    return Ask(r);
  }
  SeedReply End() {
    SeedRequest r = {};
    r.op = SeedOp::kEnd;
    return Ask(r);
  }
  Status begun = OkStatus();

 private:
  UniqueFd socket_, memory_;
};

TEST_F(MissServiceTest, ASeedFillsTheCacheWithoutTheNetwork) {
  Make(1000001, 64);
  SeedClient client(service_.get(), Sha256Digest{});
  ASSERT_TRUE(client.begun.ok()) << client.begun.error().message;
  const SeedReply first = client.Fill(blob_, data_, 0, 8 * kChunk);
  EXPECT_EQ(first.kind, 0U) << first.text;
  const SeedReply rest = client.Fill(blob_, data_, 8 * kChunk, data_.size() - 8 * kChunk, kSeedBatchBytes);
  EXPECT_EQ(rest.kind, 0U) << rest.text;
  EXPECT_EQ(client.Fill(blob_, data_, 0, 8 * kChunk).kind, 0U) << "what is there already";
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  const SeedReply end = client.End();
  EXPECT_EQ(end.kind, 0U) << end.text;
  EXPECT_EQ(service_->Caches().at(0).durable, nr_chunks());
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_EQ(source_->jobs, 0);
  auto cached = service_->CachedChunks(Sha256Digest{}, blob_.data_space_id, 0);
  ASSERT_TRUE(cached.ok()) << cached.error().message;
  uint32_t count = 0;
  for (const auto& run : cached->runs) {
    EXPECT_EQ(run.chunk_no, count);
    count += run.count;
  }
  EXPECT_EQ(count, nr_chunks());
  EXPECT_EQ(cached->next, cached->nr_chunks);
  EXPECT_FALSE(service_->CachedChunks(Sha256Digest{1}, blob_.data_space_id, 0).ok());
}

TEST_F(MissServiceTest, ASeedThatLiesFillsNothing) {
  Make(1000001, 64);
  SeedClient client(service_.get(), Sha256Digest{});
  ASSERT_TRUE(client.begun.ok());
  Bytes lies = data_;
  lies[3 * kChunk + 5] ^= 1;
  const SeedReply lie = client.Fill(blob_, lies, 3 * kChunk, kChunk);
  EXPECT_EQ(lie.kind, 1 + static_cast<uint32_t>(ErrorKind::kMismatch));
  EXPECT_NE(std::string(lie.text).find("data bytes 196608+65536 differs"), std::string::npos) << lie.text;
  // What is no whole chunk, or out of the data space, or out of the memory.
  SeedRequest r = {};
  r.op = SeedOp::kFill;
  r.space_id[0] = blob_.data_space_id[0];
  const struct { uint64_t offset, bytes, memory; } bad[] = {
      {1, kChunk, 0}, {0, 1000, 0}, {0, 0, 0}, {16 * kChunk, kChunk, 0}, {0, kSeedBatchBytes + kChunk, 0},
      {~0ULL - kChunk + 1, kChunk, 0}, {0, kChunk, kSeedMemoryBytes}, {0, kChunk, ~0ULL}};
  for (const auto& b : bad) {
    r.data_offset = b.offset;
    r.bytes = b.bytes;
    r.memory_offset = b.memory;
    EXPECT_NE(client.Ask(r).kind, 0U) << b.offset << " " << b.bytes << " " << b.memory;
  }
  // Memory that the client made shorter meanwhile.
  ASSERT_EQ(::ftruncate(client.memory(), 100), 0);
  r.data_offset = r.memory_offset = 0;
  r.bytes = kChunk;
  EXPECT_EQ(client.Ask(r).kind, 1 + static_cast<uint32_t>(ErrorKind::kMismatch));
  r.op = static_cast<SeedOp>(77);
  EXPECT_NE(client.Ask(r).kind, 0U);
  EXPECT_EQ(kernel_->nr_present(), 0U);
  EXPECT_TRUE(ReadsRight(3)) << "the registry has the right bytes";
}

TEST_F(MissServiceTest, ASeedOfALayerWithoutDigestsIsRefused) {
  Make(250000, 64, false);
  SeedClient client(service_.get(), Sha256Digest{});
  const SeedReply reply = client.Fill(blob_, data_, 0, kChunk);
  EXPECT_EQ(reply.kind, 1 + static_cast<uint32_t>(ErrorKind::kUnsupported));
  EXPECT_EQ(kernel_->nr_present(), 0U);
}

TEST_F(MissServiceTest, SeedsEndWithTheHelperAndAreFew) {
  Make(250000, 64);
  {
    std::vector<std::unique_ptr<SeedClient>> clients;
    for (size_t i = 0; i <= SeedIntake::kMaxClients; i++)
      clients.push_back(std::make_unique<SeedClient>(service_.get(), Sha256Digest{}));
    EXPECT_EQ(clients.back()->begun.error().err, EBUSY);
  }
  // Those are gone, which is seen soon.
  auto last = std::make_unique<SeedClient>(service_.get(), Sha256Digest{});
  for (int i = 0; i < 2000 && !last->begun.ok(); i++) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    last = std::make_unique<SeedClient>(service_.get(), Sha256Digest{});
  }
  EXPECT_TRUE(last->begun.ok()) << last->begun.error().message;
  Stop();  // does not wait for it
}

TEST_F(MissServiceTest, APrefetchBringsAllAndEnds) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(3));
  EXPECT_FALSE(service_->Prefetch({1}).ok());
  ASSERT_TRUE(Prefetch().ok());
  EXPECT_TRUE(service_->Images().at(0).prefetching);
  WaitForPrefetch();
  EXPECT_EQ(service_->Images().at(0).prefetch_error, "");
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(service_->counters().bytes_background, 0u) << "its rate is not bounded";
  const int jobs = source_->jobs;
  ASSERT_TRUE(Prefetch().ok());
  WaitForPrefetch();
  EXPECT_EQ(source_->jobs, jobs) << "it is all there";
}

TEST_F(MissServiceTest, APrefetchIsGivenUpWithTheReason) {
  download_.tries = 2;
  tricks_ = std::vector<Trick>(3, Trick::kGone);
  Make(200000, 64);
  ASSERT_TRUE(Prefetch().ok());
  WaitForPrefetch();
  EXPECT_NE(service_->Images().at(0).prefetch_error, "");
  EXPECT_EQ(service_->counters().fails, 0u);
  ASSERT_TRUE(Prefetch().ok());
  WaitForPrefetch();
  EXPECT_EQ(service_->Images().at(0).prefetch_error, "");
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
}

TEST_F(MissServiceTest, APrefetchOfWhatDoesNotFitIsRefused) {
  Make(20 * kChunk, 16);
  Status s = Prefetch();
  ASSERT_FALSE(s.ok());
  EXPECT_NE(s.error().message.find("20 chunks"), std::string::npos) << s.error().message;
}

TEST_F(MissServiceTest, ADrainLeavesMissesToTheNextHelper) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  service_->Drain(5000);
  std::thread reader([&] { EXPECT_TRUE(ReadsRight(10)); });
  while (service_->counters().misses < 2) std::this_thread::yield();
  EXPECT_EQ(service_->counters().fails, 0u);
  Stop();
  Start();
  ASSERT_TRUE(kernel_->GetPending().ok());
  reader.join();
}

TEST_F(MissServiceTest, ReadsAreRightAcrossRestartsUnderLoad) {
  Make(40 * kChunk - 1000, 12);
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0}, reads{0};
  std::vector<std::thread> readers;
  for (int t = 0; t < 3; t++)
    readers.emplace_back([&, t] {
      std::mt19937 rng(static_cast<uint32_t>(t));
      while (!stop) {
        Bytes got;
        const uint32_t c = rng() % nr_chunks();
        const int err = kernel_->Read(c, &got);
        const bool same = err == 0 && std::memcmp(got.data(), data_.data() + c * kChunk, 1000) == 0;
        if (!same) wrong++;
        EXPECT_TRUE(same) << "chunk " << c << ": errno " << err;
        reads++;
      }
    });
  for (int i = 0; i < 8; i++) {
    const int before = reads;
    while (reads < before + 30) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    service_->Stop();
    kernel_->HelperLost();
    service_ = nullptr;
    Start();
    ASSERT_TRUE(kernel_->GetPending().ok());
  }
  stop = true;
  for (auto& r : readers) r.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace fastoci
