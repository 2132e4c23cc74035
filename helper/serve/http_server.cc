// SPDX-License-Identifier: Apache-2.0
#include "serve/http_server.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>

#include "base/log.h"
#include "base/thread.h"

namespace fastoci {

struct HttpServer::Shared {
  Handler handler;
  std::mutex mutex;
  std::condition_variable left;
  int clients = 0;  // guarded by mutex
  std::atomic<bool> stop = false;
};

namespace {

using Clock = std::chrono::steady_clock;

const char* Reason(int status) {
  switch (status) {
    case 200: return "OK";
    case 202: return "Accepted";
    case 400: return "Bad Request";
    case 401: return "Unauthorized";
    case 404: return "Not Found";
    case 405: return "Method Not Allowed";
    case 413: return "Content Too Large";
    case 503: return "Service Unavailable";
    default: return "Error";
  }
}

// False: the client closed the connection, or was too slow in all.
bool Receive(int fd, Clock::time_point end, std::string* buffer) {
  char chunk[16384];
  const ssize_t n = ::recv(fd, chunk, sizeof(chunk), 0);
  if (n <= 0 || Clock::now() > end) return false;
  buffer->append(chunk, static_cast<size_t>(n));
  return true;
}

void Send(int fd, const ServedReply& reply) {
  std::string data = "HTTP/1.1 " + std::to_string(reply.status) + " " + Reason(reply.status) +
                     "\r\nContent-Type: " + reply.type +
                     "\r\nContent-Length: " + std::to_string(reply.body.size()) +
                     "\r\nConnection: close\r\nX-Content-Type-Options: nosniff\r\n"
                     "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n\r\n" +
                     reply.body;
  for (size_t at = 0; at < data.size();) {
    const ssize_t n = ::send(fd, data.data() + at, data.size() - at, MSG_NOSIGNAL);
    if (n <= 0) return;
    at += static_cast<size_t>(n);
  }
}

void ServeClient(int fd, const HttpServer::Handler& handler) {
  const auto end = Clock::now() + std::chrono::seconds(HttpServer::kClientSeconds);
  std::string buffer;
  size_t head;
  while ((head = buffer.find("\r\n\r\n")) == std::string::npos) {
    if (buffer.size() > HttpServer::kMaxHeadBytes) return Send(fd, {413, "text/plain", "too long\n"});
    if (!Receive(fd, end, &buffer)) return;
  }
  ServedRequest request;
  size_t length = 0;
  if (head > HttpServer::kMaxHeadBytes || !ParseHead(buffer.substr(0, head), &request, &length))
    return Send(fd, {400, "text/plain", "malformed\n"});
  if (length > HttpServer::kMaxBodyBytes) return Send(fd, {413, "text/plain", "too long\n"});
  while (buffer.size() < head + 4 + length)
    if (!Receive(fd, end, &buffer)) return;
  request.body = buffer.substr(head + 4, length);
  Send(fd, handler(request));
}

}  // namespace

bool ParseHead(const std::string& head, ServedRequest* request, size_t* length) {
  *length = 0;
  const size_t eol = std::min(head.find("\r\n"), head.size());
  const std::string line = head.substr(0, eol);
  const size_t a = line.find(' '), b = line.rfind(' ');
  if (a == std::string::npos || a == b || line.compare(b, 8, " HTTP/1.") != 0) return false;
  request->method = line.substr(0, a);
  const std::string target = line.substr(a + 1, b - a - 1);
  if (target.empty() || target[0] != '/') return false;
  request->path = target.substr(0, target.find('?'));
  for (size_t at = eol; at < head.size();) {
    at += 2;
    const size_t next = std::min(head.find("\r\n", at), head.size());
    const std::string field = head.substr(at, next - at);
    at = next;
    const size_t colon = field.find(':');
    if (colon == std::string::npos) return false;
    std::string name = field.substr(0, colon);
    for (char& c : name)
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const size_t begin = field.find_first_not_of(" \t", colon + 1);
    const std::string value = begin == std::string::npos ? "" : field.substr(begin);
    if (name == "transfer-encoding") return false;  // no notifier uses it
    if (name == "authorization") request->authorization = value;
    if (name != "content-length") continue;
    if (value.empty() || value.size() > 9 ||
        value.find_first_not_of("0123456789") != std::string::npos)
      return false;
    *length = std::stoul(value);
  }
  return true;
}

Result<std::unique_ptr<HttpServer>> HttpServer::Open(const std::string& listen, Handler handler) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string::npos)
    return InvalidError("\"listen\" must be ADDRESS:PORT, such as 127.0.0.1:9864, not \"" + listen +
                        "\"");
  std::string host = listen.substr(0, colon);
  if (host.starts_with("[") && host.ends_with("]")) host = host.substr(1, host.size() - 2);
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICHOST | AI_NUMERICSERV | AI_PASSIVE;
  addrinfo* list = nullptr;
  if (::getaddrinfo(host.c_str(), listen.c_str() + colon + 1, &hints, &list) != 0)
    return InvalidError(
        "\"listen\" must be ADDRESS:PORT in numbers, such as 127.0.0.1:9864, not \"" + listen +
        "\"");
  std::unique_ptr<addrinfo, void (*)(addrinfo*)> owned(list, ::freeaddrinfo);
  std::unique_ptr<HttpServer> server(new HttpServer);
  server->socket_.reset(::socket(list->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const int fd = server->socket_.get();
  const int on = 1;
  sockaddr_storage own = {};
  socklen_t size = sizeof(own);
  if (fd < 0 || ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) != 0 ||
      ::bind(fd, list->ai_addr, list->ai_addrlen) != 0 || ::listen(fd, kMaxClients) != 0 ||
      ::getsockname(fd, reinterpret_cast<sockaddr*>(&own), &size) != 0)
    return ErrnoError("listen on " + listen);
  server->port_ = ntohs(own.ss_family == AF_INET6
                            ? reinterpret_cast<sockaddr_in6*>(&own)->sin6_port
                            : reinterpret_cast<sockaddr_in*>(&own)->sin_port);
  server->shared_ = std::make_shared<Shared>();
  server->shared_->handler = std::move(handler);
  FASTOCI_TRY(server->thread_, StartThread([s = server.get()] { s->Accept(); }));
  return server;
}

HttpServer::~HttpServer() {
  if (!thread_.joinable()) return;
  shared_->stop = true;
  ::shutdown(socket_.get(), SHUT_RDWR);
  thread_.join();
  std::unique_lock lock(shared_->mutex);
  shared_->left.wait(lock, [this] { return shared_->clients == 0; });
}

void HttpServer::Accept() {
  while (!shared_->stop) {
    UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC));
    if (!fd.valid()) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      if (shared_->stop) return;
      Log(LogLevel::kWarning, "cannot accept a connection: %s", std::strerror(errno));
      std::this_thread::sleep_for(std::chrono::milliseconds(100));  // no descriptors left
      continue;
    }
    const timeval limit = {kClientSeconds, 0};
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    (void)::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
    {
      std::lock_guard lock(shared_->mutex);
      if (shared_->clients >= kMaxClients) {
        Send(fd.get(), {503, "text/plain", "too many clients\n"});
        continue;
      }
      shared_->clients++;
    }
    auto client = std::make_shared<UniqueFd>(std::move(fd));
    auto thread = StartThread([shared = shared_, client] {
      ServeClient(client->get(), shared->handler);
      client->reset();
      std::lock_guard lock(shared->mutex);
      shared->clients--;
      shared->left.notify_all();
    });
    if (thread.ok()) {
      thread->detach();
      continue;
    }
    Send(client->get(), {503, "text/plain", "too many clients\n"});
    std::lock_guard lock(shared_->mutex);
    shared_->clients--;
  }
}

}  // namespace fastoci
