// SPDX-License-Identifier: Apache-2.0
#include "decoder/decoder.h"

#include <algorithm>
#include <cstdio>

#include "decoder/message.h"

namespace fastoci {
namespace {

// What is copied of the input at a time.
constexpr size_t kCopyBytes = 65536;
constexpr uint64_t kOutputBytes = kPieceBytes * kOutputPieces;

// What the broker may leave unread is one Output for each piece of the ring, one InputDone for
// each of its Inputs, and the end of a job: far below the socket's buffer. Hence Send() never
// waits for a broker that waits for us.

Error RequestError(const char* what) {
  return InvalidError(std::string("decode request: ") + what);
}

}  // namespace

Decoder::Decoder(UniqueFd socket, Mapping input, Mapping output)
    : socket_(std::move(socket)),
      input_(std::move(input)),
      output_(std::move(output)),
      scratch_(kPieceBytes) {}

Result<Decoder> Decoder::Open(UniqueFd socket, int arena, int output_ring) {
  FASTOCI_TRY(Mapping input, Mapping::Open(arena, false, 1, kMaxArenaBytes));
  FASTOCI_TRY(Mapping output, Mapping::Open(output_ring, true, kOutputBytes, kOutputBytes));
  return Decoder(std::move(socket), std::move(input), std::move(output));
}

Status Decoder::Run() {
  for (;;) {
    UniqueFd fd;
    bool idle = job_ == nullptr || job_->stalled;
    auto message = ReceiveDecodeMessage(socket_.get(), idle ? -1 : 0, &fd);
    if (message.ok()) {
      FASTOCI_CHECK_OK(Handle(*message, std::move(fd)));
    } else if (message.error().err == EPIPE) {
      return OkStatus();
    } else if (message.error().err != ETIMEDOUT) {
      return message.error();
    }
    if (job_ == nullptr || job_->stalled) continue;
    Status step = Step();
    if (step.ok()) continue;
    if (step.error().err == EPIPE) return OkStatus();
    if (job_ == nullptr) return step.error();
    Error error = step.error().Wrap("data offset " + std::to_string(job_->pos));
    if (error.kind == ErrorKind::kInvalid) error.err = EBADMSG;
    FASTOCI_CHECK_OK(Fail(job_->id, error));
  }
}

Status Decoder::Send(DecodeMessage message) {
  return SendDecodeMessage(socket_.get(), message);
}

Status Decoder::Fail(uint32_t job, const Error& error) {
  DecodeMessage m{};
  m.op = DecodeOp::kFailed;
  m.job = job;
  m.err = error.err > 0 ? error.err : EIO;
  std::snprintf(m.text, sizeof(m.text), "%s", error.message.c_str());
  if (job_ != nullptr && job_->id == job) job_.reset();
  return Send(m);
}

Status Decoder::Handle(const DecodeMessage& m, UniqueFd fd) {
  bool current = job_ != nullptr && job_->id == m.job;
  switch (m.op) {
    case DecodeOp::kOpenSpace:
      spaces_.Insert(m.space, Space::Open(m, fd));
      return OkStatus();
    case DecodeOp::kDecode: {
      if (job_ != nullptr)
        return Fail(m.job, {ErrorKind::kInternal, EBUSY, "the decoder works on another job"});
      Status started = StartJob(m);
      return started.ok() ? OkStatus() : Fail(m.job, started.error());
    }
    case DecodeOp::kInput:
      if (!current) return OkStatus();  // crossed with the job's end
      if (Status s = TakeInput(m); !s.ok()) return Fail(m.job, s.error());
      return OkStatus();
    case DecodeOp::kOutputDone:
      if (!current) return OkStatus();
      if (m.total < job_->pieces_done ||
          m.total > (job_->told - job_->out_begin + kPieceBytes - 1) / kPieceBytes)
        return Fail(m.job, RequestError("the number of finished pieces is out of range"));
      job_->pieces_done = m.total;
      job_->stalled = false;
      return OkStatus();
    case DecodeOp::kCancel:
      if (!current) return OkStatus();
      return Fail(m.job, {ErrorKind::kUnavailable, ECANCELED, "cancelled"});
    default:
      return Error{ErrorKind::kInvalid, EPROTO, "decoder socket: unknown message"};
  }
}

Status Decoder::StartJob(const DecodeMessage& m) {
  auto found = spaces_.Find(m.space);
  if (!found.ok()) return found.error();
  auto job = std::make_unique<Job>();
  job->id = m.job;
  job->space = *found;
  job->pos = m.span_data_offset;
  job->out_begin = job->told = m.out_begin;
  job->out_end = m.out_end;
  job->urgent_begin = m.urgent_begin;
  job->urgent_end = m.urgent_end;
  uint64_t data_bytes = job->space->data_bytes();
  if (m.out_begin >= m.out_end || m.out_end > data_bytes)
    return RequestError("the range is empty or too long");
  if (m.out_begin % kPieceBytes != 0 || (m.out_end % kPieceBytes != 0 && m.out_end != data_bytes))
    return RequestError("the range is not aligned");
  if (m.span_data_offset > m.out_begin)
    return RequestError("the span begins after the beginning of the range");
  auto start = job->space->StartAt(m.span_data_offset);
  if (!start.ok()) return start.error();
  if (m.blob_offset > start->blob_offset)
    return RequestError("the input begins after the checkpoint");
  job->stream = std::move(start->stream);
  job->skip_input = start->blob_offset - m.blob_offset;
  job_ = std::move(job);
  return OkStatus();
}

Status Decoder::TakeInput(const DecodeMessage& m) {
  const uint64_t arena_bytes = input_.data().size();
  if (m.arena_offset > arena_bytes || m.length > arena_bytes - m.arena_offset)
    return RequestError("the input lies outside of the arena");
  if (job_->eof) return RequestError("input came after the last input");
  if (job_->input.size() >= kMaxInputs) return RequestError("there are too many inputs");
  if (m.length > 0) job_->input.push_back(input_.data().subspan(m.arena_offset, m.length));
  job_->eof = m.eof != 0;
  job_->stalled = false;
  return OkStatus();
}

// Tells the broker which inputs are used up, so that it can use their memory again.
Status Decoder::DropUsedInput(Job* job) {
  bool any = false;
  while (!job->input.empty() && job->input_pos == job->input.front().size()) {
    job->input_used += job->input.front().size();
    job->input_pos = 0;
    job->input.pop_front();
    any = true;
  }
  if (!any || (job->eof && job->input.empty())) return OkStatus();  // the job's end says so
  DecodeMessage m{};
  m.op = DecodeOp::kInputDone;
  m.job = job->id;
  m.total = job->input_used;
  return Send(m);
}

// What is there of the input: in the arena, or a copy.
ByteSpan Decoder::NextInput(Job* job) {
  if (!job->space->copies_input())
    return job->input.empty() ? ByteSpan() : job->input.front().subspan(job->input_pos);
  if (job->copy_pos == job->copy.size() && !job->input.empty()) {
    ByteSpan from = job->input.front().subspan(job->input_pos);
    from = from.first(std::min(from.size(), kCopyBytes));
    job->copy.assign(from.begin(), from.end());
    job->copy_pos = 0;
    job->input_pos += from.size();
  }
  return ByteSpan(job->copy).subspan(job->copy_pos);
}

Status Decoder::UseInput(Job* job, size_t bytes) {
  (job->space->copies_input() ? job->copy_pos : job->input_pos) += bytes;
  return DropUsedInput(job);
}

// Returns the place for the next output. It ends where the broker is to be told of output. Empty
// if the ring is full.
std::span<uint8_t> Decoder::OutputRoom(const Job& job) {
  if (job.pos < job.out_begin)
    return std::span(scratch_).first(std::min(kPieceBytes, job.out_begin - job.pos));
  const uint64_t at = job.pos - job.out_begin;
  uint64_t room = std::min(kOutputBytes - (at - std::min(at, job.pieces_done * kPieceBytes)),
                           kOutputBytes - at % kOutputBytes);
  room = std::min(room, job.out_end - job.pos);
  const bool urgent = job.pos + kPieceBytes > job.urgent_begin && job.pos < job.urgent_end;
  // The broker hashes what comes before the urgent part while that is decoded, so there must not
  // be much of it at once.
  const uint64_t pieces = urgent ? 1 : job.pos < job.urgent_begin ? kLeadPieces : kBatchPieces;
  room = std::min(room, pieces * kPieceBytes - at % (pieces * kPieceBytes));
  // Output before the urgent part ends here, so that the urgent part is told at once.
  const uint64_t first = job.urgent_begin - job.urgent_begin % kPieceBytes;
  if (job.pos < first) room = std::min(room, first - job.pos);
  return output_.data().subspan(at % kOutputBytes, room);
}

// All whole pieces that were not told of. They do not wrap around: the batches begin at multiples
// of their size.
Status Decoder::TellPieces(Job* job) {
  if (job->pos <= job->told) return OkStatus();
  uint64_t end = job->pos;
  if (end < job->out_end) end -= (end - job->out_begin) % kPieceBytes;
  if (end == job->told) return OkStatus();
  DecodeMessage m{};
  m.op = DecodeOp::kOutput;
  m.job = job->id;
  m.data_offset = job->told;
  m.length = static_cast<uint32_t>(end - job->told);
  job->told = end;
  return Send(m);
}

Status Decoder::End(Job* job) {
  DecodeMessage m{};
  m.op = DecodeOp::kDone;
  m.job = job->id;
  job_.reset();
  return Send(m);
}

Status Decoder::Step() {
  Job* job = job_.get();
  if (job->skip_input > 0 && !job->input.empty()) {
    const uint64_t skip =
        std::min<uint64_t>(job->skip_input, job->input.front().size() - job->input_pos);
    job->skip_input -= skip;
    job->input_pos += skip;
    return DropUsedInput(job);
  }
  std::span<uint8_t> room = OutputRoom(*job);
  if (room.empty()) {
    job->stalled = true;
    return TellPieces(job);
  }
  FASTOCI_TRY(auto p, job->stream->Decode(NextInput(job), room));
  job->pos += p.produced;
  FASTOCI_CHECK_OK(UseInput(job, p.consumed));
  if (p.produced == room.size()) FASTOCI_CHECK_OK(TellPieces(job));
  if (job->pos == job->out_end) return End(job);
  if (p.ended) return InvalidError("the compressed stream ends before the data space does");
  if (p.consumed > 0 || p.produced > 0 || !job->input.empty()) return OkStatus();
  if (job->eof) return InvalidError("the input ends too early");
  job->stalled = true;
  return TellPieces(job);
}

}  // namespace fastoci
