// SPDX-License-Identifier: Apache-2.0
#include "base/packet.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

namespace fastoci {
namespace {

struct Message {
  uint32_t number;
  uint32_t other;
};

class PacketTest : public testing::Test {
 protected:
  void SetUp() override {
    int pair[2];
    ASSERT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    a_.reset(pair[0]);
    b_.reset(pair[1]);
  }
  UniqueFd a_, b_;
};

TEST(FieldTextTest, IsWhatCanBeLoggedUpToItsEnd) {
  const char ended[8] = "abc";
  EXPECT_EQ(FieldText(ended), "abc");
  const char hostile[6] = {'a', '\n', '\x1b', '\x7f', '\xff', 'b'};
  EXPECT_EQ(FieldText(hostile), "a????") << "without a NUL, its last byte is left out";
}

TEST_F(PacketTest, CarriesMessageAndDescriptors) {
  int pipe_fds[2];
  ASSERT_EQ(pipe2(pipe_fds, O_CLOEXEC), 0);
  UniqueFd reader(pipe_fds[0]), writer(pipe_fds[1]);
  Message m{7, 8}, got{};
  const int sent[] = {reader.get(), writer.get()};
  ASSERT_TRUE(SendPacket(a_.get(), ObjectBytes(m), sent).ok());
  std::vector<UniqueFd> fds;
  ASSERT_TRUE(ReceivePacket(b_.get(), WritableObjectBytes(&got), 1000, &fds).ok());
  EXPECT_EQ(got.number, 7U);
  ASSERT_EQ(fds.size(), 2U);
  EXPECT_EQ(write(fds[1].get(), "x", 1), 1);
  char c = 0;
  EXPECT_EQ(read(reader.get(), &c, 1), 1);
  EXPECT_NE(fcntl(fds[0].get(), F_GETFD) & FD_CLOEXEC, 0);
  // Nobody asks for these: the pipe's last writer closes.
  ASSERT_TRUE(SendPacket(a_.get(), ObjectBytes(m), sent).ok());
  ASSERT_TRUE(ReceivePacket(b_.get(), WritableObjectBytes(&got), 1000).ok());
  fds.clear();
  writer.reset();
  EXPECT_EQ(read(reader.get(), &c, 1), 0);
}

TEST_F(PacketTest, TellsTimeoutEndAndMalformedApart) {
  Message m{1, 2};
  EXPECT_EQ(ReceivePacket(b_.get(), WritableObjectBytes(&m), 0).error().err, ETIMEDOUT);
  EXPECT_EQ(ReceivePacket(b_.get(), WritableObjectBytes(&m), 10).error().err, ETIMEDOUT);
  for (size_t size : {1UL, sizeof(m) - 1, sizeof(m) + 1}) {
    ASSERT_TRUE(SendPacket(a_.get(), Bytes(size)).ok());
    EXPECT_EQ(ReceivePacket(b_.get(), WritableObjectBytes(&m), 1000).error().err, EPROTO);
  }
  std::vector<int> many(kMaxPacketFds + 1, a_.get());
  EXPECT_EQ(SendPacket(a_.get(), ObjectBytes(m), many).error().kind, ErrorKind::kInvalid);
  a_.reset();
  EXPECT_EQ(ReceivePacket(b_.get(), WritableObjectBytes(&m), -1).error().err, EPIPE);
  EXPECT_EQ(SendPacket(b_.get(), ObjectBytes(m)).error().err, EPIPE);
}

TEST_F(PacketTest, AFullSocketIsToldInsteadOfWaitedFor) {
  Message m{1, 2};
  Status s = OkStatus();
  for (int i = 0; s.ok() && i < 1000000; i++)
    s = SendPacket(a_.get(), ObjectBytes(m), {}, /*dont_wait=*/true);
  ASSERT_FALSE(s.ok());
  EXPECT_EQ(s.error().err, EAGAIN);
  EXPECT_FALSE(*WaitFor(a_.get(), POLLOUT, 10));
  EXPECT_TRUE(*WaitFor(b_.get(), POLLIN, 0));
}

}  // namespace
}  // namespace fastoci
