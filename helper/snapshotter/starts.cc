// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/starts.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <memory>
#include <optional>

#include "attach/start_artifact.h"
#include "base/event.h"
#include "base/format.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "kernel/dm_control.h"
#include "registry/reference.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kMaxWorkers = 16;
constexpr size_t kMaxTraceFileBytes = 8 << 20;
constexpr int kTickMs = 200;
constexpr auto kMaxRecording = std::chrono::hours(1);

Status MakeEmpty(const std::string& path) {
  UniqueFd fd(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644));
  return fd.valid() ? OkStatus() : Status(ErrnoError("create " + path));
}

}  // namespace

Result<StartTrace> ReadTraceFile(const std::string& path, const std::vector<std::string>& blobs,
                                 const std::string& meta_path) {
  UniqueFd fd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  if (!fd.valid() && errno == ENOENT) return NotFoundError("there is no " + path);
  if (!fd.valid()) return ErrnoError("open " + path);
  struct stat st;
  if (::fstat(fd.get(), &st) != 0) return ErrnoError(path);
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) > kMaxTraceFileBytes)
    return InvalidError(path + " is no file, or too large a one");
  if (st.st_size == 0) return NotFoundError(path + " is empty");
  Bytes file(static_cast<size_t>(st.st_size));
  FASTOCI_CHECK_OK(PreadFull(fd.get(), file, 0, path));
  if (IsOverlaybdTrace(file)) {
    if (meta_path.empty()) return Error{ErrorKind::kUnavailable, EAGAIN, path + " can be read when the device is attached"};
    FASTOCI_TRY(auto reads, ParseOverlaybdTrace(file));
    return StartOfOverlaybd(reads, blobs, meta_path);
  }
  const std::string text(file.begin(), file.end());
  if (!text.starts_with("fastoci-start "))
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP, path + " is no trace, but perhaps a list of files, which is not used"};
  return StartFromText(text);
}

std::string StartTraces::PathOf(const std::string& device, const std::string& workload) const {
  return options_.dir + "/" + device + (workload == kDefaultWorkload ? "" : "." + workload);
}

void StartTraces::Stop() {
  stop_ = true;
  cancel_.Cancel();
  std::list<Worker> workers;
  {
    std::lock_guard lock(mutex_);
    workers.swap(workers_);
  }
  for (Worker& worker : workers) worker.thread.join();
}

void StartTraces::Start(const std::function<void()>& work) {
  std::lock_guard lock(mutex_);
  if (stop_) return;
  for (auto it = workers_.begin(); it != workers_.end();) {
    if (!it->done) {
      ++it;
      continue;
    }
    it->thread.join();
    it = workers_.erase(it);
  }
  if (workers_.size() >= kMaxWorkers)
    return Log(LogLevel::kInfo, "start traces: %zu are at work, so another one is left out", workers_.size());
  Worker& worker = workers_.emplace_back();
  auto thread = StartThread([&worker, work] {
    work();
    worker.done = true;
  });
  if (thread.ok()) {
    worker.thread = std::move(*thread);
    return;
  }
  Log(LogLevel::kWarning, "start traces: %s", thread.error().message.c_str());
  workers_.pop_back();
}

void StartTraces::Attached(const std::string& device, const std::string& meta_path, const StartOrigin& origin) {
  Start([this, device, meta_path, origin] {
    auto trace = FindHere(device, meta_path, origin);
    // Nothing is missed while the registry is asked.
    std::optional<Result<StartRecorder>> recorder;
    if (!trace.ok() && options_.learn) recorder.emplace(StartRecorder::Begin(options_.control_socket, device, meta_path));
    if (!trace.ok()) trace = Fetch(device, origin);
    Status status = OkStatus();
    if (trace.ok()) status = Replay(device, meta_path, *trace);
    else if (recorder) status = recorder->ok() ? Learn(device, &**recorder, origin.workload) : Status(recorder->error());
    if (!status.ok())
      Log(LogLevel::kWarning, "%s: cannot %s what its start reads: %s", device.c_str(),
          trace.ok() ? "read ahead" : "learn", status.error().message.c_str());
  });
}

void StartTraces::Pulled(const std::string& device, const StartOrigin& origin, const std::function<void()>& attach) {
  Start([this, device, origin, attach] {
    auto trace = FindHere(device, "", origin);
    if (trace.ok() || trace.error().kind == ErrorKind::kUnavailable || Fetch(device, origin).ok()) attach();
  });
}

void StartTraces::Record(const std::string& device, const std::string& meta_path, const std::string& path) {
  Start([this, device, meta_path, path] {
    if (Status status = RecordTo(device, meta_path, path); !status.ok())
      Log(LogLevel::kWarning, "%s: cannot record to %s: %s", device.c_str(), path.c_str(), status.error().message.c_str());
  });
}

void StartTraces::Forget(const std::string& device) {
  ::unlink(PathOf(device, kDefaultWorkload).c_str());
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(options_.dir.c_str()), ::closedir);
  for (struct dirent* e; dir && (e = ::readdir(dir.get()));)
    if (const std::string name = e->d_name; name.starts_with(device + ".")) ::unlink((options_.dir + "/" + name).c_str());
}

Result<StartTrace> StartTraces::FindHere(const std::string& device, const std::string& meta_path, const StartOrigin& origin) {
  if (!origin.trace_file.empty()) {
    auto named = ReadTraceFile(origin.trace_file, origin.blobs, meta_path);
    if (named.ok() || named.error().kind == ErrorKind::kUnavailable) return named;
    if (named.error().kind != ErrorKind::kNotFound)
      Log(LogLevel::kInfo, "%s: a trace is not used: %s", device.c_str(), named.error().message.c_str());
  }
  const std::string path = PathOf(device, origin.workload);
  auto kept = ReadTraceFile(path, {}, "");
  if (kept.ok() || kept.error().kind == ErrorKind::kNotFound) return kept;
  Log(LogLevel::kInfo, "%s is not used: %s", path.c_str(), kept.error().message.c_str());
  ::unlink(path.c_str());
  return NotFoundError("no start trace of " + device + " is known here");
}

Result<StartTrace> StartTraces::Fetch(const std::string& device, const StartOrigin& origin) {
  if (!options_.fetch || origin.image.empty() || origin.manifest_digest.empty())
    return NotFoundError("no registry is asked for a start trace of " + device);
  auto fetched = FetchAndKeep(device, origin);
  if (!fetched.ok() && !stop_)
    Log(fetched.error().kind == ErrorKind::kNotFound ? LogLevel::kDebug : LogLevel::kWarning, "%s: no start trace: %s",
        device.c_str(), fetched.error().message.c_str());
  return fetched;
}

Result<StartTrace> StartTraces::FetchAndKeep(const std::string& device, const StartOrigin& origin) {
  FASTOCI_TRY(Reference ref, ParseReference(origin.image));
  RegistryAccess access = options_.access;
  access.watch = cancel_.watch();
  UseNodeHosts(options_.node_config, &access);
  FASTOCI_TRY(NamedImage image, OpenImageStore(ref.WithDigest(origin.manifest_digest).ToString(), access, false));
  FASTOCI_TRY(StartTrace trace, FetchStart(image.store.get(), origin.manifest_digest, origin.workload));
  FASTOCI_CHECK_OK(MakeDirs(options_.dir, 0700));
  FASTOCI_CHECK_OK(WriteFileAtomic(PathOf(device, origin.workload), AsBytes(StartToText(trace))));
  LogEvent(LogLevel::kInfo, {.kind = "start_fetched", .image = device}, "%s: the registry has a start trace, of %s",
           device.c_str(), HumanBytes(trace.bytes()).c_str());
  return trace;
}

void StartTraces::Watch(StartRecorder* recorder, std::chrono::seconds length, const std::function<bool()>& ended) {
  const auto end = Clock::now() + length;
  while (!stop_ && Clock::now() < end && !ended()) {
    pollfd fd = {recorder->fd(), POLLIN, 0};
    (void)::poll(&fd, 1, kTickMs);
    recorder->Take();
  }
}

Status StartTraces::Learn(const std::string& device, StartRecorder* recorder, const std::string& workload) {
  FASTOCI_CHECK_OK(MakeDirs(options_.dir, 0700));
  Watch(recorder, options_.length, [] { return false; });
  const StartTrace& trace = recorder->trace();
  if (stop_) return OkStatus();               // half of it is worse than nothing
  if (trace.runs.empty()) return OkStatus();  // nobody started it: the next time, perhaps
  FASTOCI_CHECK_OK(WriteFileAtomic(PathOf(device, workload), AsBytes(StartToText(trace))));
  LogEvent(LogLevel::kInfo, {.kind = "start_learned", .image = device}, "%s: learned what its start reads, %s",
           device.c_str(), HumanBytes(trace.bytes()).c_str());
  return OkStatus();
}

Status StartTraces::Replay(const std::string& device, const std::string& meta_path, const StartTrace& trace) {
  FASTOCI_TRY(ExtentMap extents, ExtentMap::Read(meta_path));
  StartReplay replay(trace, &extents);
  // Without the kernel's events it is not known what of it is used.
  std::optional<KernelTrace> kernel;
  if (auto numbers = AskImageNumbers(options_.control_socket, device, kServedMs); numbers.ok())
    if (auto begun = KernelTrace::Begin(numbers->image_no); begun.ok()) kernel.emplace(std::move(*begun));
  FASTOCI_CHECK_OK(replay.Run(DmNodePath(kDmNamePrefix + device)));
  LogEvent(LogLevel::kInfo, {.kind = "start_replayed", .image = device}, "%s: reads ahead what its start reads, %s",
           device.c_str(), HumanBytes(replay.count().asked()).c_str());
  if (!kernel) return OkStatus();
  for (const auto end = Clock::now() + options_.length; !stop_ && Clock::now() < end;) {
    pollfd fd = {kernel->fd(), POLLIN, 0};
    (void)::poll(&fd, 1, kTickMs);
    Trace events;
    kernel->Read(&events);
    for (const TraceRead& read : events.reads) replay.Add(read);
  }
  if (stop_) return OkStatus();
  const StartReplay::Count count = replay.count();
  metrics_.Prefetched(count.present, count.used, count.unused);
  LogEvent(LogLevel::kInfo, {.kind = "start_counted", .image = device},
           "%s: of what was read ahead, %s were in the cache before, %s were used, %s were not", device.c_str(),
           HumanBytes(count.present).c_str(), HumanBytes(count.used).c_str(), HumanBytes(count.unused).c_str());
  return OkStatus();
}

Status StartTraces::RecordTo(const std::string& device, const std::string& meta_path, const std::string& path) {
  UniqueFd out(::open(path.c_str(), O_WRONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
  struct stat st;
  if (!out.valid() || ::fstat(out.get(), &st) != 0) return ErrnoError("open " + path);
  if (!S_ISREG(st.st_mode) || st.st_size != 0) return InvalidError(path + " is not an empty file");
  const std::string lock = path + ".lock", node = DmNodePath(kDmNamePrefix + device);
  FASTOCI_CHECK_OK(MakeEmpty(lock));
  auto recorder = StartRecorder::Begin(options_.control_socket, device, meta_path);
  if (recorder.ok())
    Watch(&*recorder, kMaxRecording, [&] { return ::access(lock.c_str(), F_OK) != 0 || ::access(node.c_str(), F_OK) != 0; });
  ::unlink(lock.c_str());
  if (!recorder.ok()) return recorder.error();
  FASTOCI_CHECK_OK(WriteFull(out.get(), AsBytes(StartToText(recorder->trace())), path));
  return MakeEmpty(path + ".ok");
}

}  // namespace fastoci
