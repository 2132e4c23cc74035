// SPDX-License-Identifier: Apache-2.0
#include "tools/snapshotter/record_command.h"

#include <signal.h>

#include <cerrno>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "base/format.h"
#include "http/http_client.h"
#include "tools/fastoci/access_options.h"
#include "tools/fastoci/output.h"
#include "tools/snapshotter/rpull_command.h"

namespace fastoci {
namespace {

Cancellation* g_interrupt = nullptr;
void OnInterrupt(int) {
  const int err = errno;
  g_interrupt->Cancel();  // a write() to a descriptor
  errno = err;
}

constexpr char kFooter[] =
    "Examples:\n"
    "  fastoci record --until-url http://127.0.0.1:8000/ --net-host registry.example/app:1.0_fastoci\n"
    "  fastoci record --workload import --seconds 20 registry.example/app:1.0_fastoci -- /usr/bin/app import\n"
    "  fastoci record --container web registry.example/app:1.0_fastoci\n"
    "  fastoci record --attached app-1.0_fastoci -o app.trace -- chroot /mnt/app /usr/bin/app --version";

}  // namespace

CLI::App* AddRecordCommand(CLI::App* app, RecordOptions* o) {
  CLI::App* record = app->add_subcommand("record", "record what the start of an image reads, and push that beside the image");
  RecordRequest* r = &o->request;
  record->add_option("image", r->image, "HOST/REPOSITORY:TAG; with --attached: name, reference, device or mount point")
      ->required();
  record->add_option("command", r->command, "the command to run, after -- (default: the image's own)")->type_name("COMMAND...");
  record->add_flag("--attached", r->attached, "the image was attached by fastoci attach; COMMAND runs on this host");
  record->add_option("--container", r->container, "watch this container of containerd, which runs")->type_name("ID");
  record->add_option("--workload", r->workload, "a name for what is recorded (default \"default\")")->type_name("NAME");
  record->add_option("--seconds", r->seconds, "how long to record at most (default 60)")
      ->type_name("S")
      ->check(CLI::Range(0.1, 3600.0));
  record->add_option("--size-mb", o->megabytes, "end when so much was read")
      ->type_name("MB")
      ->check(CLI::Range(1, 134));
  record->add_option("--until-url", r->until_url, "end when this URL answers with a status of 2xx")->type_name("URL");
  record->add_flag("--net-host", r->host_network, "run the container with the network of this host");
  record->add_option("--env", r->env, "a variable for the container that is run; may be repeated")
      ->type_name("NAME=VALUE")
      ->allow_extra_args(false);
  record->add_flag("--drop-caches", r->drop_caches, "empty the page cache of this machine first");
  record->add_option("-o,--output", r->output, "write the trace to this file, and push nothing")->type_name("FILE");
  record->add_option("--state-dir", r->paths.state_dir, std::string("with --attached; default ") + kDefaultStateDir)
      ->type_name("DIR");
  record->add_option("--control", r->paths.control_socket, std::string("the helper's socket, default ") + kDefaultControlSocket)
      ->type_name("SOCKET");
  AddContainerdOptions(record, &r->address, &r->name_space, &r->snapshotter);
  AddAccessOptions(record, &r->access, &o->password_stdin, "-u,--username,--user");  // the last is ctr's
  record->add_flag("--json", o->json, "print JSON");
  record->add_flag("-q,--quiet", o->quiet, "print no progress");
  record->footer(kFooter);
  return record;
}

int RunRecord(const RecordOptions& o) {
  RecordRequest request = o.request;
  request.max_bytes = o.megabytes * 1000000;
  UseNodeHosts("", &request.access);
  if (request.attached && !request.container.empty())
    return PrintError(InvalidError("--attached and --container exclude each other"), o.json);
  if (!request.container.empty() && !request.command.empty())
    return PrintError(InvalidError("--container watches what runs already; give no command with it"), o.json);
  static Cancellation interrupt;
  g_interrupt = &interrupt;
  request.access.watch = interrupt.watch();
  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  TerminalProgress progress(o.quiet || o.json);
  auto result = Record(request, [] { return interrupt.cancelled(); }, &progress);
  progress.End();
  if (!result.ok()) return PrintError(result.error(), o.json);
  if (o.json) {
    nlohmann::ordered_json j = {{"image", result->image},     {"workload", result->workload},
                                {"runs", result->runs},       {"bytes", result->bytes},
                                {"seconds", result->seconds}, {"ended_by", result->ended_by},
                                {"lost", result->lost}};
    if (!request.output.empty()) j["file"] = request.output;
    else j["image_digest"] = result->image_digest, j["artifact"] = result->artifact_digest;
    PrintJson(j);
  } else if (!o.quiet) {
    if (result->lost > 0)
      std::fprintf(stderr, "fastoci: warning: %s lost: the trace is not complete\n", Counted(result->lost, "event").c_str());
    std::printf("%s, workload %s: %s in %.1f s (ended by %s); %s %s\n", result->image.c_str(), result->workload.c_str(),
                HumanBytes(result->bytes).c_str(), result->seconds, result->ended_by.c_str(),
                request.output.empty() ? "pushed as" : "written to",
                request.output.empty() ? result->artifact_digest.c_str() : request.output.c_str());
  }
  return kExitOk;
}

}  // namespace fastoci
