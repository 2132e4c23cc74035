// SPDX-License-Identifier: Apache-2.0
// A client of containerd that does what a pull needs. It uses one namespace and at most one
// lease. What is written under the lease stays at least until the lease ends, even if nothing
// names it yet.
//
// All but Lease() is thread-safe. Errors: kNotFound; kUnavailable (containerd is not there);
// EEXIST in err if something is there already; otherwise kIo with containerd's words.
#ifndef FASTOCI_CONTAINERD_CLIENT_H_
#define FASTOCI_CONTAINERD_CLIENT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"

namespace fastoci {

inline constexpr char kContainerdSocket[] = "/run/containerd/containerd.sock";

using LabelMap = std::map<std::string, std::string>;

struct ContentDescriptor {
  std::string media_type, digest;
  uint64_t bytes = 0;
  LabelMap annotations;
};

struct ContainerdMount {
  std::string type, source, target;
  std::vector<std::string> options;
};

class ContainerdClient {
 public:
  // Asks whether somebody answers, for up to timeout_ms.
  static Result<std::unique_ptr<ContainerdClient>> Connect(const std::string& socket_path,
                                                           const std::string& name_space, int64_t timeout_ms);
  ~ContainerdClient();

  // Makes a lease for all calls that follow. It ends when it expires, or with the client.
  Status Lease(int64_t expires_s);

  // Its labels; kNotFound.
  Result<LabelMap> ContentLabels(const std::string& digest);
  // Labels of content; those that it has besides stay.
  Status SetContentLabels(const std::string& digest, const LabelMap& labels);
  // Writes content, which containerd checks against the digest. produce hands the content over
  // by its argument, from the beginning on. If the content is there already, produce is not
  // called. If another client writes it now, waits for that.
  using Sink = std::function<Status(ByteSpan)>;
  Status WriteContent(const ContentDescriptor& content, const LabelMap& labels,
                      const std::function<Status(const Sink&)>& produce);

  Result<bool> HasSnapshot(const std::string& snapshotter, const std::string& key);
  // EEXIST: the snapshotter took what the label containerd.io/snapshot.ref names.
  Result<std::vector<ContainerdMount>> PrepareSnapshot(const std::string& snapshotter, const std::string& key,
                                                       const std::string& parent, const LabelMap& labels);
  // The mounts of an active snapshot. kNotFound.
  Result<std::vector<ContainerdMount>> SnapshotMounts(const std::string& snapshotter, const std::string& key);
  Status CommitSnapshot(const std::string& snapshotter, const std::string& name, const std::string& key,
                        const LabelMap& labels);
  Status RemoveSnapshot(const std::string& snapshotter, const std::string& key);
  // Unpacks a layer of the content store; returns the digest of its tar.
  Result<std::string> Apply(const ContentDescriptor& layer, const std::vector<ContainerdMount>& mounts);

  // Makes the image, or lets it be another one from now on.
  Status PutImage(const std::string& name, const ContentDescriptor& target, const LabelMap& labels);

 private:
  // One try; EALREADY in err: another client writes it.
  Status WriteOnce(const ContentDescriptor& content, const LabelMap& labels,
                   const std::function<Status(const Sink&)>& produce);
  struct Impl;
  explicit ContainerdClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace fastoci

#endif  // FASTOCI_CONTAINERD_CLIENT_H_
