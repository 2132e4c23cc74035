// SPDX-License-Identifier: Apache-2.0
#include "fetcher/fetcher_test.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <csignal>

#include "base/monotonic.h"
#include "testing/proc_status.h"

namespace fastoci {
namespace {

TEST_F(FetcherTest, RangesComeWhole) {
  FetchLocation file = Open(2, FileSource(data_));
  EXPECT_EQ(file.host, kLocalHost);
  for (const FetchLocation& l : {there_, file}) {
    ExpectGood(Run(l, 0, kMaxFetchBytes));
    ExpectGood(Run(l, 777, 1 << 20));
    ExpectGood(Run(l, 5, 1));
    ExpectGood(Run(l, data_.size() - 1, 1));
  }
  EXPECT_EQ(stub_.CountConnections(), 1) << "one after the other";
  EXPECT_EQ(hosts_[there_.host].name, "http://" + stub_.host());
  HostState h = WaitForHost(there_.host, [](const HostState& s) { return s.requests == 4; });
  EXPECT_EQ(h.bytes, kMaxFetchBytes + (1 << 20) + 2);
  EXPECT_EQ(h.outcomes[static_cast<size_t>(FetchOutcome::kDone)], 4U);
}

// What comes is told of before it is all there, so that somebody can begin with it.
TEST_F(FetcherTest, DataIsToldOfWhenNothingMoreComes) {
  stub_.Inject(Fault::kHang, 1, 200001);
  uint32_t id = Begin(there_, 10, 1 << 20);
  FetchEvent e;
  uint64_t before = 0;
  for (e = Next(); e.total != 200001; e = Next()) {
    if (e.kind != FetchEvent::kData) continue;
    EXPECT_GE(e.total, before + kDataStepBytes);
    before = e.total;
  }
  EXPECT_TRUE(InArena(id, 200001) == data_.substr(10, 200001));
  ASSERT_TRUE(client_->Cancel(id).ok());
  e = End(id);
  ExpectFailed(e, FetchOutcome::kCanceled, ECANCELED, "canceled");
  EXPECT_EQ(e.total, 200001U);
}

// How each answer ends a Fetch, and which gate it closes.
TEST_F(FetcherTest, Outcomes) {
  Restart({"--patience", "500", "--retry-scale", "1000"});
  enum Closes { kNothing, kHost, kPlace };
  struct Case {
    const char* name;
    std::function<void()> inject;
    FetchOutcome outcome;
    int err;
    const char* cause;
    Closes closes;
    uint64_t total = 0;
  };
  auto fault = [this](Fault f, uint64_t arg = 0) { return [=, this] { stub_.Inject(f, 1, arg); }; };
  auto status = [this](int s, const std::string& body = "") {
    return [=, this] { stub_.Status(1, s, {}, body); };
  };
  using O = FetchOutcome;
  const std::vector<Case> cases = {
      {"404", status(404), O::kGone, ENOENT, "HTTP 404", kNothing},
      {"410", status(410), O::kGone, ENOENT, "HTTP 410", kNothing},
      {"416", status(416), O::kMismatch, EBADMSG, "HTTP 416", kNothing},
      {"range", fault(Fault::kWrongRange), O::kMismatch, EBADMSG, "Content-Range", kNothing},
      {"total", fault(Fault::kWrongTotal), O::kMismatch, EBADMSG, "the blob has", kNothing},
      {"408", status(408), O::kTransient, EIO, "HTTP 408", kHost},
      {"429", status(429, "slowly"), O::kTransient, EIO, "HTTP 429 (slowly)", kHost},
      {"500", status(500), O::kTransient, EIO, "HTTP 500", kHost},
      {"503", status(503), O::kTransient, EIO, "HTTP 503", kHost},
      {"403", status(403), O::kTransient, EACCES, "credentials: HTTP 403", kPlace},
      {"400", status(400, "token expired"), O::kTransient, EACCES, "credentials: HTTP 400", kPlace},
      {"other 400", status(400, "what?"), O::kTransient, EINVAL, "HTTP 400 (what?)", kPlace},
      {"451", status(451), O::kTransient, EINVAL, "HTTP 451", kPlace},
      {"reset", fault(Fault::kReset, 100000), O::kTransient, EIO, "", kHost, 100000},
      {"close", fault(Fault::kClose, 100000), O::kTransient, EIO, "", kHost, 100000},
      {"short", fault(Fault::kShortBody, 7), O::kTransient, EIO, "short body", kHost, 299993},
      {"black hole", fault(Fault::kBlackHole), O::kTransient, ETIMEDOUT, "no answer in 500 ms",
       kHost},
      {"stall", fault(Fault::kHang, 5000), O::kTransient, ETIMEDOUT, "stalled", kHost, 5000},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    // A success before that would make it a failure of the blob alone.
    Restart({"--patience", "500", "--retry-scale", "1000"});
    c.inject();
    FetchEvent e = Run(there_, 10, 300000);
    ExpectFailed(e, c.outcome, c.err, c.cause);
    EXPECT_NE(e.error.message.find("blob " + digest_ + " bytes 10-300009: " + stub_.host() +
                                   "/demo: "), std::string::npos) << e.error.message;
    // A reset may overtake what was sent before it.
    EXPECT_LE(e.total, c.total);
    if (std::string(c.name) != "reset") {
      EXPECT_EQ(e.total, c.total);
    }
    EXPECT_TRUE(InArena(e.id, e.total) == data_.substr(10, e.total));
    EXPECT_EQ(hosts_[there_.host].gate, c.closes == kHost ? HostGate::kGated : HostGate::kOpen);
    EXPECT_EQ(hosts_[there_.host].gated_until_ms, c.closes == kHost ? e.retry_at_ms : 0);
    EXPECT_EQ(e.retry_at_ms != 0, c.closes != kNothing);
    int requests = stub_.CountRequests("GET", "");
    if (c.closes == kNothing) {
      ExpectGood(Run(there_, 10, 300000));
      continue;
    }
    e = Run(there_, 10, 300000);
    ExpectFailed(e, O::kGated, EAGAIN, c.cause);
    EXPECT_GT(e.retry_at_ms, MonotonicMs() - 1);
    EXPECT_EQ(stub_.CountRequests("GET", ""), requests) << "nothing was sent";
    // Another blob of the host.
    e = Run(Open(2, RegistrySource(stub_, "other")), 10, 1000);
    EXPECT_EQ(e.kind == FetchEvent::kFailed, c.closes == kHost) << e.error.message;
    ASSERT_TRUE(client_->OpenGate(there_.host).ok());
    e = Run(there_, 10, 300000);
    ExpectGood(e);
    EXPECT_GE(WaitForHost(there_.host, [](const HostState& h) { return h.openings == 1; }).window,
              1U);
  }
}

TEST_F(FetcherTest, HostsThatCannotBeReached) {
  Restart({"--patience", "6000"});
  StubRegistry plain;
  std::string closed = "127.0.0.1:1";
  struct Case {
    std::string source, cause;
  };
  for (const Case& c : std::vector<Case>{
           {HostSource("http", closed), "onnect"},
           {HostSource("https", plain.host()), "SSL"},
           // A resolver may have its own words, or none at all.
           {HostSource("https", "nobody.invalid"), ""}}) {
    FetchLocation l = Open(2, c.source);
    FetchEvent e = Run(l, 0, 1000);
    EXPECT_EQ(e.outcome, FetchOutcome::kTransient) << c.source;
    EXPECT_NE(e.error.message.find(c.cause), std::string::npos) << e.error.message;
    EXPECT_NE(hosts_[l.host].gate, HostGate::kOpen) << c.source;
    EXPECT_NE(hosts_[l.host].cause.find(c.cause), std::string::npos);
  }
}

TEST_F(FetcherTest, AServerWithoutRangesIsReadFromItsBegin) {
  stub_.Inject(Fault::kIgnoreRange, 1);
  ExpectGood(Run(there_, 10, 300000));
}

// After the time that a 429 asks for, one request is let through.
TEST_F(FetcherTest, ARetryAfterIsKeptTo) {
  Restart({"--retry-scale", "1"});
  stub_.Status(1, 429, {{"Retry-After", "60"}});
  FetchEvent e = Run(there_, 10, 1000);
  ExpectFailed(e, FetchOutcome::kTransient, EIO, "HTTP 429");
  int64_t until = e.retry_at_ms;
  EXPECT_GE(until, hosts_[there_.host].since_ms + 600) << "of 60 s, one percent";
  stub_.Hold(true);
  HostState h = WaitForGate(there_.host, HostGate::kProbing);
  EXPECT_GE(MonotonicMs(), until);
  EXPECT_EQ(h.window, 1U);
  uint32_t probe = Begin(there_, 10, 1000);
  ExpectFailed(End(Begin(there_, 10, 1000)), FetchOutcome::kGated, EAGAIN, "HTTP 429");
  stub_.Hold(false);
  ExpectGood(End(probe));
  h = WaitForGate(there_.host, HostGate::kOpen);
  EXPECT_GT(h.window, 1U);
  EXPECT_EQ(h.since_ms, 0);
  EXPECT_EQ(stub_.CountRequests("GET", ""), 2);
}

TEST_F(FetcherTest, AnOutageEnds) {
  Restart({"--retry-scale", "10"});
  ExpectGood(Run(there_, 10, 1000));
  stub_.SetDown(true);
  int failures = 0;
  for (FetchEvent e = Run(there_, 10, 1000); failures < 3; e = Run(there_, 10, 1000)) {
    EXPECT_EQ(e.kind, FetchEvent::kFailed);
    failures += e.outcome == FetchOutcome::kTransient ? 1 : 0;
    WaitForHost(there_.host, [](const HostState& h) { return h.gate != HostGate::kGated; });
  }
  int64_t since = hosts_[there_.host].since_ms;
  EXPECT_GT(since, 0);
  stub_.SetDown(false);
  FetchEvent e;
  do {
    WaitForHost(there_.host, [](const HostState& h) { return h.gate != HostGate::kGated; });
    e = Run(there_, 10, 1000);
  } while (e.kind == FetchEvent::kFailed && e.outcome != FetchOutcome::kCanceled);
  ExpectGood(e);
  WaitForGate(there_.host, HostGate::kOpen);
}

// 256 at a time, of many hosts and of files; the one that answers nothing holds
// nobody.
TEST_F(FetcherTest, ManyAtATime) {
  Restart({"--patience", "600000"});  // the hole is not to be given up while a busy machine serves
  StubRegistry hole;
  hole.AddBlob(data_);
  hole.Inject(Fault::kBlackHole, 100);
  FetchLocation nowhere = Open(2, RegistrySource(hole));
  std::vector<uint32_t> stuck, ids;
  for (int i = 0; i < 16; i++) stuck.push_back(Begin(nowhere, 0, 1000));

  std::vector<std::unique_ptr<StubRegistry>> stubs;
  for (int i = 0; i < 10; i++) {
    stubs.push_back(std::make_unique<StubRegistry>());
    stubs.back()->AddBlob(data_);
    stubs.back()->Hold(true);
  }
  uint64_t offset = 1;
  for (uint32_t i = 0; i < stubs.size(); i++) {
    FetchLocation l = Open(10 + i, RegistrySource(*stubs[i]));
    for (int k = 0; k < 24; k++) ids.push_back(Begin(l, offset += 10007, 70000));
  }
  EXPECT_FALSE(client_->Fetch({.id = 9999, .location = nowhere.location, .length = 1}).ok())
      << "that would be the 257th";
  EXPECT_TRUE(Eventually([&] {
    int held = 0;
    for (auto& s : stubs) held += s->CountHeld();
    return held == 240;
  }));
  for (auto& s : stubs) s->Hold(false);
  for (uint32_t id : ids) ExpectGood(End(id));
  EXPECT_EQ(hosts_[nowhere.host].gate, HostGate::kOpen);
  for (uint32_t id : stuck) ASSERT_TRUE(client_->Cancel(id).ok());
  for (uint32_t id : stuck) ExpectFailed(End(id), FetchOutcome::kCanceled, ECANCELED, "");
}

TEST_F(FetcherTest, TheWindowIsALimit) {
  stub_.Hold(true);
  std::vector<uint32_t> ids;
  for (uint32_t i = 0; i < hosts_[there_.host].window; i++) ids.push_back(Begin(there_, i, 1000));
  if (ids.empty()) {
    WaitForHost(there_.host, [](const HostState& h) { return h.window > 0; });
    for (uint32_t i = 0; i < hosts_[there_.host].window; i++) ids.push_back(Begin(there_, i, 1000));
  }
  FetchEvent e = End(Begin(there_, 0, 1000));
  ExpectFailed(e, FetchOutcome::kGated, EAGAIN, "its limit now");
  EXPECT_EQ(e.retry_at_ms, 0);
  stub_.Hold(false);
  for (uint32_t id : ids) ExpectGood(End(id));
  HostState h = WaitForHost(there_.host, [&](const HostState& s) { return s.window > ids.size(); });
  EXPECT_EQ(h.gate, HostGate::kOpen) << "and it grows when it was full";
}

TEST_F(FetcherTest, CancelEndsEachKindOfWait) {
  auto cancel = [&](uint32_t id) {
    ASSERT_TRUE(client_->Cancel(id).ok());
    ExpectFailed(End(id), FetchOutcome::kCanceled, ECANCELED, "canceled");
  };
  stub_.Inject(Fault::kBlackHole, 1);
  int gets = stub_.CountRequests("GET", "");
  uint32_t id = Begin(there_, 0, 1000);
  ASSERT_TRUE(Eventually([&] { return stub_.CountRequests("GET", "") > gets; }));
  cancel(id);
  ASSERT_TRUE(client_->Cancel(4711).ok()) << "nobody's";
  ExpectGood(Run(there_, 3, 1000));
  ASSERT_TRUE(client_->Cancel(next_id_ - 1).ok()) << "it is over";
  ExpectGood(Run(there_, 3, 1000));
  // While it waits for a token that others wait for too.
  StubRegistry locked;
  locked.AddBlob(data_);
  locked.RequireAuth(StubRegistry::Auth::kBearer, "", "");
  FetchLocation l = Open(2, RegistrySource(locked));
  std::vector<uint32_t> ids;
  for (int i = 0; i < 8; i++) ids.push_back(Begin(l, 0, 1000));
  for (uint32_t i : ids) ASSERT_TRUE(client_->Cancel(i).ok());
  for (uint32_t i : ids) EXPECT_EQ(End(i).kind, FetchEvent::kFailed);
}

TEST_F(FetcherTest, RedirectsAreUsedAgain) {
  stub_.Inject(Fault::kRedirect, 1, 600);
  ExpectGood(Run(there_, 10, 1000));
  for (int i = 0; i < 3; i++) ExpectGood(Run(there_, 10, 1000));
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 1);
  EXPECT_EQ(stub_.CountRequests("GET", "/store/"), 4);
  // The target refuses: the registry is asked again.
  stub_.Status(1, 403, {}, "Request has expired");
  FetchEvent e = Run(there_, 10, 1000);
  ExpectGood(e);
  EXPECT_EQ(e.tally.requests, 2U);
  EXPECT_EQ(e.tally.retries, 1U);
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 2);
  // Fresh: past what is remembered, on a new connection.
  stub_.Inject(Fault::kRedirect, 1, 600);
  ExpectGood(Run(there_, 10, 1000));
  int connections = stub_.CountConnections();
  stub_.Inject(Fault::kRedirect, 1, 600);
  ExpectGood(Run(there_, 10, 1000, /*fresh=*/true));
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 4);
  EXPECT_EQ(stub_.CountConnections(), connections + 2);
  EXPECT_EQ(stub_.Requests().back().headers["cache-control"], "no-cache");
  // A target that refuses what it was just sent: that blob waits, not the host.
  e = {};
  stub_.Inject(Fault::kRedirect, 1, 600);
  stub_.Status(1, 403, {}, "no");
  e = Run(there_, 10, 1000, /*fresh=*/true);
  ExpectFailed(e, FetchOutcome::kTransient, EACCES,
               "HTTP 403 (no) at http://127.0.0.1:" + std::to_string(stub_.other_port()));
  EXPECT_EQ(hosts_[there_.host].gate, HostGate::kOpen);
}

TEST_F(FetcherTest, Files) {
  auto expect = [&](const std::string& source, FetchOutcome outcome, int err,
                    const std::string& cause) {
    ExpectFailed(Run(Open(2, source), 0, 10), outcome, err, cause);
  };
  using O = FetchOutcome;
  expect(FileSource(data_ + "x"), O::kMismatch, EBADMSG,
         std::to_string(data_.size() + 1) + " bytes, not " + std::to_string(data_.size()));
  expect(FilePath(dir_), O::kMismatch, EINVAL, "not a regular file");
  ASSERT_EQ(mkfifo((dir_ + "/fifo").c_str(), 0644), 0);
  expect(FilePath(dir_ + "/fifo"), O::kMismatch, EINVAL, "not a regular file");
  expect(FilePath("/nonexistent"), O::kGone, ENOENT, "file /nonexistent: No such file");
  if (geteuid() == 0) expect(FileSource(data_, 0600), O::kTransient, EACCES, "Permission denied");
  ExpectGood(Run(Open(2, FileSource(data_)), 100, 1000));
}

TEST_F(FetcherTest, RefusesBadRequests) {
  auto refused = [&](FetchLocation l, uint64_t offset, uint64_t length, const std::string& cause) {
    ExpectFailed(Run(l, offset, length), FetchOutcome::kRefused, cause == "does not exist" ? ESTALE : EINVAL,
                 cause);
  };
  uint64_t end = data_.size();
  refused({99, 0}, 0, 10, "does not exist");
  refused(there_, end, 1, "bad range");
  refused(there_, end - 1, 2, "bad range");
  refused(there_, UINT64_MAX, 2, "bad range");
  EXPECT_FALSE(client_->Fetch({.id = 1, .location = there_.location, .length = 0}).ok());
  EXPECT_FALSE(client_->Fetch({.id = 1, .location = there_.location, .length = kMaxFetchBytes + 1}).ok());
  for (uint64_t at : {kTestArenaBytes, kTestArenaBytes - 9, UINT64_MAX}) {
    FetchRequest r{.id = next_id_++, .location = there_.location, .length = 10, .arena_offset = at};
    ASSERT_TRUE(client_->Fetch(r).ok());
    EXPECT_EQ(End(r.id).outcome, FetchOutcome::kRefused) << at;
  }
  EXPECT_EQ(stub_.CountRequests("GET", ""), 0);
}

TEST_F(FetcherTest, ControlCallsAreAnswered) {
  auto s = client_->OpenImage(5, "", AsBytes(std::string("[]")));
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(s.error().message, "image JSON: not a JSON object");
  EXPECT_FALSE(client_->OpenImage(5, "", AsBytes(std::string())).ok());
  EXPECT_FALSE(client_->OpenImage(5, "", Bytes(kMaxImageJsonBytes + 1, ' ')).ok());
  auto none = client_->OpenImage(6, "", AsBytes(Json("")));
  ASSERT_TRUE(none.ok());
  ASSERT_EQ(none->size(), 1U);
  EXPECT_TRUE(none->front().empty());
  // More locations than one message holds, in their order.
  std::string many;
  for (int blob = 0; blob < 20; blob++) {
    std::string sources;
    for (int i = 0; i < 7; i++)
      sources += (i > 0 ? "," : "") + FilePath("/b" + std::to_string(blob) + "/" + std::to_string(i));
    many += (blob > 0 ? "," : "") + (R"({"digest":")" + digest_) + R"(","size":10,"sources":[)" +
            sources + "]}";
  }
  auto blobs = client_->OpenImage(7, "", AsBytes(R"({"version":1,"blobs":[)" + many + "]}"));
  ASSERT_TRUE(blobs.ok()) << blobs.error().message;
  ASSERT_EQ(blobs->size(), 20U);
  uint32_t last = 0;
  for (const auto& locations : *blobs) {
    EXPECT_EQ(locations.size(), 7U);
    for (const FetchLocation& l : locations) EXPECT_GT(l.location, std::exchange(last, l.location));
  }

  // One location of two images lives until the second goes.
  EXPECT_EQ(Open(8, RegistrySource(stub_)).location, there_.location);
  ASSERT_TRUE(client_->CloseImage(1).ok());
  ASSERT_TRUE(client_->CloseImage(1).ok());
  ExpectGood(Run(there_, 0, 1));
  ASSERT_TRUE(client_->CloseImage(8).ok());
  EXPECT_EQ(Run(there_, 0, 1).error.err, ESTALE);
  // A Fetch that runs goes on without its image.
  there_ = Open(1, RegistrySource(stub_));
  stub_.Hold(true);
  uint32_t id = Begin(there_, 0, 1000);
  ASSERT_TRUE(Eventually([&] { return stub_.CountHeld() == 1; }));
  ASSERT_TRUE(client_->CloseImage(1).ok());
  stub_.Hold(false);
  ExpectGood(End(id));
}

// The broker is told, also while a Fetch runs there, which is not disturbed.
TEST_F(FetcherTest, AServerGoesWithItsLastLocation) {
  auto gone = [&](uint32_t host) {
    for (const FetchEvent& e : events_)
      if (e.kind == FetchEvent::kHostGone && e.host.host == host) return true;
    return false;
  };
  ASSERT_NE(Open(8, RegistrySource(stub_, "other")).host, 0U);
  WaitForGate(there_.host, HostGate::kOpen);
  ASSERT_TRUE(client_->CloseImage(1).ok());
  stub_.Hold(true);
  const FetchLocation other = Open(8, RegistrySource(stub_, "other"));
  EXPECT_EQ(other.host, there_.host);
  const uint32_t id = Begin(other, 0, 1000);
  ASSERT_TRUE(Eventually([&] { return stub_.CountHeld() == 1; }));
  EXPECT_FALSE(gone(there_.host));
  ASSERT_TRUE(client_->CloseImage(8).ok());
  while (!gone(there_.host) && !HasFailure()) Next();
  EXPECT_EQ(hosts_.count(there_.host), 0U);
  stub_.Hold(false);
  ExpectGood(End(id));
  EXPECT_EQ(hosts_.count(there_.host), 0U) << "nothing more is told of it";
  const FetchLocation again = Open(1, RegistrySource(stub_));
  EXPECT_NE(again.host, there_.host);
  ExpectGood(Run(again, 0, 1000));
  EXPECT_EQ(hosts_[again.host].name, stub_.url());
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
  ExpectGood(Run(there_, 10, 1000));
  for (const auto& f :
       std::filesystem::directory_iterator("/proc/" + std::to_string(client_->pid()) + "/fd"))
    EXPECT_NE(std::filesystem::read_symlink(f.path()), "/dev/zero");

  auto children = Children(client_->pid());
  ASSERT_EQ(children.size(), 1U);
  pid_t keeper = children[0];
  for (pid_t pid : {client_->pid(), keeper}) {
    const std::string capabilities = pid == keeper ? "0000000000000004" : "0000000000000000";
    ExpectConfined(pid, capabilities);
    if (geteuid() != 0) continue;
    EXPECT_EQ(StatusField(pid, "CapPrm"), capabilities);
    EXPECT_EQ(StatusField(pid, "CapAmb"), "0000000000000000");
  }
  UniqueFd watch(static_cast<int>(syscall(SYS_pidfd_open, keeper, 0)));
  client_.reset();
  EXPECT_TRUE(*WaitFor(watch.get(), POLLIN, 5000)) << "the keeper goes with the fetcher";
}

TEST_F(FetcherTest, ItsDeathIsNoticedAndAnotherOneTakesOver) {
  EXPECT_FALSE(*WaitFor(client_->pidfd(), POLLIN, 0));
  stub_.Inject(Fault::kBlackHole, 1);
  Begin(there_, 0, 1000);
  ASSERT_TRUE(Eventually([&] { return stub_.CountRequests("GET", "") == 1; }));
  ASSERT_EQ(kill(client_->pid(), SIGKILL), 0);
  EXPECT_TRUE(*WaitFor(client_->pidfd(), POLLIN, 5000));
  auto e = client_->Receive();
  while (e.ok()) e = client_->Receive();
  EXPECT_EQ(e.error().err, EPIPE);
  EXPECT_EQ(client_->Fetch({.id = 5, .location = 1, .length = 1}).error().err, EPIPE);
  EXPECT_EQ(client_->CloseImage(1).error().err, EPIPE);
  Restart({});
  ExpectGood(Run(there_, 10, 1000));
}

}  // namespace
}  // namespace fastoci
