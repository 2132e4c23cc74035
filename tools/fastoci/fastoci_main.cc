// SPDX-License-Identifier: Apache-2.0
// fastoci: attach, mount and detach images on a node. Arguments and printing
// only; the work is done in helper/attach.
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <nlohmann/json.hpp>

#include "attach/attach.h"
#include "attach/doctor.h"
#include "attach/doctor_image.h"
#include "attach/start_trace.h"
#include "attach/usage.h"
#include "base/digest.h"
#include "base/utf8.h"
#include "config/config.h"
#include "control/client.h"
#include "tools/fastoci/access_options.h"
#include "tools/fastoci/containerd_command.h"
#include "tools/fastoci/copy_command.h"
#include "tools/fastoci/events_command.h"
#include "tools/fastoci/output.h"
#include "tools/fastoci/prefetch_command.h"
#include "tools/fastoci/rebuild_command.h"
#include "tools/fastoci/seed_command.h"
#include "tools/fastoci/top_command.h"
#include "tools/fastoci/trace_command.h"

namespace fastoci {
namespace {

using Json = nlohmann::ordered_json;

constexpr int64_t kStatMs = 5000;
constexpr int64_t kDrainMs = 15000;  // the helper takes up to 10 s

constexpr char kFooter[] =
    "Examples:\n"
    "  fastoci attach 127.0.0.1:5000/demo:latest_fastoci --mount /mnt/demo\n"
    "  fastoci status demo-latest_fastoci\n"
    "  fastoci detach demo-latest_fastoci\n"
    "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 not found, 4 registry or helper\n"
    "unavailable, 5 denied, 6 in use, 7 refused (not a FastOCI image, wrong digest, unsafe\n"
    "file system). See fastoci(1).";

struct Options {
  AttachPaths paths;
  AttachRequest attach;
  MountRequest mount;
  DetachRequest detach;
  CopyRequest copy;
  EventsRequest events;
  TopRequest top;
  TraceRequestOptions trace;
  PrefetchOptions prefetch;
  SeedOptions seed;
  bool password_stdin = false;
  std::string original;  // that an image is rebuilt of
  std::string what;   // an image's name, reference, device or mount point
  std::string dir;    // mount
  std::string output; // assemble
  std::string workload = kDefaultWorkload;
  bool prefetch_start = false;
  bool hold = false;
  bool json = false;
  bool quiet = false;
  bool force = false;
  int64_t fail_after_ms = -1;
};

class Commands {
 public:
  explicit Commands(Options* options) : o_(*options), progress_(o_.quiet || o_.json) {}

  int Attach() {
    if (o_.fail_after_ms >= 0) {
      o_.attach.policy = "fail_after_ms " + std::to_string(o_.fail_after_ms);
    }
    auto result = AttachImage(o_.paths, o_.attach, &progress_);
    progress_.End();
    if (!result.ok()) return PrintError(result.error(), o_.json);
    ImageReport image = result->image;
    if (!o_.dir.empty()) {
      Status mounted = MountImage(o_.paths, image, o_.dir, o_.mount, &progress_);
      progress_.End();
      if (!mounted.ok()) {
        std::fprintf(stderr, "fastoci: %s is attached, but not mounted\n", image.name.c_str());
        return PrintError(mounted.error(), o_.json);
      }
      if (auto again = FindImage(o_.paths, image.name); again.ok()) image = *again;
    }
    uint64_t ahead = 0;
    if (o_.prefetch_start) {
      auto asked = PrefetchStart(image, o_.attach.access, o_.workload, &progress_);
      if (asked.ok()) ahead = *asked;
      else progress_.Warn("nothing is read ahead: " + asked.error().message);
      progress_.End();
    }
    if (o_.json) {
      Json j = ReportJson(image);
      j["already_attached"] = result->already;
      if (o_.prefetch_start) j["prefetch_bytes"] = ahead;
      PrintJson(j);
      return kExitOk;
    }
    std::printf("%s %s as %s%s%s\n", image.name.c_str(),
                result->already ? "is already attached" : "attached", image.device.c_str(),
                o_.dir.empty() ? "" : ", mounted at ", o_.dir.c_str());
    return kExitOk;
  }

  int Assemble() {
    Status status = AssembleImage(o_.attach.ref, o_.attach.access, o_.output, &progress_);
    progress_.End();
    return Finish(status, {{"meta_image", o_.output}}, "wrote " + o_.output);
  }

  int Inspect() {
    auto report = InspectImage(o_.attach.ref, o_.attach.access, &progress_);
    progress_.End();
    if (!report.ok()) return PrintError(report.error(), o_.json);
    Json layers = Json::parse(*report, nullptr, false);
    if (!layers.is_array()) return PrintError(InvalidError("the decoder's report about the image is damaged"), o_.json);
    if (o_.json) PrintJson(layers);
    else PrintLayers(layers);
    return kExitOk;
  }

  int Check() {
    if (!o_.original.empty()) {
      int code = RunRebuild(o_.attach.ref, o_.original, o_.attach.access, &progress_, o_.json);
      progress_.End();
      return code;
    }
    auto reports = CheckImage(o_.attach.ref, o_.attach.access, &progress_);
    progress_.End();
    if (!reports.ok()) return PrintError(reports.error(), o_.json);
    Json layers = Json::array();
    bool same = true;
    for (const std::string& report : *reports) {
      Json parsed = Json::parse(report, nullptr, false);
      if (!parsed.is_array() || parsed.size() != 1 || !parsed[0].is_object())
        return PrintError(InvalidError("the decoder's report about a layer is damaged"), o_.json);
      same = same && parsed[0].contains("content");
      layers.push_back(parsed[0]);
    }
    if (o_.json) PrintJson(layers);
    else PrintLayers(layers);
    return same ? kExitOk : kExitRefused;
  }

  int Mount() {
    auto image = FindImage(o_.paths, o_.what);
    if (!image.ok()) return PrintError(image.error(), o_.json);
    Status status = MountImage(o_.paths, *image, o_.dir, o_.mount, &progress_);
    progress_.End();
    return Finish(status, {{"name", image->name}, {"mounted", o_.dir}},
                  image->name + " mounted at " + o_.dir);
  }

  int Umount() {
    Status status = UnmountImage(o_.paths, o_.what, o_.force, o_.detach.timeout_ms);
    return Finish(status, {{"unmounted", o_.what}}, o_.what + " unmounted");
  }

  int Detach() {
    o_.detach.force = o_.force;
    Status status = DetachImage(o_.paths, o_.what, o_.detach, &progress_);
    progress_.End();
    return Finish(status, {{"detached", o_.what}}, o_.what + " detached");
  }

  int Restore() {
    RestoreResult result = RestoreImages(o_.paths, &progress_);
    progress_.End();
    if (o_.json) PrintJson({{"attached", result.attached}, {"failed", result.failed}});
    else if (!o_.quiet) {
      std::printf("%zu attached, %zu failed\n", result.attached, result.failed);
    }
    return result.failed == 0 ? kExitOk : kExitFailed;
  }

  int SetPolicy(const std::string& policy, const std::string& text) {
    Status status = SetImagePolicy(o_.paths, o_.what, policy);
    return Finish(status, {{"image", o_.what}, {"policy", policy}}, o_.what + ": " + text);
  }

  int Hold() { return SetPolicy("hold", "reads that miss the cache wait as long as it takes"); }

  int Fail() {
    const int64_t ms = std::max<int64_t>(o_.fail_after_ms, 0);
    return SetPolicy("fail_after_ms " + std::to_string(ms),
                     "reads that miss the cache fail after " + std::to_string(ms) + " ms");
  }

  int Ps() {
    auto images = ListImages(o_.paths);
    if (!images.ok()) return PrintError(images.error(), o_.json);
    std::erase_if(*images, [](const ImageReport& r) { return !r.attached; });
    auto usage = SampleUsage(o_.paths);
    const std::vector<ImageUsage> now = usage.ok() ? usage->images : std::vector<ImageUsage>();
    if (o_.json) {
      Json list = Json::array();
      for (const ImageReport& r : *images) {
        list.push_back(ReportJson(r));
        for (const ImageUsage& u : now)
          if (u.name == r.name) list.back()["waits_for"] = WaitsJson(u.waits_for);
      }
      PrintJson(list);
    } else {
      PrintPs(*images);
      for (const ImageUsage& u : now)
        for (const HostWait& wait : u.waits_for)
          std::printf("%s waits for %s\n", u.name.c_str(), Describe(wait).c_str());
    }
    return kExitOk;
  }

  int Doctor() {
    std::signal(SIGPIPE, SIG_IGN);  // a server may end a TLS handshake
    std::vector<Finding> findings;
    if (!o_.attach.ref.empty())
      findings = ExamineRemote(o_.attach.ref, o_.attach.access, &progress_);
    progress_.End();
    for (Finding& f : Examine(o_.paths)) findings.push_back(std::move(f));
    if (o_.json) PrintJson(FindingsJson(findings));
    else PrintFindings(findings);
    auto bad = [](const Finding& f) { return f.health == Health::kBad; };
    return std::any_of(findings.begin(), findings.end(), bad) ? kExitFailed : kExitOk;
  }

  int List() {
    auto images = ListImages(o_.paths);
    if (!images.ok()) return PrintError(images.error(), o_.json);
    if (!o_.json) {
      PrintList(*images);
      return kExitOk;
    }
    Json list = Json::array();
    for (const ImageReport& r : *images) list.push_back(ReportJson(r));
    PrintJson(list);
    return kExitOk;
  }

  // A request of the cache's keeper, which answers soon.
  int AskHelper(nlohmann::json request, const std::string& text, int64_t timeout_ms = kStatMs) {
    auto reply = CallHelper(o_.paths.control_socket, request, timeout_ms);
    if (!reply.ok()) return PrintError(reply.error(), o_.json);
    return Finish(OkStatus(), Json::parse(reply->dump()), text);
  }

  int Pin(bool pin) {
    auto image = FindImage(o_.paths, o_.what);
    if (!image.ok()) return PrintError(image.error(), o_.json);
    if (!image->status) return PrintError(NotFoundError(image->name + " is not attached; attach it first: fastoci attach"), o_.json);
    return AskHelper({{"op", pin ? "pin" : "unpin"}, {"image_id", image->status->image_id}},
                     image->name + (pin ? " is never evicted from now on" : " may be evicted"));
  }

  int Collect() {
    auto reply = CallHelper(o_.paths.control_socket, {{"op", "gc"}}, kStatMs);
    if (!reply.ok()) return PrintError(reply.error(), o_.json);
    const uint64_t n = reply->value("evicted", uint64_t{0});
    return Finish(OkStatus(), Json::parse(reply->dump()), std::to_string(n) + " chunks freed");
  }

  int Reload() {
    auto reply = CallHelper(o_.paths.control_socket, {{"op", "reload"}}, kStatMs);
    if (!reply.ok()) return PrintError(reply.error(), o_.json);
    const std::string source = reply->value("source", "");
    std::string text = source.empty() ? "no configuration file: defaults" : source + " is in force";
    if (auto restart = reply->find("restart"); restart != reply->end() && !restart->empty()) {
      text += "; these keys take effect when the helper is restarted:";
      for (const auto& key : *restart) text += " " + key.get<std::string>();
    }
    if (auto warning = reply->find("warning"); warning != reply->end())
      text += "\nwarning: " + warning->get<std::string>();
    return Finish(OkStatus(), Json::parse(reply->dump()), text);
  }

  int CheckConfig() {
    auto config = LoadConfig(o_.what);
    if (!config.ok()) return PrintError(config.error(), o_.json);
    const Config& c = *config;
    Json j = {{"source", c.source},
              {"cache_dir", c.cache_dir},
              {"cache_device", c.cache_device},
              {"cache_size_gb", c.cache_size_gb},
              {"keep_cache", c.keep_cache},
              {"download", c.download.enable}};
    return Finish(OkStatus(), j,
                  (c.source.empty() ? "no configuration file: defaults" : c.source + ": correct") +
                      ", cache of " + std::to_string(c.cache_size_gb) + " GB in " +
                      (c.cache_device.empty() ? c.cache_dir : c.cache_device));
  }

  // One image, or all of them and the helper. Without a helper the exit code
  // is kExitUnavailable, so that scripts can wait for it.
  int StatusOf() {
    if (!o_.what.empty()) {
      auto image = FindImage(o_.paths, o_.what);
      if (!image.ok()) return PrintError(image.error(), o_.json);
      if (o_.json) PrintJson(ReportJson(*image));
      else PrintStatus(*image);
      return kExitOk;
    }
    auto images = ListImages(o_.paths);
    auto helper = CallHelper(o_.paths.control_socket, {{"op", "stat"}}, kStatMs);
    if (o_.json) {
      Json list = Json::array();
      if (images.ok()) {
        for (const ImageReport& r : *images) list.push_back(ReportJson(r));
      }
      Json j = {{"images", list}};
      if (helper.ok()) j["helper"] = Json::parse(helper->dump());
      else j["helper_error"] = helper.error().message;
      PrintJson(j);
    } else {
      if (images.ok()) {
        for (const ImageReport& r : *images) PrintStatus(r);
      }
      if (helper.ok()) PrintHelper(*helper);
    }
    if (!images.ok() && images.error().kind != ErrorKind::kDenied) {
      std::fprintf(stderr, "fastoci: %s\n", PrintableLines(images.error().message).c_str());
    }
    if (helper.ok()) return kExitOk;
    std::fprintf(stderr, "fastoci: %s\n", PrintableLines(helper.error().message).c_str());
    return ExitCodeOf(helper.error());
  }

 private:
  int Finish(const Status& status, const Json& json, const std::string& text) {
    if (!status.ok()) return PrintError(status.error(), o_.json);
    if (o_.json) PrintJson(json);
    else if (!o_.quiet) std::printf("%s\n", text.c_str());
    return kExitOk;
  }

  Options& o_;
  TerminalProgress progress_;
};

void AddRegistryOptions(CLI::App* command, Options* o) {
  AddAccessOptions(command, &o->attach.access, &o->password_stdin);
  command->add_option("--decoder", o->attach.access.decoder,
                      "fastoci-decoderd (default: beside this program)")
      ->type_name("FILE");
}

void AddMountOptions(CLI::App* command, Options* o) {
  command->add_flag("--skip-fsck", o->mount.skip_fsck,
                    "mount without running e2fsck first (only for images you made yourself)");
}

void AddForce(CLI::App* command, Options* o) {
  command->add_flag("--force", o->force, "let reads that miss the cache fail, so that the image's users end");
  command->add_option("--timeout-ms", o->detach.timeout_ms, "how long to try (default 5000)")
      ->type_name("MS");
}

struct Parser {
  CLI::App app{"Run containers from OCI images that are not downloaded yet."};
  CLI::App *attach, *assemble, *inspect, *check, *copy, *mount, *umount, *detach, *list, *status;
  CLI::App *pin, *unpin, *prefetch, *gc, *scrub, *config, *config_check, *reload, *drain;
  CLI::App *ps, *fail, *hold, *restore, *doctor, *events, *top, *trace;
  SeedCommands seed;

  explicit Parser(Options* o) {
    app.footer(kFooter);
    app.set_version_flag("--version", std::string("fastoci ") + FASTOCI_VERSION);
    app.require_subcommand(1);
    app.fallthrough();
    app.add_option("--state-dir", o->paths.state_dir, "default /var/lib/fastoci/images")
        ->type_name("DIR");
    app.add_option("--control", o->paths.control_socket,
                   "the helper's socket, default /run/fastoci/control.sock")
        ->type_name("SOCKET");
    app.add_option("--node-config", o->paths.config,
                   "the node's configuration (default: see fastoci-config.json(5))")
        ->type_name("FILE");
    app.add_flag("--json", o->json, "print JSON");
    app.add_flag("-q,--quiet", o->quiet, "print no progress");
    AddAttach(o);
    AddUse(o);
    AddLook(o);
    AddCache(o);
    AddRegistry(o);
    AddNode(o);
  }

  void AddAttach(Options* o) {
    attach = app.add_subcommand("attach", "make a block device from an image");
    auto* ref = attach->add_option("image", o->attach.ref, "FastOCI image: HOST/REPOSITORY:TAG or oci:DIR:TAG");
    auto* file = attach
                     ->add_option("--meta-image", o->attach.meta_image,
                                  "a file made by `fastoci assemble`, instead of an image")
                     ->type_name("FILE");
    ref->excludes(file);
    auto* config = attach
                       ->add_option("--config", o->attach.config,
                                    "overlaybd's config.v1.json, instead of an image")
                       ->type_name("FILE");
    config->excludes(ref)->excludes(file);
    attach->add_option("--name", o->attach.name, "name of the image on this node (default: from repository and tag)");
    auto* hold = attach->add_flag("--hold", o->hold,
                                  "reads that miss the cache wait as long as it takes (default)");
    attach->add_option("--fail-after-ms", o->fail_after_ms, "reads that miss the cache fail after this time")
        ->type_name("MS")
        ->check(CLI::Range(0, 86400000))
        ->excludes(hold);
    attach->add_option("--cache-device", o->attach.cache_device,
                       "cache device (default: the helper's)")
        ->type_name("DEV");
    attach->add_option("--mount", o->dir, "also mount the image there")->type_name("DIR");
    auto* ahead = attach->add_flag("--prefetch", o->prefetch_start,
                                   "read ahead what the image's start reads, if fastoci record has pushed that");
    attach->add_option("--workload", o->workload, "with --prefetch: the start of this workload (default \"default\")")
        ->type_name("NAME")
        ->needs(ahead);
    AddMountOptions(attach, o);
    AddRegistryOptions(attach, o);
    attach->footer(
        "Examples:\n"
        "  fastoci attach registry.example/app:1.0_fastoci --mount /mnt/app\n"
        "  fastoci attach 127.0.0.1:5000/demo:latest_fastoci --fail-after-ms 30000\n"
        "  fastoci attach --meta-image demo.img --name demo --cache-device /dev/vg/cache\n"
        "  fastoci attach --config /path/of/config.v1.json --name app");
    attach->final_callback([this, o] {
      if (o->attach.ref.empty() && o->attach.meta_image.empty() && o->attach.config.empty()) {
        throw CLI::RequiredError("an image, --meta-image or --config");
      }
    });
  }

  // Help shows the groups in the order in which they are first seen here.
  void AddUse(Options* o) {
    mount = app.add_subcommand("mount", "check an attached image's file system and mount it");
    mount->add_option("image", o->what, "name or reference of an attached image")->required();
    mount->add_option("dir", o->dir, "directory; it is made if it does not exist")->required();
    AddMountOptions(mount, o);
    mount->footer("Example:\n  fastoci mount demo-latest_fastoci /mnt/demo");

    umount = app.add_subcommand("umount", "unmount an image");
    umount->add_option("image", o->what, "directory, or name of an image for all of its mounts")
        ->required();
    AddForce(umount, o);

    detach = app.add_subcommand("detach", "unmount an image and remove its device");
    detach->add_option("image", o->what, "name, reference, device or mount point")->required();
    detach->add_flag("--keep", o->detach.keep, "keep the meta image for the next attach");
    AddForce(detach, o);

    list = app.add_subcommand("list", "list the images of this node");
    status = app.add_subcommand("status", "show cache, reads and policy of one image, or of all");
    status->add_option("image", o->what, "name, reference, device or mount point");
    for (CLI::App* command : {attach, mount, umount, detach, list, status}) command->group("Images");
    AddContainerdCommands(&app, "Images");
  }

  void AddLook(Options* o) {
    ps = app.add_subcommand("ps", "list attached images: how much is local, what waits");
    events = AddEventsCommand(&app, &o->events);
    top = AddTopCommand(&app, &o->top);
    trace = AddTraceCommand(&app, &o->trace);
    doctor = app.add_subcommand("doctor", "find out what is wrong on this node, and what to do");
    doctor->add_option("image", o->attach.ref,
                       "also find out why this image cannot be attached or read (HOST/REPOSITORY:TAG)");
    AddRegistryOptions(doctor, o);
    doctor->footer("Examples:\n  fastoci doctor\n  fastoci doctor registry.example/app:1.0_fastoci");
    for (CLI::App* command : {ps, top, events, trace, doctor}) command->group("Look");
  }

  void AddCache(Options* o) {
    prefetch = AddPrefetchCommand(&app, &o->prefetch);
    pin = app.add_subcommand("pin", "keep an attached image's data in the cache");
    pin->add_option("image", o->what, "name, reference, device or mount point")->required();
    unpin = app.add_subcommand("unpin", "let an attached image's data be evicted again");
    unpin->add_option("image", o->what, "name, reference, device or mount point")->required();
    gc = app.add_subcommand("gc", "free the cache of what no attached and no pinned image uses");
    scrub = app.add_subcommand("scrub", "read the whole cache and drop what does not match its digest");
    seed = AddSeedCommands(&app, &o->seed);
    AddRegistryOptions(seed.to, o);
    AddRegistryOptions(seed.from, o);
    for (CLI::App* command : {prefetch, pin, unpin, gc, scrub, seed.seed}) command->group("Cache");
  }

  void AddRegistry(Options* o) {
    inspect = app.add_subcommand("inspect", "show what is in an image's meta layers");
    inspect->add_option("image", o->attach.ref, "FastOCI or overlaybd image: HOST/REPOSITORY:TAG or oci:DIR:TAG")
        ->required();
    AddRegistryOptions(inspect, o);
    inspect->footer("Example:\n  fastoci inspect 127.0.0.1:5000/demo:latest_fastoci");

    check = app.add_subcommand("check", "compare an image's metadata with its whole blobs");
    check->add_option("image", o->attach.ref, "FastOCI or overlaybd image: HOST/REPOSITORY:TAG or oci:DIR:TAG")
        ->required();
    check->add_option("--rebuild", o->original,
                      "instead: convert this image again, store nothing, and compare the results")
        ->type_name("ORIGINAL");
    AddRegistryOptions(check, o);
    check->footer("Examples:\n"
                  "  fastoci check 127.0.0.1:5000/demo:latest_fastoci\n"
                  "  fastoci check 127.0.0.1:5000/demo:latest_fastoci "
                  "--rebuild 127.0.0.1:5000/demo:latest");

    copy = AddCopyCommand(&app, &o->copy);
    AddRegistryOptions(copy, o);
    assemble = app.add_subcommand("assemble", "make a meta image file, to attach by hand");
    assemble->add_option("image", o->attach.ref, "FastOCI image: HOST/REPOSITORY:TAG or oci:DIR:TAG")->required();
    assemble->add_option("-o,--output", o->output, "the file to write")
        ->type_name("FILE")
        ->required();
    AddRegistryOptions(assemble, o);
    assemble->footer("Example:\n  fastoci assemble 127.0.0.1:5000/demo:latest_fastoci -o demo.img");

    for (CLI::App* command : {inspect, check, copy, assemble}) command->group("Registry");
  }

  void AddNode(Options* o) {
    fail = app.add_subcommand("fail", "let an image's reads fail if they miss the cache");
    fail->add_option("image", o->what, "name, reference, device or mount point")->required();
    fail->add_option("--after-ms", o->fail_after_ms, "fail after this time (default 0: at once)")
        ->type_name("MS")
        ->check(CLI::Range(0, 86400000));
    hold = app.add_subcommand("hold", "let an image's reads wait if they miss the cache (default)");
    hold->add_option("image", o->what, "name, reference, device or mount point")->required();
    restore = app.add_subcommand("restore", "attach and mount what was attached before a reboot");
    config = app.add_subcommand("config", "check the node's configuration");
    config->require_subcommand(1);
    config_check = config->add_subcommand("check", "say what it means, or what is wrong with it");
    config_check->add_option("file", o->what, "default: the one that the helper reads");
    reload = app.add_subcommand("reload", "let the helper read its configuration again");
    drain = app.add_subcommand("drain", "let the helper finish its fetches, and end");
    for (CLI::App* command : {fail, hold, restore, config, reload, drain}) command->group("Node");
  }
};

int Run(int argc, char** argv) {
  if (int code = RunContainerdCommand(argc, argv); code >= 0) return code;
  Options options;
  Parser parser(&options);
  try {
    parser.app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return parser.app.exit(error) == 0 ? kExitOk : kExitUsage;
  }
  for (const std::string& given : {options.copy.from_user, options.copy.to_user}) HidePassword(argc, argv, given);
  Status taken = TakePassword(argc, argv, options.password_stdin, &options.attach.access.user_password);
  if (!taken.ok()) return PrintError(taken.error(), options.json);
  UseNodeHosts(options.paths.config, &options.attach.access);
  Commands run(&options);
  if (*parser.attach) return run.Attach();
  if (*parser.assemble) return run.Assemble();
  if (*parser.copy) return RunCopy(options.copy, options.attach.access, options.json);
  if (*parser.inspect) return run.Inspect();
  if (*parser.check) return run.Check();
  if (*parser.mount) return run.Mount();
  if (*parser.umount) return run.Umount();
  if (*parser.detach) return run.Detach();
  if (*parser.list) return run.List();
  if (*parser.pin) return run.Pin(true);
  if (*parser.unpin) return run.Pin(false);
  if (*parser.prefetch) return RunPrefetch(options.prefetch, options.paths, options.json, options.quiet);
  if (*parser.seed.to || *parser.seed.from) {
    options.seed.to.access = options.seed.from.access = options.attach.access;
    return *parser.seed.to ? RunSeedExport(options.seed.to, options.paths, options.json, options.quiet)
                           : RunSeedImport(options.seed.from, options.paths, options.json, options.quiet);
  }
  if (*parser.gc) return run.Collect();
  if (*parser.scrub)
    return run.AskHelper({{"op", "scrub"}}, "the helper reads the whole cache now; its progress: fastoci status");
  if (*parser.config_check) return run.CheckConfig();
  if (*parser.reload) return run.Reload();
  if (*parser.drain)
    return run.AskHelper({{"op", "drain"}}, "the helper has finished its fetches, and ends",
                         kDrainMs);
  if (*parser.ps) return run.Ps();
  if (*parser.fail) return run.Fail();
  if (*parser.hold) return run.Hold();
  if (*parser.restore) return run.Restore();
  if (*parser.doctor) return run.Doctor();
  if (*parser.trace) return RunTrace(options.trace, options.paths, options.json, options.quiet);
  if (*parser.top) return RunTop(options.top, options.paths, options.json);
  if (*parser.events) return RunEvents(options.events, options.paths, options.json);
  return run.StatusOf();
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Run(argc, argv); }
