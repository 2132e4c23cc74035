// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/containerd_command.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <string>
#include <vector>

#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

struct Command {
  const char *name, *help;
};
constexpr Command kCommands[] = {
    {"rpull", "pull an image into containerd, without what can be fetched later"},
    {"record", "record what the start of an image reads, and push that beside the image"},
};
constexpr char kProgram[] = "fastoci-snapshotter";

}  // namespace

void AddContainerdCommands(CLI::App* app, const std::string& group) {
  for (const Command& command : kCommands) {
    const std::string name = command.name;
    // RunContainerdCommand() has not taken it, so something stands before it.
    app->add_subcommand(name, command.help)->prefix_command()->fallthrough(false)->group(group)->callback([name] {
      throw CLI::ValidationError(name, "its options stand behind it: fastoci " + name + " ...");
    });
  }
}

int RunContainerdCommand(int argc, char** argv) {
  if (argc < 2) return -1;
  const std::string name = argv[1];
  if (std::none_of(std::begin(kCommands), std::end(kCommands), [&](const Command& c) { return name == c.name; }))
    return -1;
  char self[4096];
  const ssize_t n = ::readlink("/proc/self/exe", self, sizeof(self) - 1);
  std::string beside(self, n > 0 ? static_cast<size_t>(n) : 0);
  beside = beside.substr(0, beside.rfind('/') + 1) + kProgram;
  std::vector<char*> arguments(argv, argv + argc);
  arguments[0] = const_cast<char*>(kProgram);
  arguments.push_back(nullptr);
  for (const std::string& path : {beside, std::string("/usr/bin/") + kProgram}) ::execv(path.c_str(), arguments.data());
  std::fprintf(stderr, "fastoci: %s needs %s, which is not at %s; install the package fastoci-snapshotter\n",
               name.c_str(), kProgram, beside.c_str());
  return kExitNotFound;
}

}  // namespace fastoci
