// SPDX-License-Identifier: Apache-2.0
// What the broker and a decoder say to each other: fixed structs over SOCK_SEQPACKET. The
// decoder parses hostile bytes, so the broker does not trust it: sizes are checked, and
// data is copied out of the shared ring before it is hashed.
//
// A decoder process inherits fd 3 (socket), fd 4 (input: an arena, a memfd of any size that it
// maps read-only) and fd 5 (output ring: kOutputPieces pieces of kPieceBytes).
//   OpenSpace  + 1 fd: sealed memfd with the index of the blob (gzip.meta; a
//              serialized ZFileIndex; for RAW an empty one). The decoder keeps
//              the last 64; Decode of another one fails with ESTALE.
//   Decode     begin at span; emit [out_begin, out_end), both multiples of
//              kPieceBytes, except that out_end may be data_bytes. The first input
//              byte of the job is blob byte blob_offset.
//   Input      the next length bytes of the input lie at arena_offset of the arena,
//              until InputDone or the job's end; eof with the last ones. At most
//              kMaxInputs that are not done.
//   OutputDone pieces taken so far: frees ring places
// Replies: Output (whole pieces at data_offset, length bytes in all, the first one in ring
// place (pieces so far) % kOutputPieces; they do not wrap around), InputDone (running total of
// bytes: Inputs that it covers are not read any more), then Done or Failed. Pieces are told in
// bulk: when kBatchPieces are there, when the decoder has to wait, and at the end. But each piece
// of [urgent_begin, urgent_end) is told at once, and those before it when kLeadPieces are there.
// Cancel gives a Decode up. The answer is Failed, unless the job's end crosses with it. All totals
// count from the Decode on. Input may begin before the checkpoint; the decoder skips what it does
// not need.
//
// The arena's writer may be hostile and change the input while it is read. Inflate reads each
// byte once and is safe against that. Other codecs get a private copy. What comes out is compared
// with digests by the broker.
#ifndef FASTOCI_DECODER_PROTOCOL_H_
#define FASTOCI_DECODER_PROTOCOL_H_

#include <cstdint>

namespace fastoci {

inline constexpr int kDecoderSocketFd = 3;
inline constexpr int kDecoderInputFd = 4;
inline constexpr int kDecoderOutputFd = 5;
inline constexpr uint64_t kPieceBytes = 65536;
inline constexpr uint64_t kOutputPieces = 16;
inline constexpr uint64_t kBatchPieces = 8;
inline constexpr uint64_t kLeadPieces = 4;
inline constexpr uint64_t kMaxInputs = 32;  // that are not done
inline constexpr uint64_t kMaxArenaBytes = 1ULL << 30;

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
  uint64_t urgent_begin;  // Decode: data offsets
  uint64_t urgent_end;
  uint64_t arena_offset;  // Input
  uint64_t total;        // InputDone: bytes; OutputDone: pieces
  uint64_t data_offset;  // Output
  uint32_t length;       // Input, Output: bytes
  int32_t err;           // Failed: positive errno
  char text[232];        // Failed
};
static_assert(sizeof(DecodeMessage) == 352);

}  // namespace fastoci

#endif  // FASTOCI_DECODER_PROTOCOL_H_
