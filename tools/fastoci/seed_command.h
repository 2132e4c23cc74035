// SPDX-License-Identifier: Apache-2.0
// fastoci seed: what a node has of images, into a directory and from it.
#ifndef FASTOCI_TOOLS_FASTOCI_SEED_COMMAND_H_
#define FASTOCI_TOOLS_FASTOCI_SEED_COMMAND_H_

#include <CLI/CLI.hpp>

#include "attach/seed.h"

namespace fastoci {

struct SeedOptions {
  SeedExportRequest to;
  SeedImportRequest from;
};

struct SeedCommands {
  CLI::App *seed, *to, *from;
};
SeedCommands AddSeedCommands(CLI::App* app, SeedOptions* options);
// Return the exit code.
int RunSeedExport(const SeedExportRequest& request, const AttachPaths& paths, bool json, bool quiet);
int RunSeedImport(const SeedImportRequest& request, const AttachPaths& paths, bool json, bool quiet);

}  // namespace fastoci

#endif  // FASTOCI_TOOLS_FASTOCI_SEED_COMMAND_H_
