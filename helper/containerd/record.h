// SPDX-License-Identifier: Apache-2.0
// Records what the start of an image reads (attach/start_record.h), and pushes the trace
// beside the image (attach/start_artifact.h). What is recorded is one of:
//   - a container that is run for it, by containerd's ctr, and deleted at the end
//   - a container that runs
//   - an image that `fastoci attach` has attached, and a command on this host, if one is given
#ifndef FASTOCI_CONTAINERD_RECORD_H_
#define FASTOCI_CONTAINERD_RECORD_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "attach/attach.h"
#include "attach/progress.h"
#include "attach/pull.h"
#include "attach/start_trace.h"
#include "base/result.h"
#include "containerd/client.h"

namespace fastoci {

struct RecordRequest {
  std::string image;                 // a reference; with attached: anything that FindImage() takes
  std::vector<std::string> command;  // none: the image's own
  bool attached = false;
  std::string container;  // one that runs; "": run one
  std::string address = kContainerdSocket;
  std::string name_space = "default";
  std::string snapshotter = "fastoci";
  bool host_network = false;
  std::vector<std::string> env;  // NAME=VALUE, for the container that is run
  bool drop_caches = false;      // the machine's page cache, first
  std::string workload = kDefaultWorkload;
  // It ends when one of these is reached, when what is run ends, or when it is interrupted.
  double seconds = 60;
  uint64_t max_bytes = 0;  // of the data that was read; 0: no limit
  std::string until_url;   // that this URL answers with a status of 2xx; "": not asked
  std::string output;      // the file to write; "": push it
  AttachPaths paths;       // of images that `fastoci attach` has attached
  RegistryAccess access;
};

struct RecordResult {
  std::string image, workload;
  std::string image_digest, artifact_digest;  // "" if it was written to a file
  size_t runs = 0;
  uint64_t bytes = 0, lost = 0;  // lost: events that the kernel's buffer had no room for
  double seconds = 0;
  std::string ended_by;  // "time", "size", "ready", "exit" or "interrupt"
};

// interrupted: asked often; true ends the recording, which is kept, or what comes before it, of
// which nothing is kept (ECANCELED in err). request.access.watch ends what waits for a registry
// before it, and not the push. kUnavailable: the URL did not
// answer in time, and nothing is kept. kNotFound: nothing was read, or there is no such image.
Result<RecordResult> Record(const RecordRequest& request, const std::function<bool()>& interrupted,
                            Progress* progress);

}  // namespace fastoci

#endif  // FASTOCI_CONTAINERD_RECORD_H_
