// SPDX-License-Identifier: Apache-2.0
// FetcherTest: the real fetcher process behind its client, against stub registries
// and files. As root these tests see the sandbox at work, too.
#ifndef FASTOCI_FETCHER_FETCHER_TEST_H_
#define FASTOCI_FETCHER_FETCHER_TEST_H_

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "base/packet.h"
#include "fetcher/client.h"
#include "fetcher/fetches.h"
#include "fetcher/image.h"
#include "testing/stub_registry.h"

namespace fastoci {

inline constexpr uint64_t kTestArenaBytes = 64 << 20;

inline std::filesystem::path SelfPath() { return std::filesystem::read_symlink("/proc/self/exe"); }

inline std::string FetcherPath() {
  // build/test/fetcher -> bin/fastoci-fetcherd
  return (SelfPath().parent_path().parent_path().parent_path() / "bin/fastoci-fetcherd").string();
}

inline UniqueFd MakeArena(uint64_t bytes = kTestArenaBytes) {
  UniqueFd fd(memfd_create("arena", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  EXPECT_EQ(ftruncate(fd.get(), static_cast<off_t>(bytes)), 0);
  EXPECT_EQ(fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW), 0);
  return fd;
}

class FetcherTest : public testing::Test {
 protected:
  void SetUp() override {
    char dir[] = "/tmp/fastoci-fetcher.XXXXXX";
    ASSERT_NE(mkdtemp(dir), nullptr);
    dir_ = dir;
    ASSERT_EQ(chmod(dir, 0755), 0);
    std::mt19937 rng(5);
    data_.resize((5 << 20) + 12345);
    for (char& c : data_) c = static_cast<char>(rng());
    digest_ = stub_.AddBlob(data_);
    arena_ = MakeArena();
    mapped_ = static_cast<const char*>(
        mmap(nullptr, kTestArenaBytes, PROT_READ, MAP_SHARED, arena_.get(), 0));
    ASSERT_NE(mapped_, MAP_FAILED);
    Restart({});
  }
  void TearDown() override {
    client_.reset();
    munmap(const_cast<char*>(mapped_), kTestArenaBytes);
    std::filesystem::remove_all(dir_);
  }
  // Another fetcher, with the image 1 that has one blob at one location, there_.
  void Restart(std::vector<std::string> args) {
    client_.reset();
    hosts_.clear();
    events_.clear();
    auto c = FetcherClient::Spawn({.program = FetcherPath(), .args = std::move(args)},
                                  arena_.get());
    ASSERT_TRUE(c.ok()) << c.error().message;
    client_ = std::move(*c);
    there_ = Open(1, RegistrySource(stub_));
  }

  static std::string RegistrySource(const StubRegistry& stub,
                                    const std::string& repository = "demo") {
    return HostSource("http", stub.host(), repository);
  }
  static std::string HostSource(const std::string& scheme, const std::string& host,
                                const std::string& repository = "demo") {
    return R"({"type":"registry","scheme":")" + scheme + R"(","repository":")" + repository +
           R"(","host":")" + host + "\"}";
  }
  static std::string FilePath(const std::string& path) {
    return R"({"type":"file","path":")" + path + "\"}";
  }
  std::string FileSource(const std::string& data, mode_t mode = 0644) {
    std::string path = dir_ + "/blob" + std::to_string(next_file_++);
    std::ofstream(path, std::ios::binary) << data;
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return FilePath(path);
  }
  std::string Json(const std::string& sources) const {
    return R"({"version":1,"image":"demo","blobs":[{"digest":")" + digest_ + R"(","size":)" +
           std::to_string(data_.size()) + R"(,"sources":[)" + sources + "]}]}";
  }
  // The first location of the image's blob.
  FetchLocation Open(uint32_t image, const std::string& sources) {
    std::string json = Json(sources);
    auto blobs = client_->OpenImage(image, "", AsBytes(json));
    EXPECT_TRUE(blobs.ok()) << (blobs.ok() ? "" : blobs.error().message);
    if (!blobs.ok() || blobs->size() != 1 || blobs->front().empty()) return {};
    return blobs->front().front();
  }

  // Begins a Fetch; its place in the arena is its id's.
  uint32_t Begin(const FetchLocation& location, uint64_t offset, uint64_t length,
                 bool fresh = false) {
    uint32_t id = next_id_++;
    requests_[id] = {.id = id,
                     .location = location.location,
                     .offset = offset,
                     .length = length,
                     .arena_offset = id % 256 * (kTestArenaBytes / 256),
                     .miss_class = 2,
                     .fresh = fresh};
    Status s = client_->Fetch(requests_[id]);
    EXPECT_TRUE(s.ok()) << (s.ok() ? "" : s.error().message);
    return id;
  }
  // The next event, for 30 s at most; hosts_ is kept.
  FetchEvent Next() {
    while (true) {
      auto e = client_->Receive();
      if (e.ok()) {
        if (e->kind == FetchEvent::kHost) hosts_[e->host.host] = e->host;
        if (e->kind == FetchEvent::kHostGone) hosts_.erase(e->host.host);
        events_.push_back(*e);
        return *e;
      }
      if (e.error().err != ETIMEDOUT || !*WaitFor(client_->event_fd(), POLLIN, 30000)) {
        ADD_FAILURE() << e.error().message;
        FetchEvent failed;
        failed.kind = FetchEvent::kFailed;
        return failed;
      }
    }
  }
  FetchEvent End(uint32_t id) {
    while (true) {
      for (const FetchEvent& e : events_)
        if (e.id == id && (e.kind == FetchEvent::kDone || e.kind == FetchEvent::kFailed)) return e;
      FetchEvent e = Next();
      if (e.kind == FetchEvent::kFailed && e.id == 0) return e;
    }
  }
  FetchEvent Run(const FetchLocation& location, uint64_t offset, uint64_t length,
                 bool fresh = false) {
    events_.clear();
    return End(Begin(location, offset, length, fresh));
  }
  template <typename Condition>
  HostState WaitForHost(uint32_t host, Condition condition) {
    while (!HasFatalFailure() && !HasNonfatalFailure()) {
      auto it = hosts_.find(host);
      if (it != hosts_.end() && condition(it->second)) return it->second;
      Next();
    }
    return {};
  }
  HostState WaitForGate(uint32_t host, HostGate gate) {
    return WaitForHost(host, [=](const HostState& h) { return h.gate == gate; });
  }
  // Until the condition holds, polled for 30 s.
  template <typename Condition>
  static bool Eventually(Condition condition) {
    for (int i = 0; i < 15000; i++) {
      if (condition()) return true;
      usleep(2000);
    }
    return false;
  }

  // What is in the arena for that Fetch.
  std::string InArena(uint32_t id, uint64_t bytes) const {
    return {mapped_ + requests_.at(id).arena_offset, bytes};
  }
  void ExpectGood(const FetchEvent& e) {
    const FetchRequest& r = requests_[e.id];
    EXPECT_EQ(e.kind, FetchEvent::kDone) << e.error.message;
    EXPECT_EQ(e.total, r.length);
    EXPECT_TRUE(InArena(e.id, r.length) == data_.substr(r.offset, r.length)) << r.offset;
  }
  void ExpectFailed(const FetchEvent& e, FetchOutcome outcome, int err, const std::string& cause) {
    EXPECT_EQ(e.kind, FetchEvent::kFailed) << cause;
    EXPECT_EQ(static_cast<int>(e.outcome), static_cast<int>(outcome)) << cause;
    EXPECT_EQ(e.error.err, err) << e.error.message;
    EXPECT_NE(e.error.message.find(cause), std::string::npos) << e.error.message;
  }

  StubRegistry stub_;
  std::string dir_, data_, digest_;
  UniqueFd arena_;
  const char* mapped_ = nullptr;
  std::unique_ptr<FetcherClient> client_;
  FetchLocation there_;
  std::map<uint32_t, FetchRequest> requests_;
  std::map<uint32_t, HostState> hosts_;
  std::vector<FetchEvent> events_;
  uint32_t next_id_ = 1;
  int next_file_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_FETCHER_TEST_H_
