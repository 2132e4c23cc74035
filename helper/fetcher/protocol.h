// SPDX-License-Identifier: Apache-2.0
// What the broker and the fetcher say to each other: fixed structs over
// SOCK_SEQPACKET. Both run on one machine from one build; each still treats
// every field that the other sends as hostile.
//
// The broker starts one fetcher with three descriptors:
//   3  control: ControlMessage both ways, one call at a time
//   4  work:    WorkRequest to the fetcher, WorkReply from it
//   5  arena:   a memfd that the fetcher maps for writing and the broker's other
//               children for reading; sealed against a change of its size
// The fetcher ends when one of the sockets closes.
//
// Control. OpenImage comes with a memfd that holds the JSON part of an assembled
// meta image (image.h), and replaces an image of the same number. image_id is the id in
// the meta image; the fetcher uses it to find what `fastoci attach` was given for the
// image. The answer is either any number of Locations, each with up to
// kEntriesPerMessage entries, and then Done; or it is Failed. Entries come in the order
// of the JSON part. The answer to CloseImage is Done; Fetches that run go on.
//
// A location is where one blob may be had: (digest, host, repository) or (digest,
// path). One source of the JSON can give several locations, the best first: mirrors,
// then the registry, once for each attach that was given credentials. Equal ones of
// all images have one number. It lives as long as an image that names it. A host is a
// scheme, an authority, and how it is accessed (the credentials of an attach,
// certificates), and lives as long as one of its locations; host 0 stands for local files.
// Numbers are never used again in one process.
//
// Work. A Fetch is one attempt at a range of one location. Redirects, a token, and
// one repetition with a new token after a refusal are part of it. The body goes to
// the arena at arena_offset + (bytes so far). The replies are any number of Data, and
// then one Done or Failed. Data tells the bytes so far. It comes in steps of at least
// kDataStepBytes and at most once a millisecond, or when nothing came for
// kDataQuietMs. After Done or Failed, bytes [0, total) of the Fetch are as the
// location sent them. They are not verified.
//
// A broker that uses the id of a Fetch that runs, or has more than kMaxFetches at a
// time, breaks the protocol, which ends the fetcher.
//
// Cancel is answered by Failed(kCanceled) unless the Fetch is over; nothing is
// written to its place afterwards. An unknown id is no error: it may have crossed.
//
// A Host reply tells a host's state. It comes after OpenImage has named a new host, and
// when the state changes, at most every kHostEventMs. If a failure has changed the
// host's state, the Host reply comes before the Failed(kTransient). HostGone: no location
// is at the host any more, and nothing more is told of it. OpenGate opens the gates of a
// host at once; for host number kAllHosts, those of all hosts.
#ifndef FASTOCI_FETCHER_PROTOCOL_H_
#define FASTOCI_FETCHER_PROTOCOL_H_

#include <cstdint>

namespace fastoci {

inline constexpr int kFetcherControlFd = 3;
inline constexpr int kFetcherWorkFd = 4;
inline constexpr int kFetcherArenaFd = 5;

inline constexpr uint64_t kMaxFetchBytes = 4 << 20;
inline constexpr uint32_t kMaxFetches = 256;  // at a time
inline constexpr uint64_t kDataStepBytes = 64 << 10;
inline constexpr int kDataQuietMs = 2;
inline constexpr int kHostEventMs = 20;
inline constexpr uint32_t kLocalHost = 0;
inline constexpr uint32_t kAllHosts = 0;  // OpenGate: files have no gate

inline constexpr uint32_t kMaxBlobLocations = 64;

inline constexpr int kMessageTextBytes = 400;
inline constexpr int kHostNameBytes = 288;  // scheme://authority
inline constexpr int kEntriesPerMessage = 32;
inline constexpr int kImageIdBytes = 68;  // 64 hex digits

enum class ControlOp : uint32_t {
  kOpenImage = 1,
  kCloseImage,
  kLocations = 100,
  kDone,
  kFailed,
};

struct LocationEntry {
  uint32_t blob;  // index into the JSON part's "blobs"
  uint32_t location;
  uint32_t host;
};

struct ControlMessage {
  ControlOp op;
  uint32_t call;   // chosen by the broker, returned in replies
  uint32_t image;  // OpenImage, CloseImage: the broker's number
  uint32_t count;  // Locations: entries that count; Done after OpenImage: blobs
  int32_t err;     // Failed: positive errno
  uint32_t kind;   // Failed: ErrorKind
  LocationEntry entries[kEntriesPerMessage];
  char image_id[kImageIdBytes];  // OpenImage: NUL-terminated; "" if it has none
  char text[kMessageTextBytes];  // Failed: NUL-terminated, no secrets
};
static_assert(sizeof(ControlMessage) ==
              24 + 12 * kEntriesPerMessage + kImageIdBytes + kMessageTextBytes);

enum class WorkOp : uint32_t {
  kFetch = 1,
  kCancel,
  kOpenGate,
  kData = 100,
  kDone,
  kFailed,
  kHost,
  kHostGone,
};

// Fetch: on a connection of its own, with a request that caches pass on.
inline constexpr uint32_t kFetchFresh = 1;

struct WorkRequest {
  WorkOp op;
  uint32_t id;          // Fetch: chosen by the broker, not one that runs; Cancel
  uint32_t location;    // Fetch
  uint32_t host;        // OpenGate
  uint32_t miss_class;  // Fetch: enum fastoci_miss_class
  uint32_t flags;       // Fetch: kFetchFresh
  uint64_t offset;      // Fetch: first byte of the blob
  uint64_t length;      // Fetch: 1..kMaxFetchBytes
  uint64_t arena_offset;
};
static_assert(sizeof(WorkRequest) == 48);

// How a Fetch ended.
enum class FetchOutcome : uint32_t {
  kDone,
  kTransient,  // no or no good answer; a gate has been told (retry_at_ms)
  kGated,      // nothing was sent: a gate is closed, or the window is full
  kGone,       // 404, 410, no such file
  kMismatch,   // wrong size, wrong Content-Range, no ranges and far into the blob
  kCanceled,
  kRefused,    // the Fetch makes no sense: unknown location, bad range
};
inline constexpr int kFetchOutcomes = 7;

enum class HostGate : uint32_t {
  kOpen,
  kGated,    // until gated_until_ms
  kProbing,  // one Fetch is let through
};

struct WorkReply {
  WorkOp op;
  uint32_t id;             // Data, Done, Failed
  uint64_t total;          // Data, Done, Failed: bytes so far
  FetchOutcome outcome;    // Done, Failed
  int32_t err;             // Failed: positive errno
  uint32_t kind;           // Failed: ErrorKind
  uint32_t http_status;    // Failed, Host: the last one that was not good, or 0
  int64_t retry_at_ms;     // Failed(kTransient, kGated): the location is refused
                           // until then; CLOCK_MONOTONIC, 0: no gate
  uint32_t requests;       // Done, Failed: HTTP requests, those for tokens included
  uint32_t retries;        // Done, Failed: of these, repeated ones
  uint32_t tokens;         // Done, Failed: tokens received
  uint32_t host;           // Host, HostGone
  HostGate gate;           // Host
  uint32_t window;         // Host: Fetches that it takes at a time, 0 while gated
  uint32_t in_flight;      // Host
  uint32_t openings;       // Host: gates (its own, and those of its repositories)
                           // that were opened before their time, so far
  int64_t gated_until_ms;  // Host: CLOCK_MONOTONIC, 0: not gated
  int64_t since_ms;        // Host: of the first failure since it was open, or 0
  uint64_t host_requests;  // Host: HTTP requests so far
  uint64_t host_bytes;     // Host: body bytes so far
  uint64_t outcomes[kFetchOutcomes];  // Host: Fetches so far by FetchOutcome
  char name[kHostNameBytes];          // Host: NUL-terminated
  char text[kMessageTextBytes];       // Failed, Host: cause; NUL-terminated, no secrets
};
static_assert(sizeof(WorkReply) == 160 + kHostNameBytes + kMessageTextBytes);

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_PROTOCOL_H_
