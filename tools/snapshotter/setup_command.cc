// SPDX-License-Identifier: Apache-2.0
#include "tools/snapshotter/setup_command.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/unique_fd.h"
#include "snapshotter/config.h"
#include "snapshotter/containerd_config.h"
#include "snapshotter/layer.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

constexpr uint64_t kMaxConfigBytes = 4 << 20;

}  // namespace

CLI::App* AddSetupCommand(CLI::App* app, SetupOptions* o) {
  CLI::App* setup = app->add_subcommand("setup", "add this snapshotter to containerd's configuration");
  setup->add_flag("--containerd", o->containerd, "add it as a proxy plugin");
  setup->add_flag("--cri", o->cri, "with --containerd: let pods use it, too");
  setup->add_flag("--undo", o->undo, "remove what was added, and restore what was commented out");
  setup->add_option("--file", o->config, "containerd's configuration, default /etc/containerd/config.toml")
      ->type_name("FILE");
  setup->add_option("--config", o->own_config, std::string("the snapshotter's configuration, default ") + kSnapshotterConfigPath)->type_name("FILE");
  setup->footer("Examples:\n  fastoci-snapshotter setup --containerd --cri\n  fastoci-snapshotter setup --undo");
  return setup;
}

int RunSetup(const SetupOptions& o) {
  if (o.undo == o.containerd) {
    std::fprintf(stderr, "fastoci-snapshotter: setup needs --containerd [--cri], or --undo\n");
    return kExitUsage;
  }
  SnapshotterConfig config;
  if (Status status = LoadSnapshotterConfig(o.own_config, &config); !status.ok()) return PrintError(status.error(), false);
  std::string text;
  struct stat st;
  const bool there = ::stat(o.config.c_str(), &st) == 0;
  if (there) {
    auto read = ReadFile(o.config, kMaxConfigBytes);
    if (!read.ok()) return PrintError(read.error(), false);
    text = *read;
  }
  std::string wanted;
  if (o.undo) {
    wanted = RemoveFromContainerdConfig(text);
  } else {
    auto added = AddToContainerdConfig(text, {config.address, config.options.device.root, o.cri});
    if (!added.ok()) return PrintError(added.error().Wrap(o.config), false);
    wanted = *added;
  }
  if (wanted == text) {
    std::printf("%s needs no change\n", o.config.c_str());
    return kExitOk;
  }
  Status status = OkStatus();
  if (wanted.empty() && there) {  // it was all ours
    if (::unlink(o.config.c_str()) != 0) status = ErrnoError("remove " + o.config);
  } else {
    const size_t slash = o.config.rfind('/');
    if (slash != std::string::npos && slash > 0) status = MakeDirs(o.config.substr(0, slash));
    if (status.ok()) status = WriteFileAtomic(o.config, AsBytes(wanted), there ? static_cast<int>(st.st_mode & 07777) : 0644);
  }
  if (!status.ok()) return PrintError(status.error(), false);
  std::printf("%s was changed; now run: systemctl restart containerd\n", o.config.c_str());
  return kExitOk;
}

CLI::App* AddUninstallCommand(CLI::App* app, UninstallOptions* o) {
  CLI::App* check = app->add_subcommand("uninstall-check", "list the snapshots that still need this package");
  check->add_option("--config", o->own_config, std::string("default ") + kSnapshotterConfigPath)->type_name("FILE");
  check->add_option("--root", o->root, std::string("default ") + kDefaultRoot)->type_name("DIR");
  check->add_flag("--json", o->json, "print JSON");
  return check;
}

int RunUninstallCheck(const UninstallOptions& o) {
  SnapshotterConfig config;
  if (Status status = LoadSnapshotterConfig(o.own_config, &config); !status.ok()) return PrintError(status.error(), o.json);
  const std::string path = (o.root.empty() ? config.options.device.root : o.root) + "/metadata.db";
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  if (::access(path.c_str(), F_OK) == 0) {
    auto store = SnapshotStore::Open(path);
    if (!store.ok()) return PrintError(store.error(), o.json);
    auto all = (*store)->List();
    if (!all.ok()) return PrintError(all.error(), o.json);
    for (const Snapshot& s : *all) {
      auto layer = LayerFromJson(s.layer);
      list.push_back({{"name", s.name},
                      {"kind", SnapshotKindName(s.kind)},
                      {"layer", layer.ok() ? LayerKindName(layer->kind) : "damaged"},
                      {"device", s.device},
                      {"bytes", s.usage.bytes}});
    }
  }
  if (o.json) {
    PrintJson(list);
  } else if (list.empty()) {
    std::printf("no snapshot is left: the package can be removed\n");
  } else {
    for (const auto& s : list)
      std::printf("%-10s %-9s %s\n", s["kind"].get<std::string>().c_str(), s["layer"].get<std::string>().c_str(),
                  s["name"].get<std::string>().c_str());
    std::printf("%zu snapshots are left. Remove containers and images of this snapshotter first: see \"Leaving a node\" in "
                "fastoci-snapshotter(8)\n",
                list.size());
  }
  return list.empty() ? kExitOk : kExitBusy;
}

}  // namespace fastoci
