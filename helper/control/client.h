// SPDX-License-Identifier: Apache-2.0
// The client side of fastoci-helperd's control socket: one JSON object per line
// each way, {"op": "...", ...} and {"ok": true, ...} or {"error": "..."}.
#ifndef FASTOCI_CONTROL_CLIENT_H_
#define FASTOCI_CONTROL_CLIENT_H_

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>

#include "base/result.h"

namespace fastoci {

inline constexpr char kDefaultControlSocket[] = "/run/fastoci/control.sock";

// The reply. kUnavailable if nobody answers within timeout_ms; the helper's own
// error becomes kIo. fds: descriptors that go with the request; the caller still owns them.
Result<nlohmann::json> CallHelper(const std::string& socket_path, const nlohmann::json& request,
                                  int64_t timeout_ms, std::span<const int> fds = {});
// Sends a request and hands over each line that comes, the reply first, until
// on_line returns false; it is also called with "" where nothing came for a
// moment. kUnavailable if the helper goes. timeout_ms: for the first line.
Status FollowHelper(const std::string& socket_path, const nlohmann::json& request,
                    int64_t timeout_ms, const std::function<bool(const std::string& line)>& on_line);
// Op "cache": the block device that holds the cache, and why it takes no data now, "" if it does.
struct HelperCache {
  std::string device, refuses;
};
Result<HelperCache> AskHelperCache(const std::string& socket_path, int64_t timeout_ms);
// The device alone.
Result<std::string> HelperCacheDevice(const std::string& socket_path, int64_t timeout_ms);

}  // namespace fastoci

#endif  // FASTOCI_CONTROL_CLIENT_H_
