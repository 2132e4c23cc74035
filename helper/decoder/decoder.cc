// SPDX-License-Identifier: Apache-2.0
#include "decoder/decoder.h"

#include <algorithm>
#include <cstdio>

#include "decoder/message.h"
#include "fetcher/protocol.h"

namespace fastoci {
namespace {

constexpr size_t kInputStepBytes = 65536;
// InputDone is sent in steps, so that what the broker may leave unread stays far
// below the socket's buffer however small its Input steps are: with a full
// output ring, and a full input ring at most, 34 messages. Hence Send() never
// waits for a broker that waits for us.
constexpr uint64_t kInputDoneBytes = kFetchRingBytes / 16;

Error RequestError(const char* what) {
  return InvalidError(std::string("decode request: ") + what);
}

}  // namespace

Decoder::Decoder(UniqueFd socket, Mapping input, Mapping output)
    : socket_(std::move(socket)),
      input_(std::move(input)),
      output_(std::move(output)),
      scratch_(kPieceBytes) {}

Result<Decoder> Decoder::Open(UniqueFd socket, int input_ring, int output_ring) {
  constexpr uint64_t kOutputBytes = kPieceBytes * kOutputPieces;
  FASTOCI_TRY(Mapping input, Mapping::Open(input_ring, false, kFetchRingBytes, kFetchRingBytes));
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
      if (job_ != nullptr) return Fail(m.job, {ErrorKind::kInternal, EBUSY, "a job is running"});
      Status started = StartJob(m);
      return started.ok() ? OkStatus() : Fail(m.job, started.error());
    }
    case DecodeOp::kInput:
      if (!current) return OkStatus();  // crossed with the job's end
      if (Status s = TakeInput(m); !s.ok()) return Fail(m.job, s.error());
      return OkStatus();
    case DecodeOp::kOutputDone:
      if (!current) return OkStatus();
      if (m.total < job_->pieces_done || m.total > job_->pieces_sent)
        return Fail(m.job, RequestError("pieces done out of range"));
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
  job->out_begin = m.out_begin;
  job->out_end = m.out_end;
  uint64_t data_bytes = job->space->data_bytes();
  if (m.out_begin >= m.out_end || m.out_end > data_bytes)
    return RequestError("range is empty or too long");
  if (m.out_begin % kPieceBytes != 0 || (m.out_end % kPieceBytes != 0 && m.out_end != data_bytes))
    return RequestError("range is not aligned");
  if (m.span_data_offset > m.out_begin) return RequestError("span begins behind the range");
  auto start = job->space->StartAt(m.span_data_offset);
  if (!start.ok()) return start.error();
  if (m.blob_offset > start->blob_offset) return RequestError("input begins behind the checkpoint");
  job->stream = std::move(start->stream);
  job->skip_input = start->blob_offset - m.blob_offset;
  job_ = std::move(job);
  return OkStatus();
}

Status Decoder::TakeInput(const DecodeMessage& m) {
  if (m.total < job_->input_total || m.total - job_->input_taken > kFetchRingBytes)
    return RequestError("input total out of range");
  if (job_->eof && m.total != job_->input_total) return RequestError("input behind its end");
  job_->input_total = m.total;
  job_->eof = job_->eof || m.eof != 0;
  job_->stalled = false;
  return OkStatus();
}

// Copies the next input out of the ring and frees its place there.
Status Decoder::RefillInput(Job* job) {
  uint64_t skip = std::min(job->skip_input, job->input_total - job->input_taken);
  job->skip_input -= skip;
  job->input_taken += skip;
  uint64_t ring_pos = job->input_taken % kFetchRingBytes;
  size_t n = std::min<uint64_t>({kInputStepBytes, job->input_total - job->input_taken,
                                 kFetchRingBytes - ring_pos});
  auto from = input_.data().begin() + static_cast<ptrdiff_t>(ring_pos);
  job->input.assign(from, from + static_cast<ptrdiff_t>(n));
  job->input_pos = 0;
  job->input_taken += n;
  if (job->input_taken - job->input_told < kInputDoneBytes) return OkStatus();
  job->input_told = job->input_taken;
  DecodeMessage m{};
  m.op = DecodeOp::kInputDone;
  m.job = job->id;
  m.total = job->input_taken;
  return Send(m);
}

// Where the next output goes; empty if the ring is full.
std::span<uint8_t> Decoder::OutputRoom(const Job& job) {
  if (job.pos < job.out_begin)
    return std::span(scratch_).first(std::min(kPieceBytes, job.out_begin - job.pos));
  if (job.pieces_sent - job.pieces_done == kOutputPieces) return {};
  size_t length = std::min(kPieceBytes, job.out_end - (job.pos - job.piece_fill));
  auto place = output_.data().subspan(job.pieces_sent % kOutputPieces * kPieceBytes, length);
  return place.subspan(job.piece_fill);
}

Status Decoder::EmitPiece(Job* job) {
  DecodeMessage m{};
  m.op = DecodeOp::kOutput;
  m.job = job->id;
  m.data_offset = job->pos - job->piece_fill;
  m.length = static_cast<uint32_t>(job->piece_fill);
  job->piece_fill = 0;
  job->pieces_sent++;
  FASTOCI_CHECK_OK(Send(m));
  if (job->pos < job->out_end) return OkStatus();
  m = {};
  m.op = DecodeOp::kDone;
  m.job = job->id;
  m.total = job->input_taken;
  job_.reset();
  return Send(m);
}

Status Decoder::Step() {
  Job* job = job_.get();
  if (job->input_pos == job->input.size()) FASTOCI_CHECK_OK(RefillInput(job));
  std::span<uint8_t> room = OutputRoom(*job);
  if (room.empty()) {
    job->stalled = true;
    return OkStatus();
  }
  FASTOCI_TRY(auto p, job->stream->Decode(ByteSpan(job->input).subspan(job->input_pos), room));
  job->input_pos += p.consumed;
  if (job->pos >= job->out_begin) job->piece_fill += p.produced;
  job->pos += p.produced;
  if (job->piece_fill > 0 && p.produced == room.size()) return EmitPiece(job);
  if (p.ended) return InvalidError("stream ends before the data space does");
  if (p.consumed > 0 || p.produced > 0) return OkStatus();
  if (job->input_taken < job->input_total) return OkStatus();
  if (job->eof) return InvalidError("input ends too early");
  job->stalled = true;
  return OkStatus();
}

}  // namespace fastoci
