// SPDX-License-Identifier: Apache-2.0
// The fetcher: serves the control socket, holds the images and one thread per
// lane. See protocol.h.
#ifndef FASTOCI_FETCHER_FETCHER_H_
#define FASTOCI_FETCHER_FETCHER_H_

#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "fetcher/image.h"
#include "fetcher/lane.h"
#include "fetcher/protocol.h"
#include "registry/client.h"

namespace fastoci {

inline constexpr size_t kMaxLanes = 256;
inline constexpr size_t kMaxImages = 4096;

class Fetcher {
 public:
  // registry must outlive it.
  Fetcher(UniqueFd control, RegistryClient* registry, bool plain_http)
      : control_(std::move(control)), registry_(registry), plain_http_(plain_http) {}
  ~Fetcher();  // stops and joins all lanes
  Fetcher(const Fetcher&) = delete;
  Fetcher& operator=(const Fetcher&) = delete;

  // Until the control socket closes, which is success.
  Status Run();

 private:
  struct LaneThread {
    std::unique_ptr<Lane> lane;
    std::thread thread;
  };
  Status Handle(const FetchMessage& m, std::vector<UniqueFd> fds);
  Status AddLane(std::vector<UniqueFd> fds);
  Status OpenImage(uint32_t number, const std::vector<UniqueFd>& fds);
  void ReapLanes();

  UniqueFd control_;
  RegistryClient* registry_;
  bool plain_http_;
  std::list<LaneThread> lanes_;
  std::mutex mutex_;
  std::map<uint32_t, std::shared_ptr<const FetchImage>> images_;  // guarded by mutex_
};

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_FETCHER_H_
