// SPDX-License-Identifier: Apache-2.0
// How assembly in the sandbox reads from blobs that it has no descriptor of: it
// asks the process that started it, which may use the network, over a stream
// socket. All little-endian.
//   request: u32 layer, u32 bytes, u64 offset
//   reply:   u32 ErrorKind, u32 errno (0: success), u32 length; then that many
//            bytes: those asked for, or the error's text
#ifndef FASTOCI_IMAGE_RANGE_CHANNEL_H_
#define FASTOCI_IMAGE_RANGE_CHANNEL_H_

#include <cstdint>
#include <list>
#include <span>
#include <utility>

#include "base/byte_reader.h"
#include "base/result.h"
#include "codec/read_at.h"

namespace fastoci {

inline constexpr uint64_t kMaxRangeBytes = 4 << 20;

// The sandbox's end. Small reads are made larger, and the last ones kept.
class RangeFile : public ReadAtFile {
 public:
  // Does not own the socket. layer: its number in the request.
  RangeFile(int socket, uint32_t layer, uint64_t size)
      : socket_(socket), layer_(layer), size_(size) {}
  uint64_t size() const override { return size_; }
  Status ReadAt(uint64_t offset, std::span<uint8_t> out) const override;

 private:
  Status Ask(uint64_t offset, std::span<uint8_t> out) const;
  int socket_;
  uint32_t layer_;
  uint64_t size_;
  mutable std::list<std::pair<uint64_t, Bytes>> kept_;  // by offset; used last first
};

// The other end: answers until the sandbox closes its end. files: by layer; null if the
// sandbox may not ask for that layer. max_bytes: how much it may ask for of one layer in
// all. ETIMEDOUT: the sandbox asked for nothing for stall_ms (-1: no limit).
Status ServeRanges(int socket, std::span<const ReadAtFile* const> files, uint64_t max_bytes,
                   int stall_ms = -1);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_RANGE_CHANNEL_H_
