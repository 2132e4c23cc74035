// SPDX-License-Identifier: Apache-2.0
#include "image/layer_order.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace fastoci {
namespace {

constexpr size_t kNrEntries = 1000;
constexpr uint64_t kLimit = 64 << 10;

LayerEntry Entry(size_t number) {
  LayerEntry e;
  e.tar.type = TarType::kFifo;
  e.tar.path = "fifo" + std::to_string(number);
  e.tar.xattrs["user.x"] = std::string(1000, 'x');
  return e;
}

class LayerOrderTest : public testing::Test {
 protected:
  void SetUp() override {
    auto builder = FsBuilder::Create(FsType::kErofs, {});
    ASSERT_TRUE(builder.ok());
    builder_ = std::move(*builder);
    order_ = std::make_unique<LayerOrder>(builder_.get(), kLimit);
  }
  // Feeds a layer's entries one by one, on a thread of its own.
  std::thread FeedAll(size_t layer) {
    return std::thread([this, layer] {
      LayerQueue queue;
      for (size_t i = 0; i < kNrEntries && status_.ok(); i++) {
        queue.Push(Entry(i));
        fed_++;
        status_ = order_->Feed(layer, &queue);
      }
      if (status_.ok()) finished_ = order_->Finish(layer, &queue).ok();
      ended_ = true;
    });
  }
  // Ends when the thread waits; or has ended, which it must not.
  void UntilItWaits() {
    while (order_->nr_waiting() == 0 && !ended_) std::this_thread::yield();
    ASSERT_FALSE(ended_);
    EXPECT_LE(fed_, kLimit / 1000);
  }

  std::unique_ptr<FsBuilder> builder_;
  std::unique_ptr<LayerOrder> order_;
  std::atomic<size_t> fed_ = 0;
  std::atomic<bool> ended_ = false, finished_ = false;
  Status status_ = OkStatus();  // of the thread
};

TEST_F(LayerOrderTest, AnUpperLayerQueuesNoMoreThanTheLimitAndGoesOnInItsTurn) {
  std::thread upper = FeedAll(1);
  UntilItWaits();
  LayerQueue queue;
  queue.Push(Entry(0));
  EXPECT_TRUE(order_->Finish(0, &queue).ok());
  upper.join();
  EXPECT_TRUE(status_.ok());
  EXPECT_TRUE(finished_);
  EXPECT_EQ(fed_, kNrEntries);
}

TEST_F(LayerOrderTest, AnUpperLayerThatWaitsEndsWhenAnotherFails) {
  std::thread upper = FeedAll(1);
  UntilItWaits();
  order_->Abort();
  upper.join();
  ASSERT_FALSE(status_.ok());
  EXPECT_EQ(status_.error().err, ECANCELED);
}

TEST_F(LayerOrderTest, ALayerInItsTurnIsNotBoundByTheLimit) {
  std::thread lowest = FeedAll(0);
  lowest.join();
  EXPECT_TRUE(finished_);
}

}  // namespace
}  // namespace fastoci
