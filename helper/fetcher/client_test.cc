// SPDX-License-Identifier: Apache-2.0
// What each end thinks of nonsense from the other.
#include "fetcher/client.h"

#include <sys/socket.h>

#include <cstring>
#include <thread>

#include "base/log.h"
#include "fetcher/fetcher.h"
#include "fetcher/fetcher_test.h"

namespace fastoci {
namespace {

TEST(FetcherClientTest, SpawnTellsWhatFailed) {
  UniqueFd arena = MakeArena(1 << 20);
  auto none = FetcherClient::Spawn({.program = "/nonexistent/fetcher", .args = {}}, arena.get());
  EXPECT_EQ(none.error().err, ENOENT);
  for (const std::vector<std::string>& args : std::vector<std::vector<std::string>>{
           {"--nonsense"}, {"--retry-scale"}, {"--retry-scale", "fast"}, {"--patience", "-1"}}) {
    auto c = FetcherClient::Spawn({.program = FetcherPath(), .args = args}, arena.get());
    ASSERT_TRUE(c.ok());
    EXPECT_EQ((*c)->CloseImage(1).error().err, EPIPE);
  }
  // An arena that somebody could make shorter under the fetcher's feet.
  UniqueFd loose(memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(ftruncate(loose.get(), 1 << 20), 0);
  auto c = FetcherClient::Spawn({.program = FetcherPath(), .args = {}}, loose.get());
  ASSERT_TRUE(c.ok());
  EXPECT_EQ((*c)->CloseImage(1).error().err, EPIPE);
}

// The fetcher in this process, at the ends of sockets that say anything at all.
class InProcess {
 public:
  InProcess() {
    SetLogLevel(static_cast<LogLevel>(0));  // it has much to say about these
    int control[2], work[2];
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, control), 0);
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, work), 0);
    control_.reset(control[0]);
    work_.reset(work[0]);
    UniqueFd arena = MakeArena(1 << 20);
    KeeperOptions options;
    options.node_credentials = false;
    auto keeper = Keeper::Start(options);
    EXPECT_TRUE(keeper.ok());
    keeper_ = std::move(*keeper);
    auto f = Fetcher::Open(UniqueFd(control[1]), UniqueFd(work[1]), arena, {}, keeper_.get());
    EXPECT_TRUE(f.ok());
    fetcher_ = std::move(*f);
    thread_ = std::thread([this] { ended_ = fetcher_->Run(); });
  }
  ~InProcess() {
    control_.reset();
    work_.reset();
    if (thread_.joinable()) thread_.join();
    SetLogLevel(LogLevel::kInfo);
  }
  int control() const { return control_.get(); }
  int work() const { return work_.get(); }
  void CloseControl() { control_.reset(); }
  Status Ended() {
    thread_.join();
    return ended_;
  }

 private:
  UniqueFd control_, work_;
  std::unique_ptr<Keeper> keeper_;
  std::unique_ptr<Fetcher> fetcher_;
  Status ended_ = OkStatus();
  std::thread thread_;
};

TEST(FetcherInProcess, EndsWithASocket) {
  InProcess f;
  f.CloseControl();
  EXPECT_TRUE(f.Ended().ok());
}

TEST(FetcherInProcess, SurvivesRandomMessages) {
  std::mt19937 rng(9);
  StubRegistry stub;
  std::string data(100000, 'x'), digest = stub.AddBlob(data);
  std::string json = R"({"version":1,"blobs":[{"digest":")" + digest + R"(","size":100000,"sources":[
      {"type":"registry","scheme":"http","repository":"demo","host":")" + stub.host() +
                     R"("},{"type":"file","path":"/etc/hostname"}]}]})";
  InProcess f;
  const uint64_t some[] = {0, 1, 65536, 99999, 100000, 1 << 20, UINT64_MAX};
  auto number = [&] { return some[rng() % std::size(some)]; };
  std::set<uint32_t> running;
  size_t answered = 0, sent = 0;
  auto drain = [&](int timeout_ms) {
    WorkReply r{};
    while (ReceivePacket(f.work(), WritableObjectBytes(&r), timeout_ms).ok()) {
      if (r.op != WorkOp::kDone && r.op != WorkOp::kFailed) continue;
      EXPECT_EQ(running.erase(r.id), 1U) << "each Fetch ends once";
      answered++;
      if (running.empty()) timeout_ms = 0;
    }
  };
  for (uint32_t i = 0; i < 3000; i++) {
    UniqueFd file(memfd_create("json", MFD_CLOEXEC));
    ASSERT_TRUE(WriteFull(file.get(), AsBytes(rng() % 4 == 0 ? std::string("{") : json), "x").ok());
    ControlMessage c{}, reply{};
    c.op = static_cast<ControlOp>(rng() % 4);
    c.call = i;
    c.image = rng() % 5000;
    c.count = static_cast<uint32_t>(number());
    const int fds[] = {file.get(), file.get()};
    ASSERT_TRUE(SendPacket(f.control(), ObjectBytes(c), {fds, rng() % 3}).ok());
    do {
      ASSERT_TRUE(ReceivePacket(f.control(), WritableObjectBytes(&reply), 30000).ok());
      EXPECT_EQ(reply.call, i);
    } while (reply.op == ControlOp::kLocations);
    for (int k = 0; k < 4; k++) {
      WorkRequest m{};
      m.op = static_cast<WorkOp>(1 + rng() % 3);
      m.id = 10 * i + rng() % 10;
      m.location = rng() % 3;
      m.host = rng() % 3;
      m.flags = static_cast<uint32_t>(number());
      m.offset = number();
      m.length = number();
      m.arena_offset = number();
      if (m.op == WorkOp::kFetch && (running.size() >= kMaxFetches || !running.insert(m.id).second))
        continue;
      sent += m.op == WorkOp::kFetch ? 1 : 0;
      ASSERT_TRUE(SendPacket(f.work(), ObjectBytes(m)).ok());
    }
    drain(0);
  }
  drain(30000);
  EXPECT_EQ(answered, sent);
  EXPECT_GT(sent, 1000U);
}

// What a broker that works never sends ends the fetcher.
TEST(FetcherInProcess, EndsWhenTheBrokerBreaksTheProtocol) {
  for (int kind = 0; kind < 3; kind++) {
    InProcess f;
    WorkRequest m{};
    m.op = static_cast<WorkOp>(55);
    if (kind == 0) {
      ASSERT_TRUE(SendPacket(f.work(), ObjectBytes(m)).ok());
    } else if (kind == 1) {
      ASSERT_TRUE(SendPacket(f.work(), AsBytes(std::string("short"))).ok());
    } else {
      ASSERT_TRUE(SendPacket(f.control(), AsBytes(std::string("short"))).ok());
    }
    EXPECT_FALSE(f.Ended().ok()) << kind;
  }
}

// A fetcher that lies, run by LiesAreFound as a process of its own: what it says to
// a Fetch depends on the Fetch's number, to an OpenImage on the image's.
TEST(FakeFetcher, DISABLED_Serve) {
  while (true) {
    pollfd fds[] = {{kFetcherControlFd, POLLIN, 0}, {kFetcherWorkFd, POLLIN, 0}};
    if (poll(fds, 2, -1) < 0) return;
    if (fds[0].revents != 0) {
      ControlMessage m{};
      if (!ReceivePacket(kFetcherControlFd, WritableObjectBytes(&m), -1).ok()) return;
      ControlMessage r{};
      r.call = m.call;
      r.op = ControlOp::kDone;
      if (m.image != 0) r.op = ControlOp::kLocations;
      r.count = 1;
      switch (m.image) {
        case 1: r.count = kEntriesPerMessage + 1; break;
        case 2: r.entries[0].blob = 1; break;
        case 3: r.op = ControlOp::kFailed; break;
        case 4: r.op = static_cast<ControlOp>(1); break;
        default: break;
      }
      if (m.image == 6) r.count = kEntriesPerMessage;
      for (int i = 0; i < (m.image == 5 || m.image == 6 ? 200 : 1); i++)
        if (!SendPacket(kFetcherControlFd, ObjectBytes(r)).ok()) return;
      r.op = ControlOp::kDone;
      r.count = m.image == 7 ? 1000 : 1;
      if (!SendPacket(kFetcherControlFd, ObjectBytes(r)).ok()) return;
      continue;
    }
    WorkRequest m{};
    if (!ReceivePacket(kFetcherWorkFd, WritableObjectBytes(&m), -1).ok()) return;
    WorkReply r{};
    r.id = m.id;
    r.op = WorkOp::kData;
    r.err = EIO;
    switch (m.id) {
      case 1: r.total = m.length + 1; break;
      case 2: r.total = 0; break;
      case 3: r.op = WorkOp::kDone; r.total = m.length - 1; break;
      case 4: r.op = WorkOp::kFailed; r.err = 0; break;
      case 5: r.op = WorkOp::kFailed; r.kind = 77; break;
      case 6: r.total = 1; r.id = 999; break;
      case 7: r.op = static_cast<WorkOp>(55); break;
      case 8: r.op = WorkOp::kHost; r.gate = static_cast<HostGate>(3); break;
      case 9: r.op = WorkOp::kFailed; r.outcome = static_cast<FetchOutcome>(kFetchOutcomes); break;
      case 10: r.op = WorkOp::kFailed; r.outcome = FetchOutcome::kDone; break;
      case 11: r.op = WorkOp::kFailed; r.total = m.length + 1; break;
      default:
        r.op = WorkOp::kFailed;
        r.outcome = FetchOutcome::kTransient;
        std::memset(r.text, '\n', sizeof(r.text));
    }
    if (!SendPacket(kFetcherWorkFd, ObjectBytes(r)).ok()) return;
  }
}

class LyingFetcher : public testing::Test {
 protected:
  void SetUp() override {
    auto c = FetcherClient::Spawn({.program = SelfPath().string(),
                                   .args = {"--gtest_filter=FakeFetcher.*",
                                            "--gtest_also_run_disabled_tests"}},
                                  arena_.get());
    ASSERT_TRUE(c.ok());
    client_ = std::move(*c);
  }
  UniqueFd arena_ = MakeArena(1 << 20);
  std::unique_ptr<FetcherClient> client_;
};

TEST_F(LyingFetcher, LiesAreFound) {
  for (uint32_t id = 1; id <= 12; id++) {
    ASSERT_TRUE(client_->Fetch({.id = id, .location = 1, .length = 100000}).ok());
    ASSERT_TRUE(*WaitFor(client_->event_fd(), POLLIN, 30000));
    auto e = client_->Receive();
    if (id < 12) {
      ASSERT_FALSE(e.ok()) << id;
      EXPECT_EQ(e.error().err, EPROTO) << id;
    } else {
      ASSERT_TRUE(e.ok());
      EXPECT_EQ(e->error.message, std::string(kMessageTextBytes - 1, '?'));
    }
  }
}

TEST_F(LyingFetcher, LiesAboutImagesAreFound) {
  for (uint32_t image = 1; image <= 7; image++) {
    auto blobs = client_->OpenImage(image, "", AsBytes(std::string("{}")));
    ASSERT_FALSE(blobs.ok()) << image;
    EXPECT_EQ(blobs.error().err, EPROTO) << image;
    SetUp();  // what it said besides that
  }
}

}  // namespace
}  // namespace fastoci
