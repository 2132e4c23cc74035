// SPDX-License-Identifier: Apache-2.0
// Decoder: the decoder role's event loop, without its process and its sandbox.
//
// One job at a time. While the job can go on, a step decodes into the free part of
// the ring, and the socket is looked at between steps; a job that lacks input or a
// free ring place sleeps in the socket. Output goes straight into its ring place,
// which belongs to the decoder until Output. protocol.h says which input is copied.
#ifndef FASTOCI_DECODER_DECODER_H_
#define FASTOCI_DECODER_DECODER_H_

#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "base/unique_fd.h"
#include "decoder/protocol.h"
#include "decoder/space.h"

namespace fastoci {

class Decoder {
 public:
  // Maps arena and ring; the fds of the two may be closed afterwards.
  static Result<Decoder> Open(UniqueFd socket, int arena, int output_ring);
  // Serves until the broker closes its end, which is success.
  Status Run();

 private:
  struct Job {
    uint32_t id = 0;
    std::shared_ptr<Space> space;  // keeps the index mapped
    std::unique_ptr<DataStream> stream;
    uint64_t pos = 0;  // data offset of the next byte to come out
    uint64_t out_begin = 0, out_end = 0;
    uint64_t urgent_begin = 0, urgent_end = 0;
    uint64_t skip_input = 0;  // input bytes before the first one needed
    std::deque<ByteSpan> input;  // of the arena
    uint64_t input_pos = 0;  // in the first of them: what was decoded, or copied
    uint64_t input_used = 0;  // bytes of those before it
    bool eof = false;
    bool stalled = true;  // nothing to do before the next message
    Bytes copy;           // [copy_pos, copy.size()) not decoded yet
    size_t copy_pos = 0;
    uint64_t told = 0;         // data offset behind the last Output
    uint64_t pieces_done = 0;
  };

  Decoder(UniqueFd socket, Mapping input, Mapping output);
  Status Handle(const DecodeMessage& message, UniqueFd fd);
  Status StartJob(const DecodeMessage& message);
  Status TakeInput(const DecodeMessage& message);
  Status Step();
  ByteSpan NextInput(Job* job);
  Status UseInput(Job* job, size_t bytes);
  Status DropUsedInput(Job* job);
  Status TellPieces(Job* job);
  Status End(Job* job);
  std::span<uint8_t> OutputRoom(const Job& job);
  Status Send(DecodeMessage message);
  // Ends the job with Failed.
  Status Fail(uint32_t job, const Error& error);

  UniqueFd socket_;
  Mapping input_;
  Mapping output_;
  Bytes scratch_;
  SpaceTable spaces_;
  std::unique_ptr<Job> job_;
};

}  // namespace fastoci

#endif  // FASTOCI_DECODER_DECODER_H_
