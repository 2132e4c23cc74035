// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/start_trace.h"

#include <fcntl.h>
#include <poll.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "attach/bounded.h"
#include "control/client.h"
#include "base/event.h"
#include "base/json.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "kernel/dm_control.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr char kMagic[] = "fastoci-start 1";
constexpr size_t kMaxWorkers = 4;
constexpr size_t kMaxTextBytes = 1 << 20;
constexpr int kTickMs = 200;
constexpr int64_t kStatMs = 5000, kReplayMs = 120000;
constexpr uint64_t kSector = 512;

// The kernel's number of the device, as the helper knows it.
Result<uint32_t> ImageNumber(const std::string& socket, const std::string& device) {
  FASTOCI_TRY(auto stat, CallHelper(socket, {{"op", "stat"}}, kStatMs));
  for (const auto& image : JsonChild(stat, "images"))
    if (JsonText(image, "name") == device) return static_cast<uint32_t>(JsonNumber(image, "image"));
  return NotFoundError("the helper does not know " + device);
}

}  // namespace

std::vector<SectorRun> FirstTouches(const std::vector<TraceRead>& reads) {
  std::vector<SectorRun> runs;
  std::set<uint64_t> touched;  // pieces of kJoinSectors
  for (const TraceRead& read : reads) {
    if (read.kind == TraceRead::kMeta || read.kind == TraceRead::kZero || read.nr_sectors == 0) continue;
    const uint64_t end = (read.sector + read.nr_sectors - 1) / kJoinSectors;
    for (uint64_t piece = read.sector / kJoinSectors; piece <= end; piece++) {
      if (touched.size() * kJoinSectors >= kMaxStartSectors) return runs;
      if (!touched.insert(piece).second) continue;
      if (!runs.empty() && runs.back().sector + runs.back().nr_sectors == piece * kJoinSectors)
        runs.back().nr_sectors += kJoinSectors;
      else runs.push_back({piece * kJoinSectors, kJoinSectors});
    }
  }
  return runs;
}

std::string StartToText(const std::string& image_id, const std::vector<SectorRun>& runs) {
  std::string text = std::string(kMagic) + " " + image_id + "\n";
  for (const SectorRun& run : runs) text += std::to_string(run.sector) + " " + std::to_string(run.nr_sectors) + "\n";
  return text;
}

Result<std::vector<SectorRun>> StartFromText(const std::string& text, const std::string& image_id) {
  std::istringstream in(text);
  std::string line;
  std::getline(in, line);
  if (line.rfind(std::string(kMagic) + " ", 0) != 0) return InvalidError("it does not begin with \"" + std::string(kMagic) + "\"");
  if (line.substr(sizeof(kMagic)) != image_id) return MismatchError("it is about another assembled meta image");
  std::vector<SectorRun> runs;
  uint64_t all = 0;
  while (std::getline(in, line)) {
    unsigned long long sector = 0, nr_sectors = 0;
    char rest;
    if (std::sscanf(line.c_str(), "%llu %llu%c", &sector, &nr_sectors, &rest) != 2 || sector > INT64_MAX / kSector ||
        nr_sectors == 0 || nr_sectors > kMaxStartSectors - all)
      return InvalidError("line " + std::to_string(runs.size() + 2) + " is no run of sectors, or out of bounds");
    all += nr_sectors;
    runs.push_back({sector, nr_sectors});
  }
  return runs;
}

StartTraces::~StartTraces() {
  stop_ = true;
  for (Worker& worker : workers_) worker.thread.join();
}

void StartTraces::Attached(const std::string& device, const std::string& image_id) {
  if (!options_.learn) return;
  std::lock_guard lock(mutex_);
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (!it->done) {
      ++it;
      continue;
    }
    it->thread.join();
    it = workers_.erase(it);
  }
  if (workers_.size() >= kMaxWorkers) return;
  Worker& worker = workers_.emplace_back();
  auto thread = StartThread([this, &worker, device, image_id] {
    Run(device, image_id);
    worker.done = true;
  });
  if (thread.ok()) {
    worker.thread = std::move(*thread);
    return;
  }
  Log(LogLevel::kWarning, "%s: start: %s", device.c_str(), thread.error().message.c_str());
  workers_.pop_back();
}

void StartTraces::Forget(const std::string& device) { ::unlink(PathOf(device).c_str()); }

void StartTraces::Run(const std::string& device, const std::string& image_id) {
  Status status = OkStatus();
  auto text = ReadFile(PathOf(device), kMaxTextBytes);
  auto runs = text.ok() ? StartFromText(*text, image_id) : Result<std::vector<SectorRun>>(text.error());
  status = runs.ok() ? Replay(device, *runs) : Learn(device, image_id);
  if (!status.ok())
    Log(LogLevel::kWarning, "%s: cannot %s what its start reads: %s", device.c_str(),
        runs.ok() ? "read ahead" : "learn", status.error().message.c_str());
}

Status StartTraces::Learn(const std::string& device, const std::string& image_id) {
  const auto end = Clock::now() + options_.length;
  FASTOCI_CHECK_OK(MakeDirs(options_.dir, 0700));
  FASTOCI_TRY(uint32_t number, ImageNumber(options_.control_socket, device));
  FASTOCI_TRY(KernelTrace kernel, KernelTrace::Begin(number));
  Trace trace;
  while (!stop_ && Clock::now() < end) {
    pollfd fd = {kernel.fd(), POLLIN, 0};
    (void)::poll(&fd, 1, kTickMs);
    kernel.Read(&trace);
  }
  if (stop_) return OkStatus();  // half of it is worse than nothing
  const auto runs = FirstTouches(trace.reads);
  if (runs.empty()) return OkStatus();  // nobody started it: the next time, perhaps
  const std::string text = StartToText(image_id, runs);
  FASTOCI_CHECK_OK(WriteFileAtomic(PathOf(device), AsBytes(text)));
  LogEvent(LogLevel::kInfo, {.kind = "start_learned", .image = device}, "%s: learned what its start reads, in %zu runs",
           device.c_str(), runs.size());
  return OkStatus();
}

Status StartTraces::Replay(const std::string& device, const std::vector<SectorRun>& runs) {
  const std::string node = DmNodePath(kDmNamePrefix + device);
  auto code = RunBounded("read ahead", kReplayMs, {}, [&] {
    const int fd = ::open(node.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    for (const SectorRun& run : runs)
      for (uint64_t done = 0; done < run.nr_sectors; done += kJoinSectors)
        (void)::posix_fadvise(fd, static_cast<off_t>((run.sector + done) * kSector),
                              static_cast<off_t>(std::min(kJoinSectors, run.nr_sectors - done) * kSector),
                              POSIX_FADV_WILLNEED);  // of more than the device's readahead, the kernel reads only the beginning
    // The cache has it, or will; the pages are needed no more.
    (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
  });
  if (!code.ok()) return code.error();
  if (*code != 0) return ErrnoError("open " + node, *code);
  LogEvent(LogLevel::kInfo, {.kind = "start_replayed", .image = device},
           "%s: read ahead what its start reads, in %zu runs", device.c_str(), runs.size());
  return OkStatus();
}

}  // namespace fastoci
