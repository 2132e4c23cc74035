// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/starts.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>

#include "base/unique_fd.h"
#include "snapshotter/layer.h"
#include "snapshotter/lowers.h"

namespace fastoci {
namespace {

std::string Digest(char c) { return "sha256:" + std::string(64, c); }

StartOrigin OfFile(const std::string& path) {
  StartOrigin origin;
  origin.trace_file = path;
  return origin;
}
StartOrigin OfWorkload(const std::string& workload) {
  StartOrigin origin;
  origin.workload = workload;
  return origin;
}
StartOrigin OfImage(const std::string& image) {
  StartOrigin origin;
  origin.image = image;
  origin.manifest_digest = Digest('c');
  return origin;
}

class StartsTest : public ::testing::Test {
 protected:
  StartsTest() {
    char path[] = "/tmp/fastoci-starts.XXXXXX";
    dir_ = ::mkdtemp(path);
  }
  ~StartsTest() override {
    starts_ = nullptr;
    std::filesystem::remove_all(dir_);
  }
  void Open() {
    starts_ = std::make_unique<StartTraces>(
        StartTraces::Options{dir_, dir_ + "/no.sock", false, true, std::chrono::seconds(1), {}, dir_ + "/node.json"}, &metrics_);
  }
  void Write(const std::string& name, const std::string& text) { std::ofstream(dir_ + "/" + name) << text; }
  bool Exists(const std::string& name) { return std::filesystem::exists(dir_ + "/" + name); }
  // Whether the device is attached for the trace of a pull.
  bool AttachedAfterPull(const std::string& device, const StartOrigin& origin) {
    std::atomic<bool> attached{false};
    Open();
    starts_->Pulled(device, origin, [&] { attached = true; });
    starts_ = nullptr;  // waits
    return attached;
  }
  ErrorKind KindOf(const std::string& name) {
    auto trace = ReadTraceFile(dir_ + "/" + name, {}, "");
    return trace.ok() ? ErrorKind::kIo : trace.error().kind;
  }

  const std::string trace_ = "fastoci-start 2\nblob " + Digest('a') + "\n0 0 128\n";
  std::string dir_;
  SnapshotterMetrics metrics_;
  std::unique_ptr<StartTraces> starts_;
};

TEST_F(StartsTest, FilesOfTracesAreRead) {
  Write("good", trace_);
  auto trace = ReadTraceFile(dir_ + "/good", {}, "");
  ASSERT_TRUE(trace.ok()) << trace.error().message;
  EXPECT_EQ(trace->bytes(), 65536U);
  Write("empty", "");
  Write("list", "/bin/sh\n/etc/passwd\n");
  Write("damaged", trace_ + "x");
  std::filesystem::create_symlink("good", dir_ + "/link");
  EXPECT_EQ(KindOf("none"), ErrorKind::kNotFound);
  EXPECT_EQ(KindOf("empty"), ErrorKind::kNotFound);
  EXPECT_EQ(KindOf("list"), ErrorKind::kUnsupported);
  EXPECT_EQ(KindOf("damaged"), ErrorKind::kInvalid);
  EXPECT_FALSE(ReadTraceFile(dir_ + "/link", {}, "").ok()) << "a link is not followed";
  EXPECT_FALSE(ReadTraceFile(dir_, {}, "").ok()) << "a directory";
}

TEST_F(StartsTest, OverlaybdsTraceNeedsTheDevice) {
  const std::string magic("\x20\x18\xef\xc2", 4);
  Write("trace", magic + std::string(20, '\0'));
  EXPECT_EQ(KindOf("trace"), ErrorKind::kUnavailable);
  EXPECT_TRUE(AttachedAfterPull("dev", OfFile(dir_ + "/trace")));
}

TEST_F(StartsTest, OnlyAnImageWithATraceIsAttachedWhenItIsPulled) {
  Write("dev", trace_);
  Write("dev.web", trace_);
  EXPECT_TRUE(AttachedAfterPull("dev", {}));
  EXPECT_TRUE(AttachedAfterPull("dev", OfWorkload("web")));
  EXPECT_FALSE(AttachedAfterPull("dev", OfWorkload("import")));
  EXPECT_FALSE(AttachedAfterPull("other", {}));
  EXPECT_FALSE(AttachedAfterPull("other", OfImage("127.0.0.1:1/app:1"))) << "no registry";
}

TEST_F(StartsTest, ADamagedTraceIsForgotten) {
  Write("dev", "fastoci-start 1 abc\n0 1\n");
  EXPECT_FALSE(AttachedAfterPull("dev", {}));
  EXPECT_FALSE(Exists("dev"));
}

TEST_F(StartsTest, WhatIsForgottenIsOneDevices) {
  for (const char* name : {"dev", "dev.web", "dev2", "dev2.web"}) Write(name, trace_);
  Open();
  starts_->Forget("dev");
  EXPECT_FALSE(Exists("dev"));
  EXPECT_FALSE(Exists("dev.web"));
  EXPECT_TRUE(Exists("dev2"));
  EXPECT_TRUE(Exists("dev2.web"));
}

TEST_F(StartsTest, StopDoesNotWaitForARegistry) {
  UniqueFd server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof(address);
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::listen(server.get(), 8), 0);
  ASSERT_EQ(::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  Open();
  const std::string image = "127.0.0.1:" + std::to_string(ntohs(address.sin_port)) + "/app:1";
  starts_->Pulled("dev", OfImage(image), [] { ADD_FAILURE() << "there is no trace"; });
  UniqueFd connection(::accept(server.get(), nullptr, nullptr));  // it asks, and gets no answer
  const auto begin = std::chrono::steady_clock::now();
  starts_->Stop();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(10));
}

TEST(RecordPathTest, NeitherImagesNorPodsNameAFile) {
  const std::string p = kOverlaybdLabel;
  const Labels labels = {{p + "record-trace", "yes"}, {p + "record-trace-path", "/tmp/trace"}};
  EXPECT_EQ(RecordPath("default/7/app", labels), "/tmp/trace");
  EXPECT_EQ(RecordPath("k8s.io/7/app", labels), "");
  Labels other = labels;
  other[kRefLabel] = Digest('a');
  EXPECT_EQ(RecordPath("default/7/extract", other), "") << "a layer's";
  other = labels;
  other[p + "record-trace"] = "no";
  EXPECT_EQ(RecordPath("default/7/app", other), "");
  other = labels;
  other[p + "record-trace-path"] = "trace";
  EXPECT_EQ(RecordPath("default/7/app", other), "");
}

}  // namespace
}  // namespace fastoci
