// SPDX-License-Identifier: Apache-2.0
// The fetcher cannot open the credentials file any more once it is nobody, but
// must see a new one after a 401. The keeper is a process forked before that: on
// request it opens that one file and passes the descriptor. It can do nothing
// else: it is nobody too, with CAP_DAC_READ_SEARCH, behind a filter of the few
// system calls it needs. It ends with its socket and with its parent.
#ifndef FASTOCI_FETCHER_CREDENTIALS_KEEPER_H_
#define FASTOCI_FETCHER_CREDENTIALS_KEEPER_H_

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/result.h"
#include "base/unique_fd.h"
#include "registry/credentials.h"

namespace fastoci {

class CredentialsKeeper {
 public:
  // Forks; from the thread that lives as long as the keeper is wanted.
  static Result<std::unique_ptr<CredentialsKeeper>> Start(const std::string& path);
  ~CredentialsKeeper();
  CredentialsKeeper(const CredentialsKeeper&) = delete;
  CredentialsKeeper& operator=(const CredentialsKeeper&) = delete;

  // The file as it is now. Thread-safe.
  Result<Credentials> Load();
  pid_t pid() const { return pid_; }

 private:
  CredentialsKeeper() = default;
  Result<UniqueFd> OpenFile();

  std::string path_;
  pid_t pid_ = -1;
  std::mutex mutex_;
  UniqueFd socket_;       // guarded by mutex_
  uint32_t next_id_ = 1;  // guarded by mutex_
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_CREDENTIALS_KEEPER_H_
