// SPDX-License-Identifier: Apache-2.0
// The control socket: one JSON object per line each way, see
// control/client.h for the other end. Root only, by the socket's mode
// and by SO_PEERCRED. One thread serves all connections by poll(), so that a
// client that says nothing holds up nobody; a request is answered at once.
#ifndef FASTOCI_BROKER_CONTROL_H_
#define FASTOCI_BROKER_CONTROL_H_

#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include <poll.h>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

class ControlServer {
 public:
  // Returns further lines after a reply, each with its newline; "" if there are none now. It
  // is called at each turn of the loop while the client takes the lines.
  using Stream = std::function<std::string()>;
  struct Reply {
    Reply(std::string text) : line(std::move(text)) {}  // NOLINT: implicit
    std::string line;
    Stream stream = nullptr;
  };
  // Gets a request line and returns a reply, both without a newline. fds: the descriptors that
  // came with the line. It is called by the loop, which serves nobody else meanwhile, so it may
  // wait for some seconds at most.
  using Handler = std::function<Reply(const std::string& line, std::vector<UniqueFd> fds)>;
  static constexpr size_t kMaxLineBytes = 64 * 1024;
  static constexpr size_t kMaxClients = 64;

  // Replaces the socket of a dead helper, and with takeover also that of a living one.
  // kIo with EADDRINUSE: a helper answers there, and takeover is false.
  static Result<std::unique_ptr<ControlServer>> Listen(const std::string& path, Handler handler,
                                                       bool takeover = false);
  ~ControlServer();

  // For a poll loop: adds what to wait for, and handles what has come.
  void AddPollFds(std::vector<pollfd>* fds);
  void Handle(const pollfd& fd);
  // At the end of the loop: sends what streams still have, as far as that does not block.
  void Flush();

 private:
  struct Client {
    UniqueFd fd;
    std::string in, out;
    std::vector<UniqueFd> fds;  // that came with the line
    Stream stream;
  };
  ControlServer() = default;
  void Accept();
  bool Serve(Client* client, short revents);  // false: close it

  std::string path_;
  ino_t inode_ = 0;  // of the socket that we made there
  UniqueFd socket_;
  Handler handler_;
  std::map<int, Client> clients_;
};

class MissService;
class EventRing;
// "trace": each miss and each request from now on; see MissTracer.
ControlServer::Reply HandleTrace(MissService* service);
// "events": what the ring has, and with "follow" what comes.
ControlServer::Reply HandleEvents(EventRing* ring, const nlohmann::json& request);

// "seed": data of this node for an attached image; see control/seed_protocol.h.
nlohmann::json HandleSeed(MissService* service, const nlohmann::json& request,
                          std::vector<UniqueFd> fds);

// ping, stat, cache, gc, scrub, pin, unpin, chunks; see fastoci-helperd(8). request: of any
// kind, also what is no JSON at all. cache_device: where attach puts new devices.
nlohmann::json HandleControl(MissService* service, const std::string& cache_device,
                             const nlohmann::json& request);
// The reply as a line. Bytes that are not UTF-8 are replaced.
std::string ControlLine(const nlohmann::json& reply);

}  // namespace fastoci

#endif  // FASTOCI_BROKER_CONTROL_H_
