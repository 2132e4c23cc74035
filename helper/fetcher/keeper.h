// SPDX-License-Identifier: Apache-2.0
// The keeper finds out what the fetcher cannot, since the fetcher is nobody and may run no
// programs: credentials (in files that only root can read, and from the programs that
// such files name), what `fastoci attach` was given for an image, and what the node's
// hosts.toml directories say.
//
//   fetcher --KeeperQuestion--> keeper --thread per question--> files, programs
//           <--KeeperAnswer + memfd with JSON--
//
// It is a process, forked before the fetcher enters its sandbox. It is nobody too, but with
// CAP_DAC_READ_SEARCH. Its filter is wider than the fetcher's, because the programs run
// under it (plugin.h). It does not use the network itself. It parses only what root
// wrote and what those programs answer. It ends with its parent.
//
// A program that takes long delays the questions about its registry, and no others: of
// the questions about one name kMaxOfOne run at a time, the others wait in a queue.
#ifndef FASTOCI_FETCHER_KEEPER_H_
#define FASTOCI_FETCHER_KEEPER_H_

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/mutex.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "http/secret.h"
#include "registry/access.h"
#include "registry/credential_source.h"
#include "registry/hosts.h"

namespace fastoci {

struct KeeperOptions {
  std::string credentials;              // a file that comes before the node's own ones
  bool node_credentials = true;         // docker's, podman's, kubelet's
  std::vector<std::string> state_dirs;  // of attached images
  std::vector<std::string> hosts_dirs = HostsOptions().roots;
  int64_t program_ms = 30000;
};

// The answers. Thread-safe.
class KeeperWork {
 public:
  explicit KeeperWork(const KeeperOptions& options);
  // file: that an attach was given. If it is "", or no image is kept that was attached with
  // it, the answer is what the node knows: who asks parses what comes from outside, and must
  // not be able to have any file read.
  Result<std::optional<FoundCredential>> Credential(const std::string& host,
                                                    const std::string& repository,
                                                    const std::string& file, bool fresh);
  // Of all images with that id (64 hex digits).
  Result<std::vector<Access>> AccessOf(const std::string& image_id) const;
  // For an image with that id, or "" for any: as the attach of it said with --hosts-dir.
  Result<std::vector<HostConfig>> Hosts(const std::string& host, const std::string& image_id) const;

 private:
  CredentialSourcePtr SourceOf(const std::string& file) EXCLUDES(mutex_);
  std::vector<Access> Accesses() const;

  const KeeperOptions options_;
  CredentialSourcePtr source_;
  Mutex mutex_;
  std::map<std::string, CredentialSourcePtr> files_ GUARDED_BY(mutex_);
};

// For one thread. Times: CLOCK_MONOTONIC, ms.
class Keeper {
 public:
  template <typename T>
  using Done = std::function<void(Result<T>)>;

  // Forks; from the thread that lives as long as the keeper is wanted.
  static Result<std::unique_ptr<Keeper>> Start(const KeeperOptions& options);
  ~Keeper();
  Keeper(const Keeper&) = delete;
  Keeper& operator=(const Keeper&) = delete;

  // done is called by Process(), with the answer, or with kUnavailable: EAGAIN (too many
  // questions) or ETIMEDOUT.
  void FindCredential(const std::string& host, const std::string& repository,
                      const std::string& file, bool fresh,
                      Done<std::optional<FoundCredential>> done);
  void FindAccess(const std::string& image_id, Done<std::vector<Access>> done);
  void FindHosts(const std::string& host, const std::string& image_id,
                 Done<std::vector<HostConfig>> done);

  int fd() const { return socket_.get(); }
  int64_t deadline_ms() const;
  // fd() is readable, or deadline_ms() has passed. An Error: the keeper is gone.
  Status Process(int64_t now_ms);
  pid_t pid() const { return pid_; }

 private:
  struct Pending {
    int64_t deadline_ms = 0;
    std::function<void(Result<Secret>)> done;
  };
  Keeper() = default;
  void Ask(uint32_t kind, bool fresh, const std::string& name, const std::string& repository,
           const std::string& file, std::function<void(Result<Secret>)> done);

  pid_t pid_ = -1;
  UniqueFd socket_;
  int64_t timeout_ms_ = 0;
  uint32_t last_id_ = 0;
  std::map<uint32_t, Pending> pending_;
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_KEEPER_H_
