// SPDX-License-Identifier: Apache-2.0
// link_proxy PORT TARGET_PORT DELAY_MS MBIT: a slow link in front of a server on
// loopback, for benchmarks. What a client sends arrives half a delay later, what the
// server answers another half; a new connection costs one delay more, as a TCP
// handshake does. All answers share MBIT (0: no bound), in the order in which they
// come. SIGUSR1: from now on clients are accepted and never answered.
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <functional>
#include <list>
#include <memory>
#include <vector>

#include "base/byte_reader.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::microseconds;

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kQueueBytes = 8 << 20;  // of one connection's direction: more than delay x rate

volatile sig_atomic_t hole = 0;

struct Link {
  microseconds half_delay{};
  double bytes_per_us = 0;
  Clock::time_point free{};  // when all that was queued has left

  Clock::time_point Leaves(size_t bytes) {
    if (bytes_per_us <= 0) return Clock::now();
    free = std::max(free, Clock::now()) + microseconds(static_cast<int64_t>(bytes / bytes_per_us));
    return free;
  }
};

// One direction of one connection.
struct Pipe {
  struct Piece {
    Clock::time_point due;
    Bytes data;
    size_t at = 0;
  };
  std::deque<Piece> pieces;
  size_t queued = 0;
  bool ended = false;  // the source has

  bool Full() const { return ended || queued >= kQueueBytes; }
  bool Due(Clock::time_point now) const { return !pieces.empty() && pieces.front().due <= now; }
};

struct Connection {
  UniqueFd client, server;
  Pipe to_server, to_client;
  Clock::time_point open_at;  // when its handshake is over
};

UniqueFd Connect(int port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0) fd.reset();
  return fd;
}

void Tune(int fd) {
  const int one = 1;
  ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
}

// What `from` gives, to be sent at its time.
void Take(int from, Pipe* pipe, const std::function<Clock::time_point(size_t)>& due) {
  Bytes data(kReadBytes);
  const ssize_t n = ::read(from, data.data(), data.size());
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) {
    pipe->ended = true;
    return;
  }
  data.resize(static_cast<size_t>(n));
  pipe->queued += data.size();
  pipe->pieces.push_back({due(data.size()), std::move(data)});
}

// False: the other end is gone.
bool Give(int to, Pipe* pipe) {
  while (pipe->Due(Clock::now())) {
    Pipe::Piece& p = pipe->pieces.front();
    const ssize_t n = ::send(to, p.data.data() + p.at, p.data.size() - p.at, MSG_NOSIGNAL);
    if (n < 0) return errno == EAGAIN || errno == EINTR;
    p.at += static_cast<size_t>(n);
    pipe->queued -= static_cast<size_t>(n);
    if (p.at < p.data.size()) return true;
    pipe->pieces.pop_front();
  }
  if (pipe->ended && pipe->pieces.empty()) ::shutdown(to, SHUT_WR);
  return true;
}

int Run(int port, int target, Link link) {
  UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int one = 1;
  ::setsockopt(listener.get(), SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::bind(listener.get(), reinterpret_cast<sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(listener.get(), 512) != 0) {
    std::perror("link_proxy: listen");
    return 1;
  }
  std::list<Connection> all;
  for (;;) {
    std::vector<pollfd> fds = {{listener.get(), POLLIN, 0}};
    auto wake = Clock::now() + std::chrono::seconds(1);
    for (Connection& c : all) {
      short client = 0, server = 0;
      if (hole != 0) {  // only to see that it has gone
        fds.push_back({c.client.get(), POLLIN, 0});
        fds.push_back({-1, 0, 0});
        continue;
      }
      if (!c.to_server.Full()) client |= POLLIN;
      if (!c.to_client.Full()) server |= POLLIN;
      const auto now = Clock::now();
      if (c.to_client.Due(now)) client |= POLLOUT;
      if (c.to_server.Due(now)) server |= POLLOUT;
      for (const Pipe* p : {&c.to_client, &c.to_server})
        if (!p->pieces.empty() && !p->Due(now)) wake = std::min(wake, p->pieces.front().due);
      fds.push_back({client != 0 ? c.client.get() : -1, client, 0});
      fds.push_back({server != 0 ? c.server.get() : -1, server, 0});
    }
    const auto left = std::max(microseconds(0), std::chrono::duration_cast<microseconds>(wake - Clock::now()));
    const timespec timeout = {left.count() / 1000000, left.count() % 1000000 * 1000};
    if (::ppoll(fds.data(), fds.size(), &timeout, nullptr) < 0 && errno != EINTR) return 1;
    size_t i = 1;
    for (auto c = all.begin(); c != all.end(); i += 2) {
      if (hole != 0) {
        char discarded[4096];
        const bool gone = fds[i].revents != 0 && ::read(c->client.get(), discarded, sizeof(discarded)) == 0;
        c = gone ? all.erase(c) : std::next(c);
        continue;
      }
      if (fds[i].revents & (POLLIN | POLLHUP | POLLERR))
        Take(c->client.get(), &c->to_server, [&](size_t) {
          return std::max(c->open_at, Clock::now()) + link.half_delay;
        });
      if (fds[i + 1].revents & (POLLIN | POLLHUP | POLLERR))
        Take(c->server.get(), &c->to_client,
             [&](size_t n) { return link.Leaves(n) + link.half_delay; });
      const bool alive =
          Give(c->server.get(), &c->to_server) && Give(c->client.get(), &c->to_client);
      const bool over = c->to_client.ended && c->to_client.pieces.empty();
      c = !alive || over ? all.erase(c) : std::next(c);
    }
    if (fds[0].revents) {
      UniqueFd client(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
      UniqueFd server = client.valid() ? Connect(target) : UniqueFd();
      if (!server.valid()) continue;
      Tune(client.get());
      Tune(server.get());
      all.push_back({std::move(client), std::move(server), {}, {}, Clock::now() + 2 * link.half_delay});
    }
  }
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: link_proxy PORT TARGET_PORT DELAY_MS MBIT\n");
    return 2;
  }
  ::signal(SIGUSR1, [](int) { fastoci::hole = 1; });
  fastoci::Link link;
  link.half_delay = std::chrono::microseconds(static_cast<int64_t>(std::atof(argv[3]) * 500));
  link.bytes_per_us = std::atof(argv[4]) / 8;
  return fastoci::Run(std::atoi(argv[1]), std::atoi(argv[2]), link);
}
