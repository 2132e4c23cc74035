// SPDX-License-Identifier: Apache-2.0
#include <gtest/gtest.h>

#include <sstream>
#include <thread>

#include "http/http_client.h"
#include "http/retry.h"
#include "testing/stub_registry.h"

namespace fastoci {
namespace {

std::string Pattern(size_t n) {
  std::string s(n, 0);
  for (size_t i = 0; i < n; i++) s[i] = static_cast<char>(i * 31 + i / 251);
  return s;
}

class HttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    data_ = Pattern(300000);
    digest_ = stub_.AddBlob(data_);
    HttpOptions options;
    options.stall_ms = 200;
    auto client = HttpClient::Open(options);
    ASSERT_TRUE(client.ok());
    client_ = *client;
    policy_.first_delay_ms = 1;
  }
  Status Range(uint64_t offset, uint64_t length, uint64_t total = 300000,
               int64_t deadline_ms = 10000, Watch* watch = nullptr) {
    got_.clear();
    HttpRequest r;
    r.url = stub_.url() + "/v2/demo/blobs/" + digest_;
    r.deadline = DeadlineIn(deadline_ms);
    r.watch = watch;
    return GetRange([this](HttpRequest* q) { return client_->Send(*q); }, r,
                    {offset, length, total}, policy_, [this](ByteSpan b) {
                      if (got_.empty()) std::this_thread::sleep_for(sink_delay_);
                      got_.append(reinterpret_cast<const char*>(b.data()), b.size());
                      return OkStatus();
                    });
  }

  StubRegistry stub_;
  std::shared_ptr<HttpClient> client_;
  RetryPolicy policy_;
  std::string data_, digest_, got_;
  std::chrono::milliseconds sink_delay_{0};
};

TEST_F(HttpTest, GetsJustTheRange) {
  ASSERT_TRUE(Range(1000, 70000).ok());
  EXPECT_EQ(got_, data_.substr(1000, 70000));
  ASSERT_TRUE(Range(299999, 1).ok());
  EXPECT_EQ(got_, data_.substr(299999));
}

TEST_F(HttpTest, ReusesItsConnection) {
  for (int i = 0; i < 5; i++) ASSERT_TRUE(Range(0, 10).ok());
  EXPECT_EQ(stub_.CountConnections(), 1);
}

TEST_F(HttpTest, RetriesServerErrors) {
  for (uint64_t status : {408, 429, 500, 503}) {
    stub_.Inject(Fault::kStatus, 2, status);
    ASSERT_TRUE(Range(5, 100).ok()) << status;
    EXPECT_EQ(got_, data_.substr(5, 100));
  }
}

TEST_F(HttpTest, DoesNotRetryOtherStatuses) {
  stub_.Inject(Fault::kStatus, 1, 404);
  Status s = Range(0, 10);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kNotFound);
  EXPECT_EQ(s.error().message, "HTTP 404 (injected)");
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), 1);
}

TEST_F(HttpTest, GivesUpAfterMaxAttempts) {
  stub_.Inject(Fault::kStatus, 100, 503);
  Status s = Range(0, 10);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().kind, ErrorKind::kUnavailable);
  EXPECT_EQ(stub_.CountRequests("GET", "/blobs/"), policy_.max_attempts);
}

TEST_F(HttpTest, ResumesAfterCloseInMidBody) {
  stub_.Inject(Fault::kClose, 1, 40000);
  ASSERT_TRUE(Range(1000, 100000).ok());
  EXPECT_EQ(got_, data_.substr(1000, 100000));
  auto requests = stub_.Requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[1].headers["range"], "bytes=41000-100999");
}

TEST_F(HttpTest, ResumesAfterShortBody) {
  stub_.Inject(Fault::kShortBody, 1, 500);
  ASSERT_TRUE(Range(0, 1000).ok());
  EXPECT_EQ(got_, data_.substr(0, 1000));
  EXPECT_EQ(stub_.Requests().back().headers["range"], "bytes=500-999");
}

TEST_F(HttpTest, ProgressResetsTheCountOfAttempts) {
  stub_.Inject(Fault::kClose, 20, 1000);
  ASSERT_TRUE(Range(0, 30000).ok());
  EXPECT_EQ(got_, data_.substr(0, 30000));
}

TEST_F(HttpTest, SkipsWhenTheServerIgnoresTheRange) {
  stub_.Inject(Fault::kIgnoreRange, 1);
  ASSERT_TRUE(Range(1000, 5000).ok());
  EXPECT_EQ(got_, data_.substr(1000, 5000));
  ASSERT_TRUE(Range(7, 5).ok());  // the connection that was cut is not reused
  EXPECT_EQ(got_, data_.substr(7, 5));
}

TEST_F(HttpTest, RefusesWrongRangeAndTotal) {
  for (Fault f : {Fault::kWrongRange, Fault::kWrongTotal}) {
    stub_.Inject(f, 1);
    Status s = Range(0, 10);
    ASSERT_FALSE(s.ok());
    EXPECT_EQ(s.error().kind, ErrorKind::kMismatch);
    EXPECT_TRUE(got_.empty());
  }
  EXPECT_EQ(Range(0, 10, 299999).error().kind, ErrorKind::kMismatch);
  EXPECT_EQ(Range(0, 0).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(Range(299999, 2).error().kind, ErrorKind::kInvalid);
  EXPECT_EQ(Range(UINT64_MAX, 2, 0).error().kind, ErrorKind::kInvalid);
}

TEST_F(HttpTest, RetriesAStalledTransfer) {
  stub_.Inject(Fault::kHang, 1);
  ASSERT_TRUE(Range(3, 50).ok());
  EXPECT_EQ(got_, data_.substr(3, 50));
}

TEST_F(HttpTest, TheDeadlineEndsAHang) {
  stub_.Inject(Fault::kHang, 100);
  auto begin = std::chrono::steady_clock::now();
  Status s = Range(0, 10, 300000, 150);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, ETIMEDOUT);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
}

TEST_F(HttpTest, CancelEndsAHangAndABackoff) {
  Cancellation hang;
  stub_.Inject(Fault::kHang, 1);
  std::thread t([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    hang.Cancel();
  });
  Status s = Range(0, 10, 300000, 10000, hang.watch());
  t.join();
  ASSERT_FALSE(s.ok());
  EXPECT_TRUE(IsCanceled(s.error()));
  EXPECT_TRUE(hang.cancelled());

  stub_.Inject(Fault::kStatus, 1, 503);
  policy_.first_delay_ms = policy_.max_delay_ms = 8000;
  Cancellation backoff;
  auto begin = std::chrono::steady_clock::now();
  std::thread u([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    backoff.Cancel();
  });
  s = Range(0, 10, 300000, 60000, backoff.watch());
  u.join();
  EXPECT_TRUE(IsCanceled(s.error()));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(3));
}

TEST_F(HttpTest, TimeInTheSinkIsNoStall) {
  HttpRequest r;
  r.url = stub_.url() + "/v2/demo/blobs/" + digest_;
  size_t n = 0;
  r.on_body = [&](ByteSpan b) {
    if (n == 0) std::this_thread::sleep_for(std::chrono::milliseconds(500));
    n += b.size();
    return OkStatus();
  };
  auto response = client_->Send(r);
  ASSERT_TRUE(response.ok()) << response.error().message;
  EXPECT_EQ(n, data_.size());
}

// A layer's bytes wait for the layers below.
TEST_F(HttpTest, TimeInTheSinkOfARangeDoesNotCountForItsDeadline) {
  sink_delay_ = std::chrono::milliseconds(2500);
  stub_.Inject(Fault::kClose, 1, 40000);
  Status s = Range(1000, 100000, 300000, 2000);
  ASSERT_TRUE(s.ok()) << s.error().message;
  EXPECT_EQ(got_, data_.substr(1000, 100000));
}

TEST_F(HttpTest, RedirectToAnotherOriginLosesAuthorization) {
  stub_.Inject(Fault::kRedirect, 1);
  HttpRequest r;
  r.url = stub_.url() + "/v2/demo/blobs/" + digest_;
  r.authorization = Secret("Basic c2VjcmV0");
  auto response = client_->Send(r);
  ASSERT_TRUE(response.ok());
  EXPECT_EQ(response->status, 200);
  auto requests = stub_.Requests();
  ASSERT_EQ(requests.size(), 2u);
  EXPECT_EQ(requests[0].headers.count("authorization"), 1u);
  EXPECT_EQ(requests[1].headers.count("authorization"), 0u);
  EXPECT_EQ(requests[1].port, stub_.other_port());
}

TEST_F(HttpTest, SinkErrorEndsTheExchange) {
  HttpRequest r;
  r.url = stub_.url() + "/v2/demo/blobs/" + digest_;
  r.on_body = [](ByteSpan) -> Status { return InvalidError("enough"); };
  auto response = client_->Send(r);
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().message, "enough");
}

TEST_F(HttpTest, ConnectionRefusedIsUnavailable) {
  HttpRequest r;
  r.url = "http://127.0.0.1:1/";
  auto response = client_->Send(r);
  ASSERT_FALSE(response.ok());
  EXPECT_EQ(response.error().kind, ErrorKind::kUnavailable);
}

TEST_F(HttpTest, RefusesHeaderInjectionAndOtherSchemes) {
  HttpRequest r;
  r.url = stub_.url();
  r.headers = {{"A", "b\r\nC: d"}};
  EXPECT_EQ(client_->Send(r).error().kind, ErrorKind::kInvalid);
  r.headers.clear();
  r.url = "file:///etc/passwd";
  EXPECT_EQ(client_->Send(r).error().kind, ErrorKind::kInvalid);
}

TEST(Retry, BackoffGrowsToItsCap) {
  RetryPolicy p;
  p.first_delay_ms = 100;
  p.max_delay_ms = 1000;
  EXPECT_EQ(BackoffMs(p, 0), 100);
  EXPECT_EQ(BackoffMs(p, 3), 800);
  EXPECT_EQ(BackoffMs(p, 4), 1000);
  EXPECT_EQ(BackoffMs(p, 1000), 1000);
}

TEST(Retry, RetryAfter) {
  EXPECT_EQ(ParseRetryAfterMs("3"), 3000);
  EXPECT_EQ(ParseRetryAfterMs(""), -1);
  EXPECT_EQ(ParseRetryAfterMs("soon"), -1);
  EXPECT_EQ(ParseRetryAfterMs("99999999999999999999"), -1);
  EXPECT_EQ(ParseRetryAfterMs("Wed, 21 Oct 2015 07:28:00 GMT"), 0);
}

TEST(Retry, AWaitPastTheDeadlineIsNotBegun) {
  RetryPolicy p;
  int calls = 0;
  auto begin = std::chrono::steady_clock::now();
  Status s = Retry(p, DeadlineIn(1000), nullptr, [&](AttemptInfo* info) -> Status {
    calls++;
    info->retry_after_ms = 20000;
    return Error{ErrorKind::kUnavailable, EIO, "busy"};
  });
  EXPECT_EQ(s.error().message, "busy");
  EXPECT_EQ(calls, 1);
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(900));
}

TEST(Retry, AnAttemptThatTheDeadlineEndsTellsWhatTheOneBeforeMet) {
  RetryPolicy p;
  p.first_delay_ms = 1;
  SteadyTime deadline = DeadlineIn(200);
  Status s = Retry(p, deadline, nullptr, [&](AttemptInfo* info) -> Status {
    if (info->number == 0) return Error{ErrorKind::kUnavailable, EIO, "HTTP 503"};
    std::this_thread::sleep_until(deadline);
    return Error{ErrorKind::kUnavailable, ETIMEDOUT, "deadline passed"};
  });
  EXPECT_EQ(s.error().message, "deadline passed, before that: HTTP 503");
  EXPECT_EQ(s.error().err, ETIMEDOUT);
}

TEST(Retry, ContentRange) {
  auto r = ParseContentRange("bytes 0-9/100");
  ASSERT_TRUE(r.ok());
  EXPECT_EQ(r->last, 9u);
  EXPECT_EQ(r->total, 100u);
  EXPECT_TRUE(ParseContentRange("bytes 0-9/*").ok());
  for (const char* bad : {"", "bytes 9-0/10", "bytes 0-9/5", "bytes -9/10", "bytes 0-9", "0-9/10",
                          "bytes 0-9/10x", "bytes */10", "bytes 0-99999999999999999999/*"})
    EXPECT_FALSE(ParseContentRange(bad).ok()) << bad;
}

TEST(Url, OriginAndResolve) {
  EXPECT_EQ(*UrlOrigin("HTTPS://Host.Example/x"), "https://host.example:443");
  EXPECT_EQ(*UrlOrigin("http://h:5000/x"), "http://h:5000");
  EXPECT_EQ(*ResolveUrl("http://h:5000/v2/a?x=y", "/b?c=d"), "http://h:5000/b?c=d");
  EXPECT_EQ(UrlEscape("sha256:a/b"), "sha256%3Aa%2Fb");
}

TEST(SecretTest, PrintsStars) {
  std::ostringstream out;
  out << Secret("hunter2");
  EXPECT_EQ(out.str(), "***");
}

}  // namespace
}  // namespace fastoci
