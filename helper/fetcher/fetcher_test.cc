// SPDX-License-Identifier: Apache-2.0
// Runs the real fetcher process behind its client, against a stub registry and
// files. As root these tests see the sandbox at work, too.
#include "fetcher/fetcher.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <random>

#include "base/log.h"
#include "base/packet.h"
#include "fetcher/client.h"
#include "testing/proc_status.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr uint32_t kLong = 60000;  // deadline, ms

std::filesystem::path SelfPath() { return std::filesystem::read_symlink("/proc/self/exe"); }

std::string FetcherPath() {
  // build/test/fetcher -> bin/fastoci-fetcherd
  return (SelfPath().parent_path().parent_path().parent_path() / "bin/fastoci-fetcherd").string();
}

std::string MakeData(size_t n) {
  std::mt19937 rng(5);
  std::string d(n, '\0');
  for (char& c : d) c = static_cast<char>(rng());
  return d;
}

struct Outcome {
  std::string data;
  int err = 0;
  std::string text;
  uint32_t source = 0;
  HttpTally http;
};

class FetcherTest : public testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/fastoci-fetcher.XXXXXX";
    ASSERT_NE(mkdtemp(dir), nullptr);
    dir_ = dir;
    ASSERT_EQ(chmod(dir, 0755), 0);
    data_ = MakeData((3 << 20) + 12345);
    digest_ = stub_.AddBlob(data_);
    Restart({});
  }
  void TearDown() override {
    client_.reset();
    std::filesystem::remove_all(dir_);
  }
  void Restart(std::vector<std::string> args) {
    lane_ = FetchLane();
    auto c = FetcherClient::Spawn({.program = FetcherPath(), .args = std::move(args)});
    ASSERT_TRUE(c.ok()) << c.error().message;
    client_ = std::move(*c);
    lane_ = AddLane();
    Open(1, RegistrySource());
  }
  FetchLane AddLane() {
    auto l = client_->AddLane();
    EXPECT_TRUE(l.ok()) << l.error().message;
    return l.ok() ? std::move(*l) : FetchLane();
  }

  std::string RegistrySource() const {
    return R"({"type":"registry","scheme":"http","repository":"demo","host":")" + stub_.host() +
           "\"}";
  }
  std::string FileSource(const std::string& data, mode_t mode = 0644) {
    std::string path = dir_ + "/blob" + std::to_string(next_file_++);
    std::ofstream(path, std::ios::binary) << data;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return FilePath(path);
  }
  static std::string FilePath(const std::string& path) {
    return R"({"type":"file","path":")" + path + "\"}";
  }
  void Open(uint32_t image, const std::string& sources) {
    std::string json = R"({"version":1,"image":"demo","blobs":[{"digest":")" + digest_ +
                       R"(","size":)" + std::to_string(data_.size()) + R"(,"sources":[)" +
                       sources + "]}]}";
    Status s = client_->OpenImage(image, AsBytes(json));
    ASSERT_TRUE(s.ok()) << s.error().message;
  }

  static std::string Range(uint64_t offset, uint64_t length) {
    return " bytes " + std::to_string(offset) + "-" + std::to_string(offset + length - 1) + ": ";
  }

  // Reads what has come of the job into o; false when it is over. With take,
  // tells that it was consumed.
  static bool Step(FetchLane* lane, uint32_t job, Outcome* o, bool take = true,
                   int timeout_ms = 30000) {
    auto m = lane->Receive(timeout_ms);
    if (!m.ok()) {
      ADD_FAILURE() << m.error().message;
      return false;
    }
    if (m->op == FetchOp::kData) {
      auto* ring = static_cast<const char*>(
          mmap(nullptr, kFetchRingBytes, PROT_READ, MAP_SHARED, lane->ring_fd(), 0));
      EXPECT_NE(ring, MAP_FAILED);
      for (uint64_t i = o->data.size(); i < m->total; i++) o->data += ring[i % kFetchRingBytes];
      munmap(const_cast<char*>(ring), kFetchRingBytes);
      if (take) {
        EXPECT_TRUE(lane->Consumed(job, m->total).ok());
      }
      return true;
    }
    o->http = {m->requests, m->retries, m->tokens};
    if (m->op == FetchOp::kFailed) {
      o->err = m->err;
      o->text = m->text;
    }
    o->source = m->source;
    return false;
  }
  Outcome Run(FetchLane* lane, uint32_t image, uint64_t offset, uint64_t length,
              uint32_t deadline_ms = kLong, uint32_t source = 0, uint32_t blob = 0) {
    Outcome o;
    uint32_t job = next_job_++;
    EXPECT_TRUE(lane->Fetch(job, image, blob, offset, length, deadline_ms, 2, source).ok());
    while (Step(lane, job, &o)) {
    }
    return o;
  }
  Outcome Run(uint32_t image, uint64_t offset, uint64_t length, uint32_t deadline_ms = kLong,
              uint32_t source = 0) {
    return Run(&lane_, image, offset, length, deadline_ms, source);
  }
  // Until the registry has seen `count` GETs in all.
  void WaitForGets(int count) {
    auto end = Clock::now() + std::chrono::milliseconds(kLong);
    while (stub_.CountRequests("GET", "") < count && Clock::now() < end) usleep(2000);
    ASSERT_GE(stub_.CountRequests("GET", ""), count);
  }
  void ExpectGood(const Outcome& o, uint64_t offset, uint64_t length) {
    EXPECT_EQ(o.err, 0) << o.text;
    EXPECT_TRUE(o.data == data_.substr(offset, length));
  }
  void ExpectFailed(const Outcome& o, int err, const std::string& cause) {
    EXPECT_EQ(o.err, err) << o.text;
    EXPECT_NE(o.text.find(digest_), std::string::npos) << o.text;
    EXPECT_NE(o.text.find(cause), std::string::npos) << o.text;
  }

  StubRegistry stub_;
  std::string dir_, data_, digest_;
  std::unique_ptr<FetcherClient> client_;
  FetchLane lane_;
  std::atomic<uint32_t> next_job_ = 1;
  int next_file_ = 0;
};

TEST_F(FetcherTest, RingWrapsAround) {
  ExpectGood(Run(1, 0, data_.size()), 0, data_.size());
  ExpectGood(Run(1, 777, data_.size() - 777), 777, data_.size() - 777);
  ExpectGood(Run(1, 5, 1), 5, 1);
  ExpectGood(Run(1, data_.size() - 1, 1), data_.size() - 1, 1);
  ExpectGood(Run(1, 100, kFetchRingBytes), 100, kFetchRingBytes);
  Open(2, FileSource(data_));
  ExpectGood(Run(2, 777, data_.size() - 777), 777, data_.size() - 777);
}

TEST_F(FetcherTest, StopsWithoutRoomAndGoesOn) {
  Open(2, FileSource(data_));
  for (uint32_t image : {1U, 2U}) {
    Outcome o;
    uint64_t length = data_.size() - 10;
    ASSERT_TRUE(lane_.Fetch(image, image, 0, 10, length, kLong, 2).ok());
    while (o.data.size() < kFetchRingBytes) ASSERT_TRUE(Step(&lane_, image, &o, false));
    EXPECT_EQ(lane_.Receive(200).error().err, ETIMEDOUT);
    ASSERT_TRUE(lane_.Consumed(image, 1).ok());
    ASSERT_TRUE(Step(&lane_, image, &o, false));
    EXPECT_EQ(o.data.size(), kFetchRingBytes + 1);
    ASSERT_TRUE(lane_.Consumed(image, o.data.size()).ok());
    while (Step(&lane_, image, &o)) {
    }
    ExpectGood(o, 10, length);
  }
}

TEST_F(FetcherTest, CancelEndsEachKindOfWait) {
  auto cancel = [&](const std::string& what) {
    auto begin = Clock::now();
    ASSERT_TRUE(lane_.Cancel(50).ok());
    Outcome o;
    while (Step(&lane_, 50, &o)) {
    }
    ExpectFailed(o, ECANCELED, "canceled");
    EXPECT_LT(Clock::now() - begin, std::chrono::seconds(20)) << what;
    EXPECT_FALSE(lane_.busy());
  };
  Outcome o;
  ASSERT_TRUE(lane_.Fetch(50, 1, 0, 0, data_.size(), kLong, 2).ok());
  while (o.data.size() < kFetchRingBytes) ASSERT_TRUE(Step(&lane_, 50, &o, false));
  cancel("ring is full");

  int gets = stub_.CountRequests("GET", "");
  stub_.Inject(Fault::kHang, 1);
  ASSERT_TRUE(lane_.Fetch(50, 1, 0, 0, 1000, kLong, 2).ok());
  WaitForGets(gets + 1);
  EXPECT_EQ(lane_.Receive(100).error().err, ETIMEDOUT);
  cancel("the registry hangs");

  stub_.Inject(Fault::kStatus, 5, 503);
  ASSERT_TRUE(lane_.Fetch(50, 1, 0, 0, 1000, kLong, 2).ok());
  WaitForGets(gets + 4);
  cancel("backoff");

  // For a job that is over: nobody's. The same number serves again at once.
  ExpectGood(Run(1, 3, 1000), 3, 1000);
  ASSERT_TRUE(lane_.Cancel(next_job_ - 1).ok());
  ASSERT_TRUE(lane_.Consumed(next_job_ - 1, 1000).ok());
  ExpectGood(Run(1, 3, 1000), 3, 1000);
}

TEST_F(FetcherTest, RegistryFaults) {
  stub_.Inject(Fault::kClose, 2, 100000);
  stub_.Inject(Fault::kStatus, 1, 503);
  Outcome o = Run(1, 50, data_.size() - 50);
  ExpectGood(o, 50, data_.size() - 50);
  EXPECT_EQ(o.http.requests, 4U);
  EXPECT_EQ(o.http.retries, 3U);

  stub_.Inject(Fault::kStatus, 1, 404);
  o = Run(1, 10, 1000);
  EXPECT_EQ(o.http.requests, 1U) << "of the last job";
  ExpectFailed(o, ENOENT, "HTTP 404");
  EXPECT_EQ(o.text, "blob " + digest_ + Range(10, 1000) + stub_.host() +
                        "/demo: HTTP 404 (injected)");
  stub_.Inject(Fault::kWrongRange, 1);
  ExpectFailed(Run(1, 10, 1000), EBADMSG, "Content-Range");
  stub_.Inject(Fault::kWrongTotal, 1);
  ExpectFailed(Run(1, 10, 1000), EBADMSG, "the blob has");
  stub_.Inject(Fault::kRedirect, 1);
  ExpectGood(Run(1, 10, 1000), 10, 1000);
  stub_.Inject(Fault::kIgnoreRange, 1);
  ExpectGood(Run(1, 10, 1000), 10, 1000);
}

TEST_F(FetcherTest, SourcesInOrder) {
  Open(2, RegistrySource() + "," + FileSource(data_));
  Outcome o = Run(2, 10, 1000);
  ExpectGood(o, 10, 1000);
  EXPECT_EQ(o.source, 0U);
  stub_.Inject(Fault::kStatus, 1, 404);
  o = Run(2, 10, 1000);
  ExpectGood(o, 10, 1000);
  EXPECT_EQ(o.source, 1U);

  // A source that fails in the middle: the next goes on from there.
  stub_.Inject(Fault::kClose, 1, 100000);
  stub_.Inject(Fault::kStatus, 1, 403);
  int before = stub_.CountRequests("GET", digest_);
  o = Run(2, 10, 2 << 20);
  ExpectGood(o, 10, 2 << 20);
  EXPECT_EQ(o.source, 1U);
  EXPECT_EQ(stub_.CountRequests("GET", digest_), before + 2);

  // Asked to begin elsewhere, and around the corner again.
  o = Run(2, 10, 1000, kLong, 1);
  ExpectGood(o, 10, 1000);
  EXPECT_EQ(o.source, 1U);
  EXPECT_EQ(stub_.CountRequests("GET", digest_), before + 2);
  int connections = stub_.CountConnections();
  o = Run(2, 10, 1000, kLong, 2);
  ExpectGood(o, 10, 1000);
  EXPECT_EQ(o.source, 0U);
  EXPECT_EQ(stub_.CountConnections(), connections + 1) << "not on a pooled connection";

  stub_.Inject(Fault::kStatus, 1, 404);
  Open(2, RegistrySource() + "," + FilePath("/nonexistent"));
  o = Run(2, 10, 1000);
  ExpectFailed(o, ENOENT, "; file /nonexistent: No such file");
  Open(2, "");
  ExpectFailed(Run(2, 10, 1000), ENOENT, "no source");
}

TEST_F(FetcherTest, FileFaults) {
  Open(2, FileSource(data_ + "x"));
  ExpectFailed(Run(2, 0, 10), EBADMSG, "3158074 bytes, not 3158073");
  Open(2, FilePath(dir_));
  ExpectFailed(Run(2, 0, 10), EINVAL, "not a regular file");
  ASSERT_EQ(mkfifo((dir_ + "/fifo").c_str(), 0644), 0);
  Open(2, FilePath(dir_ + "/fifo"));
  ExpectFailed(Run(2, 0, 10), EINVAL, "not a regular file");
  if (geteuid() != 0) return;
  Open(2, FileSource(data_, 0600));
  ExpectFailed(Run(2, 0, 10), EACCES, "Permission denied");
}

TEST_F(FetcherTest, Deadlines) {
  auto begin = Clock::now();
  auto took = [&] { return Clock::now() - std::exchange(begin, Clock::now()); };
  stub_.Inject(Fault::kHang, 1);
  ExpectFailed(Run(1, 10, 1000, 300), ETIMEDOUT, "deadline passed");
  EXPECT_LT(took(), std::chrono::seconds(5));

  // A source that hangs leaves time for the next one.
  Open(2, RegistrySource() + "," + FileSource(data_));
  stub_.Inject(Fault::kHang, 1);
  Outcome o = Run(2, 10, 1000, 2000);
  ExpectGood(o, 10, 1000);
  EXPECT_EQ(o.source, 1U);

  // Nobody takes the data.
  ASSERT_TRUE(lane_.Fetch(99, 1, 0, 0, data_.size(), 500, 2).ok());
  Outcome full;
  while (Step(&lane_, 99, &full, false)) {
  }
  ExpectFailed(full, ETIMEDOUT, "ring was full");
  EXPECT_EQ(full.data.size(), kFetchRingBytes);
  ExpectGood(Run(1, 10, 1000), 10, 1000);
}

TEST_F(FetcherTest, RefusesBadRequests) {
  EXPECT_EQ(Run(99, 0, 10).err, ESTALE);
  EXPECT_EQ(Run(&lane_, 1, 0, 10, kLong, 0, 1).err, EINVAL);
  uint64_t end = data_.size();
  ExpectFailed(Run(1, 0, 0), EINVAL, "bad range");
  ExpectFailed(Run(1, 0, end + 1), EINVAL, "bad range");
  ExpectFailed(Run(1, end, 1), EINVAL, "bad range");
  ExpectFailed(Run(1, end + 1, 1), EINVAL, "bad range");
  ExpectFailed(Run(1, 1, UINT64_MAX), EINVAL, "bad range");
  ExpectFailed(Run(1, UINT64_MAX, 2), EINVAL, "bad range");
  EXPECT_EQ(lane_.Fetch(7, 1, 0, 0, 1, kLong, 2).ok(), true);
  EXPECT_EQ(lane_.Fetch(8, 1, 0, 0, 1, kLong, 2).error().kind, ErrorKind::kInvalid) << "busy";
}

TEST_F(FetcherTest, ControlCallsAreAnswered) {
  Status s = client_->OpenImage(5, AsBytes(std::string("[]")));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(s.error().message, "image JSON: not a JSON object");
  EXPECT_FALSE(client_->OpenImage(5, AsBytes(std::string())).ok());
  EXPECT_FALSE(client_->OpenImage(5, Bytes(kMaxImageJsonBytes + 1, ' ')).ok());
  EXPECT_EQ(Run(5, 0, 1).err, ESTALE);
  ASSERT_TRUE(client_->CloseImage(1).ok());
  ASSERT_TRUE(client_->CloseImage(1).ok());
  EXPECT_EQ(Run(1, 0, 1).err, ESTALE);
  // A Fetch right behind the answer finds the image, each time.
  for (uint32_t i = 0; i < 200; i++) {
    Open(1000 + i, FileSource(data_));
    std::filesystem::remove(dir_ + "/blob" + std::to_string(next_file_ - 1));
    EXPECT_EQ(Run(1000 + i, 0, 1).err, ENOENT);
  }
}

TEST_F(FetcherTest, LanesWorkSideBySide) {
  Open(2, FileSource(data_));
  stub_.Inject(Fault::kHang, 1);
  ASSERT_TRUE(lane_.Fetch(1, 1, 0, 0, 1000, kLong, 2).ok());  // held, and holds nobody
  WaitForGets(1);
  std::vector<FetchLane> lanes;
  for (int i = 0; i < 4; i++) lanes.push_back(AddLane());
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; i++)
    threads.emplace_back([&, i] {
      for (uint64_t k = 0; k < 8; k++) {
        uint64_t offset = k * 100000 + static_cast<uint64_t>(i);
        ExpectGood(Run(&lanes[static_cast<size_t>(i)], 1 + (k & 1), offset, 1500000), offset,
                   1500000);
      }
    });
  for (std::thread& t : threads) t.join();
}

TEST_F(FetcherTest, ALaneEndsWithItsSocket) {
  for (int i = 0; i < 300; i++) {  // more than kMaxLanes: ended ones are reaped
    FetchLane lane = AddLane();
    if (i % 100 != 0) continue;
    stub_.Inject(Fault::kHang, 1);
    int gets = stub_.CountRequests("GET", "");
    ASSERT_TRUE(lane.Fetch(1, 1, 0, 0, 1000, kLong, 2).ok());
    WaitForGets(gets + 1);
  }
  ExpectGood(Run(1, 10, 1000), 10, 1000);
}

TEST_F(FetcherTest, TheRingIsTheFetchersToWrite) {
  EXPECT_EQ(mmap(nullptr, kFetchRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, lane_.ring_fd(), 0),
            MAP_FAILED);
  EXPECT_EQ(pwrite(lane_.ring_fd(), "x", 1, 0), -1);
  EXPECT_EQ(ftruncate(lane_.ring_fd(), 0), -1);
  ExpectGood(Run(1, 10, 1000), 10, 1000);
}

TEST_F(FetcherTest, CredentialsAreReadAgainAfter401) {
  // Out of nobody's reach: only the keeper can open it.
  std::string secret_dir = dir_ + "/secret";
  ASSERT_EQ(mkdir(secret_dir.c_str(), 0700), 0);
  std::string path = secret_dir + "/config.json";
  auto store = [&](const std::string& password) {
    std::string json = R"({"auths":{")" + stub_.host() + R"(":{"username":"user","password":")" +
                       password + R"("}}})";
    ASSERT_TRUE(WriteFileAtomic(path, AsBytes(json), 0600).ok());
  };
  for (auto auth : {StubRegistry::Auth::kBasic, StubRegistry::Auth::kBearer}) {
    stub_.RequireAuth(auth, "user", "first");
    store("first");
    Restart({"--credentials", path});
    Outcome o = Run(1, 10, 1000);
    ExpectGood(o, 10, 1000);
    const bool token = auth == StubRegistry::Auth::kBearer;
    EXPECT_EQ(o.http.tokens, token ? 1U : 0U);
    EXPECT_EQ(o.http.requests, token ? 3U : 2U) << "refused, the token, served";
    stub_.RequireAuth(auth, "user", "second");
    o = Run(1, 10, 1000);
    ExpectFailed(o, EACCES, "HTTP 401");
    EXPECT_EQ(o.text.find("first"), std::string::npos) << o.text;
    store("second");
    ExpectGood(Run(1, 10, 1000), 10, 1000);
    ASSERT_TRUE(WriteFileAtomic(path, AsBytes(std::string("{")), 0600).ok());
    ExpectGood(Run(1, 10, 1000), 10, 1000);  // a broken file spoils nothing that works
  }
  // There from the start or not.
  ASSERT_EQ(unlink(path.c_str()), 0);
  Restart({"--credentials", path});
  EXPECT_EQ(Run(1, 10, 1000).err, EACCES);
  store("second");
  ExpectGood(Run(1, 10, 1000), 10, 1000);
}

std::vector<pid_t> Children(pid_t pid) {
  std::ifstream in("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::vector<pid_t> pids;
  for (pid_t p; in >> p;) pids.push_back(p);
  return pids;
}

TEST_F(FetcherTest, SandboxStands) {
  UniqueFd leak(open("/dev/zero", O_RDONLY));  // without O_CLOEXEC
  std::string path = dir_ + "/config.json";
  ASSERT_TRUE(WriteFileAtomic(path, AsBytes(std::string("{}"))).ok());
  Restart({"--credentials", path});
  ExpectGood(Run(1, 10, 1000), 10, 1000);
  for (const auto& f :
       std::filesystem::directory_iterator("/proc/" + std::to_string(client_->pid()) + "/fd"))
    EXPECT_NE(std::filesystem::read_symlink(f.path()), "/dev/zero");

  auto children = Children(client_->pid());
  ASSERT_EQ(children.size(), 1U);
  pid_t keeper = children[0];
  for (pid_t pid : {client_->pid(), keeper}) {
    ExpectConfined(pid);
    if (geteuid() != 0) continue;
    EXPECT_EQ(StatusField(pid, "CapPrm"),
              pid == keeper ? "0000000000000004" : "0000000000000000");
  }
  UniqueFd watch(static_cast<int>(syscall(SYS_pidfd_open, keeper, 0)));
  client_.reset();
  EXPECT_TRUE(*WaitFor(watch.get(), POLLIN, 5000)) << "the keeper goes with the fetcher";
}

TEST_F(FetcherTest, FetcherDeathIsNoticed) {
  EXPECT_FALSE(*WaitFor(client_->pidfd(), POLLIN, 0));
  ASSERT_EQ(kill(client_->pid(), SIGKILL), 0);
  EXPECT_EQ(lane_.Receive(5000).error().err, EPIPE);
  EXPECT_TRUE(*WaitFor(client_->pidfd(), POLLIN, 5000));
  EXPECT_EQ(client_->CloseImage(1).error().err, EPIPE);
}

TEST(FetcherClientTest, SpawnTellsWhatFailed) {
  auto none = FetcherClient::Spawn({.program = "/nonexistent/fetcher", .args = {}});
  EXPECT_EQ(none.error().err, ENOENT);
  auto c = FetcherClient::Spawn({.program = FetcherPath(), .args = {"--nonsense"}});
  ASSERT_TRUE(c.ok());
  EXPECT_EQ((*c)->AddLane().error().err, EPIPE);
}

// The fetcher in this process: how it ends, and what it thinks of nonsense.
TEST(FetcherInProcess, EndsWithTheControlSocketAndSurvivesRandomMessages) {
  auto registry = RegistryClient::Open({}, Credentials());
  ASSERT_TRUE(registry.ok());
  SetLogLevel(static_cast<LogLevel>(0));  // it has much to say about these
  int pair[2];
  ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
  UniqueFd control(pair[0]);
  Fetcher fetcher(UniqueFd(pair[1]), registry->get(), false);
  std::thread thread([&] { EXPECT_TRUE(fetcher.Run().ok()); });
  UniqueFd ring(memfd_create("ring", MFD_CLOEXEC));
  ASSERT_EQ(ftruncate(ring.get(), kFetchRingBytes), 0);
  std::mt19937 rng(9);
  auto random_message = [&](uint32_t max_op) {
    const uint64_t some[] = {0, 1, 65536, 1 << 20, UINT64_MAX};
    auto number = [&] { return some[rng() % std::size(some)]; };
    FetchMessage m{};
    m.op = static_cast<FetchOp>(rng() % (max_op + 1));
    m.job = rng() % 3;
    m.image = rng() % 3;
    m.offset = number();
    m.length = number();
    m.total = number();
    m.deadline_ms = static_cast<uint32_t>(rng() % 2);
    return m;
  };
  UniqueFd lane;
  for (int i = 0; i < 2000; i++) {
    FetchMessage m = random_message(8), reply{};
    int lanes[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, lanes), 0);
    UniqueFd ours(lanes[0]), theirs(lanes[1]);
    const int fds[] = {theirs.get(), ring.get(), theirs.get()};
    std::span<const int> sent(fds, rng() % 4);
    ASSERT_TRUE(SendPacket(control.get(), ObjectBytes(m), sent).ok());
    ASSERT_TRUE(ReceivePacket(control.get(), WritableObjectBytes(&reply), 5000).ok());
    EXPECT_EQ(reply.job, m.job);
    if (m.op == FetchOp::kAddLane && reply.op == FetchOp::kDone) lane = std::move(ours);
    if (lane.valid()) (void)SendPacket(lane.get(), ObjectBytes(random_message(7)), {}, true);
  }
  control.reset();
  thread.join();
  SetLogLevel(LogLevel::kInfo);
}

// A fetcher that lies, run by LiesAreFound as a process of its own: what it
// says to a Fetch depends on the job's number.
TEST(FakeFetcher, DISABLED_Serve) {
  FetchMessage m{};
  std::vector<UniqueFd> fds;
  ASSERT_TRUE(ReceivePacket(kFetcherControlFd, WritableObjectBytes(&m), -1, &fds).ok());
  m.op = FetchOp::kDone;
  ASSERT_TRUE(SendPacket(kFetcherControlFd, ObjectBytes(m)).ok());
  while (ReceivePacket(fds[0].get(), WritableObjectBytes(&m), -1).ok()) {
    FetchMessage r{};
    r.job = m.job;
    r.op = FetchOp::kData;
    switch (m.job) {
      case 1: r.total = m.length + 1; break;
      case 2: r.total = kFetchRingBytes + 1; break;
      case 3: r.total = 0; break;
      case 4: r.op = FetchOp::kDone; r.total = m.length; break;
      case 5: r.op = FetchOp::kFailed; break;
      case 6: r.op = FetchOp::kFailed; r.err = 1; r.kind = 77; break;
      case 7: r.total = 1; r.job = 5; break;
      case 8: r.op = static_cast<FetchOp>(55); break;
      default:
        r.op = FetchOp::kFailed;
        r.err = EIO;
        std::memset(r.text, '\n', sizeof(r.text));
    }
    if (!SendPacket(fds[0].get(), ObjectBytes(r)).ok()) break;
  }
}

TEST(FetcherClientTest, LiesAreFound) {
  for (uint32_t job = 1; job <= 9; job++) {
    auto c = FetcherClient::Spawn({.program = SelfPath(),
                                   .args = {"--gtest_filter=FakeFetcher.*",
                                            "--gtest_also_run_disabled_tests"}});
    ASSERT_TRUE(c.ok());
    auto lane = (*c)->AddLane();
    ASSERT_TRUE(lane.ok()) << lane.error().message;
    ASSERT_TRUE(lane->Fetch(job, 1, 0, 0, 2 << 20, kLong, 2).ok());
    auto m = lane->Receive(5000);
    if (job < 9) {
      ASSERT_FALSE(m.ok()) << job;
      EXPECT_EQ(m.error().err, EPROTO) << job;
    } else {
      ASSERT_TRUE(m.ok());
      EXPECT_EQ(std::string(m->text), std::string(kMessageTextBytes - 1, '?'));
    }
  }
}

}  // namespace
}  // namespace fastoci
