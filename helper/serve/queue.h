// SPDX-License-Identifier: Apache-2.0
// The queue of conversions, on disk (SQLite). An image that was pushed is converted even if
// the service ends in between. Each manifest of a repository is converted once.
//
//   waiting --Take()--> running --Finish()--> done | skipped
//      ^                   |
//      +---- Retry() ------+-- after the last try --> failed
//
// What was running when the service ended waits again: PutBack(). Times are seconds
// since 1970, given by the caller. Thread-safe.
#ifndef FASTOCI_SERVE_QUEUE_H_
#define FASTOCI_SERVE_QUEUE_H_

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/sqlite.h"

namespace fastoci {

struct ServeJob {
  int64_t id = 0;
  std::string repository, tag, digest;
  std::string state;
  uint64_t tries = 0;  // that were begun
  int64_t queued_at = 0, next_at = 0, begun_at = 0, ended_at = 0;
  uint64_t bytes = 0;   // of the image's layers; 0: not known yet
  std::string result;   // digest of the artifact
  std::string message;  // why it failed, or was skipped
};

class ServeQueue {
 public:
  static Result<std::unique_ptr<ServeQueue>> Open(const std::string& path);

  // Adds a conversion. If it is in the queue already and has failed or was skipped, it waits
  // again: the reason may have gone. False: it waits, runs or is done.
  Result<bool> Add(const std::string& repository, const std::string& tag,
                   const std::string& digest, int64_t now);
  // Takes the oldest conversion that may begin now; it then counts as running. Null: none.
  Result<std::optional<ServeJob>> Take(int64_t now);
  Status SetBytes(int64_t id, uint64_t bytes);
  Status Finish(int64_t id, const std::string& result, int64_t now);
  Status Skip(int64_t id, const std::string& why, int64_t now);
  // A try failed: the conversion waits until next_at. final: it has failed for good.
  Status Retry(int64_t id, const std::string& why, int64_t now, int64_t next_at, bool final);

  // What runs waits again. For the one process that converts: at its begin, and at its orderly
  // end, which is no fault of the image. tried: whether the tries that were begun count.
  Status PutBack(bool tried);

  // When the next conversion may begin; null: none waits.
  Result<std::optional<int64_t>> NextAt();
  Result<std::map<std::string, uint64_t>> CountByState();
  // Newest first.
  Result<std::vector<ServeJob>> List(size_t limit);
  // Forgets conversions that ended before that time.
  Status Forget(int64_t before);

 private:
  ServeQueue() = default;
  std::mutex mutex_;
  std::unique_ptr<SqliteDb> db_;  // guarded by mutex_
};

}  // namespace fastoci

#endif  // FASTOCI_SERVE_QUEUE_H_
