// SPDX-License-Identifier: Apache-2.0
#include "broker/exporter.h"

#include <netinet/in.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>

#include "base/log.h"

namespace fastoci {
namespace {

constexpr int kBacklog = 16;

std::string Http(const char* status, const char* type, const std::string& body) {
  return std::string("HTTP/1.1 ") + status + "\r\nContent-Type: " + type +
         "\r\nContent-Length: " + std::to_string(body.size()) + "\r\nConnection: close\r\n\r\n" +
         body;
}

}  // namespace

Status Exporter::Configure(const MetricsConfig& config) {
  clients_.clear();
  socket_.reset();
  port_ = 0;
  config_ = config;
  return config.enable ? Open() : OkStatus();
}

Status Exporter::Open() {
  const std::string where = "127.0.0.1:" + std::to_string(config_.port);
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoError("metrics: socket");
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(config_.port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  auto* a = reinterpret_cast<sockaddr*>(&address);
  const int on = 1;
  if (::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd.get(), a, size) != 0 || ::listen(fd.get(), kBacklog) != 0 ||
      ::getsockname(fd.get(), a, &size) != 0)
    return ErrnoError("metrics: " + where);
  socket_ = std::move(fd);
  port_ = ntohs(address.sin_port);
  Log(LogLevel::kInfo, "metrics on http://127.0.0.1:%u%s", port_, config_.path.c_str());
  return OkStatus();
}

void Exporter::AddPollFds(std::vector<pollfd>* fds) {
  if (!config_.enable || (!socket_.valid() && !Open().ok())) return;
  fds->push_back({socket_.get(), POLLIN, 0});
  for (const Client& c : clients_)
    fds->push_back({c.fd.get(), static_cast<short>(c.out.empty() ? POLLIN : POLLOUT), 0});
}

void Exporter::Handle(const pollfd& fd) {
  if (!fd.revents) return;
  if (fd.fd == socket_.get()) return Accept();
  auto it = std::find_if(clients_.begin(), clients_.end(),
                         [&](const Client& c) { return c.fd.get() == fd.fd; });
  if (it != clients_.end() && !Serve(&*it)) clients_.erase(it);
}

void Exporter::Accept() {
  UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  if (clients_.size() >= kMaxClients) clients_.pop_front();
  clients_.push_back({std::move(fd), "", ""});
}

bool Exporter::Serve(Client* c) {
  if (c->out.empty()) {
    char buffer[kMaxRequestBytes];
    const ssize_t n = ::recv(c->fd.get(), buffer, sizeof(buffer), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return true;
    if (n <= 0) return false;
    c->in.append(buffer, static_cast<size_t>(n));
    if (c->in.find("\r\n\r\n") == std::string::npos) return c->in.size() < kMaxRequestBytes;
    c->out = Reply(c->in);
  }
  const ssize_t n = ::send(c->fd.get(), c->out.data(), c->out.size(), MSG_NOSIGNAL);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  c->out.erase(0, static_cast<size_t>(n));
  return !c->out.empty();
}

std::string Exporter::Reply(const std::string& request) const {
  const std::string line = request.substr(0, request.find("\r\n"));
  if (line.rfind("GET ", 0) != 0)
    return Http("405 Method Not Allowed", "text/plain", "GET only\n");
  const std::string target = line.substr(4, line.find(' ', 4) - 4);
  if (target.substr(0, target.find('?')) != config_.path)
    return Http("404 Not Found", "text/plain", "the metrics are at " + config_.path + "\n");
  return Http("200 OK", "text/plain; version=0.0.4; charset=utf-8", render_());
}

}  // namespace fastoci
