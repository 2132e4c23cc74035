// SPDX-License-Identifier: Apache-2.0
// What the broker and a decoder say to each other: fixed structs over
// SOCK_SEQPACKET. The decoder parses hostile bytes, so the broker takes nothing
// that it says on trust: sizes are checked, and data is copied out of the
// shared ring before it is hashed.
//
// One decoder process per lane; it inherits fd 3 (socket), fd 4 (input ring:
// the fetcher's kFetchRingBytes, mapped read-only) and fd 5 (output ring,
// kOutputPieces pieces of kPieceBytes).
//   OpenSpace  + 1 fd: sealed memfd with the index of the blob (gzip.meta; a
//              serialized ZFileIndex; for RAW an empty one). The decoder keeps
//              the last 64; Decode of another one fails with ESTALE.
//   Decode     begin at span; emit [out_begin, out_end), both multiples of
//              kPieceBytes, except that out_end may be data_bytes. Input byte i
//              of the job is blob byte blob_offset + i.
//   Input      running total of input bytes in the ring; eof with the last
//   OutputDone pieces taken so far: frees ring places
// Replies: Output (one piece: data_offset, length, in ring place
// (pieces so far) % kOutputPieces), InputDone (running total consumed,
// in steps of kFetchRingBytes / 16 or more), then
// Done or Failed. A Decode may be given up by Cancel; answered by Failed unless
// the job's end crosses with it. All totals count from the Decode on. Input may
// begin before the checkpoint: what is not needed is skipped.
#ifndef FASTOCI_DECODER_PROTOCOL_H_
#define FASTOCI_DECODER_PROTOCOL_H_

#include <cstdint>

namespace fastoci {

inline constexpr int kDecoderSocketFd = 3;
inline constexpr int kDecoderInputFd = 4;
inline constexpr int kDecoderOutputFd = 5;
inline constexpr uint64_t kPieceBytes = 65536;
inline constexpr uint64_t kOutputPieces = 16;

enum class DecodeOp : uint32_t {
  kOpenSpace = 1,
  kDecode,
  kInput,
  kOutputDone,
  kCancel,
  kOutput = 100,
  kInputDone,
  kDone,
  kFailed,
};

struct DecodeMessage {
  DecodeOp op;
  uint32_t job;
  uint64_t space;        // OpenSpace, Decode: the broker's key
  uint32_t codec;        // OpenSpace: enum fastoci_codec
  uint32_t eof;          // Input
  uint64_t data_bytes;   // OpenSpace
  uint64_t blob_bytes;   // OpenSpace
  uint64_t span_data_offset;  // Decode: data offset of the span to begin at
  uint64_t blob_offset;  // Decode: blob offset of the first input byte
  uint64_t out_begin;    // Decode
  uint64_t out_end;      // Decode
  uint64_t total;        // Input, InputDone, OutputDone
  uint64_t data_offset;  // Output
  uint32_t length;       // Output: <= kPieceBytes, short only at the data space's end
  int32_t err;           // Failed: positive errno
  char text[232];        // Failed
};
static_assert(sizeof(DecodeMessage) == 328);

}  // namespace fastoci

#endif  // FASTOCI_DECODER_PROTOCOL_H_
