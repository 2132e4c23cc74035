// SPDX-License-Identifier: Apache-2.0
// The client's end of seed_protocol.h: data of this node into the helper's cache. Of one thread.
#ifndef FASTOCI_CONTROL_SEED_FEED_H_
#define FASTOCI_CONTROL_SEED_FEED_H_

#include <cstdint>
#include <span>
#include <string>

#include "base/digest.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "control/seed_protocol.h"

namespace fastoci {

class SeedFeed {
 public:
  // For an attached image. image_id: 64 hex digits.
  static Result<SeedFeed> Open(const std::string& control_socket, const std::string& image_id);
  SeedFeed(SeedFeed&& other) noexcept;
  SeedFeed& operator=(SeedFeed&&) = delete;
  ~SeedFeed();

  // Memory of kSeedBatchBytes for the next Fill(). Waits for the reply to the Fill() that had this
  // memory before, and returns its error.
  Result<std::span<uint8_t>> Buffer();
  // Hands over the first bytes of that memory. Whether they were right is told by a later call.
  Status Fill(const Sha256Digest& space_id, uint64_t data_offset, uint64_t bytes);
  // Waits until all is in the cache and durable.
  Status End();

 private:
  SeedFeed() = default;
  Status Reply();
  UniqueFd socket_, memory_;
  uint8_t* map_ = nullptr;
  size_t next_ = 0;     // batch of Buffer()
  size_t waiting_ = 0;  // requests without a reply
};

}  // namespace fastoci

#endif  // FASTOCI_CONTROL_SEED_FEED_H_
