// SPDX-License-Identifier: Apache-2.0
// SeedIntake takes data that a client on this node has (control/seed_protocol.h) into the cache.
//
// Each client has a thread, which copies the data out of the client's memory, compares it with the
// digests of the meta image, and has it written, all by the ChunkBuilder that decoded data goes
// through as well. So nothing reaches a slot that the network could not have brought. A data space
// without digests takes nothing: there is nothing to compare with.
//
// Reads that wait for a chunk are served as soon as it is written. What is fetched for them
// meanwhile is found to be there already.
#ifndef FASTOCI_MISS_SEED_INTAKE_H_
#define FASTOCI_MISS_SEED_INTAKE_H_

#include <list>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "control/seed_protocol.h"
#include "miss/catalog.h"

namespace fastoci {

class SeedIntake {
 public:
  static constexpr size_t kMaxClients = 4;

  SeedIntake(Catalog* catalog, Dispatcher* dispatcher, Counters* counters);
  ~SeedIntake();  // Stop()
  // Serves a client until it closes the socket. An image that was attached just now need not be
  // known yet. EBUSY in Error::err: there are kMaxClients already.
  Status Begin(const Sha256Digest& image_id, UniqueFd socket, UniqueFd memory) EXCLUDES(mutex_);
  // Ends all of them, and takes no more.
  void Stop() EXCLUDES(mutex_);

 private:
  struct Client {
    Sha256Digest image_id{};
    UniqueFd socket, memory;
    std::atomic<bool> done{false};
    std::thread thread;
  };
  void Serve(Client* client);
  Status Handle(const Client& client, const SeedRequest& request);
  // Waits for a while, until it is known.
  std::shared_ptr<const SpaceView> ViewOf(const Sha256Digest& image_id, const Sha256Digest& space_id);
  Status Fill(const Client& client, const SeedRequest& request);
  Status End(const Sha256Digest& image_id);

  Catalog* const catalog_;
  Dispatcher* const dispatcher_;
  Counters* const counters_;
  std::atomic<bool> stop_{false};
  Mutex mutex_;
  std::list<Client> clients_ GUARDED_BY(mutex_);
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_SEED_INTAKE_H_
