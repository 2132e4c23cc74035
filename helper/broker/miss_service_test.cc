// SPDX-License-Identifier: Apache-2.0
// MissService between a model of the kernel (slots, reservations, misses,
// eviction with a delay) and lanes that serve from memory and can be told to
// lie, fail or die. Readers of the model compare every byte.
#include "broker/miss_service.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <cstdlib>
#include <deque>
#include <random>
#include <set>
#include <shared_mutex>
#include <sstream>

#include "base/event.h"
#include "base/log.h"
#include "fastoci_meta.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

constexpr uint32_t kCache = 3, kSpace = 5, kImage = 7;
constexpr uint64_t kChunk = 65536;

Bytes RandomBytes(size_t n, uint32_t seed) {
  std::mt19937 rng(seed);
  Bytes b(n);
  for (uint8_t& v : b) v = static_cast<uint8_t>(rng());
  return b;
}

class FakeKernel : public KernelLink {
 public:
  FakeKernel(CacheDevice* device, const BlobInfo& blob) : device_(device) {
    nr_slots_ = device->geometry().nr_slots;
    nr_chunks_ = static_cast<uint32_t>((blob.data_bytes + kChunk - 1) / kChunk);
    for (uint32_t s = 0; s < nr_slots_; s++) free_.insert(s);
    cache_.cache = kCache;
    cache_.uuid = device->geometry().uuid;
    cache_.chunk_shift = 16;
    cache_.nr_slots = nr_slots_;
    image_.image = kImage;
    image_.cache = kCache;
    space_ = {.cache = kCache,
              .space = kSpace,
              .id = blob.data_space_id,
              .data_bytes = blob.data_bytes,
              .nr_chunks = nr_chunks_};
  }
  // The helper's socket closed: reserved slots are free, chunks stay.
  void HelperLost() {
    Connect(nullptr);
    std::lock_guard lock(mutex_);
    free_.insert(reserved_.begin(), reserved_.end());
    reserved_.clear();
    free_.insert(evicting_.begin(), evicting_.end());  // no reader of ours lasts that long
    evicting_.clear();
  }
  // The last table went and came back: nothing is present.
  void Forget() {
    HelperLost();
    std::lock_guard lock(mutex_);
    map_.clear();
    bad_.clear();
    restored_.clear();
    free_.clear();
    for (uint32_t s = 0; s < nr_slots_; s++) free_.insert(s);
  }
  void Connect(KernelEvents* events) {
    std::unique_lock lock(events_mutex_);
    socket_ = events;
    events_ = nullptr;
  }
  void ShowImage(bool shown) {
    std::lock_guard lock(mutex_);
    image_shown_ = shown;
  }
  void ShowCache(bool shown) {
    std::lock_guard lock(mutex_);
    cache_shown_ = shown;
  }

  // Reads a chunk as a bio would: 0 and its bytes, or an errno.
  int Read(uint32_t chunk, Bytes* out, uint8_t miss_class = FASTOCI_CLASS_DEMAND) {
    std::unique_lock lock(mutex_);
    for (;;) {
      if (auto it = map_.find(chunk); it != map_.end()) {
        readers_[it->second]++;
        accessed_.insert(it->second);
        const uint32_t slot = it->second;
        lock.unlock();
        AlignedBuffer buf(kChunk);
        Status s = device_->ReadSlot(slot, buf.span());
        out->assign(buf.data(), buf.data() + kChunk);
        lock.lock();
        readers_[slot]--;
        return s.ok() ? 0 : EIO;
      }
      if (!misses_.count(chunk)) {
        misses_.insert(chunk);
        failed_.erase(chunk);
        ChunkEntry e{.space = kSpace, .chunk_no = chunk, .miss_class = miss_class};
        lock.unlock();
        SendMisses({&e, 1});
        lock.lock();
      }
      if (!changed_.wait_for(lock, std::chrono::seconds(20), [&] { return !misses_.count(chunk); }))
        return ETIMEDOUT;
      if (failed_.count(chunk)) return EIO;
    }
  }
  // A read of the chunk's slot failed; told: the helper hears of it.
  uint32_t Retire(uint32_t chunk, bool told) {
    std::unique_lock lock(mutex_);
    const uint32_t slot = map_.at(chunk);
    map_.erase(chunk);
    bad_.insert(slot);
    lock.unlock();
    ChunkEntry e{.space = kSpace, .chunk_no = chunk, .slot = slot};
    std::shared_lock events(events_mutex_);
    if (told) events_->OnSlotBad(kCache, {&e, 1});
    return slot;
  }
  size_t nr_present() {
    std::lock_guard lock(mutex_);
    return map_.size();
  }
  uint32_t AnyPresent() {
    std::lock_guard lock(mutex_);
    return map_.begin()->first;
  }

  Status Register(bool) override {
    std::unique_lock lock(events_mutex_);
    events_ = socket_;
    return OkStatus();
  }
  Result<std::vector<uint32_t>> Alloc(uint32_t, uint32_t count) override {
    std::lock_guard lock(mutex_);
    if (free_.empty()) return ErrnoError("ALLOC", ENOSPC);
    std::vector<uint32_t> out;
    while (out.size() < count && !free_.empty()) {
      out.push_back(*free_.begin());
      reserved_.insert(*free_.begin());
      free_.erase(free_.begin());
    }
    most_reserved = std::max<size_t>(most_reserved, reserved_.size());
    return out;
  }
  Status Return(uint32_t, std::span<const uint32_t> slots) override {
    std::lock_guard lock(mutex_);
    for (uint32_t s : slots) {
      if (!reserved_.erase(s) && !restored_.erase(s)) return ErrnoError("RETURN", EINVAL);
      free_.insert(s);
    }
    return OkStatus();
  }
  void Ack(uint32_t, uint32_t count) override { acked += count; }
  Status Fill(uint32_t, std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      if (!map_.count(c.chunk_no)) {
        auto r = restored_.find(c.slot);
        if (r != restored_.end() && r->second == c.chunk_no)
          restored_.erase(r);
        else if (!reserved_.erase(c.slot))
          return ErrnoError("FILL", EPERM);
        map_[c.chunk_no] = c.slot;
        accessed_.insert(c.slot);
      }
      misses_.erase(c.chunk_no);
    }
    changed_.notify_all();
    return OkStatus();
  }
  Status Fail(uint32_t, std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      if (misses_.erase(c.chunk_no)) failed_.insert(c.chunk_no);
    }
    changed_.notify_all();
    return OkStatus();
  }
  Status Evict(uint32_t, std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    for (const ChunkEntry& c : chunks) {
      auto it = map_.find(c.chunk_no);
      if (it == map_.end()) continue;
      evicting_.insert(it->second);
      map_.erase(it);
    }
    return OkStatus();
  }
  // Ends the grace periods of slots that nobody reads; the test calls it, as
  // the kernel does some time later.
  void EndGracePeriods() {
    std::vector<ChunkEntry> gone;
    {
      std::lock_guard lock(mutex_);
      for (auto it = evicting_.begin(); it != evicting_.end();) {
        if (readers_[*it] != 0) {
          ++it;
          continue;
        }
        reserved_.insert(*it);
        gone.push_back({.space = kSpace, .slot = *it});
        it = evicting_.erase(it);
      }
    }
    std::shared_lock lock(events_mutex_);
    if (!gone.empty() && events_) events_->OnEvicted(kCache, gone);
  }
  Status Restore(uint32_t, const Sha256Digest& id, uint64_t data_bytes,
                 std::span<const ChunkEntry> chunks) override {
    std::lock_guard lock(mutex_);
    if (id != space_.id || data_bytes != space_.data_bytes) return ErrnoError("RESTORE", EEXIST);
    for (const ChunkEntry& c : chunks) {
      if (auto r = restored_.find(c.slot); r != restored_.end() && r->second == c.chunk_no)
        continue;
      if (map_.count(c.chunk_no) || !free_.erase(c.slot)) return ErrnoError("RESTORE", EEXIST);
      restored_[c.slot] = c.chunk_no;
    }
    return OkStatus();
  }
  Status GetSlots(uint32_t, bool clear, const std::function<void(const SlotInfo&)>& each) override {
    std::vector<SlotInfo> all;
    {
      std::lock_guard lock(mutex_);
      for (auto [chunk, slot] : map_)
        all.push_back({slot, FASTOCI_SLOT_PRESENT, kSpace, chunk, accessed_.count(slot) != 0});
      for (auto [slot, chunk] : restored_)
        all.push_back({slot, FASTOCI_SLOT_RESTORED, kSpace, chunk, false});
      for (uint32_t slot : reserved_) all.push_back({slot, FASTOCI_SLOT_RESERVED, 0, 0, false});
      for (uint32_t slot : bad_) all.push_back({slot, FASTOCI_SLOT_BAD, kSpace, 0, false});
      for (uint32_t slot : evicting_) all.push_back({slot, FASTOCI_SLOT_EVICTING, 0, 0, false});
      if (clear) accessed_.clear();
    }
    for (const SlotInfo& i : all) each(i);
    return OkStatus();
  }
  // Slots in none or in two of the states.
  size_t nr_astray() {
    std::lock_guard lock(mutex_);
    std::multiset<uint32_t> all(free_.begin(), free_.end());
    all.insert(reserved_.begin(), reserved_.end());
    all.insert(evicting_.begin(), evicting_.end());
    all.insert(bad_.begin(), bad_.end());
    for (auto [chunk, slot] : map_) all.insert(slot);
    for (auto [slot, chunk] : restored_) all.insert(slot);
    size_t bad = 0;
    for (uint32_t s = 0; s < nr_slots_; s++) bad += all.count(s) != 1;
    return bad;
  }
  Result<std::vector<CacheInfo>> GetCaches() override {
    std::lock_guard lock(mutex_);
    return cache_shown_ ? std::vector<CacheInfo>{cache_} : std::vector<CacheInfo>{};
  }
  Result<std::vector<ImageInfo>> GetImages() override {
    std::lock_guard lock(mutex_);
    return image_shown_ ? std::vector<ImageInfo>{image_} : std::vector<ImageInfo>{};
  }
  Result<std::vector<SpaceInfo>> GetSpaces() override {
    std::lock_guard lock(mutex_);
    space_.nr_present = static_cast<uint32_t>(map_.size());
    return std::vector<SpaceInfo>{space_};
  }
  Status GetPending() override {
    std::vector<ChunkEntry> all;
    {
      std::lock_guard lock(mutex_);
      for (uint32_t c : misses_)
        all.push_back({.space = kSpace, .chunk_no = c, .miss_class = FASTOCI_CLASS_DEMAND});
    }
    if (!all.empty()) SendMisses(all);
    return OkStatus();
  }

  std::atomic<uint64_t> acked{0};
  std::atomic<size_t> most_reserved{0};

 private:
  void SendMisses(std::span<const ChunkEntry> misses) {
    std::shared_lock lock(events_mutex_);
    if (events_) events_->OnMiss(kCache, misses);
  }
  std::shared_mutex events_mutex_;  // held while an event is told
  KernelEvents* socket_ = nullptr;
  KernelEvents* events_ = nullptr;  // the registered one
  CacheDevice* device_;
  std::mutex mutex_;
  std::condition_variable changed_;
  CacheInfo cache_;
  ImageInfo image_;
  SpaceInfo space_;
  bool image_shown_ = true, cache_shown_ = true;
  uint32_t nr_slots_, nr_chunks_;
  std::set<uint32_t> free_, reserved_, evicting_, bad_, misses_, failed_, accessed_;
  std::map<uint32_t, uint32_t> map_, readers_;
  std::map<uint32_t, uint32_t> restored_;  // slot -> chunk
};

// What the lanes do next; each consumed by one job.
enum class Trick { kNone, kFlipByte, kDie, kDenied, kShort, kWrongOrder };

class FakeLanes : public LaneFactory {
 public:
  explicit FakeLanes(const Bytes* data) : data_(data) {}
  Result<std::unique_ptr<Lane>> NewLane(LaneKind) override {
    return std::unique_ptr<Lane>(new FakeLane(this));
  }
  Status OpenImage(uint32_t, ByteSpan) override { return OkStatus(); }
  void CloseImage(uint32_t) override {}
  void Interrupt() override {}

  std::atomic<int> jobs{0};
  std::atomic<bool> whole_lies{false};  // what hashing lanes read is not the blob
  void Play(std::vector<Trick> tricks) {
    std::lock_guard lock(mutex_);
    tricks_.assign(tricks.begin(), tricks.end());
  }

 private:
  class FakeLane : public Lane {
   public:
    explicit FakeLane(FakeLanes* f) : f_(f) {}
    Status Run(const LaneJob& job, const PieceSink& sink) override {
      f_->jobs++;
      fetched_ = 0;
      Trick trick = Trick::kNone;
      {
        std::lock_guard lock(f_->mutex_);
        if (!f_->tricks_.empty()) trick = f_->tricks_.front(), f_->tricks_.pop_front();
      }
      if (trick == Trick::kDie) return Error{ErrorKind::kUnavailable, EPIPE, "the decoder died"};
      if (trick == Trick::kDenied) return Error{ErrorKind::kDenied, EACCES, "401"};
      for (uint64_t at = job.range.out_begin; at < job.range.out_end; at += kChunk) {
        const size_t n = static_cast<size_t>(std::min<uint64_t>(kChunk, job.info->data_bytes - at));
        Bytes piece(f_->data_->begin() + static_cast<ptrdiff_t>(at),
                    f_->data_->begin() + static_cast<ptrdiff_t>(at + n));
        if (trick == Trick::kFlipByte && at + kChunk >= job.range.out_end) piece[n / 2] ^= 1;
        if (trick == Trick::kShort && at != job.range.out_begin) return OkStatus();
        fetched_ += n;
        FASTOCI_CHECK_OK(sink(trick == Trick::kWrongOrder ? at + kChunk : at, piece));
      }
      return OkStatus();
    }

    uint64_t bytes_fetched() const override { return fetched_; }
    Sha256Digest input_digest() const override {
      return f_->whole_lies ? Sha256Digest{1} : Sha256::Of(*f_->data_);
    }

   private:
    FakeLanes* f_;
    uint64_t fetched_ = 0;
  };
  const Bytes* data_;
  std::mutex mutex_;
  std::deque<Trick> tricks_;
};

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
    done_ = true;
    grace_.join();
    if (kernel_) {
      EXPECT_EQ(kernel_->nr_astray(), 0u);
    }
    SetLogLevel(LogLevel::kInfo);
    ASSERT_EQ(std::system(("rm -rf " + dir_).c_str()), 0);
  }
  void Make(size_t data_bytes, uint32_t nr_slots, bool with_digests = true) {
    data_ = RandomBytes(data_bytes, 1);
    blob_.data_space_id[0] = 9;
    blob_.blob_digest = Sha256::Of(data_);
    blob_.data_bytes = blob_.blob_bytes = data_bytes;
    for (uint64_t at = 0; at < data_bytes; at += 300000) blob_.spans.push_back({at, at});
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
    lanes_ = std::make_unique<FakeLanes>(&data_);
    lanes_->Play(tricks_);
    Start();
  }
  void Start() {
    MissServiceOptions o;
    o.nr_lanes = 3;
    o.miss_deadline_ms = 1000;
    o.commit_ms = 20;
    o.db_path = dir_ + "/db";
    o.download = download_;
    o.whole = whole_;
    o.limits = limits_;
    o.whole_layer_bytes = whole_layer_bytes_;
    o.verify_on_read = verify_on_read_;
    MissService::Devices devices;
    devices.open_cache = [this](uint32_t) { return CacheDevice::Open(dir_ + "/cache"); };
    devices.read_meta = [this](uint32_t) {
      MetaImage m;
      m.blobs.push_back(blob_);
      return Result<MetaImage>(std::move(m));
    };
    service_ = std::make_unique<MissService>(o, lanes_.get(), devices);
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

  std::string dir_;
  DownloadConfig download_;
  WholePolicy whole_ = WholePolicy::kOff;
  CacheLimits limits_;
  bool verify_on_read_ = false;
  uint64_t whole_layer_bytes_ = 0;
  std::vector<Trick> tricks_;  // of the first lanes
  Bytes data_;
  BlobInfo blob_;
  std::unique_ptr<CacheDevice> device_;
  std::mutex kernel_mutex_;  // guards the pointer
  std::unique_ptr<FakeKernel> kernel_;
  std::thread grace_;
  std::atomic<bool> done_{false};
  std::unique_ptr<FakeLanes> lanes_;
  std::unique_ptr<MissService> service_;
};

TEST_F(MissServiceTest, AMissFillsItsWholeSpan) {
  Make(1000001, 64);
  EXPECT_TRUE(ReadsRight(0));
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_EQ(kernel_->nr_present(), 5u);  // chunks that start in the first 300000 bytes
  EXPECT_EQ(lanes_->jobs, 1);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_LE(lanes_->jobs, 4);
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
  std::string chunks, requests;
  std::istringstream lines(ring->TakeBehind(&cursor, 1 << 20));
  for (std::string line; std::getline(lines, line);)
    (line.find("\"event\":\"chunk\"") != std::string::npos ? chunks : requests) += line + "\n";
  EXPECT_NE(requests.find("\"event\":\"begun\""), std::string::npos);
  EXPECT_EQ(std::count(chunks.begin(), chunks.end(), '\n'), 1);
  EXPECT_NE(chunks.find("\"chunk\":3,"), std::string::npos);
  EXPECT_EQ(std::count(requests.begin(), requests.end(), '\n'), 4) << "two that began and ended";
  EXPECT_NE(requests.find("differs"), std::string::npos);
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
  lanes_->Play({Trick::kFlipByte, Trick::kFlipByte});
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  while (service_->nr_jobs()) std::this_thread::yield();
  EXPECT_EQ(service_->counters().mismatches, 2u);
  EXPECT_EQ(lanes_->jobs, 3);
  EXPECT_EQ(service_->counters().bytes_fetched, 3 * data_.size()) << "the lies cost traffic, too";
}

TEST_F(MissServiceTest, AfterThreeTriesTheReadFails) {
  Make(60000, 64);
  lanes_->Play({Trick::kFlipByte, Trick::kFlipByte, Trick::kFlipByte});
  EXPECT_EQ(ErrnoOf(0), EIO);
  EXPECT_EQ(kernel_->nr_present(), 0u);
  EXPECT_TRUE(ReadsRight(0)) << "a later read tries anew";
}

TEST_F(MissServiceTest, ADeadRoleIsTriedAgainAndDenialIsNot) {
  Make(60000, 64);
  lanes_->Play({Trick::kDenied});
  EXPECT_EQ(ErrnoOf(0), EIO);
  EXPECT_EQ(lanes_->jobs, 1);
  lanes_->Play({Trick::kDie, Trick::kDie});
  EXPECT_TRUE(ReadsRight(0));
  EXPECT_EQ(lanes_->jobs, 4);
}

TEST_F(MissServiceTest, ADecoderThatEndsEarlyOrSkipsIsNotBelieved) {
  Make(250000, 64);
  lanes_->Play({Trick::kShort, Trick::kWrongOrder});
  EXPECT_TRUE(ReadsRight(3));
  EXPECT_EQ(lanes_->jobs, 3);
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

TEST_F(MissServiceTest, AWholeBlobFindsWhatRangesHadPlanted) {
  Make(1000001, 64, false);
  lanes_->Play({Trick::kFlipByte});  // chunk 4: the last one of its span
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
  lanes_->Play({Trick::kFlipByte});
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
  EXPECT_GE(service_->counters().mismatches, 1u) << "lies are found at once from now on";
  EXPECT_EQ(service_->counters().unverified, 0u);
  // What was recorded holds without another look at the blob.
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
    if (!lanes_) {
      Make(300000, 64, false);
      Stop();
    }
    lanes_->whole_lies = true;
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
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  std::this_thread::sleep_for(std::chrono::milliseconds(300));  // for who would fetch again
  EXPECT_EQ(service_->counters().bytes_fetched, data_.size());
  EXPECT_EQ(service_->counters().bytes_background, data_.size());
  EXPECT_EQ(service_->counters().planted, 0u);
  lanes_->Play(std::vector<Trick>(10, Trick::kDenied));
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << "without a source";
}

TEST_F(MissServiceTest, ABlobThatCannotBeCheckedIsDownloadedAllTheSame) {
  whole_ = WholePolicy::kFail;
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  tricks_ = {Trick::kDie};  // the check's
  Make(300000, 64, false);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(service_->Spaces().at(0).verified, MissService::Verified::kNo);
}

// Neither is a lie kept that a referrer's digests know, though it is all that the check gets.
TEST_F(MissServiceTest, TheDownloadOfAWholeBlobKeepsToItsDigests) {
  blob_.codec = FASTOCI_CODEC_ZFILE;
  Make(300000, 64);
  Stop();
  whole_ = WholePolicy::kReport;
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  lanes_->whole_lies = true;
  lanes_->Play(std::vector<Trick>(3, Trick::kFlipByte));
  Start();
  while (service_->Spaces().empty() ||
         service_->Spaces().at(0).why.find("does not match") == std::string::npos)
    std::this_thread::yield();
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << c;
}

// A referrer's digests hold from the first read on, but its blob is checked as a whole
// all the same, and that decides.
TEST_F(MissServiceTest, DigestsOfAReferrerHoldUntilTheWholeBlobWasRead) {
  for (bool lie : {false, true}) {
    blob_ = {};
    blob_.codec = FASTOCI_CODEC_ZFILE;
    whole_ = WholePolicy::kOff;
    Make(300000, 64);
    Stop();
    if (lie) blob_.digests[3][0] ^= 1;
    Start();
    lanes_->Play({Trick::kFlipByte});
    EXPECT_TRUE(ReadsRight(0));
    EXPECT_EQ(ErrnoOf(3), lie ? EIO : 0) << "never anything but what they say";
    while (service_->nr_jobs()) std::this_thread::yield();  // the flipped byte is in the last chunk
    EXPECT_GE(service_->counters().mismatches, lie ? 3u : 1u);
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
  EXPECT_EQ(lanes_->jobs, 1);
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
  const int jobs = lanes_->jobs;
  {  // One chunk rots meanwhile.
    AlignedBuffer rot(512);
    auto db = CacheDb::Open(dir_ + "/db", device_->geometry().uuid);
    ASSERT_EQ(*(*db)->Count(), nr_chunks());
    ASSERT_TRUE((*db)->ForEach([&](const SlotRow& r) {
      if (r.chunk_no != 7) return;
      EXPECT_TRUE(device_->WriteSlot(r.slot, rot.span().first(512)).ok());
    }).ok());
  }
  Start();
  EXPECT_TRUE(ReadsRight(3));
  EXPECT_EQ(lanes_->jobs, jobs) << "from the slot";
  while (service_->counters().restored < nr_chunks() - 1) std::this_thread::yield();
  EXPECT_EQ(kernel_->nr_present(), nr_chunks() - 1) << "the rest in the background";
  EXPECT_TRUE(ReadsRight(7));
  EXPECT_EQ(lanes_->jobs, jobs + 1) << "the rotten one is fetched";
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  EXPECT_EQ(lanes_->jobs, jobs + 1);
}

TEST_F(MissServiceTest, WhatIsKeptNeedsNoSourceInWhateverOrderMissesCome) {
  Make(40 * kChunk - 1000, 64);
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c));
  const int jobs = lanes_->jobs;
  for (int round = 0; round < 10; round++) {
    Stop();
    kernel_->Forget();
    lanes_->Play(std::vector<Trick>(100, Trick::kDenied));
    Start();
    std::vector<std::thread> readers;
    for (uint32_t t = 0; t < 8; t++)
      readers.emplace_back([&, t] {
        for (uint32_t c = t; c < nr_chunks(); c += 8) EXPECT_TRUE(ReadsRight(c));
      });
    for (auto& r : readers) r.join();
  }
  EXPECT_EQ(lanes_->jobs, jobs);
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
    ASSERT_EQ(*(*db)->Count(), nr_chunks() - 2);
  }
  const int jobs = lanes_->jobs;
  Start();
  auto durable = [&] {
    auto caches = service_->Caches();
    return caches.empty() ? 0 : caches[0].durable;
  };
  for (int i = 0; i < 2000 && durable() != nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(durable(), nr_chunks());
  EXPECT_EQ(service_->Caches().at(0).present, nr_chunks());
  EXPECT_EQ(lanes_->jobs, jobs) << "nothing is fetched for that";
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
  for (uint32_t nr_slots : {64U, 12U}) {  // with free slots, and with none
    Make(24 * kChunk, nr_slots);
    const uint32_t last = nr_chunks() - 1;
    for (uint32_t c = 0; c < nr_chunks() - 5; c++) EXPECT_TRUE(ReadsRight(c));
    while (service_->nr_jobs()) std::this_thread::yield();
    {
      NoWrites none;
      for (int i = 0; i < 3; i++) EXPECT_EQ(ErrnoOf(last), EIO);
      while (service_->nr_jobs()) std::this_thread::yield();
      const int jobs = lanes_->jobs;
      const Cache::Stat stat = service_->Caches().at(0);
      EXPECT_GT(stat.present, 5U);
      for (int i = 0; i < 10; i++) EXPECT_EQ(ErrnoOf(last), EIO);
      EXPECT_EQ(lanes_->jobs, jobs);
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

TEST_F(MissServiceTest, TheDownloadBringsAllAndCountsIt) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  Make(1000001, 64);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  EXPECT_EQ(service_->counters().misses, 0u);
  EXPECT_EQ(service_->counters().bytes_background, data_.size());
  EXPECT_EQ(service_->Images().at(0).present, nr_chunks());
  lanes_->Play(std::vector<Trick>(10, Trick::kDenied));
  for (uint32_t c = 0; c < nr_chunks(); c++) EXPECT_TRUE(ReadsRight(c)) << "without a source";
}

TEST_F(MissServiceTest, TheDownloadGivesUpAfterItsTriesAndFailsNobody) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  download_.tries = 2;
  tricks_ = std::vector<Trick>(2, Trick::kDenied);
  Make(200000, 64);
  while (lanes_->jobs < 2) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(lanes_->jobs, 2);
  EXPECT_EQ(service_->counters().fails, 0u);
  EXPECT_TRUE(ReadsRight(1)) << "a read asks again";
}

TEST_F(MissServiceTest, AReloadBeginsTheDownloadAndTriesAgainWhatWasGivenUp) {
  download_.delay_s = download_.delay_extra_s = 0;
  download_.tries = 2;
  tricks_ = std::vector<Trick>(2, Trick::kDenied);
  Make(200000, 64);
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  EXPECT_EQ(lanes_->jobs, 0);
  download_.enable = true;
  service_->Reconfigure(true, {}, download_);
  while (lanes_->jobs < 2) std::this_thread::yield();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_EQ(kernel_->nr_present(), 0u) << "given up";
  service_->Reconfigure(true, {}, download_);
  for (int i = 0; i < 2000 && kernel_->nr_present() < nr_chunks(); i++)
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  EXPECT_EQ(kernel_->nr_present(), nr_chunks());
  download_.enable = false;
  service_->Reconfigure(true, {}, download_);
}

TEST_F(MissServiceTest, AnImageThatDoesNotFitIsNotDownloaded) {
  download_.enable = true;
  download_.delay_s = download_.delay_extra_s = 0;
  Make(20 * kChunk, 16);
  std::this_thread::sleep_for(std::chrono::milliseconds(400));
  EXPECT_EQ(lanes_->jobs, 0);
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
  const int jobs = lanes_->jobs;
  ASSERT_TRUE(Prefetch().ok());
  WaitForPrefetch();
  EXPECT_EQ(lanes_->jobs, jobs) << "it is all there";
}

TEST_F(MissServiceTest, APrefetchIsGivenUpWithTheReason) {
  download_.tries = 2;
  tricks_ = std::vector<Trick>(2, Trick::kDenied);
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
