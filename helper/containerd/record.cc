// SPDX-License-Identifier: Apache-2.0
#include "containerd/record.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "attach/start_artifact.h"
#include "attach/start_record.h"
#include "base/format.h"
#include "base/process.h"
#include "base/thread.h"
#include "base/unique_fd.h"
#include "containerd/rpull.h"
#include "http/http_client.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kConnectMs = 10000;
constexpr int64_t kLeaseS = 24 * 3600;
constexpr int kTickMs = 50;
constexpr int kTermMs = 5000, kKillMs = 10000, kCtrMs = 30000;  // to end, when asked to
constexpr int64_t kProbeMs = 2000;
constexpr auto kProbePause = std::chrono::milliseconds(100);
constexpr char kMounts[] = "/mounts/";  // <root of the snapshotter>/mounts/<device>

// Asks a URL until it answers with 2xx. A thread of its own.
class ReadyProbe {
 public:
  explicit ReadyProbe(const std::string& url) : url_(url) {}
  Status Start() {
    if (url_.empty()) return OkStatus();
    FASTOCI_TRY(thread_, StartThread([this] { Run(); }));
    return OkStatus();
  }
  ~ReadyProbe() {
    stop_ = true;
    if (thread_.joinable()) thread_.join();
  }
  bool ready() const { return ready_; }

 private:
  void Run() {
    auto client = HttpClient::Open(HttpOptions());
    while (client.ok() && !stop_ && !ready_) {
      HttpRequest request;
      request.url = url_;
      request.deadline = DeadlineIn(kProbeMs);
      request.fresh_connection = true;
      auto response = (*client)->Send(request);
      ready_ = response.ok() && response->status / 100 == 2;
      std::this_thread::sleep_for(kProbePause);
    }
  }
  const std::string url_;
  std::atomic<bool> stop_{false}, ready_{false};
  std::thread thread_;
};

// A command that runs meanwhile, and is ended with us.
class Meanwhile {
 public:
  ~Meanwhile() { End(); }
  Status Start(const std::vector<std::string>& words) {
    FASTOCI_TRY(pid_, StartCommand(words, true));
    return OkStatus();
  }
  bool Ended() {
    if (pid_ > 0 && ::waitpid(pid_, &status_, WNOHANG) == pid_) pid_ = 0;
    return pid_ == 0;
  }
  int status() const { return status_; }
  // True: within the time.
  bool Signal(int signal, int timeout_ms) {
    if (pid_ > 0) ::kill(pid_, signal);
    for (const auto end = Clock::now() + std::chrono::milliseconds(timeout_ms); pid_ > 0 && !Ended();) {
      if (Clock::now() > end) return false;
      std::this_thread::sleep_for(std::chrono::milliseconds(kTickMs));
    }
    return true;
  }
  void End() {
    if (pid_ > 0 && !Signal(SIGTERM, kTermMs)) (void)Signal(SIGKILL, kKillMs);
  }

 private:
  pid_t pid_ = -1;  // -1: none was started; 0: it has ended
  int status_ = 0;
};

// What is recorded.
struct Target {
  std::string device;     // its name
  std::string meta_path;  // its assembled meta image
  std::string ref;        // of the image; "": not known
};

class Recording {
 public:
  Recording(const RecordRequest& request, const std::function<bool()>& interrupted, Progress* progress)
      : r_(request), interrupted_(interrupted), progress_(*progress) {}
  ~Recording() {
    EndContainer();
    if (!held_.empty()) (void)containerd_->RemoveSnapshot(r_.snapshotter, held_).ok();
  }

  Result<RecordResult> Run() {
    if (!IsWorkloadName(r_.workload))
      return InvalidError("\"" + r_.workload + "\" is no name of a workload: up to 63 letters, digits, '.', '_' and '-'");
    auto found = Prepare();
    if (interrupted_()) return Error{ErrorKind::kInternal, ECANCELED, "interrupted before the recording began"};
    FASTOCI_TRY(const Target target, std::move(found));
    if (r_.drop_caches) FASTOCI_CHECK_OK(DropCaches());
    FASTOCI_TRY(StartRecorder recorder, StartRecorder::Begin(r_.paths.control_socket, target.device, target.meta_path));
    FASTOCI_CHECK_OK(StartWhatRuns());
    progress_.Step("recording " + r_.image);
    FASTOCI_CHECK_OK(Watch(&recorder));
    EndContainer();
    meanwhile_.End();
    result_.image = r_.image;
    result_.workload = r_.workload;
    result_.runs = recorder.trace().runs.size();
    result_.bytes = recorder.trace().bytes();
    result_.lost = recorder.lost();
    if (result_.runs == 0)
      return NotFoundError("nothing was read from the device. Data that is in the page cache already is not seen; try --drop-caches");
    FASTOCI_CHECK_OK(Keep(recorder.trace()));
    return result_;
  }

 private:
  Result<Target> Prepare() {
    FASTOCI_TRY(Target target, r_.attached ? FindAttached() : FindContainers());
    if (r_.output.empty()) FASTOCI_CHECK_OK(FindImageManifest(target));
    return target;
  }

  Result<Target> FindAttached() {
    FASTOCI_TRY(ImageReport image, FindImage(r_.paths, r_.image));
    if (!image.attached) return NotFoundError(image.name + " is not attached; attach it first: fastoci attach");
    if (image.state.ref.empty() && r_.output.empty())
      return InvalidError(image.name + " was not attached by a reference, so there is no place to push to; name a file: -o FILE");
    return Target{image.name, image.state.meta_path, image.state.ref};
  }

  Result<Target> FindContainers() {
    FASTOCI_TRY(containerd_, ContainerdClient::Connect(r_.address, r_.name_space, kConnectMs));
    if (!r_.container.empty()) {
      FASTOCI_TRY(auto mounts, containerd_->SnapshotMounts(r_.snapshotter, r_.container));
      return TargetOf(mounts);
    }
    RpullRequest pull;
    pull.ref = r_.image;
    pull.address = r_.address;
    pull.name_space = r_.name_space;
    pull.snapshotter = r_.snapshotter;
    pull.access = r_.access;
    FASTOCI_TRY(RpullResult pulled, Rpull(pull, &progress_));
    name_ = pulled.name;
    // Holds the device, so that the recording can begin before the container does.
    FASTOCI_CHECK_OK(containerd_->Lease(kLeaseS));
    const std::string key = "fastoci-record-" + std::to_string(Clock::now().time_since_epoch().count());
    FASTOCI_TRY(auto mounts, containerd_->PrepareSnapshot(r_.snapshotter, key, pulled.chain_id, {}));
    held_ = key;
    return TargetOf(mounts);
  }

  Result<Target> TargetOf(const std::vector<ContainerdMount>& mounts) const {
    for (const ContainerdMount& mount : mounts) {
      std::vector<std::string> paths = {mount.source};
      for (const std::string& option : mount.options)
        if (option.starts_with("lowerdir=")) paths.push_back(option.substr(option.find_last_of("=:") + 1));
      for (const std::string& path : paths) {
        const size_t at = path.rfind(kMounts);
        if (at == std::string::npos) continue;
        const std::string device = path.substr(at + sizeof(kMounts) - 1);
        auto state = ReadState(path.substr(0, at) + "/devices", device);
        if (state.ok()) return Target{device, state->meta_path, r_.image};
      }
    }
    return Error{ErrorKind::kUnsupported, EOPNOTSUPP,
                 r_.image + " is not on a device of FastOCI here, so there is nothing to record: it was pulled in the "
                            "ordinary way, or its container has a writable device"};
  }

  // The manifest that the trace will be about.
  Status FindImageManifest(const Target& target) {
    FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(r_.access));
    FASTOCI_TRY(image_, puller.Resolve(target.ref, &progress_));
    const std::string name =
        image_->layout ? target.ref : image_->ref.WithDigest(image_->named.digest).ToString();
    RegistryAccess push = r_.access;
    push.watch = nullptr;  // what an interrupt ends is pushed
    FASTOCI_TRY(store_, OpenImageStore(name, push, false));
    return OkStatus();
  }

  static Status DropCaches() {
    constexpr char kPath[] = "/proc/sys/vm/drop_caches";
    UniqueFd fd(::open(kPath, O_WRONLY | O_CLOEXEC));
    if (!fd.valid()) return ErrnoError(std::string("open ") + kPath);
    return WriteFull(fd.get(), AsBytes("1"), kPath);
  }

  std::vector<std::string> Ctr(const std::vector<std::string>& words) const {
    std::vector<std::string> all = {"ctr", "-a", r_.address, "-n", r_.name_space};
    all.insert(all.end(), words.begin(), words.end());
    return all;
  }

  Status StartWhatRuns() {
    if (r_.attached) return r_.command.empty() ? OkStatus() : meanwhile_.Start(r_.command);
    if (!r_.container.empty()) return OkStatus();
    container_ = held_ + "-run";
    std::vector<std::string> words = {"run", "--rm", "--snapshotter", r_.snapshotter};
    if (r_.host_network) words.push_back("--net-host");
    for (const std::string& variable : r_.env) words.insert(words.end(), {"--env", variable});
    words.insert(words.end(), {name_, container_});
    words.insert(words.end(), r_.command.begin(), r_.command.end());
    return meanwhile_.Start(Ctr(words));
  }

  // Runs a command of ctr to its end, whatever that is.
  void RunCtr(const std::vector<std::string>& words) const {
    auto pid = StartCommand(Ctr(words), true);
    if (pid.ok()) (void)WaitForChild(*pid, kCtrMs).ok();
  }

  // ctr forwards what ends it to the container, and deletes that when it has ended.
  void EndContainer() {
    const std::string container = std::exchange(container_, "");
    if (container.empty() || meanwhile_.Ended() || meanwhile_.Signal(SIGTERM, kTermMs)) return;
    RunCtr({"task", "kill", "-s", "SIGKILL", container});
    if (meanwhile_.Signal(0, kKillMs)) return;
    meanwhile_.End();
    RunCtr({"task", "rm", "-f", container});
    RunCtr({"container", "rm", container});
  }

  Status Watch(StartRecorder* recorder) {
    ReadyProbe probe(r_.until_url);
    FASTOCI_CHECK_OK(probe.Start());
    const auto begin = Clock::now();
    const auto end = begin + std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(r_.seconds));
    while (result_.ended_by.empty()) {
      pollfd fd = {recorder->fd(), POLLIN, 0};
      (void)::poll(&fd, 1, kTickMs);
      recorder->Take();
      progress_.Bytes(recorder->bytes(), r_.max_bytes);
      if (probe.ready()) result_.ended_by = "ready";
      else if (r_.max_bytes > 0 && recorder->bytes() >= r_.max_bytes) result_.ended_by = "size";
      else if (meanwhile_.Ended()) result_.ended_by = "exit";
      else if (interrupted_()) result_.ended_by = "interrupt";
      else if (Clock::now() >= end) result_.ended_by = "time";
    }
    recorder->Take();
    result_.seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    if (result_.ended_by == "exit" && meanwhile_.status() != 0)
      progress_.Warn("what was run " + HowItEnded(meanwhile_.status()));
    if (r_.until_url.empty() || (result_.ended_by != "time" && result_.ended_by != "exit")) return OkStatus();
    return Error{ErrorKind::kUnavailable, ETIMEDOUT,
                 r_.until_url + " did not answer with success " +
                     (result_.ended_by == "time" ? Format("within %g s", r_.seconds) : "before what was run ended") +
                     "; nothing was kept"};
  }

  Status Keep(const StartTrace& trace) {
    if (!r_.output.empty()) return WriteFileAtomic(r_.output, AsBytes(StartToText(trace)));
    for (const std::string& blob : trace.blobs) {
      const auto& layers = image_->fastoci.layers;
      if (std::none_of(layers.begin(), layers.end(), [&](const MetaLayer& l) { return l.target_digest == blob; }))
        return MismatchError(image_->ref.ToString() + " names another image now than the one that was recorded: it has no layer " +
                             blob);
    }
    progress_.Step("pushing the trace");
    result_.image_digest = image_->named.digest;
    FASTOCI_TRY(result_.artifact_digest, PushStart(store_->store.get(), image_->named, r_.workload, trace));
    return OkStatus();
  }

  const RecordRequest& r_;
  const std::function<bool()>& interrupted_;
  Progress& progress_;
  std::unique_ptr<ContainerdClient> containerd_;
  std::string name_;       // of the image in containerd
  std::string held_;       // a snapshot of ours
  std::string container_;  // that we run
  Meanwhile meanwhile_;
  std::optional<ResolvedImage> image_;
  std::optional<NamedImage> store_;
  RecordResult result_;
};

}  // namespace

Result<RecordResult> Record(const RecordRequest& request, const std::function<bool()>& interrupted,
                            Progress* progress) {
  return Recording(request, interrupted, progress).Run();
}

}  // namespace fastoci
