// SPDX-License-Identifier: Apache-2.0
// fastoci-helperd: the broker. Prepares the cache device, registers with the
// kernel and serves misses until SIGTERM. May be killed at any moment: hits go
// on without it, and the kernel sends what is pending to the next one.
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/signalfd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "base/event_ring.h"
#include "base/json.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "broker/control.h"
#include "broker/devices.h"
#include "broker/exporter.h"
#include "broker/metrics.h"
#include "broker/notify.h"
#include "broker/options.h"
#include "control/client.h"
#include "fetcher/client.h"
#include "kernel/netlink_link.h"
#include "kernel/socket_link.h"
#include "miss/miss_service.h"

namespace fastoci {
namespace {

constexpr int kRegisterRetryMs = 500;
constexpr int kIdleMs = 5000;
constexpr int kDrainMs = 10000;
constexpr size_t kEvents = 1000;  // that are kept for readers to come
constexpr size_t kStackBytes = 1 << 20;
// Of `fastoci attach`, and of the snapshotter.
const std::vector<std::string> kStateDirs = {"/var/lib/fastoci/images",
                                             "/var/lib/fastoci-snapshotter/devices"};

int NrCpus() {
  cpu_set_t cpus;
  return ::sched_getaffinity(0, sizeof(cpus), &cpus) == 0 ? std::max(CPU_COUNT(&cpus), 1) : 1;
}

MissServiceOptions ServiceOptions(const HelperOptions& o, Program decoder) {
  MissServiceOptions options;
  options.catalog.miss_deadline_ms = o.miss_deadline_ms;
  options.catalog.db_path = o.cache_dir + "/cache.db";
  options.catalog.keep_cache = o.keep_cache;
  options.catalog.limits = o.limits;
  options.catalog.whole_layer_bytes = o.whole_layer_bytes;
  options.dispatcher.readahead_bytes = o.readahead_bytes;
  options.dispatcher.gone_retry_ms = BlobSource::kGoneRetryMs * o.retry_scale / 100;
  options.decode.program = std::move(decoder);
  options.decode.nr_decoders = o.decoders ? o.decoders : NrCpus();
  options.download = o.download;
  options.whole = o.whole;
  options.verify_on_read = o.verify_on_read;
  return options;
}

// Registers, waiting while another helper is there. False: told to stop.
Result<bool> StartService(MissService* service, KernelLink* link, const HelperOptions& o,
                          int signal_fd) {
  for (bool told = false;;) {
    Status s = service->Start(link, o.takeover);
    if (s.ok()) return true;
    if (s.error().err != EBUSY) return s.error();
    if (!told)
      Log(LogLevel::kWarning, "another helper is registered with the kernel: waiting until it ends");
    told = true;
    pollfd fd = {signal_fd, POLLIN, 0};
    if (::poll(&fd, 1, kRegisterRetryMs) > 0) return false;
  }
}

Result<std::unique_ptr<KernelLink>> OpenLink(const HelperOptions& o, KernelEvents* events) {
  if (!o.kernel_socket.empty()) {
    FASTOCI_TRY(auto link, SocketLink::Open(o.kernel_socket, events));
    return std::unique_ptr<KernelLink>(std::move(link));
  }
  FASTOCI_TRY(auto link, NetlinkLink::Open(events));
  return std::unique_ptr<KernelLink>(std::move(link));
}

// Asks the helper that runs, if any, to finish what it began and to end.
void AskToHandOver(const std::string& control) {
  auto reply = CallHelper(control, {{"op", "drain"}}, kDrainMs + 2000);
  Log(LogLevel::kInfo, "taking over: %s",
      reply.ok() ? "the helper before this one has ended" : reply.error().message.c_str());
}

// Reads the configuration again. If that fails, the helper keeps the one that it has.
std::string Reload(const HelperOptions& given, HelperOptions* now, MissService* service,
                   Exporter* exporter) {
  auto wanted = Configure(given);
  if (!wanted.ok()) {
    LogEvent(LogLevel::kError, {.kind = "reload"}, "the configuration stays as it was: %s",
             wanted.error().message.c_str());
    return ControlLine({{"error", wanted.error().message}});
  }
  const std::vector<std::string> restart = NeedRestart(*now, *wanted);
  for (const std::string& key : restart)
    Log(LogLevel::kWarning, "\"%s\" has changed: not before a restart", key.c_str());
  wanted->limits.dir = now->limits.dir;
  service->Reconfigure(wanted->keep_cache, wanted->limits, wanted->download,
                       wanted->readahead_bytes);
  service->ReopenImages();
  nlohmann::json reply = {{"ok", true}, {"source", wanted->source}, {"restart", restart}};
  if (wanted->metrics != now->metrics) {
    now->metrics = wanted->metrics;
    if (Status s = exporter->Configure(now->metrics); !s.ok()) {
      Log(LogLevel::kError, "%s", s.error().message.c_str());
      reply["warning"] = s.error().message;
    }
  }
  LogEvent(LogLevel::kInfo, {.kind = "reload"}, "configuration from %s",
      wanted->source.empty() ? "defaults" : wanted->source.c_str());
  return ControlLine(reply);
}

// Until a signal, or until another helper took over or asked to.
void Loop(ControlServer* control, Exporter* exporter, const std::vector<EventRing*>& rings,
          int signal_fd, int end_fd, int reload_fd, const std::function<void()>& reload) {
  const int watchdog_ms = WatchdogIntervalMs();
  for (;;) {
    std::vector<pollfd> fds;
    for (int fd : {signal_fd, end_fd, reload_fd}) fds.push_back({fd, POLLIN, 0});
    for (EventRing* ring : rings) fds.push_back({ring->fd(), POLLIN, 0});
    control->AddPollFds(&fds);
    const size_t first_of_exporter = fds.size();
    exporter->AddPollFds(&fds);
    int n = ::poll(fds.data(), fds.size(), watchdog_ms > 0 ? watchdog_ms : kIdleMs);
    if (watchdog_ms > 0) NotifySystemd("WATCHDOG=1");
    if (n < 0 && errno != EINTR) return;
    if (n <= 0) continue;
    if (fds[0].revents || fds[1].revents) return;
    signalfd_siginfo signal;
    if (fds[2].revents && ::read(reload_fd, &signal, sizeof(signal)) > 0) reload();
    for (EventRing* ring : rings) ring->Quiet();  // followers take it at the next turn
    for (size_t i = 3 + rings.size(); i < fds.size(); i++) {
      if (i < first_of_exporter) control->Handle(fds[i]);
      else exporter->Handle(fds[i]);
    }
  }
}

// Empties a cache that is not to be kept. That is done at boot, while no image uses it yet.
Status DropUnused(KernelLink* link, const std::string& device_path, const std::string& db_path) {
  FASTOCI_TRY(auto caches, link->GetCaches());
  if (!caches.empty()) return OkStatus();
  FASTOCI_TRY(auto device, CacheDevice::Open(device_path));
  FASTOCI_TRY(auto db, CacheDb::Open(db_path, device->geometry().uuid));
  FASTOCI_CHECK_OK(db->RemoveAll());
  return device->DiscardSlots();
}

// Sets the stack size of threads that begin later. Once memory is locked, all of a stack is
// resident, and we need little of the usual 8 MiB.
Status SetStackSize(size_t bytes) {
  pthread_attr_t attributes;
  int err = ::pthread_attr_init(&attributes);
  if (err != 0) return ErrnoError("stack size", err);
  err = ::pthread_attr_setstacksize(&attributes, bytes);
  if (err == 0) err = ::pthread_setattr_default_np(&attributes);
  ::pthread_attr_destroy(&attributes);
  return err == 0 ? OkStatus() : Status(ErrnoError("stack size", err));
}

// Each layer of an image has a descriptor here, so the usual 1024 are few. 512 Ki is systemd's hard limit.
void RaiseDescriptorLimit() {
  constexpr rlim_t kWanted = 512 << 10;
  rlimit limit;
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur >= kWanted) return;
  limit.rlim_cur = std::min(limit.rlim_max, kWanted);
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0)
    Log(LogLevel::kWarning, "the limit of descriptors stays as it is: %s", std::strerror(errno));
}

// Blocks these signals and returns a signalfd for them.
Result<UniqueFd> SignalFd(std::initializer_list<int> signals, int flags) {
  sigset_t set;
  sigemptyset(&set);
  for (int s : signals) sigaddset(&set, s);
  if (int err = ::pthread_sigmask(SIG_BLOCK, &set, nullptr); err != 0)
    return ErrnoError("signals", err);
  UniqueFd fd(::signalfd(-1, &set, SFD_CLOEXEC | flags));
  if (!fd.valid()) return ErrnoError("signalfd");
  return fd;
}

Status Run(const HelperOptions& given, const HelperOptions& o, EventRing* events) {
  FASTOCI_CHECK_OK(SetStackSize(kStackBytes));
  RaiseDescriptorLimit();
  if (::mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
    Log(LogLevel::kWarning, "mlockall: %s: misses may wait for our own memory",
        std::strerror(errno));
  ::signal(SIGPIPE, SIG_IGN);
  FASTOCI_TRY(UniqueFd signal_fd, SignalFd({SIGTERM, SIGINT}, 0));
  FASTOCI_TRY(UniqueFd reload_fd, SignalFd({SIGHUP}, SFD_NONBLOCK));

  CacheOptions cache;
  cache.device = o.cache_device;
  cache.dir = o.cache_dir;
  cache.size_bytes = o.cache_size_mb << 20;
  cache.chunk_bytes = o.chunk_kb * 1024;
  FASTOCI_CHECK_OK(MakeDirs(o.cache_dir, 0700));
  FASTOCI_TRY(std::string cache_path, PrepareCache(cache));
  FASTOCI_TRY(DeviceNodes nodes, DeviceNodes::Open(o.dev_dir));

  FetcherOptions fetcher;
  // Opened once: after an upgrade this helper goes on with children of its own version.
  FASTOCI_TRY(fetcher.program, Program::Open(o.libexec + "/fastoci-fetcherd"));
  FASTOCI_TRY(Program decoder, Program::Open(o.libexec + "/fastoci-decoderd"));
  fetcher.args = o.fetcher_args;
  if (!o.credentials.empty())
    fetcher.args.insert(fetcher.args.end(), {"--credentials", o.credentials});
  for (const std::string& dir : o.state_dirs.empty() ? kStateDirs : o.state_dirs)
    fetcher.args.insert(fetcher.args.end(), {"--state-dir", dir});
  if (!o.hosts_dir.empty()) fetcher.args.insert(fetcher.args.end(), {"--hosts-dir", o.hosts_dir});
  if (!o.p2p.empty()) fetcher.args.insert(fetcher.args.end(), {"--p2p", o.p2p});
  if (!o.p2p_proxy.empty())
    fetcher.args.insert(fetcher.args.end(), {"--p2p-proxy", o.p2p_proxy});
  if (o.retry_scale != 100)
    fetcher.args.insert(fetcher.args.end(), {"--retry-scale", std::to_string(o.retry_scale)});
  auto spawn_fetcher = [fetcher](int arena_fd) -> Result<std::unique_ptr<FetchService>> {
    FASTOCI_TRY(auto client, FetcherClient::Spawn(fetcher, arena_fd));
    return std::unique_ptr<FetchService>(std::move(client));
  };

  const MissServiceOptions options = ServiceOptions(o, std::move(decoder));
  FASTOCI_TRY(auto service,
              MissService::Make(options, spawn_fetcher,
                                {.open_cache = [&](uint32_t dev) { return nodes.OpenCache(dev); },
                                 .read_meta = [&](uint32_t dev) { return nodes.ReadMeta(dev); }}));
  FASTOCI_CHECK_OK(MakeDirs(std::filesystem::path(o.control).parent_path().string(), 0755));
  UniqueFd end(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!end.valid()) return ErrnoError("eventfd");
  std::atomic<bool> broken = false;
  auto on_end = [&] {
    const uint64_t one = 1;
    (void)!::write(end.get(), &one, sizeof(one));
  };
  service->SetOnEnd({.replaced = on_end, .broken = [&] {
                      broken = true;
                      on_end();
                    }});
  Exporter exporter([&] {
    return RenderMetrics(HandleControl(service.get(), cache_path, {{"op", "stat"}}));
  });
  HelperOptions now = o;
  auto reload = [&] { return Reload(given, &now, service.get(), &exporter); };
  if (o.takeover) AskToHandOver(o.control);
  FASTOCI_TRY(auto control, ControlServer::Listen(o.control, [&](const std::string& line, std::vector<UniqueFd> fds) {
                const auto request = nlohmann::json::parse(line, nullptr, false);
                const std::string op = JsonText(request, "op");
                if (op == "trace") return HandleTrace(service.get());
                if (op == "events") return HandleEvents(events, request);
                if (op == "seed")
                  return ControlServer::Reply(ControlLine(HandleSeed(service.get(), request, std::move(fds))));
                if (op == "reload") return ControlServer::Reply(reload());
                if (op == "drain") {
                  service->Drain(kDrainMs);
                  on_end();
                }
                return ControlServer::Reply(ControlLine(HandleControl(service.get(), cache_path, request)));
              }, o.takeover));
  FASTOCI_TRY(auto link, OpenLink(o, service.get()));
  if (!o.keep_cache) FASTOCI_CHECK_OK(DropUnused(link.get(), cache_path, options.catalog.db_path));
  FASTOCI_TRY(bool started, StartService(service.get(), link.get(), o, signal_fd.get()));
  if (started) {
    LogEvent(LogLevel::kInfo, {.kind = "start"}, "ready, cache on %s", cache_path.c_str());
    NotifySystemd("READY=1");
    if (o.scrub) service->Scrub();
    // Misses are served even if metrics cannot be.
    if (Status s = exporter.Configure(o.metrics); !s.ok())
      Log(LogLevel::kError, "%s", s.error().message.c_str());
    Loop(control.get(), &exporter, {events, service->tracer()->ring()}, signal_fd.get(),
         end.get(), reload_fd.get(), reload);
    NotifySystemd("STOPPING=1");
    LogEvent(LogLevel::kInfo, {.kind = "stop"}, "stopping");
    control->Flush();
  }
  service->Stop();
  link = nullptr;  // no event after this; the service goes later
  if (broken) return ErrnoError("the kernel's messages no longer arrive: restart the helper", EIO);
  return OkStatus();
}

int Main(int argc, char** argv) {
  SetLogProgram("fastoci-helperd");
  HelperOptions o;
  std::error_code ignored;
  o.libexec = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
  CLI::App app("fetches, verifies and caches what reads of FastOCI images on this node miss");
  app.set_version_flag("--version", FASTOCI_VERSION);
  app.add_option("--config", o.config, "default: see fastoci-config.json(5)");
  app.add_option("--cache-dir", o.cache_dir,
                 "directory of the cache's database, and of the cache file if there is no device");
  auto* device = app.add_option("--cache-device", o.cache_device,
                                "block device that holds the cache; a blank one is formatted");
  auto* gb = app.add_option("--cache-size-gb", o.cache_size_gb, "size of a new cache file")
                 ->check(CLI::Range(1, 1 << 20));
  auto* mb = app.add_option("--cache-size-mb", o.cache_size_mb)->check(CLI::Range(1, 1 << 30));
  gb->excludes(device)->excludes(mb);
  mb->excludes(device);
  app.add_option("--chunk-kb", o.chunk_kb, "chunk size of a new cache")
      ->check(CLI::Range(64, 4096));
  app.add_option("--libexec", o.libexec, "where fastoci-fetcherd and fastoci-decoderd are")
      ->capture_default_str();
  app.add_option("--credentials", o.credentials, "credential file, for the fetcher");
  app.add_option("--state-dir", o.state_dirs,
                 "where attach keeps what it was given; default: /var/lib/fastoci/images and "
                 "/var/lib/fastoci-snapshotter/devices");
  app.add_option("--fetcher-arg", o.fetcher_args, "a further argument for the fetcher");
  app.add_option("--control", o.control, "control socket")->capture_default_str();
  app.add_option("--decoders", o.decoders, "decoder processes; default: one for each CPU")
      ->check(CLI::Range(1, 64));
  app.add_option("--retry-scale", o.retry_scale,
                 "for tests: percent of the usual waiting times for hosts that do not answer")
      ->check(CLI::Range(1, 10000));
  app.add_option("--miss-deadline-ms", o.miss_deadline_ms,
                 "how long a read waits while its image is not known")
      ->check(CLI::Range(100, 3600000))
      ->capture_default_str();
  app.add_option("--kernel-socket", o.kernel_socket)->group("");  // for bench-cold
  app.add_flag("--takeover", o.takeover, "replace a helper that runs");
  app.add_flag("--foreground", o.foreground, "the default");
  app.add_flag("--verbose", o.verbose);
  CLI11_PARSE(app, argc, argv);
  if (o.verbose) SetLogLevel(LogLevel::kDebug);
  EventRing events(kEvents);
  SetLogSink([&](LogLevel level, const EventFields& fields, const std::string& text) {
    events.Add(EventJson(level, fields, text));
  });
  auto configured = Configure(o);
  if (configured.ok() && !configured->source.empty())
    Log(LogLevel::kInfo, "configuration from %s", configured->source.c_str());
  Status s = configured.ok() ? Run(o, *configured, &events) : Status(configured.error());
  SetLogSink(nullptr);
  if (s.ok()) return 0;
  Log(LogLevel::kError, "%s", s.error().message.c_str());
  return 1;
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) { return fastoci::Main(argc, argv); }
