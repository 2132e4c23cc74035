// SPDX-License-Identifier: Apache-2.0
// The broker's end of a decoder: starts the process and speaks protocol.h. A
// client belongs to one thread, the one that called Spawn(): the decoder dies
// with that thread.
//
// The client does not trust the decoder: Receive() checks each reply against the job's
// state, and pieces are copied out of the shared ring before anything looks at them.
// After an error other than a timeout, destroy the client and spawn a new one. Nothing but
// Receive() waits: a decoder that does not read breaks the protocol (EPROTO in Error::err).
//
// A job: OpenSpace() if need be, Decode(), then Input() as bytes arrive in the
// arena, and Receive() until Done or Failed. After each Output: Copy(), OutputDone().
// Failed says ESTALE for a space that must be opened (again),
// EBADMSG for bad input bytes, ECANCELED after Cancel(), EINVAL for a request or
// an index that no input can serve.
#ifndef FASTOCI_DECODER_CLIENT_H_
#define FASTOCI_DECODER_CLIENT_H_

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/process.h"
#include "base/result.h"
#include "base/unique_fd.h"
#include "decoder/protocol.h"

namespace fastoci {

// StartProgram() with an environment that is empty but for JOURNAL_STREAM. args:
// behind the program's path.
Result<pid_t> SpawnWithFds(const Program& program, const std::vector<std::string>& args,
                           std::span<const int> fds);

// A memfd with a copy of `data` that nobody can change any more.
Result<UniqueFd> MakeSealedMemfd(const char* name, ByteSpan data);

class DecoderClient {
 public:
  // arena: the memfd that inputs lie in; the caller keeps it.
  static Result<std::unique_ptr<DecoderClient>> Spawn(const Program& program, int arena);
  ~DecoderClient();  // kills and reaps
  DecoderClient(const DecoderClient&) = delete;
  DecoderClient& operator=(const DecoderClient&) = delete;

  int socket_fd() const { return socket_.get(); }  // poll for POLLIN, then Receive()
  pid_t pid() const { return pid_; }
  bool busy() const { return busy_; }

  // index: a sealed memfd with gzip.meta for GZIP, ZFileIndex::Serialize() for ZFILE, empty for
  // RAW; the caller keeps it. If the index is wrong, the first Decode() fails.
  Status OpenSpace(uint64_t space, uint32_t codec, uint64_t data_bytes, uint64_t blob_bytes,
                   int index);
  // See protocol.h; data_bytes of the space gives the last piece's length. Only
  // if not busy().
  struct Request {
    uint32_t job = 0;
    uint64_t space = 0;
    uint64_t span_data_offset = 0;
    uint64_t blob_offset = 0;  // of the first input byte; may lie before the checkpoint's
    uint64_t out_begin = 0;
    uint64_t out_end = 0;
    uint64_t urgent_begin = 0;  // of the output: told piece by piece
    uint64_t urgent_end = 0;
  };
  Status Decode(const Request& request);
  // Up to kMaxInputs that InputDone does not cover.
  Status Input(uint64_t arena_offset, uint64_t length, bool eof);
  uint64_t inputs_open() const { return input_ends_.size(); }
  Status Cancel();
  // Waits up to timeout_ms (-1: for ever). kUnavailable: timeout (ETIMEDOUT) or
  // the decoder is gone (EPIPE); kInvalid: it broke the protocol.
  Result<DecodeMessage> Receive(int timeout_ms);
  // Copies bytes that Outputs brought since the last OutputDone().
  void Copy(uint64_t data_offset, std::span<uint8_t> out) const;
  // Frees the ring places of all pieces received so far, now or together with later ones.
  Status OutputDone();

 private:
  DecoderClient() = default;
  Status Check(const DecodeMessage& m);
  Status Send(DecodeMessage message, int fd = -1);

  pid_t pid_ = -1;
  UniqueFd socket_;
  std::span<const uint8_t> output_;  // mapping of the output ring
  bool busy_ = false;
  Request request_;
  uint64_t input_sent_ = 0;
  uint64_t input_done_ = 0;
  std::deque<uint64_t> input_ends_;  // of Inputs that are not done
  uint64_t next_offset_ = 0;  // data offset of the next piece
  uint64_t pieces_ = 0;
  uint64_t pieces_done_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_DECODER_CLIENT_H_
