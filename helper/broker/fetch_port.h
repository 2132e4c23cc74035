// SPDX-License-Identifier: Apache-2.0
// How lanes of the broker reach the fetcher.
#ifndef FASTOCI_BROKER_FETCH_PORT_H_
#define FASTOCI_BROKER_FETCH_PORT_H_

#include <cstdint>
#include <memory>

#include "base/byte_reader.h"
#include "base/result.h"
#include "fetcher/protocol.h"

namespace fastoci {

// A lane of the fetcher (fetcher/client.h's FetchLane), or a test's.
class FetchPort {
 public:
  virtual ~FetchPort() = default;
  virtual int socket_fd() const = 0;
  virtual int ring_fd() const = 0;
  virtual Status Fetch(const FetchMessage& request) = 0;
  virtual Status Consumed(uint32_t job, uint64_t total) = 0;
  virtual Status Cancel(uint32_t job) = 0;
  virtual Result<FetchMessage> Receive(int timeout_ms) = 0;
};

class FetchPorts {
 public:
  virtual ~FetchPorts() = default;
  // Replaces a fetcher that died and tells it all open images again.
  virtual Result<std::unique_ptr<FetchPort>> AddLane() = 0;
  virtual Status OpenImage(uint32_t image, ByteSpan json) = 0;
  virtual void CloseImage(uint32_t image) = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_FETCH_PORT_H_
