// SPDX-License-Identifier: Apache-2.0
// Serves the metrics by HTTP: overlaybd's "exporterConfig". One more user of the
// broker's poll loop, beside the control socket.
//
// It listens on 127.0.0.1 only. It reads one request of at most kMaxRequestBytes, looks
// only at its first line, answers, and closes. If all kMaxClients connections are taken,
// the oldest one is closed, so that a client that says nothing keeps nobody out. A port
// that is taken is tried again at each turn of the loop, because the helper before us may
// still have it.
#ifndef FASTOCI_BROKER_EXPORTER_H_
#define FASTOCI_BROKER_EXPORTER_H_

#include <poll.h>

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "config/config.h"

namespace fastoci {

class Exporter {
 public:
  using Render = std::function<std::string()>;  // must not block
  static constexpr size_t kMaxRequestBytes = 4096;
  static constexpr size_t kMaxClients = 16;

  explicit Exporter(Render render) : render_(std::move(render)) {}
  // Stops serving, and starts again if config enables it. An error says why the port
  // cannot be had now. Port 0 takes any free port.
  Status Configure(const MetricsConfig& config);
  uint16_t port() const { return port_; }  // 0: none is served

  // For a poll loop, as ControlServer has them.
  void AddPollFds(std::vector<pollfd>* fds);
  void Handle(const pollfd& fd);

 private:
  struct Client {
    UniqueFd fd;
    std::string in, out;
  };
  Status Open();
  void Accept();
  bool Serve(Client* client);  // false: close it
  std::string Reply(const std::string& request) const;

  const Render render_;
  MetricsConfig config_;
  UniqueFd socket_;
  uint16_t port_ = 0;
  std::list<Client> clients_;  // oldest first
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_EXPORTER_H_
