// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/snapshotter.h"

#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <set>

#include "base/event.h"
#include "base/parallel.h"
#include "base/unique_fd.h"
#include "kernel/dm_control.h"
#include "snapshotter/filter.h"

namespace fastoci {
namespace {

constexpr char kDatabase[] = "metadata.db";
constexpr char kUidMapLabel[] = "containerd.io/snapshot/uidmapping";
constexpr char kQuotaLabel[] = "containerd.io/snapshot/disk_quota";
constexpr char kGidMapLabel[] = "containerd.io/snapshot/gidmapping";
constexpr size_t kRecoveries = 4;  // devices at a time

// The owner on the host of what is root in the container: "0:100000:65536" -> 100000.
Result<uint32_t> MappedRoot(const std::string& map) {
  unsigned container = 0, host = 0, length = 0;
  if (map.empty()) return uint32_t{0};
  if (std::sscanf(map.c_str(), "%u:%u:%u", &container, &host, &length) != 3 || container != 0 || length == 0)
    return InvalidError("mapping \"" + map + "\" of the user namespace does not begin with 0:HOST:LENGTH");
  return uint32_t{host};
}

}  // namespace

Result<std::unique_ptr<Snapshotter>> Snapshotter::Open(const SnapshotterOptions& options,
                                                       SnapshotterMetrics* metrics) {
  std::unique_ptr<Snapshotter> s(new Snapshotter(options, metrics));
  const std::string& root = options.device.root;
  FASTOCI_CHECK_OK(MakeDirs(root, 0711));
  FASTOCI_TRY(s->store_, SnapshotStore::Open(root + "/" + kDatabase));
  s->writable_ = std::make_unique<WritableDevices>(root, options.device.context);
  FASTOCI_TRY(s->directories_, SnapshotDirectories::Open(root, s->store_.get(), [w = s->writable_.get()](
                                                             int64_t id, const std::string& dir) {
    return w->Remove(id, dir);
  }));
  s->devices_ = std::make_unique<ChainDevices>(options.device, s->store_.get(), metrics);
  s->artifacts_ = std::make_unique<ArtifactFinder>(ArtifactFinder::Options{
      root + "/artifacts", options.device.node_config, options.device.control_socket, options.device.access});
  s->policy_ = std::make_unique<ImagePolicy>(ImagePolicy::Options{options.device.node_config, options.device.access});
  if (options.sync) {
    s->disk_ = std::make_unique<DiskSync>(options.sync);
  } else {
    FASTOCI_TRY(s->disk_, DiskSync::Open(root + "/snapshots"));
  }
  s->lowers_ = std::make_unique<LowerLayers>(s->store_.get(), s->directories_.get());
  s->taker_ = std::make_unique<LayerTaker>(
      LayerTaker::Parts{s->store_.get(), s->directories_.get(), s->lowers_.get(), s->devices_.get(), s->artifacts_.get(),
                        s->policy_.get(), s->disk_.get(), metrics},
      options.referrers);
  SnapshotStore* store = s->store_.get();
  s->sampler_ = std::make_unique<UsageSampler>(
      [store](int64_t id, const DiskUsage& usage) { (void)store->SetUsage(id, usage).ok(); });
  s->quota_ = ProjectQuota::Open(root);
  s->index_off_ = ::access("/sys/module/overlay/parameters/index", F_OK) == 0;
  return s;
}

Snapshotter::~Snapshotter() {
  stop_ = true;
  if (recovery_.joinable()) recovery_.join();
}

void Snapshotter::Recover() {
  recovery_ = std::thread([this] {
    Status status = directories_->RemoveRubbish();
    if (!status.ok()) Log(LogLevel::kWarning, "cannot remove what a crash left: %s", status.error().message.c_str());
    auto all = store_->List();
    if (!all.ok()) return Log(LogLevel::kError, "cannot list which devices are needed: %s", all.error().message.c_str());
    std::map<std::string, std::string> needed;  // device -> one of its readers
    for (const Snapshot& s : *all)
      if (s.kind != SnapshotKind::kCommitted && !s.device.empty()) needed.emplace(s.device, s.name);
    const std::vector<std::pair<std::string, std::string>> work(needed.begin(), needed.end());
    (void)RunParallel(work.size(), kRecoveries, [&](size_t i) {
      if (stop_) return OkStatus();
      auto lowers = lowers_->Of(work[i].second);
      if (!lowers.ok() || lowers->device != work[i].first) return OkStatus();  // it was removed
      auto reader = store_->Get(work[i].second);
      (void)devices_->Ensure(work[i].first, [&] { return lowers_->Describe(lowers->lazy); },
                             lowers_->OriginOf(lowers->lazy, work[i].second, reader.ok() ? reader->labels : Labels()))
          .ok();
      return OkStatus();  // one that fails, and has said so, keeps no other one from coming
    });
    devices_->ReleaseAll();
  });
}

Result<std::vector<MountSpec>> Snapshotter::Prepare(const std::string& key, const std::string& parent,
                                                    const Labels& labels) {
  if (labels.count(kRefLabel) != 0) {
    FASTOCI_TRY(bool taken, taker_->Take(key, parent, labels));
    if (taken) return Error{ErrorKind::kIo, kMarkTaken, "layer " + labels.at(kRefLabel) + " is there already"};
  }
  return Create(SnapshotKind::kActive, key, parent, labels);
}

Result<std::vector<MountSpec>> Snapshotter::View(const std::string& key, const std::string& parent,
                                                 const Labels& labels) {
  return Create(SnapshotKind::kView, key, parent, labels);
}

Result<std::vector<MountSpec>> Snapshotter::Create(SnapshotKind kind, const std::string& key,
                                                   const std::string& parent, const Labels& labels) {
  if (key.empty()) return InvalidError("a snapshot needs a key");
  FASTOCI_TRY(Lowers lowers, lowers_->Of(parent));
  if (auto told = LayerOfLabels(labels); labels.count(kRefLabel) != 0 && told.ok() &&
                                         (told->kind == LayerKind::kMeta ||
                                          (told->kind == LayerKind::kTrace && lowers.dirs.empty())))
    lowers = Lowers();  // its files are unpacked, and nothing under them
  Snapshot snapshot;
  uint64_t limit = 0;
  if (const std::string text = LabelOf(labels, kQuotaLabel); !text.empty()) {
    FASTOCI_TRY(limit, ParseQuota(text));
    if (!quota_.available())
      Log(LogLevel::kWarning, "%s: no quota: the file system of %s is not mounted with prjquota", key.c_str(),
          options_.device.root.c_str());
  }
  const bool project = kind == SnapshotKind::kActive && quota_.available();
  FASTOCI_TRY(snapshot.id, directories_->Make(kind == SnapshotKind::kActive, [&](int64_t id, const std::string& dir) {
    return project ? quota_.Assign(id, dir, limit) : OkStatus();
  }));
  snapshot.name = key;
  snapshot.parent = parent;
  snapshot.kind = kind;
  snapshot.labels = labels;
  snapshot.device = lowers.device;
  Status created = store_->Create(snapshot);
  if (!created.ok()) {
    directories_->Discard(snapshot.id);
    return created.error();
  }
  directories_->Adopt(snapshot.id);
  std::string why;
  auto mounts = Compose(snapshot, lowers, &why);
  if (mounts.ok() && !why.empty()) ReportFallback(&metrics_, "writable", Layer(), "container " + key + " gets an overlay: " + why);
  Status owned = OkStatus();
  if (mounts.ok()) owned = ChownUpper(snapshot, *mounts);
  if (mounts.ok() && owned.ok()) {
    RecordIfAsked(snapshot);
    return mounts;
  }
  // Nobody knows of it yet: it is as if it had not been asked for.
  if (auto removed = store_->Remove(key); removed.ok()) directories_->Discard(snapshot.id);
  devices_->Release(snapshot.device);
  return mounts.ok() ? owned.error() : mounts.error();
}

// overlaybd's labels: to an empty file a trace is recorded, one that holds a trace is replayed.
void Snapshotter::RecordIfAsked(const Snapshot& snapshot) {
  struct stat st;
  const std::string path = RecordPath(snapshot.name, snapshot.labels);
  if (!path.empty() && !snapshot.device.empty() && ::lstat(path.c_str(), &st) == 0 && st.st_size == 0)
    devices_->Record(snapshot.device, path);
}

// The root directory of an upper or of a new tree is as that of what it lies over.
Status Snapshotter::ChownUpper(const Snapshot& snapshot, const std::vector<MountSpec>& mounts) {
  const std::string upper = directories_->Files(snapshot.id);
  FASTOCI_TRY(uint32_t uid, MappedRoot(LabelOf(snapshot.labels, kUidMapLabel)));
  FASTOCI_TRY(uint32_t gid, MappedRoot(LabelOf(snapshot.labels, kGidMapLabel)));
  mode_t mode = 0755;
  for (const std::string& option : mounts[0].options) {
    constexpr char kLower[] = "lowerdir=";
    if (option.rfind(kLower, 0) != 0) continue;
    const size_t begin = sizeof(kLower) - 1;
    struct stat st;
    if (::stat(option.substr(begin, option.find(':') - begin).c_str(), &st) != 0) continue;
    mode = st.st_mode & 07777;
    if (uid == 0 && gid == 0) uid = st.st_uid, gid = st.st_gid;
  }
  if (snapshot.kind != SnapshotKind::kActive) return OkStatus();
  if (::chown(upper.c_str(), uid, gid) != 0 || ::chmod(upper.c_str(), mode) != 0) return ErrnoError("own " + upper);
  return OkStatus();
}

Result<std::vector<MountSpec>> Snapshotter::Compose(const Snapshot& snapshot, const Lowers& lowers, std::string* why) {
  OverlayInput input;
  input.kind = snapshot.kind;
  input.upper = directories_->Files(snapshot.id);
  input.work = directories_->Work(snapshot.id);
  input.lowers = lowers.dirs;
  input.index_off = index_off_;
  input.uid_map = LabelOf(snapshot.labels, kUidMapLabel);
  input.gid_map = LabelOf(snapshot.labels, kGidMapLabel);
  if (lowers.device.empty()) {
    (void)ModeOf(snapshot, lowers, why);  // why there is no device
  } else {
    FASTOCI_TRY(std::string dir, devices_->Ensure(lowers.device, [&] { return lowers_->Describe(lowers.lazy); },
                                                  lowers_->OriginOf(lowers.lazy, snapshot.name, snapshot.labels)));
    const WritableMode mode = ModeOf(snapshot, lowers, why);
    if (mode != WritableMode::kOverlay) return ComposeWritable(snapshot, lowers.device, mode);
    input.lowers.push_back(dir);
  }
  return OverlayMounts(input);
}

WritableMode Snapshotter::ModeOf(const Snapshot& snapshot, const Lowers& lowers, std::string* why) const {
  auto mode = WritableModeOf(snapshot.labels);
  const bool asked = !mode.ok() || *mode != WritableMode::kOverlay;
  if (!asked || snapshot.kind != SnapshotKind::kActive) return WritableMode::kOverlay;
  // What was decided when the snapshot was made stays: what it wrote is there.
  if (!why) return WritableDevices::Has(directories_->Dir(snapshot.id)) && mode.ok() ? *mode : WritableMode::kOverlay;
  Status available = OkStatus();
  if (!mode.ok()) {
    *why = mode.error().message;
  } else if (lowers.device.empty() || !lowers.dirs.empty()) {
    *why = "the image has ordinary layers, and a writable device cannot be made from these";
  } else if (snapshot.labels.count(kUidMapLabel) + snapshot.labels.count(kGidMapLabel) > 0) {
    *why = "its user namespace needs other owners than the device's file system has";
  } else if (available = WritableDevices::Available(); !available.ok()) {
    *why = available.error().message;
  }
  if (!why->empty()) return WritableMode::kOverlay;
  // Its mount is there, and its superblock in memory.
  struct statfs fs;
  if (::statfs(devices_->MountPoint(lowers.device).c_str(), &fs) != 0 || fs.f_type != EXT4_SUPER_MAGIC) {
    *why = "the image's file system is not ext4";
    return WritableMode::kOverlay;
  }
  return *mode;
}

Result<std::vector<MountSpec>> Snapshotter::ComposeWritable(const Snapshot& snapshot, const std::string& device,
                                                            WritableMode mode) {
  WritableDevices::Request request;
  request.id = snapshot.id;
  request.dir = directories_->Dir(snapshot.id);
  request.origin = DmNodePath(kDmNamePrefix + device);
  if (const std::string text = LabelOf(snapshot.labels, kQuotaLabel); !text.empty()) {
    FASTOCI_TRY(request.bytes, ParseQuota(text));
  }
  if (mode == WritableMode::kDir) {
    FASTOCI_TRY(std::string dir, writable_->EnsureMounted(request));
    return std::vector<MountSpec>{BindMount(dir, true)};
  }
  FASTOCI_TRY(std::string node, writable_->Ensure(request));
  return std::vector<MountSpec>{{"ext4", node, {"rw", "errors=remount-ro"}}};
}

Result<std::vector<MountSpec>> Snapshotter::Mounts(const std::string& key) {
  FASTOCI_TRY(Snapshot snapshot, store_->Get(key));
  if (snapshot.kind == SnapshotKind::kCommitted)
    return Error{ErrorKind::kInvalid, kMarkState, "snapshot " + key + " is committed: it has no mounts"};
  FASTOCI_TRY(Lowers lowers, lowers_->Of(snapshot.parent));
  if (snapshot.device.empty() && !lowers.device.empty()) lowers = Lowers();  // a meta layer that is unpacked
  return Compose(snapshot, lowers, nullptr);
}

Status Snapshotter::Commit(const std::string& name, const std::string& key, const std::string& parent,
                           const Labels& labels) {
  if (name.empty()) return InvalidError("a committed snapshot needs a name");
  FASTOCI_TRY(Snapshot active, store_->Get(key));
  const std::string dir = directories_->Dir(active.id);
  if (WritableDevices::Has(dir))
    return Error{ErrorKind::kUnsupported, kMarkState,
                 "snapshot " + key + " has a writable device, and a layer cannot be made from that"};
  Labels told = active.labels;
  for (const auto& [label, value] : labels) told[label] = value;
  auto named = LayerOfLabels(told);
  auto read = LayerOfFiles(named.ok() ? *named : Layer(), dir);
  // Labels that make no sense do no harm to an ordinary layer.
  if (!named.ok() && (!read.ok() || read->lazy())) return named.error();
  FASTOCI_TRY(Layer layer, std::move(read));
  SnapshotStore::Committing committing;
  committing.key = key;
  committing.name = name;
  committing.parent = parent;
  committing.labels = labels;
  committing.usage = MeasureDirectory(directories_->Files(active.id));
  if (layer.lazy()) {
    FASTOCI_TRY(Lowers lowers, lowers_->Of(parent.empty() ? active.parent : parent));
    if (layer.kind == LayerKind::kTrace && (lowers.device.empty() || !lowers.dirs.empty())) {
      layer.kind = LayerKind::kOrdinary;  // of no lazy image: a file that nobody reads
    } else if (!lowers.dirs.empty()) {
      return InvalidError("a lazy layer cannot lie over an ordinary one: convert the image as a whole");
    } else {
      FASTOCI_CHECK_OK(policy_->Check(layer, ChainIdIn(name)));
      committing.layer = LayerToJson(layer);
      committing.device = devices_->NameFor(lowers.device, layer);
    }
  }
  FASTOCI_CHECK_OK(disk_->Sync());
  FASTOCI_CHECK_OK(store_->Commit(committing));
  sampler_->Forget(active.id);
  devices_->Release(active.device);
  metrics_.Layer(LayerKindName(layer.kind));
  if (layer.lazy()) taker_->Committed(name, told);
  return OkStatus();
}

Status Snapshotter::Remove(const std::string& key) {
  FASTOCI_TRY(Snapshot removed, store_->Remove(key));
  if (removed.kind == SnapshotKind::kActive) quota_.Forget(removed.id);
  sampler_->Forget(removed.id);
  directories_->Discard(removed.id);
  devices_->Release(removed.device);
  return OkStatus();
}

Result<Snapshot> Snapshotter::Stat(const std::string& key) { return store_->Get(key); }

Result<Snapshot> Snapshotter::Update(const std::string& name, const Labels& labels,
                                     const std::vector<std::string>& paths) {
  constexpr char kOne[] = "labels.";
  return store_->UpdateLabels(name, [&](Labels* now) {
    if (paths.empty()) *now = labels;
    for (const std::string& path : paths) {
      if (path == "labels") {
        *now = labels;
      } else if (path.rfind(kOne, 0) == 0) {
        const std::string key = path.substr(sizeof(kOne) - 1);
        auto it = labels.find(key);
        if (it == labels.end()) now->erase(key);
        else (*now)[key] = it->second;
      } else {
        return Status(InvalidError("\"" + path + "\" of a snapshot cannot be changed, only labels can"));
      }
    }
    return OkStatus();
  });
}

Result<std::vector<Snapshot>> Snapshotter::List(const std::vector<std::string>& filters) {
  FASTOCI_TRY(SnapshotFilter filter, SnapshotFilter::Parse(filters));
  FASTOCI_TRY(auto all, store_->List());
  std::erase_if(all, [&](const Snapshot& s) { return !filter.Matches(s); });
  return all;
}

Result<DiskUsage> Snapshotter::Usage(const std::string& key) {
  FASTOCI_TRY(Snapshot snapshot, store_->Get(key));
  if (snapshot.kind != SnapshotKind::kActive) return snapshot.usage;
  if (auto usage = quota_.Usage(snapshot.id)) return *usage;
  const std::string dir = directories_->Dir(snapshot.id);
  return sampler_->Of(snapshot.id, WritableDevices::Has(dir) ? dir : directories_->Files(snapshot.id), snapshot.usage);
}

Status Snapshotter::Cleanup() {
  FASTOCI_CHECK_OK(directories_->RemoveRubbish());
  devices_->Settle();
  return OkStatus();
}

std::string Snapshotter::Gauges() {
  auto all = store_->List();
  if (!all.ok()) return "";
  std::map<std::pair<std::string, std::string>, int> counts;
  for (const Snapshot& s : *all) {
    auto layer = LayerFromJson(s.layer);
    counts[{SnapshotKindName(s.kind), layer.ok() ? LayerKindName(layer->kind) : "damaged"}]++;
  }
  std::string out =
      "# HELP fastoci_snapshotter_snapshots Snapshots, by state and kind of layer.\n"
      "# TYPE fastoci_snapshotter_snapshots gauge\n";
  for (const auto& [key, n] : counts)
    out += "fastoci_snapshotter_snapshots{state=\"" + key.first + "\",kind=\"" + key.second + "\"} " +
           std::to_string(n) + "\n";
  return out;
}

}  // namespace fastoci
