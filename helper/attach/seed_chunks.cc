// SPDX-License-Identifier: Apache-2.0
#include "attach/seed_chunks.h"

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "base/json.h"
#include "control/client.h"

namespace fastoci {
namespace {

constexpr int64_t kReplyMs = 10000;
// A new image is read and opened at the fetcher first; a busy node may take long for that.
constexpr auto kKnownWithin = std::chrono::seconds(120);
constexpr auto kLookAgain = std::chrono::milliseconds(100);

}  // namespace

Result<CachedChunks> AskCachedChunks(const std::string& control_socket, const std::string& image_id,
                                     const Sha256Digest& space_id) {
  const auto deadline = std::chrono::steady_clock::now() + kKnownWithin;
  CachedChunks found;
  for (uint64_t from = 0;;) {
    auto reply = CallHelper(control_socket,
                            {{"op", "chunks"}, {"image_id", image_id}, {"space", HexEncode(space_id)}, {"from", from}},
                            kReplyMs);
    if (!reply.ok() && reply.error().kind == ErrorKind::kIo && from == 0 &&
        std::chrono::steady_clock::now() < deadline) {  // the helper answers, and does not know it yet
      std::this_thread::sleep_for(kLookAgain);
      continue;
    }
    if (!reply.ok()) return reply.error();
    found.device = JsonText(*reply, "device");
    for (const auto& run : JsonChild(*reply, "runs")) {
      if (!run.is_array() || run.size() != 3) return InvalidError("the helper's list of chunks is damaged");
      found.runs.push_back({run[0].get<uint32_t>(), run[1].get<uint32_t>(), run[2].get<uint32_t>()});
    }
    const uint64_t next = JsonNumber(*reply, "next");
    if (next >= JsonNumber(*reply, "chunks")) return found;
    if (next <= from) return InvalidError("the helper's list of chunks does not go on");
    from = next;
  }
}

}  // namespace fastoci
