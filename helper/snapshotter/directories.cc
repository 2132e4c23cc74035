// SPDX-License-Identifier: Apache-2.0
#include "snapshotter/directories.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <memory>
#include <vector>

#include "base/log.h"
#include "base/unique_fd.h"
#include "snapshotter/tree.h"

namespace fastoci {
namespace {

// The number that a name is, or -1.
int64_t IdOf(const std::string& name) {
  if (name.empty() || name.size() > 18 || name.find_first_not_of("0123456789") != std::string::npos) return -1;
  return std::strtoll(name.c_str(), nullptr, 10);
}

Result<std::vector<int64_t>> IdsIn(const std::string& path) {
  std::unique_ptr<DIR, int (*)(DIR*)> dir(::opendir(path.c_str()), ::closedir);
  if (!dir) return ErrnoError("read " + path);
  std::vector<int64_t> ids;
  while (struct dirent* e = ::readdir(dir.get()))
    if (int64_t id = IdOf(e->d_name); id >= 0) ids.push_back(id);
  return ids;
}

}  // namespace

DiskUsage MeasureDirectory(const std::string& path) {
  constexpr int64_t kStatBlock = 512;
  DiskUsage usage;
  std::set<std::pair<dev_t, ino_t>> linked;
  auto add = [&](int parent, const char* name) {
    struct stat st;
    if (::fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) != 0) return;
    if (!S_ISDIR(st.st_mode) && st.st_nlink > 1 && !linked.insert({st.st_dev, st.st_ino}).second) return;
    usage.inodes++;
    usage.bytes += st.st_blocks * kStatBlock;
  };
  add(AT_FDCWD, path.c_str());
  (void)WalkTree(path, {add, add}).ok();
  return usage;
}

Result<std::unique_ptr<SnapshotDirectories>> SnapshotDirectories::Open(const std::string& root, SnapshotStore* store,
                                                                       Prepare before_removal) {
  const std::string path = root + "/snapshots";
  FASTOCI_CHECK_OK(MakeDirs(path, 0700));
  FASTOCI_TRY(auto ids, IdsIn(path));
  for (int64_t id : ids) store->SkipIds(id);
  std::unique_ptr<SnapshotDirectories> out(new SnapshotDirectories(path, store, std::move(before_removal)));
  out->thread_ = std::thread([d = out.get()] { d->Run(); });
  return out;
}

SnapshotDirectories::~SnapshotDirectories() {
  {
    std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  thread_.join();
}

Result<int64_t> SnapshotDirectories::Make(bool with_work, const Prepare& prepare) {
  int64_t id = store_.NextId();
  {
    std::lock_guard lock(mutex_);
    making_.insert(id);
  }
  Status status = OkStatus();
  for (const std::string& dir : {Dir(id), Files(id), with_work ? Work(id) : std::string()}) {
    if (!status.ok() || dir.empty()) break;
    const mode_t mode = dir == Files(id) ? 0755 : dir == Dir(id) ? 0700 : 0711;
    if (::mkdir(dir.c_str(), 0700) != 0 || ::chmod(dir.c_str(), mode) != 0) status = ErrnoError("make " + dir);
    if (status.ok() && dir == Dir(id) && prepare) status = prepare(id, dir);
  }
  if (status.ok()) return id;
  Discard(id);
  return status.error();
}

void SnapshotDirectories::Adopt(int64_t id) {
  std::lock_guard lock(mutex_);
  making_.erase(id);
}

void SnapshotDirectories::Discard(int64_t id) {
  {
    std::lock_guard lock(mutex_);
    making_.erase(id);
    discarded_.insert(id);
  }
  wake_.notify_all();
}

Status SnapshotDirectories::RemoveIfRubbish(int64_t id) {
  {
    // The order matters: a directory is adopted after its row exists.
    std::lock_guard lock(mutex_);
    if (making_.count(id) != 0) return OkStatus();
  }
  FASTOCI_TRY(bool known, store_.HasId(id));
  if (known) return OkStatus();
  if (before_removal_) FASTOCI_CHECK_OK(before_removal_(id, Dir(id)));
  return RemoveTree(Dir(id));
}

Status SnapshotDirectories::RemoveRubbish() {
  std::lock_guard removing(removing_);
  FASTOCI_TRY(auto ids, IdsIn(root_));
  Status first = OkStatus();
  for (int64_t id : ids) {
    Status status = RemoveIfRubbish(id);
    if (!status.ok() && first.ok()) first = status;
  }
  return first;
}

void SnapshotDirectories::Run() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return !discarded_.empty() || stop_; });
    if (stop_) return;
    const int64_t id = *discarded_.begin();
    discarded_.erase(id);
    lock.unlock();
    Status status = OkStatus();
    {
      std::lock_guard removing(removing_);
      status = RemoveIfRubbish(id);
    }
    if (!status.ok())
      Log(LogLevel::kWarning, "cannot delete a removed snapshot's files: %s", status.error().message.c_str());
    lock.lock();
  }
}

}  // namespace fastoci
