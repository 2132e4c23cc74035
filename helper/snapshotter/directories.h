// SPDX-License-Identifier: Apache-2.0
// The snapshots' directories: <root>/snapshots/<id>/ with fs (the files, or the upper
// directory) and, for active ones, work. A thread removes directories, because a large one
// takes a while. A directory that has no row in the database is rubbish. It is removed soon,
// or at the next start.
#ifndef FASTOCI_SNAPSHOTTER_DIRECTORIES_H_
#define FASTOCI_SNAPSHOTTER_DIRECTORIES_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>

#include "base/result.h"
#include "snapshotter/store.h"

namespace fastoci {

class SnapshotDirectories {
 public:
  // Tells the store which numbers are taken. before_removal: called with number and path before
  // a directory is removed. If it fails, the directory stays until RemoveRubbish().
  using Prepare = std::function<Status(int64_t id, const std::string& dir)>;
  static Result<std::unique_ptr<SnapshotDirectories>> Open(const std::string& root, SnapshotStore* store,
                                                           Prepare before_removal = nullptr);
  ~SnapshotDirectories();

  std::string Dir(int64_t id) const { return root_ + "/" + std::to_string(id); }
  std::string Files(int64_t id) const { return Dir(id) + "/fs"; }
  std::string Work(int64_t id) const { return Dir(id) + "/work"; }

  // Makes a directory with a new number. prepare: called with its number and path while it is
  // empty. Until Discard() it does not count as rubbish. After Adopt() it is rubbish if it has
  // no row.
  Result<int64_t> Make(bool with_work, const Prepare& prepare = nullptr);
  void Adopt(int64_t id);
  // Says that the directory has no row any more, or never got one. It is removed soon.
  void Discard(int64_t id);
  // Removes all directories without a row; returns when they are gone.
  Status RemoveRubbish();

 private:
  SnapshotDirectories(std::string root, SnapshotStore* store, Prepare before_removal)
      : root_(std::move(root)), store_(*store), before_removal_(std::move(before_removal)) {}
  Status RemoveIfRubbish(int64_t id);
  void Run();

  const std::string root_;
  SnapshotStore& store_;
  const Prepare before_removal_;
  std::mutex mutex_, removing_;
  std::condition_variable wake_;
  std::set<int64_t> making_;
  std::set<int64_t> discarded_;
  bool stop_ = false;
  std::thread thread_;
};

// What a directory's files occupy. A file with several hard links counts once. Other file
// systems mounted under the directory, and files that vanish meanwhile, do not count.
DiskUsage MeasureDirectory(const std::string& path);

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_DIRECTORIES_H_
