// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/prefetch_command.h"

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/json.h"
#include "control/client.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

constexpr int64_t kReplyMs = 5000;
constexpr auto kPoll = std::chrono::milliseconds(300);

struct State {
  bool running = false;
  std::string error;
  uint64_t chunks = 0, present = 0, chunk_bytes = 0;
};

Result<State> Look(const AttachPaths& paths, const std::string& image_id) {
  FASTOCI_TRY(auto stat, CallHelper(paths.control_socket, {{"op", "stat"}}, kReplyMs));
  for (const auto& image : JsonChild(stat, "images")) {
    if (JsonText(image, "image_id") != image_id) continue;
    State s{.running = JsonChild(image, "prefetching") == true,
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

CLI::App* AddPrefetchCommand(CLI::App* app, PrefetchOptions* options) {
  CLI::App* prefetch = app->add_subcommand("prefetch", "fetch all of an attached image into the cache, now");
  prefetch->add_option("image", options->image, "name, reference, device or mount point")->required();
  prefetch->add_flag("!--no-wait", options->wait, "begin, and leave the rest to the helper");
  prefetch->footer("The data may be evicted later, unless the image is pinned: fastoci pin.");
  return prefetch;
}

int RunPrefetch(const PrefetchOptions& options, const AttachPaths& paths, bool json, bool quiet) {
  auto image = FindImage(paths, options.image);
  if (!image.ok()) return PrintError(image.error(), json);
  if (!image->status) return PrintError(NotFoundError(image->name + " is not attached; attach it first: fastoci attach"), json);
  const std::string id = image->status->image_id;
  auto begun = CallHelper(paths.control_socket, {{"op", "prefetch"}, {"image_id", id}}, kReplyMs);
  if (!begun.ok()) return PrintError(begun.error().Wrap(image->name), json);
  TerminalProgress progress(quiet || json);
  if (options.wait) progress.Step("fetching " + image->name);
  State s;
  do {
    auto now = Look(paths, id);
    if (!now.ok()) return PrintError(now.error().Wrap(image->name), json);
    s = *now;
    if (!options.wait) break;
    progress.Bytes(s.present * s.chunk_bytes, s.chunks * s.chunk_bytes);
    if (s.running) std::this_thread::sleep_for(kPoll);
  } while (s.running);
  progress.End();
  if (options.wait && s.present < s.chunks) {
    const std::string why = s.error.empty() ? "others were evicted meanwhile" : s.error;
    return PrintError(Error{ErrorKind::kUnavailable, EIO,
                            image->name + ": " + std::to_string(s.present) + " of " +
                                std::to_string(s.chunks) + " chunks are there: " + why},
                      json);
  }
  if (json) {
    PrintJson({{"image", image->name}, {"chunks", s.chunks}, {"present", s.present}, {"running", s.running}});
  } else if (!quiet) {
    std::printf("%s: %llu of %llu chunks are in the cache\n", image->name.c_str(),
                static_cast<unsigned long long>(s.present), static_cast<unsigned long long>(s.chunks));
  }
  return kExitOk;
}

}  // namespace fastoci
