// SPDX-License-Identifier: Apache-2.0
#include "control/client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <chrono>
#include <cstring>
#include <nlohmann/json.hpp>

#include "base/json.h"
#include "base/monotonic.h"
#include "base/packet.h"
#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr size_t kMaxReplyBytes = 16 << 20;
constexpr int kFollowTickMs = 100;
using Clock = std::chrono::steady_clock;

Error NoHelper(const std::string& path, const std::string& why, int err) {
  return {ErrorKind::kUnavailable, err,
          "the helper does not answer at " + path + " (" + why +
              "); start it: systemctl start fastoci-helperd, or name its socket with --control"};
}

Result<UniqueFd> Connect(const std::string& path) {
  struct sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path)) {
    return InvalidError("the control socket's path is too long");
  }
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.valid()) return ErrnoError("socket");
  if (::connect(fd.get(), reinterpret_cast<struct sockaddr*>(&address), sizeof(address)) != 0) {
    return NoHelper(path, std::strerror(errno), errno);
  }
  return fd;
}

Status Await(int fd, short events, Clock::time_point end, const std::string& path) {
  FASTOCI_TRY(const bool ready, WaitFor(fd, events, MsUntil(end)));
  return ready ? OkStatus() : Status(NoHelper(path, "timeout", ETIMEDOUT));
}

}  // namespace

Result<nlohmann::json> CallHelper(const std::string& path, const nlohmann::json& request,
                                  int64_t timeout_ms, std::span<const int> fds) {
  auto end = Clock::now() + std::chrono::milliseconds(timeout_ms);
  FASTOCI_TRY(UniqueFd fd, Connect(path));
  std::string out = request.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace) + "\n";
  size_t done = 0;
  if (!fds.empty()) {  // a request that small goes as a whole
    FASTOCI_CHECK_OK(SendPacket(fd.get(), AsBytes(out), fds));
    done = out.size();
  }
  while (done < out.size()) {
    FASTOCI_CHECK_OK(Await(fd.get(), POLLOUT, end, path));
    ssize_t n = ::send(fd.get(), out.data() + done, out.size() - done, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return NoHelper(path, std::strerror(errno), errno);
    done += static_cast<size_t>(n);
  }
  std::string line;
  char buffer[4096];
  while (line.find('\n') == std::string::npos) {
    FASTOCI_CHECK_OK(Await(fd.get(), POLLIN, end, path));
    ssize_t n = ::recv(fd.get(), buffer, sizeof(buffer), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) continue;
    if (n <= 0) return NoHelper(path, "it closed the connection", EPIPE);
    line.append(buffer, static_cast<size_t>(n));
    if (line.size() > kMaxReplyBytes) return InvalidError("the helper's reply is too long");
  }
  auto reply = nlohmann::json::parse(line.substr(0, line.find('\n')), nullptr, false);
  if (!reply.is_object()) return InvalidError("the helper's reply is not a JSON object");
  if (JsonChild(reply, "error").is_string())
    return Error{ErrorKind::kIo, EIO, "the helper says: " + JsonText(reply, "error")};
  if (JsonChild(reply, "ok") == false)
    return Error{ErrorKind::kIo, EIO, "the helper refused " + request.value("op", "the request")};
  return reply;
}

Status FollowHelper(const std::string& path, const nlohmann::json& request, int64_t timeout_ms,
                    const std::function<bool(const std::string&)>& on_line) {
  FASTOCI_TRY(UniqueFd fd, Connect(path));
  // Names as they were typed may be no UTF-8.
  std::string buffered =
      request.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
  const auto size = static_cast<ssize_t>(buffered.size());  // small: the socket takes it whole
  if (::send(fd.get(), buffered.data(), buffered.size(), MSG_NOSIGNAL) != size)
    return NoHelper(path, std::strerror(errno), errno);
  buffered.clear();
  FASTOCI_CHECK_OK(Await(fd.get(), POLLIN, Clock::now() + std::chrono::milliseconds(timeout_ms), path));
  for (;;) {
    char buffer[4096];
    const ssize_t n = ::recv(fd.get(), buffer, sizeof(buffer), 0);
    if (n > 0) buffered.append(buffer, static_cast<size_t>(n));
    for (size_t end; (end = buffered.find('\n')) != std::string::npos;) {
      const std::string line = buffered.substr(0, end);
      buffered.erase(0, end + 1);
      if (!on_line(line)) return OkStatus();
    }
    if (n == 0) return NoHelper(path, "it closed the connection", EPIPE);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return ErrnoError(path);
    if (buffered.size() > kMaxReplyBytes) return InvalidError("the helper's reply is too long");
    struct pollfd poll_fd = {fd.get(), POLLIN, 0};
    if (::poll(&poll_fd, 1, kFollowTickMs) == 0 && !on_line("")) return OkStatus();
  }
}

Result<HelperCache> AskHelperCache(const std::string& path, int64_t timeout_ms) {
  FASTOCI_TRY(auto reply, CallHelper(path, {{"op", "cache"}}, timeout_ms));
  HelperCache cache = {JsonText(reply, "device"), JsonText(reply, "refuses")};
  if (cache.device.empty())
    return Error{ErrorKind::kUnavailable, ENODEV, "the helper has no cache device (see its log)"};
  return cache;
}

Result<std::string> HelperCacheDevice(const std::string& path, int64_t timeout_ms) {
  FASTOCI_TRY(HelperCache cache, AskHelperCache(path, timeout_ms));
  return cache.device;
}

}  // namespace fastoci
