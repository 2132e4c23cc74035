// SPDX-License-Identifier: Apache-2.0
// What the broker and the fetcher say to each other: fixed structs over
// SOCK_SEQPACKET. Both run on one machine from one build; the broker still
// treats every field that the fetcher sends as hostile.
//
// The broker starts one fetcher with a control socket as fd 3. On it:
//   AddLane    + 2 fds: lane socket, ring memfd (kFetchRingBytes, shared)
//   OpenImage  + 1 fd: memfd with the JSON part of an assembled meta image;
//              replaces an image of the same number
//   CloseImage  fetches that run go on
// Each is answered there by Done or Failed with its job number. A lane's socket
// is another one, so the broker sends a Fetch only after the answer to the
// OpenImage that it builds on. The fetcher ends when the control socket closes,
// a lane when its own does.
//
// A lane fetches one range at a time. Body bytes go into the ring at
// (bytes so far) % kFetchRingBytes; the fetcher never writes past
// consumed + kFetchRingBytes. A lane's replies: Data (running total), then
// Done or Failed. After Cancel the fetcher answers Failed(ECANCELED) or Done,
// or has answered already; the next Fetch may follow once that is read. All
// totals count from the Fetch on. Bytes are as a source sent them: not verified.
//
// A blob's sources are tried in the order of the JSON part, beginning with
// number `source` (modulo their count): the way to ask for bytes anew from
// elsewhere when their digest did not match. A source that fails in the middle
// is followed by the next from the byte reached.
#ifndef FASTOCI_FETCHER_PROTOCOL_H_
#define FASTOCI_FETCHER_PROTOCOL_H_

#include <cstdint>

namespace fastoci {

inline constexpr int kFetcherControlFd = 3;
inline constexpr uint64_t kFetchRingBytes = 1 << 20;
inline constexpr int kMessageTextBytes = 216;

enum class FetchOp : uint32_t {
  kAddLane = 1,
  kOpenImage,
  kCloseImage,
  kFetch,
  kConsumed,
  kCancel,
  kData = 100,
  kDone,
  kFailed,
};

struct FetchMessage {
  FetchOp op;
  uint32_t job;          // chosen by the broker, returned in replies
  uint32_t image;        // OpenImage, CloseImage, Fetch: the broker's number
  uint32_t blob;         // Fetch: index into the JSON part's "blobs"
  uint64_t offset;       // Fetch: first byte of the blob
  uint64_t length;       // Fetch: bytes, > 0
  uint64_t total;        // Consumed, Data, Done: bytes so far
  uint32_t deadline_ms;  // Fetch: give up after that, retries included
  uint32_t miss_class;   // Fetch: enum fastoci_miss_class
  uint32_t source;       // Fetch: where to begin; not 0: on a new connection.
                         // Done: which one gave the last byte
  int32_t err;           // Failed: positive errno for the kernel
  uint32_t kind;         // Failed: ErrorKind
  uint32_t requests;     // Done, Failed: HttpTally of the job
  uint32_t retries;
  uint32_t tokens;
  char text[kMessageTextBytes];  // Failed: NUL-terminated, no secrets
};
static_assert(sizeof(FetchMessage) == 288);

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_PROTOCOL_H_
