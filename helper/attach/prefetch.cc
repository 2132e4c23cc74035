// SPDX-License-Identifier: Apache-2.0
// PrefetchImage().
#include <chrono>
#include <thread>

#include "attach/attach.h"
#include "base/json.h"

namespace fastoci {
namespace {

constexpr int64_t kReplyMs = 5000;
constexpr auto kPoll = std::chrono::milliseconds(300);

Result<PrefetchState> Look(const AttachPaths& paths, const std::string& image_id) {
  FASTOCI_TRY(auto stat, CallHelper(paths.control_socket, {{"op", "stat"}}, kReplyMs));
  for (const auto& image : JsonChild(stat, "images")) {
    if (JsonText(image, "image_id") != image_id) continue;
    PrefetchState s{.running = JsonChild(image, "prefetching") == true,
                    .error = JsonText(image, "prefetch_error"),
                    .chunks = JsonNumber(image, "chunks"),
                    .present = JsonNumber(image, "present")};
    for (const auto& cache : JsonChild(stat, "caches"))
      if (JsonNumber(cache, "cache") == JsonNumber(image, "cache"))
        s.chunk_bytes = JsonNumber(cache, "chunk_bytes");
    return s;
  }
  return NotFoundError("the helper does not serve the image any more");
}

}  // namespace

Result<PrefetchState> PrefetchImage(const AttachPaths& paths, const ImageReport& image, bool wait,
                                    Progress* progress) {
  if (!image.status) return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
  const std::string id = image.status->image_id;
  auto begun = CallHelper(paths.control_socket, {{"op", "prefetch"}, {"image_id", id}}, kReplyMs);
  if (!begun.ok()) return begun.error().Wrap(image.name);
  if (wait) progress->Step("fetching " + image.name);
  for (;;) {
    auto now = Look(paths, id);
    if (!now.ok()) return now.error().Wrap(image.name);
    if (!wait) return now;
    progress->Bytes(now->present * now->chunk_bytes, now->chunks * now->chunk_bytes);
    if (now->running) {
      std::this_thread::sleep_for(kPoll);
      continue;
    }
    if (now->present == now->chunks) return now;
    return Error{ErrorKind::kUnavailable, EIO,
                 image.name + ": " + std::to_string(now->present) + " of " + std::to_string(now->chunks) +
                     " chunks are there: " + (now->error.empty() ? "others were evicted meanwhile" : now->error)};
  }
}

}  // namespace fastoci
