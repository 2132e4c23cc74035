// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/seed_command.h"

#include <nlohmann/json.hpp>

#include "base/format.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

// done: "exported", "imported" or "correct".
int Finish(const Result<std::vector<SeedImage>>& images, const std::string& directory, const char* done,
           bool json, bool quiet) {
  if (!images.ok()) return PrintError(images.error(), json);
  Json list = Json::array();
  for (const SeedImage& image : *images) {
    list.push_back({{"name", image.name},
                    {"image", image.ref},
                    {"manifest_digest", image.manifest_digest},
                    {"seeded_bytes", image.seeded_bytes},
                    {"data_bytes", image.data_bytes},
                    {"chunks", image.nr_chunks}});
    if (json || quiet) continue;
    std::printf("%s@%s %s: %s of %s\n", image.ref.c_str(), image.manifest_digest.c_str(), done,
                HumanBytes(image.seeded_bytes).c_str(), HumanBytes(image.data_bytes).c_str());
  }
  if (json) PrintJson({{"seed", directory}, {"state", done}, {"images", list}});
  return kExitOk;
}

}  // namespace

SeedCommands AddSeedCommands(CLI::App* app, SeedOptions* o) {
  SeedCommands c;
  c.seed = app->add_subcommand("seed", "take what this node has of images to nodes without a registry");
  c.seed->require_subcommand(1);
  c.to = c.seed->add_subcommand("export", "write what is cached of attached images to a new directory");
  c.to->add_option("directory", o->to.directory, "the seed; it must not exist")->required();
  c.to->add_option("image", o->to.images, "names, references, devices or mount points (default: all that are attached)");
  c.to->add_flag("--all", o->to.all, "fetch first what is not cached");
  c.to->footer("Examples:\n"
               "  fastoci seed export /srv/seed app-1.0_fastoci\n"
               "  fastoci seed export /srv/seed --all");
  c.from = c.seed->add_subcommand("import", "check a seed, and take it: its images can then be attached without a registry");
  c.from->add_option("directory", o->from.directory, "made by fastoci seed export")->required();
  c.from->add_option("image", o->from.images, "HOST/REPOSITORY:TAG of an image in it (default: all)");
  c.from->add_option("--digest", o->from.digests, "refuse other manifests than this one (may be given again)")
      ->allow_extra_args(false)
      ->type_name("DIGEST");
  c.from->add_flag("--pin", o->from.pin, "never evict the images' data");
  c.from->add_flag("--check", o->from.check_only, "check only, and change nothing");
  c.from->footer("Examples:\n"
                 "  fastoci seed import /srv/seed --pin\n"
                 "  fastoci attach registry.example/app:1.0_fastoci --mount /mnt/app");
  return c;
}

int RunSeedExport(const SeedExportRequest& request, const AttachPaths& paths, bool json, bool quiet) {
  TerminalProgress progress(quiet || json);
  auto images = ExportSeed(paths, request, &progress);
  progress.End();
  return Finish(images, request.directory, "exported", json, quiet);
}

int RunSeedImport(const SeedImportRequest& request, const AttachPaths& paths, bool json, bool quiet) {
  TerminalProgress progress(quiet || json);
  auto images = ImportSeed(paths, request, &progress);
  progress.End();
  return Finish(images, request.directory, request.check_only ? "correct" : "imported", json, quiet);
}

}  // namespace fastoci
