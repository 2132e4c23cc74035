// SPDX-License-Identifier: Apache-2.0
#include "tools/fastoci/trace_command.h"

#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <atomic>
#include <nlohmann/json.hpp>
#include <thread>

#include "attach/trace.h"
#include "attach/trace_page.h"
#include "base/format.h"
#include "base/process.h"
#include "base/unique_fd.h"
#include "base/utf8.h"
#include "control/client.h"
#include "tools/fastoci/output.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr int64_t kStatMs = 5000;
constexpr int kTickMs = 20;
constexpr int kSettleMs = 300;  // the last answers are on their way

volatile sig_atomic_t g_interrupted = 0;
void OnInterrupt(int) { g_interrupted = 1; }

int64_t NowNs() {
  timespec t;
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return static_cast<int64_t>(t.tv_sec) * 1000000000 + t.tv_nsec;
}

// The helper's half of the trace. A thread of its own reads the helper's stream.
class HelperTrace {
 public:
  explicit HelperTrace(const std::string& socket) {
    thread_ = std::thread([this, socket] {
      Status s = FollowHelper(socket, {{"op", "trace"}}, kStatMs, [&](const std::string& line) {
        begun_ = true;
        AddHelperLine(line, &got_);
        return !stop_;
      });
      if (!s.ok()) got_.notes.push_back("The helper's part of the trace is not complete: " + s.error().message);
      begun_ = true;
    });
  }
  ~HelperTrace() { Join(); }
  bool begun() const { return begun_; }
  void Finish(Trace* trace) {
    Join();
    trace->chunks = std::move(got_.chunks);
    trace->requests = std::move(got_.requests);
    trace->lost += got_.lost;
    trace->notes.insert(trace->notes.end(), got_.notes.begin(), got_.notes.end());
  }

 private:
  void Join() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  Trace got_;
  std::atomic<bool> stop_ = false, begun_ = false;
  std::thread thread_;
};

// Gathers until the command ends, the time is over, or Ctrl-C; then takes late events.
void Gather(const TraceRequestOptions& request, pid_t child, KernelTrace* kernel, Trace* trace) {
  const int64_t end =
      request.seconds > 0 ? trace->begin_ns + static_cast<int64_t>(request.seconds * 1e9) : INT64_MAX;
  auto wait = [&] {
    pollfd fd = {kernel ? kernel->fd() : -1, POLLIN, 0};
    (void)::poll(&fd, 1, kTickMs);
    if (kernel) kernel->Read(trace);
  };
  int status;
  while (!g_interrupted && NowNs() < end && (child < 0 || ::waitpid(child, &status, WNOHANG) == 0)) wait();
  trace->end_ns = std::min(NowNs(), end);
  if (kernel) kernel->Stop();
  for (const int64_t settled = NowNs() + kSettleMs * int64_t{1000000}; NowNs() < settled;) wait();
}

Status Run(const TraceRequestOptions& request, const AttachPaths& paths, bool quiet, Trace* trace) {
  FASTOCI_TRY(ImageReport image, FindImage(paths, request.image));
  if (!image.attached) return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
  FASTOCI_TRY(ImageNumbers numbers, AskImageNumbers(paths.control_socket, image.name));
  trace->image = image.name;
  trace->ref = image.state.ref;
  trace->chunk_bytes = numbers.chunk_bytes;
  auto kernel = KernelTrace::Begin(numbers.image_no);
  if (!kernel.ok())
    trace->notes.push_back("Reads are not shown, only what the helper fetched: " + kernel.error().message);
  HelperTrace helper(paths.control_socket);
  while (!helper.begun() && !g_interrupted) ::usleep(1000);

  struct sigaction action = {};
  action.sa_handler = OnInterrupt;
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  trace->begin_ns = NowNs();
  pid_t child = -1;
  if (!request.command.empty()) {
    FASTOCI_TRY(child, StartCommand(request.command, false));
  } else if (!quiet) {
    std::fprintf(stderr, "tracing %s%s\n", image.name.c_str(),
                 request.seconds > 0 ? "" : "; Ctrl-C ends it");
  }
  Gather(request, child, kernel.ok() ? &*kernel : nullptr, trace);
  helper.Finish(trace);

  // Mounts may have come with the command.
  if (auto now = FindImage(paths, image.name); now.ok()) image.mounts = now->mounts;
  auto extents = ExtentMap::Read(image.state.meta_path);
  if (!extents.ok())
    trace->notes.push_back("How long reads waited is not shown: " + extents.error().message);
  Result<FileMap> files = NotFoundError(image.name + " is not mounted in this mount namespace; it must be until the trace ends");
  if (!image.mounts.empty()) files = FileMap::Scan(image.mounts[0]);
  if (!files.ok()) trace->notes.push_back("Paths are not shown: " + files.error().message);
  const std::string page =
      RenderTracePage(*trace, extents.ok() ? &*extents : nullptr, files.ok() ? &*files : nullptr);
  return WriteFileAtomic(request.output, AsBytes(page));
}

}  // namespace

CLI::App* AddTraceCommand(CLI::App* app, TraceRequestOptions* request) {
  CLI::App* trace = app->add_subcommand("trace", "write a page that shows what an application reads and waits for");
  trace->add_option("image", request->image, "name, reference, device or mount point")->required();
  trace->add_option("-o,--output", request->output, "the HTML file to write")->type_name("FILE")->required();
  trace->add_option("--seconds", request->seconds, "how long to trace (default: until the command ends, or Ctrl-C)")
      ->type_name("S")
      ->check(CLI::Range(0.1, 86400.0));
  trace->add_option("command", request->command, "the command to run and trace, after --")->type_name("COMMAND...");
  trace->footer("Examples:\n"
                "  fastoci trace demo-latest_fastoci -o start.html -- chroot /mnt/demo /usr/bin/app --version\n"
                "  fastoci trace demo-latest_fastoci -o start.html --seconds 30");
  return trace;
}

int RunTrace(const TraceRequestOptions& request, const AttachPaths& paths, bool json, bool quiet) {
  Trace trace;
  Status status = Run(request, paths, quiet, &trace);
  if (!status.ok()) return PrintError(status.error(), json);
  uint64_t misses = 0, read_bytes = 0;
  for (const TraceRead& read : trace.reads) {
    misses += read.kind == TraceRead::kMiss;
    if (read.kind != TraceRead::kMeta) read_bytes += read.nr_sectors * 512;
  }
  if (json) {
    PrintJson({{"page", request.output},
               {"seconds", static_cast<double>(trace.end_ns - trace.begin_ns) / 1e9},
               {"reads", trace.reads.size()},
               {"missed", misses},
               {"read_bytes", read_bytes},
               {"chunks", trace.chunks.size()},
               {"requests", trace.requests.size()},
               {"lost", trace.lost},
               {"notes", trace.notes}});
  } else if (!quiet) {
    for (const std::string& note : trace.notes) std::fprintf(stderr, "fastoci: warning: %s\n", Printable(note).c_str());
    std::printf("%s: %s, %llu of them missed, %s\n", request.output.c_str(),
                Counted(trace.reads.size(), "read").c_str(), static_cast<unsigned long long>(misses),
                Counted(trace.requests.size(), "request").c_str());
  }
  return kExitOk;
}

}  // namespace fastoci
