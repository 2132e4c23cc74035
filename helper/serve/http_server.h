// SPDX-License-Identifier: Apache-2.0
// A small HTTP/1.1 server for the service's own few requests. A connection has one
// request. The size and time of a request and the number of connections are bounded. A
// client that says nothing keeps others out no longer than its time limit.
#ifndef FASTOCI_SERVE_HTTP_SERVER_H_
#define FASTOCI_SERVE_HTTP_SERVER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>

#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

struct ServedRequest {
  std::string method, path;   // path without its query
  std::string authorization;  // header, or ""
  std::string body;
};

struct ServedReply {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
};

class HttpServer {
 public:
  using Handler = std::function<ServedReply(const ServedRequest&)>;  // any thread
  static constexpr size_t kMaxHeadBytes = 16 << 10;
  static constexpr size_t kMaxBodyBytes = 4 << 20;
  static constexpr int kMaxClients = 32;
  static constexpr int kClientSeconds = 10;

  // listen: "ADDRESS:PORT", numeric. Port 0 takes any free port.
  static Result<std::unique_ptr<HttpServer>> Open(const std::string& listen, Handler handler);
  ~HttpServer();  // waits for the clients that are served
  uint16_t port() const { return port_; }

 private:
  struct Shared;
  HttpServer() = default;
  void Accept();
  std::shared_ptr<Shared> shared_;
  UniqueFd socket_;
  uint16_t port_ = 0;
  std::thread thread_;
};

// Parses the head of a request; false: it is malformed. length: size of the body in bytes.
bool ParseHead(const std::string& head, ServedRequest* request, size_t* length);

}  // namespace fastoci

#endif  // FASTOCI_SERVE_HTTP_SERVER_H_
