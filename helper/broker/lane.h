// SPDX-License-Identifier: Apache-2.0
// What the miss service wants from a lane: a way to turn a range of a blob
// into data-space bytes. The real one talks to a fetcher and a decoder
// process; tests have their own.
#ifndef FASTOCI_BROKER_LANE_H_
#define FASTOCI_BROKER_LANE_H_

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>

#include "broker/meta_image.h"
#include "broker/span_plan.h"
#include "http/http_client.h"

namespace fastoci {

struct LaneJob {
  uint32_t image = 0;  // the kernel's number, as told to OpenImage
  uint32_t blob = 0;   // index into the image's blobs
  const BlobInfo* info = nullptr;
  JobRange range;
  uint8_t miss_class = 0;
  uint32_t deadline_ms = 0;
  uint32_t attempt = 0;  // not 0: from another source, if there is one
};

// One piece: data_offset is a multiple of 64 KiB; pieces come in order without
// gaps and are 64 KiB long but for the data space's last one. The bytes are
// private memory of the broker. An error ends the job and is Run's result.
using PieceSink = std::function<Status(uint64_t data_offset, ByteSpan piece)>;

// Where a lane's time went in which nobody took a piece.
struct LaneTimes {
  std::chrono::nanoseconds network{0};  // it waited for the fetcher
  std::chrono::nanoseconds decode{0};   // ... for the decoder
};

class Lane {
 public:
  virtual ~Lane() = default;
  // One job at a time, on one thread; returns within about deadline_ms.
  // kUnavailable with EPIPE: a process died and was replaced; kInvalid: the
  // input did not decode; else the fetcher's error.
  virtual Status Run(const LaneJob& job, const PieceSink& sink) = 0;
  // What the last Run received from the blob's sources, whatever became of it.
  virtual uint64_t bytes_fetched() const = 0;
  virtual LaneTimes times() const { return {}; }  // of the last Run
  virtual HttpTally http() const { return {}; }   // of the last Run, as the fetcher says
  // Of a hashing lane: SHA-256 of all the input of the last Run that succeeded.
  virtual Sha256Digest input_digest() const = 0;
};

// A hashing lane reads and hashes its jobs' input to the end.
enum class LaneKind { kPlain, kHashing };

// Any thread.
class LaneFactory {
 public:
  virtual ~LaneFactory() = default;
  virtual Result<std::unique_ptr<Lane>> NewLane(LaneKind kind) = 0;
  virtual Status OpenImage(uint32_t image, ByteSpan json) = 0;
  virtual void CloseImage(uint32_t image) = 0;
  // For good: running and later jobs end soon, with ECANCELED.
  virtual void Interrupt() = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_BROKER_LANE_H_
