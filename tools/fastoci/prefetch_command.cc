// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/prefetch_command.h"

#include <nlohmann/json.hpp>

#include "tools/fastoci/output.h"

namespace fastoci {

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
  TerminalProgress progress(quiet || json);
  auto state = PrefetchImage(paths, *image, options.wait, &progress);
  progress.End();
  if (!state.ok()) return PrintError(state.error(), json);
  const PrefetchState& s = *state;
  if (json) {
    PrintJson({{"image", image->name}, {"chunks", s.chunks}, {"present", s.present}, {"running", s.running}});
  } else if (!quiet) {
    std::printf("%s: %llu of %llu chunks are in the cache\n", image->name.c_str(),
                static_cast<unsigned long long>(s.present), static_cast<unsigned long long>(s.chunks));
  }
  return kExitOk;
}

}  // namespace fastoci
