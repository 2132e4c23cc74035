// SPDX-License-Identifier: Apache-2.0
// A name server that never answers, in namespaces of the test's own.
#include <arpa/inet.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>

#include <set>

#include "fetcher/fetcher_test.h"

namespace fastoci {
namespace {

class FetcherResolver : public FetcherTest {
 protected:
  // A socket that gets what is asked of 127.0.0.1:53, which everybody's resolver asks.
  UniqueFd Isolate() {
    std::string config = dir_ + "/resolv.conf";
    std::ofstream(config) << "nameserver 127.0.0.1\n";
    if (unshare(CLONE_NEWNET | CLONE_NEWNS) != 0 ||
        mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
        mount(config.c_str(), "/etc/resolv.conf", nullptr, MS_BIND, nullptr) != 0)
      return {};
    UniqueFd server(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    ifreq lo{};
    std::strcpy(lo.ifr_name, "lo");
    lo.ifr_flags = IFF_UP;
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(53);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (ioctl(server.get(), SIOCSIFFLAGS, &lo) != 0 ||
        bind(server.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0)
      return {};
    return server;
  }

  // 0: all is well.
  int CancelALookUp() {
    UniqueFd server = Isolate();
    if (!server.valid()) return 2;
    StubRegistry stub;
    stub.AddBlob(data_);
    Restart({});
    FetchLocation nowhere = Open(2, HostSource("https", "registry.example"));
    FetchLocation here = Open(3, RegistrySource(stub));
    uint32_t lost = Begin(nowhere, 0, 1000);
    if (!*WaitFor(server.get(), POLLIN, 30000)) return 3;
    EXPECT_TRUE(client_->Cancel(lost).ok());
    EXPECT_EQ(End(lost).outcome, FetchOutcome::kCanceled);
    ExpectGood(Run(here, 10, 1000));
    // The look-up goes on by itself: it has not even come to ask a second time.
    std::multiset<uint16_t> asked;
    uint16_t id = 0;
    while (recv(server.get(), &id, sizeof(id), MSG_DONTWAIT) > 0) asked.insert(id);
    for (uint16_t i : asked) EXPECT_EQ(asked.count(i), 1U);
    return HasFailure() ? 1 : 0;
  }
};

using FetcherResolverDeathTest = FetcherResolver;
TEST_F(FetcherResolverDeathTest, ALookUpThatIsCanceledHoldsNobody) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root";
  EXPECT_EXIT(_exit(CancelALookUp()), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace fastoci
