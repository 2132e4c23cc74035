// SPDX-License-Identifier: Apache-2.0
#include "http/http_loop.h"

#include <gtest/gtest.h>
#include <poll.h>

#include "testing/stub_registry.h"

namespace fastoci {
namespace {

class HttpLoopTest : public testing::Test {
 protected:
  void SetUp() override {
    data_.resize(300000);
    for (size_t i = 0; i < data_.size(); i++) data_[i] = static_cast<char>(i * 31 + i / 251);
    digest_ = stub_.AddBlob(data_);
    Open(300);
  }
  void Open(int patience_ms) {
    HttpOptions options;
    options.first_byte_ms = options.stall_ms = patience_ms;
    auto loop = HttpLoop::Open(options);
    ASSERT_TRUE(loop.ok());
    loop_ = std::move(*loop);
  }
  struct Got {
    std::string body;
    int ends = 0;
    std::optional<Result<HttpResponse>> result;
  };
  uint64_t Start(Got* got, const std::string& url = "", SteadyTime deadline = SteadyTime::max()) {
    HttpRequest r;
    r.url = url.empty() ? stub_.url() + "/v2/demo/blobs/" + digest_ : url;
    r.authorization = Secret("Basic c2VjcmV0");
    r.deadline = deadline;
    r.on_body = [got](ByteSpan b) {
      got->body.append(reinterpret_cast<const char*>(b.data()), b.size());
      return OkStatus();
    };
    return loop_->Start(std::move(r), [got](Result<HttpResponse> result) {
      got->ends++;
      got->result = std::move(result);
    });
  }
  // Until nothing runs, or the condition holds.
  template <typename Condition>
  void RunUntil(Condition condition) {
    while (loop_->running() > 0 && !condition()) {
      pollfd p{loop_->fd(), POLLIN, 0};
      int ms = loop_->TimeoutMs();
      (void)poll(&p, 1, ms < 0 ? 10 : std::min(ms, 10));
      loop_->Process();
    }
  }
  void RunAll() {
    RunUntil([] { return false; });
  }

  StubRegistry stub_;
  std::string data_, digest_;
  std::unique_ptr<HttpLoop> loop_;
};

TEST_F(HttpLoopTest, ManyAtATimeAndConnectionsAgain) {
  Open(30000);
  std::vector<Got> got(100);
  stub_.Hold(true);
  for (Got& g : got) Start(&g);
  RunUntil([&] { return stub_.CountHeld() == 100; });
  stub_.Hold(false);
  RunAll();
  for (Got& g : got) {
    EXPECT_EQ(g.ends, 1);
    ASSERT_TRUE(g.result && g.result->ok());
    EXPECT_EQ((*g.result)->status, 200);
    EXPECT_TRUE(g.body == data_);
  }
  int connections = stub_.CountConnections();
  for (Got& g : got) Start(&(g = {}));
  RunAll();
  EXPECT_EQ(stub_.CountConnections(), connections);
}

TEST_F(HttpLoopTest, OneThatHangsHoldsNobody) {
  Got hangs, good;
  stub_.Inject(Fault::kBlackHole, 1);
  Start(&hangs);
  RunUntil([&] { return stub_.CountRequests("GET", "") == 1; });
  Start(&good);
  RunUntil([&] { return good.ends == 1; });
  EXPECT_EQ(hangs.ends, 0);
  EXPECT_TRUE(good.body == data_);
  RunAll();
  EXPECT_EQ(hangs.result->error().message, "no answer in 300 ms");
}

TEST_F(HttpLoopTest, EachKindOfEnd) {
  Got stalled, late, refused, bad, redirected;
  stub_.Inject(Fault::kHang, 1, 500);
  Start(&stalled);
  RunAll();
  EXPECT_EQ(stalled.result->error().err, ETIMEDOUT);
  EXPECT_EQ(stalled.body.size(), 500U);
  Start(&late, "", DeadlineIn(-1));
  EXPECT_EQ(late.ends, 0) << "not inside Start()";
  EXPECT_EQ(loop_->TimeoutMs(), 0);
  RunAll();
  EXPECT_EQ(late.result->error().message, "deadline passed");
  Start(&refused, "http://127.0.0.1:1/");
  Start(&bad, "file:///etc/passwd");
  RunAll();
  EXPECT_EQ(refused.result->error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(bad.result->error().kind, ErrorKind::kInvalid);
  stub_.Inject(Fault::kRedirect, 1);
  Start(&redirected);
  RunAll();
  EXPECT_TRUE(redirected.body == data_);
  EXPECT_NE((*redirected.result)->url.find("/store/"), std::string::npos);
  EXPECT_EQ(stub_.Requests().back().headers.count("authorization"), 0U);
}

TEST_F(HttpLoopTest, CancelIsSilent) {
  Got a, b;
  stub_.Hold(true);
  uint64_t first = Start(&a);
  Start(&b);
  RunUntil([&] { return stub_.CountHeld() == 2; });
  loop_->Cancel(first);
  loop_->Cancel(first);
  loop_->Cancel(4711);
  uint64_t late = Start(&a, "", DeadlineIn(-1));
  loop_->Cancel(late);
  stub_.Hold(false);
  RunAll();
  EXPECT_EQ(a.ends, 0);
  EXPECT_TRUE(b.body == data_);
  Start(&a);  // runs when the loop goes
}

// What ends one may begin another.
TEST_F(HttpLoopTest, DoneMayStartAndCancel) {
  Got last, never;
  stub_.Inject(Fault::kBlackHole, 1);
  uint64_t stuck = Start(&never);
  RunUntil([&] { return stub_.CountRequests("GET", "") == 1; });
  int left = 5;
  std::function<void()> next = [&] {
    HttpRequest r;
    r.url = stub_.url() + "/v2/demo/blobs/" + digest_;
    loop_->Start(std::move(r), [&](const Result<HttpResponse>&) {
      if (--left > 0) return next();
      loop_->Cancel(stuck);
      Start(&last);
    });
  };
  next();
  RunAll();
  EXPECT_TRUE(last.body == data_);
  EXPECT_EQ(never.ends, 0);
}

}  // namespace
}  // namespace fastoci
