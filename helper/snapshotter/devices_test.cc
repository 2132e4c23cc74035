// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/devices.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "snapshotter/tree.h"

namespace fastoci {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr auto kSoon = seconds(20);  // what does not wait for something else takes less

// Devices that exist only here.
class DevicesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fastoci-devices.XXXXXX";
    ASSERT_NE(::mkdtemp(name), nullptr);
    root_ = name;
    auto store = SnapshotStore::Open(root_ + "/metadata.db");
    ASSERT_TRUE(store.ok());
    store_ = std::move(*store);
    DeviceOptions options;
    options.root = root_;
    options.retry = milliseconds(10);
    DeviceTools tools;
    tools.attach = [this](const AttachPaths&, const AttachRequest&, Progress*) -> Result<AttachResult> {
      attaching_.set_value();
      may_attach_.get_future().wait();
      return Error{ErrorKind::kUnavailable, attach_err_, "it cannot be attached"};
    };
    tools.detach = [this](const AttachPaths&, const std::string& what, const DetachRequest& request, Progress*) {
      std::this_thread::sleep_for(detach_takes_.load());
      std::lock_guard lock(mutex_);
      detached_.push_back({what, request});
      return detach_err_ == 0 ? OkStatus() : Status(Error{ErrorKind::kIo, detach_err_, what + " is in use"});
    };
    devices_ = std::make_unique<ChainDevices>(options, store_.get(), &metrics_, tools);
  }
  void TearDown() override {
    devices_ = nullptr;
    store_ = nullptr;
    EXPECT_TRUE(RemoveTree(root_).ok());
  }

  struct Detached {
    std::string what;
    DetachRequest request;
  };
  std::vector<Detached> detached() {
    std::lock_guard lock(mutex_);
    return detached_;
  }
  void AwaitDetached(size_t n) {
    for (int i = 0; i < 2000 && detached().size() < n; i++) ::usleep(10000);
    ASSERT_GE(detached().size(), n);
  }
  std::future<Result<std::string>> AttachSlowly(const std::string& device) {
    auto ensured = std::async(std::launch::async, [=, this] {
      return devices_->Ensure(device, [] { return Result<LayerStack>(NotFoundError("none")); });
    });
    attaching_.get_future().wait();
    return ensured;
  }

  std::string root_;
  std::unique_ptr<SnapshotStore> store_;
  SnapshotterMetrics metrics_;
  std::promise<void> attaching_, may_attach_;
  std::mutex mutex_;
  std::vector<Detached> detached_;
  std::atomic<int> attach_err_ = EIO, detach_err_ = 0;
  std::atomic<milliseconds> detach_takes_{milliseconds(0)};
  std::unique_ptr<ChainDevices> devices_;
};

TEST_F(DevicesTest, ASlowAttachDelaysOnlyItsOwnDevice) {
  auto ensured = AttachSlowly("slow");
  devices_->Release("slow");
  devices_->Release("other");
  auto settled = std::async(std::launch::async, [&] { devices_->Settle(kSoon); });
  EXPECT_EQ(settled.wait_for(kSoon / 2), std::future_status::ready) << "Cleanup waits for the attach";
  ASSERT_EQ(detached().size(), 1U);
  EXPECT_EQ(detached()[0].what, "other");
  may_attach_.set_value();
  EXPECT_FALSE(ensured.get().ok());
  AwaitDetached(2);  // "slow" was not forgotten
  EXPECT_EQ(detached()[1].what, "slow");
}

TEST_F(DevicesTest, WhatIsInUseIsLeftAloneAndItsUsersAreLookedForOnce) {
  detach_err_ = EBUSY;
  devices_->Release("used");
  AwaitDetached(3);
  detach_err_ = 0;
  devices_->Settle();
  const auto all = detached();
  for (size_t i = 0; i < all.size(); i++) {
    EXPECT_TRUE(all[i].request.gently);
    EXPECT_EQ(all[i].request.name_holders, i == 0) << i;
  }
}

TEST_F(DevicesTest, ReadsFailOnlyWhereAChildHangs) {
  attach_err_ = ETIMEDOUT;
  may_attach_.set_value();
  EXPECT_FALSE(AttachSlowly("hangs").get().ok());
  devices_->Release("hangs");
  AwaitDetached(1);
  EXPECT_FALSE(detached()[0].request.gently);
}

TEST_F(DevicesTest, SettleWaitsNoLongerThanItsLimit) {
  devices_->Release("later", seconds(3600));
  devices_->Settle(kSoon);  // it is not to be looked at yet
  detach_takes_ = seconds(3);
  devices_->Release("slow");
  const auto begin = std::chrono::steady_clock::now();
  devices_->Settle(milliseconds(1));
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(3));
}

TEST_F(DevicesTest, RootsHaveDevicesOfTheirOwn) {
  DeviceOptions options;
  options.root = root_ + "/other";
  ChainDevices other(options, store_.get(), &metrics_);
  Layer layer, trace;
  layer.kind = LayerKind::kNative;
  layer.parts.emplace_back().digest = "sha256:1";
  trace.kind = LayerKind::kTrace;
  const std::string name = devices_->NameFor("", layer);
  EXPECT_NE(name, other.NameFor("", layer));
  EXPECT_EQ(devices_->NameFor(name, trace), name);
  EXPECT_TRUE(IsImageName(name)) << name;
  EXPECT_EQ(RootTag(root_), RootTag(root_ + "/."));
}

}  // namespace
}  // namespace fastoci
