// SPDX-License-Identifier: Apache-2.0
// The snapshots service over gRPC. It makes calls of Snapshotter from requests and status
// codes from errors, and counts each answer. gRPC's own threads call it, one per request.
#ifndef FASTOCI_SNAPSHOTTER_SERVICE_H_
#define FASTOCI_SNAPSHOTTER_SERVICE_H_

#include <memory>
#include <string>

#include "base/result.h"

namespace fastoci {

class Snapshotter;
class SnapshotterMetrics;

// The gRPC status code, as a number, that tells containerd of an error. Only the store's marks
// (store.h) make AlreadyExists, NotFound and FailedPrecondition.
int StatusCodeOf(const Error& error);

class SnapshotServer {
 public:
  // Listens on the Unix socket, which only root may use. Replaces a socket that a dead server
  // left. snapshotter and metrics must outlive the server.
  static Result<std::unique_ptr<SnapshotServer>> Start(const std::string& socket_path, Snapshotter* snapshotter,
                                                       SnapshotterMetrics* metrics);
  // Takes no more requests, and cancels those that run after a few seconds. Nevertheless it
  // waits for them, however long they take.
  ~SnapshotServer();

 private:
  struct Impl;
  explicit SnapshotServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastoci

#endif  // FASTOCI_SNAPSHOTTER_SERVICE_H_
