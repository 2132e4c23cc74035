// SPDX-License-Identifier: Apache-2.0
#include "tools/snapshotter/serve_command.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include "base/log.h"
#include "base/unique_fd.h"
#include "broker/exporter.h"
#include "broker/notify.h"
#include "snapshotter/service.h"

namespace fastoci {
namespace {

constexpr int kIdleMs = 5000;
constexpr auto kStop = std::chrono::seconds(10);  // systemd kills us after twice that

int Fail(const Error& error) {
  Log(LogLevel::kError, "%s", error.message.c_str());
  return 1;
}

// Serves the metrics until a signal ends it.
void WaitForSignal(int signal_fd, Exporter* exporter) {
  const int watchdog = WatchdogIntervalMs();
  for (;;) {
    std::vector<pollfd> fds = {{signal_fd, POLLIN, 0}};
    exporter->AddPollFds(&fds);
    if (::poll(fds.data(), fds.size(), watchdog > 0 ? std::min(watchdog, kIdleMs) : kIdleMs) < 0 && errno != EINTR)
      return;
    if (watchdog > 0) NotifySystemd("WATCHDOG=1");
    if (fds[0].revents != 0) return;
    for (size_t i = 1; i < fds.size(); i++)
      if (fds[i].revents != 0) exporter->Handle(fds[i]);
  }
}

// Ends the process in kStop at the latest. A request may wait longer, for a registry or for a
// device; the state on the disk is at any time one that a kill may leave.
void StopSoon() {
  std::thread([] {
    std::this_thread::sleep_for(kStop);
    Log(LogLevel::kWarning, "stopped, although something still waits; what is mounted stays mounted");
    ::_exit(0);
  }).detach();
}

// The file, and then what was said on the command line.
Result<SnapshotterConfig> Configure(const ServeRequest& request) {
  SnapshotterConfig config;
  FASTOCI_CHECK_OK(LoadSnapshotterConfig(request.config_path, &config));
  for (const auto& option : request.options) option(&config);
  DeviceOptions& device = config.options.device;
  if (!device.access.credentials_file.empty()) return config;
  // The helper reports a mistake in its file. Here such a mistake must not stop pods.
  auto node = LoadConfig(device.node_config);
  if (node.ok()) device.access.credentials_file = node->credentials;
  else Log(LogLevel::kError, "%s", node.error().message.c_str());
  return config;
}

}  // namespace

CLI::App* AddServeCommand(CLI::App* app, ServeRequest* r) {
  CLI::App* serve = app->add_subcommand("serve", "serve containerd, until SIGTERM");
  auto text = [&](const char* name, const char* type, const std::string& help, std::string* (*where)(SnapshotterConfig*)) {
    serve
        ->add_option_function<std::string>(
            name, [r, where](const std::string& v) { r->options.push_back([v, where](auto* c) { *where(c) = v; }); },
            help)
        ->type_name(type);
  };
  serve->add_option("--config", r->config_path, std::string("default ") + kSnapshotterConfigPath)->type_name("FILE");
  text("--address", "SOCKET", std::string("the socket, default ") + kDefaultAddress,
       [](SnapshotterConfig* c) { return &c->address; });
  text("--root", "DIR", std::string("where snapshots are, default ") + kDefaultRoot,
       [](SnapshotterConfig* c) { return &c->options.device.root; });
  text("--control", "SOCKET", std::string("the helper's socket, default ") + kDefaultControlSocket,
       [](SnapshotterConfig* c) { return &c->options.device.control_socket; });
  text("--node-config", "FILE", "the node's configuration (default: see fastoci-config.json(5))", [](SnapshotterConfig* c) { return &c->options.device.node_config; });
  text("--cache-device", "DEVICE", "the cache's block device (default: the helper's)",
       [](SnapshotterConfig* c) { return &c->options.device.cache_device; });
  text("--credentials", "FILE", "file with credentials, as docker's config.json",
       [](SnapshotterConfig* c) { return &c->options.device.access.credentials_file; });
  serve->add_flag_callback(
      "--plain", [r] { r->options.push_back([](auto* c) { c->options.device.access.plain_http = true; }); },
      "use HTTP instead of HTTPS");
  serve
      ->add_option_function<uint16_t>(
          "--metrics-port",
          [r](const uint16_t& port) {
            r->options.push_back([port](auto* c) { c->metrics.enable = true, c->metrics.port = port; });
          },
          "serve metrics on this port of 127.0.0.1")
      ->type_name("PORT");
  serve
      ->add_option_function<std::string>(
          "--referrers",
          [r](const std::string& v) {
            auto mode = ParseReferrerMode(v);
            if (!mode.ok()) throw CLI::ValidationError("--referrers", mode.error().message);
            r->options.push_back([mode = *mode](auto* c) { c->options.referrers = mode; });
          },
          "for which ordinary images to look for artifacts: off, cri (default) or all")
      ->type_name("WHICH");
  serve->add_flag("--debug", r->debug, "log each request");
  return serve;
}

int RunServe(const ServeRequest& request) {
  if (request.debug) SetLogLevel(LogLevel::kDebug);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  UniqueFd signal_fd(::signalfd(-1, &signals, SFD_CLOEXEC));
  if (!signal_fd.valid()) return Fail(ErrnoError("signalfd"));
  auto config = Configure(request);
  if (!config.ok()) return Fail(config.error());
  SnapshotterMetrics metrics;
  auto snapshotter = Snapshotter::Open(config->options, &metrics);
  if (!snapshotter.ok()) return Fail(snapshotter.error());
  Exporter exporter([&] { return metrics.Render((*snapshotter)->Gauges()); });
  {
    auto server = SnapshotServer::Start(config->address, snapshotter->get(), &metrics);
    if (!server.ok()) return Fail(server.error());
    NotifySystemd("READY=1");
    Log(LogLevel::kInfo, "serving on %s", config->address.c_str());
    (*snapshotter)->Recover();
    if (Status status = exporter.Configure(config->metrics); !status.ok())
      Log(LogLevel::kWarning, "metrics: %s", status.error().message.c_str());
    WaitForSignal(signal_fd.get(), &exporter);
    NotifySystemd("STOPPING=1");
    StopSoon();
  }
  Log(LogLevel::kInfo, "stopped; what is mounted stays mounted");
  return 0;
}

}  // namespace fastoci
