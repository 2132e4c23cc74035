// SPDX-License-Identifier: Apache-2.0
// RoleLane with the real decoder process and a thread that plays the fetcher,
// honest or not.
#include "broker/role_lane.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <zlib.h>

#include <atomic>
#include <cstring>
#include <filesystem>
#include <random>
#include <thread>

#include "codec/gzip_index.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

enum class Fetching { kHonest, kFails, kDies, kLies, kStallsUntilCancel, kCutsShort };

class FakePort : public FetchPort {
 public:
  FakePort(const Bytes* blob, std::atomic<Fetching>* mode) : blob_(blob), mode_(mode) {
    int fds[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds), 0);
    ours_.reset(fds[0]);
    theirs_.reset(fds[1]);
    ring_fd_.reset(::memfd_create("ring", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    EXPECT_EQ(::ftruncate(ring_fd_.get(), kFetchRingBytes), 0);
    ring_ = static_cast<uint8_t*>(
        ::mmap(nullptr, kFetchRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring_fd_.get(), 0));
    thread_ = std::thread([this] { Serve(); });
  }
  ~FakePort() override {
    ::shutdown(ours_.get(), SHUT_RDWR);
    thread_.join();
    ::munmap(ring_, kFetchRingBytes);
  }
  int socket_fd() const override { return ours_.get(); }
  int ring_fd() const override { return ring_fd_.get(); }
  Status Fetch(const FetchMessage& m) override { return Send(m); }
  Status Consumed(uint32_t job, uint64_t total) override {
    FetchMessage m = {};
    m.op = FetchOp::kConsumed, m.job = job, m.total = total;
    return Send(m);
  }
  Status Cancel(uint32_t job) override {
    FetchMessage m = {};
    m.op = FetchOp::kCancel, m.job = job;
    return Send(m);
  }
  Result<FetchMessage> Receive(int) override {
    FetchMessage m;
    ssize_t n = ::recv(ours_.get(), &m, sizeof(m), MSG_DONTWAIT);
    if (n == sizeof(m)) return m;
    return Error{ErrorKind::kUnavailable, n < 0 && errno == EAGAIN ? ETIMEDOUT : EPIPE, "gone"};
  }

 private:
  Status Send(const FetchMessage& m) {
    if (::send(ours_.get(), &m, sizeof(m), MSG_NOSIGNAL) != sizeof(m))
      return Error{ErrorKind::kUnavailable, EPIPE, "gone"};
    return OkStatus();
  }
  void Reply(FetchOp op, uint32_t job, uint64_t total, int err = 0) {
    FetchMessage m = {};
    m.op = op, m.job = job, m.total = total, m.err = err;
    m.requests = 1, m.retries = 2, m.tokens = 3;
    m.kind = static_cast<uint32_t>(ErrorKind::kUnavailable);
    std::strcpy(m.text, "connection\nrefused");
    (void)!::send(theirs_.get(), &m, sizeof(m), MSG_NOSIGNAL);
  }
  void Serve() {
    FetchMessage m;
    while (::recv(theirs_.get(), &m, sizeof(m), 0) == sizeof(m)) {
      if (m.op != FetchOp::kFetch) continue;
      const Fetching mode = *mode_;
      if (mode == Fetching::kFails) {
        Reply(FetchOp::kFailed, m.job, 0, ECONNREFUSED);
        continue;
      }
      if (mode == Fetching::kDies) {
        ::shutdown(theirs_.get(), SHUT_RDWR);
        return;
      }
      if (mode == Fetching::kLies) {
        Reply(FetchOp::kData, m.job, m.length + 1);
        continue;
      }
      uint64_t sent = 0, consumed = 0;
      bool cancelled = false;
      FetchMessage in;
      while (sent < m.length && !cancelled) {
        const uint64_t room = consumed + kFetchRingBytes - sent;
        uint64_t n = std::min<uint64_t>({room, m.length - sent, 10007});
        if (mode == Fetching::kStallsUntilCancel && sent > 0) n = 0;
        for (uint64_t i = 0; i < n; i++)
          ring_[(sent + i) % kFetchRingBytes] = (*blob_)[m.offset + sent + i];
        sent += n;
        if (n > 0 && sent < m.length) Reply(FetchOp::kData, m.job, sent);
        if (mode == Fetching::kCutsShort && sent > m.length / 2) break;
        ssize_t got;
        while ((got = ::recv(theirs_.get(), &in, sizeof(in), n > 0 ? MSG_DONTWAIT : 0)) ==
               sizeof(in)) {
          if (in.op == FetchOp::kConsumed) consumed = in.total;
          if (in.op == FetchOp::kCancel) cancelled = true;
          if (cancelled || consumed + kFetchRingBytes > sent) break;
        }
        if (got == 0) return;  // the lane is gone
      }
      if (cancelled)
        Reply(FetchOp::kFailed, m.job, sent, ECANCELED);
      else
        Reply(FetchOp::kDone, m.job, mode == Fetching::kCutsShort ? m.length - 1 : sent);
    }
  }

  const Bytes* blob_;
  std::atomic<Fetching>* mode_;
  UniqueFd ours_, theirs_, ring_fd_;
  uint8_t* ring_;
  std::thread thread_;
};

class FakePorts : public FetchPorts {
 public:
  Result<std::unique_ptr<FetchPort>> AddLane() override {
    lanes++;
    return std::unique_ptr<FetchPort>(new FakePort(&blob, &mode));
  }
  Status OpenImage(uint32_t, ByteSpan) override { return OkStatus(); }
  void CloseImage(uint32_t) override {}
  Bytes blob;
  std::atomic<Fetching> mode{Fetching::kHonest};
  std::atomic<int> lanes{0};
};

Bytes MakeData(size_t n) {  // about half of it is compressible
  std::mt19937 rng(42);
  Bytes d(n);
  for (size_t i = 0; i < n; i++) d[i] = static_cast<uint8_t>((i / 5000) % 2 ? rng() : i / 3);
  return d;
}

Bytes Gzip(const Bytes& data) {
  z_stream z{};
  EXPECT_EQ(deflateInit2(&z, 6, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
  Bytes out(deflateBound(&z, data.size()));
  z.next_in = const_cast<Bytef*>(data.data());
  z.avail_in = static_cast<uInt>(data.size());
  z.next_out = out.data();
  z.avail_out = static_cast<uInt>(out.size());
  EXPECT_EQ(deflate(&z, Z_FINISH), Z_STREAM_END);
  out.resize(z.total_out);
  deflateEnd(&z);
  return out;
}

class RoleLaneTest : public testing::Test {
 protected:
  void SetUp() override {
    auto self = std::filesystem::read_symlink("/proc/self/exe");
    std::string decoder =
        (self.parent_path().parent_path().parent_path() / "bin/fastoci-decoderd").string();
    auto lanes = RoleLanes::Make(&ports_, decoder);
    ASSERT_TRUE(lanes.ok());
    lanes_ = std::move(*lanes);
    lane_ = std::move(*lanes_->NewLane(LaneKind::kPlain));
    data_ = MakeData(5000000);
  }
  void UseRaw() {
    ports_.blob = data_;
    info_ = BlobInfo();
    info_.data_bytes = info_.blob_bytes = data_.size();
    for (uint64_t at = 0; at < data_.size(); at += kRawSpanBytes) info_.spans.push_back({at, at});
  }
  void UseGzip() {
    ports_.blob = Gzip(data_);
    auto b = GzipIndexBuilder::Create({.span_bytes = 700000}, [](ByteSpan) { return OkStatus(); });
    ASSERT_TRUE(b->Update(ports_.blob).ok());
    auto file = b->Finish();
    ASSERT_TRUE(file.ok());
    auto index = GzipIndex::Parse(*file);
    ASSERT_TRUE(index.ok());
    info_ = BlobInfo();
    info_.codec = FASTOCI_CODEC_GZIP;
    info_.data_bytes = data_.size();
    info_.blob_bytes = ports_.blob.size();
    info_.index = *file;
    for (const GzipIndexEntry& e : index->entries())
      info_.spans.push_back({e.data_offset, e.blob_offset()});
    ASSERT_GT(info_.spans.size(), 3u);
  }
  // Runs the jobs of one or more spans and compares what comes out.
  Status RunSpan(uint32_t span, uint32_t chunk_shift = 16, uint32_t nr_spans = 1) {
    LaneJob job;
    job.image = 1, job.info = &info_, job.deadline_ms = 3000;
    job.range = PlanRun(info_, span, nr_spans, chunk_shift, false);
    uint64_t next = job.range.out_begin;
    Status s = lane_->Run(job, [&](uint64_t at, ByteSpan piece) {
      EXPECT_EQ(at, next);
      EXPECT_TRUE(
          std::equal(piece.begin(), piece.end(), data_.begin() + static_cast<ptrdiff_t>(at)));
      next = at + piece.size();
      return OkStatus();
    });
    if (s.ok()) {
      EXPECT_EQ(next, job.range.out_end);
    }
    return s;
  }
  int ErrnoOf(uint32_t span) {
    Status s = RunSpan(span);
    return s.ok() ? 0 : s.error().err;
  }
  FakePorts ports_;
  std::unique_ptr<RoleLanes> lanes_;
  std::unique_ptr<Lane> lane_;
  Bytes data_;
  BlobInfo info_;
};

TEST_F(RoleLaneTest, RawSpansComeOut) {
  UseRaw();
  for (uint32_t s = 0; s < info_.spans.size(); s++) ASSERT_EQ(ErrnoOf(s), 0) << s;
  EXPECT_EQ(ports_.lanes, 1);
}

TEST_F(RoleLaneTest, GzipSpansComeOutInAnyOrder) {
  UseGzip();
  for (uint32_t s = static_cast<uint32_t>(info_.spans.size()); s-- > 0;) {
    Status r = RunSpan(s);
    ASSERT_TRUE(r.ok()) << s << ": " << r.error().message;
  }
  for (uint32_t s = 0; s < info_.spans.size(); s++) ASSERT_TRUE(RunSpan(s, 18).ok()) << s;
  EXPECT_EQ(ports_.lanes, 1);
}

TEST_F(RoleLaneTest, ARunOfSpansIsOneRequest) {
  UseGzip();
  const auto nr = static_cast<uint32_t>(info_.spans.size());
  for (uint32_t first = 0; first < nr; first += 2) {
    Status s = RunSpan(first, 16, nr - first);
    ASSERT_TRUE(s.ok()) << s.error().message;
    EXPECT_LE(lane_->bytes_fetched(), info_.blob_bytes - info_.spans[first].blob_offset);
  }
  EXPECT_EQ(ports_.lanes, 1);
}

TEST_F(RoleLaneTest, AHashingLaneTellsTheDigestOfAllItsInput) {
  for (bool gzip : {false, true}) {
    gzip ? UseGzip() : UseRaw();
    lane_ = std::move(*lanes_->NewLane(LaneKind::kHashing));
    LaneJob job;
    job.image = 1, job.info = &info_, job.deadline_ms = 3000;
    job.range = {.input_end = info_.blob_bytes, .out_end = info_.data_bytes};
    for (int i = 0; i < 2; i++) {
      Bytes out;
      Status s = lane_->Run(job, [&](uint64_t, ByteSpan piece) {
        out.insert(out.end(), piece.begin(), piece.end());
        return OkStatus();
      });
      ASSERT_TRUE(s.ok()) << s.error().message;
      EXPECT_EQ(out, data_);
      EXPECT_EQ(lane_->input_digest(), Sha256::Of(ports_.blob));
      EXPECT_EQ(lane_->bytes_fetched(), ports_.blob.size());
      EXPECT_EQ(lane_->http().requests, 1U) << "of the last Run";
      EXPECT_EQ(lane_->http().retries, 2U);
      EXPECT_EQ(lane_->http().tokens, 3U);
    }
    Bytes& blob = ports_.blob;  // behind what the decoder needs, or within: the digest knows
    blob.back() ^= 1;
    if (lane_->Run(job, [](uint64_t, ByteSpan) { return OkStatus(); }).ok()) {
      EXPECT_NE(lane_->input_digest(), info_.blob_digest);
      EXPECT_EQ(lane_->input_digest(), Sha256::Of(blob));
    }
  }
}

TEST_F(RoleLaneTest, AFetchThatFailsIsTheJobsErrorAndTheLaneLives) {
  UseGzip();
  ports_.mode = Fetching::kFails;
  Status s = RunSpan(1);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(s.error().err, ECONNREFUSED);
  EXPECT_EQ(s.error().message, "fetch: connection?refused");
  ports_.mode = Fetching::kHonest;
  EXPECT_EQ(ErrnoOf(1), 0);
  EXPECT_EQ(ports_.lanes, 1);
}

TEST_F(RoleLaneTest, AFetcherThatDiesOrLiesIsReplaced) {
  UseRaw();
  for (Fetching bad : {Fetching::kDies, Fetching::kLies, Fetching::kCutsShort}) {
    ports_.mode = bad;
    EXPECT_EQ(ErrnoOf(0), EPIPE) << static_cast<int>(bad);
    ports_.mode = Fetching::kHonest;
    EXPECT_EQ(ErrnoOf(0), 0) << static_cast<int>(bad);
  }
  EXPECT_EQ(ports_.lanes, 4);
}

TEST_F(RoleLaneTest, CorruptInputIsInvalidAndTheLaneLives) {
  UseGzip();
  const Bytes good = ports_.blob;
  std::mt19937 rng(1);
  for (uint64_t i = info_.spans[2].blob_offset + 1; i < info_.spans[3].blob_offset; i++)
    ports_.blob[i] = static_cast<uint8_t>(rng());
  LaneJob job;
  job.image = 1, job.info = &info_, job.deadline_ms = 3000;
  job.range = PlanRun(info_, 2, 1, 16, false);
  Status s = lane_->Run(job, [](uint64_t, ByteSpan) { return OkStatus(); });
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kInvalid) << s.error().message;
  ports_.blob = good;
  EXPECT_EQ(ErrnoOf(2), 0);
}

TEST_F(RoleLaneTest, ASinksErrorEndsTheJob) {
  UseGzip();
  LaneJob job;
  job.image = 1, job.info = &info_, job.deadline_ms = 3000;
  job.range = PlanRun(info_, 0, 1, 16, false);
  int pieces = 0;
  Status s = lane_->Run(job, [&](uint64_t, ByteSpan) {
    return ++pieces == 2 ? Status(MismatchError("no")) : OkStatus();
  });
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kMismatch);
  EXPECT_EQ(pieces, 2);
  EXPECT_EQ(ErrnoOf(0), 0);
}

TEST_F(RoleLaneTest, InterruptEndsAJobThatStalls) {
  UseRaw();
  ports_.mode = Fetching::kStallsUntilCancel;
  std::thread t([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
    lanes_->Interrupt();
  });
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(ErrnoOf(0), ECANCELED);
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(2));
  t.join();
}

}  // namespace
}  // namespace fastoci
