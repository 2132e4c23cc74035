// SPDX-License-Identifier: Apache-2.0
#include "broker/role_lane.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"

namespace fastoci {
namespace {

uint64_t SpaceKey(const LaneJob& job) { return static_cast<uint64_t>(job.image) << 32 | job.blob; }

Error Gone(const std::string& who, const Error& e) {
  return {ErrorKind::kUnavailable, EPIPE, who + ": " + e.message};
}

// Text of another process: no control characters in our log.
std::string Text(const char* text, size_t size) {
  std::string s(text, strnlen(text, size));
  for (char& c : s)
    if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
  return s;
}

}  // namespace

struct RoleLane::State {
  uint64_t length = 0;  // of the input range
  uint64_t fetched = 0;
  uint64_t consumed = 0;
  bool fetch_ended = false;
  bool decode_ended = false;
  bool decode_ok = false;
  bool stale_space = false;
};

RoleLane::RoleLane(FetchPorts* ports, std::string decoder_program, int interrupt_fd, LaneKind kind)
    : ports_(ports),
      decoder_program_(std::move(decoder_program)),
      interrupt_fd_(interrupt_fd),
      kind_(kind),
      piece_(kPieceBytes) {}

RoleLane::~RoleLane() = default;

void RoleLane::Reset() {
  decoder_ = nullptr;  // it maps the port's ring
  hashing_port_ = nullptr;
  port_ = nullptr;
  spaces_.clear();
}

Status RoleLane::OpenPort() {
  FASTOCI_TRY(auto port, ports_->AddLane());
  if (kind_ == LaneKind::kPlain) {
    port_ = std::move(port);
    return OkStatus();
  }
  FASTOCI_TRY(auto hashing, HashingPort::Open(std::move(port)));
  hashing_port_ = hashing.get();
  port_ = std::move(hashing);
  return OkStatus();
}

Status RoleLane::Begin(const LaneJob& job, bool reopen_space) {
  if (!port_) {
    decoder_ = nullptr;
    FASTOCI_CHECK_OK(OpenPort());
  }
  if (!decoder_) {
    spaces_.clear();
    FASTOCI_TRY(decoder_, DecoderClient::Spawn(decoder_program_, port_->ring_fd()));
  }
  const uint64_t key = SpaceKey(job);
  if (reopen_space) spaces_.erase(key);
  if (!spaces_.count(key)) {
    FASTOCI_CHECK_OK(decoder_->OpenSpace(key, job.info->codec, job.info->data_bytes,
                                         job.info->blob_bytes, job.info->index));
    spaces_.insert(key);
  }
  job_++;
  FASTOCI_CHECK_OK(decoder_->Decode({.job = job_,
                                     .space = key,
                                     .span_data_offset = job.range.span_data_offset,
                                     .blob_offset = job.range.input_begin,
                                     .out_begin = job.range.out_begin,
                                     .out_end = job.range.out_end}));
  FetchMessage f = {};
  f.op = FetchOp::kFetch;
  f.job = job_;
  f.image = job.image;
  f.blob = job.blob;
  f.offset = job.range.input_begin;
  f.length = job.range.input_end - job.range.input_begin;
  f.deadline_ms = job.deadline_ms;
  f.miss_class = job.miss_class;
  f.source = job.attempt;
  return port_->Fetch(f);
}

Status RoleLane::Run(const LaneJob& job, const PieceSink& sink) {
  if (job.range.out_begin >= job.range.out_end || job.range.input_begin >= job.range.input_end)
    return Error{ErrorKind::kInternal, EINVAL, "lane: an empty job"};
  bytes_fetched_ = 0;
  times_ = {};
  http_ = {};
  for (bool reopen = false;; reopen = true) {
    Status begun = Begin(job, reopen);
    if (!begun.ok()) {
      Reset();
      return Gone("lane", begun.error());
    }
    State s;
    s.length = job.range.input_end - job.range.input_begin;
    Status status = Pump(&s, job, sink);
    // Gone processes have nothing to end; the others must, or are replaced.
    if (!status.ok() && status.error().err == EPIPE)
      Reset();
    else if (!Drain(&s))
      Reset();
    if (status.ok() || !s.stale_space || reopen) return status;
  }
}

Status RoleLane::Pump(State* s, const LaneJob& job, const PieceSink& sink) {
  const auto deadline = Clock::now() + std::chrono::milliseconds(job.deadline_ms) +
                        std::chrono::milliseconds(kStallMs);
  while (!s->decode_ended || (kind_ == LaneKind::kHashing && !s->fetch_ended)) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return Error{ErrorKind::kUnavailable, ETIMEDOUT, "lane: the job stalls"};
    pollfd fds[3] = {{decoder_->socket_fd(), POLLIN, 0},
                     {port_->socket_fd(), POLLIN, 0},
                     {interrupt_fd_, POLLIN, 0}};
    const auto before = Clock::now();
    if (::poll(fds, 3, static_cast<int>(left)) < 0 && errno != EINTR)
      return ErrnoError("lane: poll");
    // Whoever ends the wait was waited for.
    (fds[0].revents ? times_.decode : times_.network) += Clock::now() - before;
    if (fds[2].revents) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
    if (fds[1].revents) {
      auto m = port_->Receive(0);
      if (m.ok())
        FASTOCI_CHECK_OK(OnFetch(s, *m));
      else if (m.error().err != ETIMEDOUT)
        return Gone("fetcher", m.error());
    }
    if (fds[0].revents) {
      auto m = decoder_->Receive(0);
      if (m.ok())
        FASTOCI_CHECK_OK(OnDecode(s, *m, sink));
      else if (m.error().err != ETIMEDOUT)
        return Gone("decoder", m.error());
    }
  }
  if (!s->decode_ok)
    return Error{ErrorKind::kInternal, EIO, "decoder: ended without a result"};
  if (hashing_port_) input_digest_ = hashing_port_->Finish();
  return OkStatus();
}

// The decoder is done: what still comes of the input is only hashed.
Status RoleLane::PassRest(State* s) {
  s->consumed = s->fetched;
  return s->fetch_ended ? OkStatus() : port_->Consumed(job_, s->consumed);
}

void RoleLane::EndFetch(State* s, const FetchMessage& m) {
  s->fetch_ended = true;
  http_.requests += m.requests;
  http_.retries += m.retries;
  http_.tokens += m.tokens;
}

Status RoleLane::OnFetch(State* s, const FetchMessage& m) {
  if (m.job != job_ || s->fetch_ended) return OkStatus();  // the end of an earlier one
  switch (m.op) {
    case FetchOp::kData:
    case FetchOp::kDone:
      if (m.total < s->fetched || m.total > s->length || m.total > s->consumed + kFetchRingBytes ||
          (m.op == FetchOp::kDone && m.total != s->length))
        return Error{ErrorKind::kUnavailable, EPIPE, "fetcher: impossible totals"};
      bytes_fetched_ += m.total - s->fetched;
      s->fetched = m.total;
      if (m.op == FetchOp::kDone) EndFetch(s, m);
      if (s->decode_ended) return PassRest(s);
      return decoder_->Input(s->fetched, s->fetch_ended);
    case FetchOp::kFailed: {
      EndFetch(s, m);
      const auto kind = m.kind <= static_cast<uint32_t>(ErrorKind::kInternal)
                            ? static_cast<ErrorKind>(m.kind)
                            : ErrorKind::kInternal;
      const int err = m.err > 0 && m.err < 4096 && m.err != EPIPE ? m.err : EIO;
      return Error{kind, err, "fetch: " + Text(m.text, sizeof(m.text))};
    }
    default:
      return Error{ErrorKind::kUnavailable, EPIPE, "fetcher: unknown message"};
  }
}

Status RoleLane::OnDecode(State* s, const DecodeMessage& m, const PieceSink& sink) {
  switch (m.op) {  // the client checked job, order and sizes
    case DecodeOp::kOutput: {
      std::span<uint8_t> piece(piece_.data(), m.length);
      decoder_->CopyPiece(m, piece);
      FASTOCI_CHECK_OK(decoder_->OutputDone());
      return sink(m.data_offset, piece);
    }
    case DecodeOp::kInputDone:
      s->consumed = m.total;
      if (s->fetch_ended) return OkStatus();
      return port_->Consumed(job_, s->consumed);
    case DecodeOp::kDone:
      s->decode_ended = s->decode_ok = true;
      return kind_ == LaneKind::kHashing ? PassRest(s) : OkStatus();
    case DecodeOp::kFailed:
      s->decode_ended = true;
      s->stale_space = m.err == ESTALE;
      return Error{ErrorKind::kInvalid, EBADMSG, "decode: " + Text(m.text, sizeof(m.text))};
    default:
      return Error{ErrorKind::kUnavailable, EPIPE, "decoder: unknown message"};
  }
}

// Ends what still runs of the job. False: it did not end in time.
bool RoleLane::Drain(State* s) {
  if (!s->fetch_ended && !port_->Cancel(job_).ok()) return false;
  if (!s->decode_ended && !decoder_->Cancel().ok()) return false;
  const auto deadline = Clock::now() + std::chrono::milliseconds(kDrainMs);
  while (!s->fetch_ended || !s->decode_ended) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - Clock::now()).count();
    if (left <= 0) return false;
    pollfd fds[3] = {{s->decode_ended ? -1 : decoder_->socket_fd(), POLLIN, 0},
                     {s->fetch_ended ? -1 : port_->socket_fd(), POLLIN, 0},
                     {interrupt_fd_, POLLIN, 0}};
    if (::poll(fds, 3, static_cast<int>(left)) < 0 && errno != EINTR) return false;
    if (fds[2].revents) return false;
    if (fds[1].revents) {
      auto m = port_->Receive(0);
      if (m.ok()) {
        if (m->job == job_ && (m->op == FetchOp::kDone || m->op == FetchOp::kFailed)) EndFetch(s, *m);
      } else if (m.error().err != ETIMEDOUT)
        return false;
    }
    if (fds[0].revents) {
      auto m = decoder_->Receive(0);
      if (m.ok()) {
        s->decode_ended = m->op == DecodeOp::kDone || m->op == DecodeOp::kFailed;
        if (m->op == DecodeOp::kOutput && !decoder_->OutputDone().ok()) return false;
      } else if (m.error().err != ETIMEDOUT) {
        return false;
      }
    }
  }
  return true;
}

Result<std::unique_ptr<RoleLanes>> RoleLanes::Make(FetchPorts* ports, std::string decoder_program) {
  std::unique_ptr<RoleLanes> lanes(new RoleLanes(ports, std::move(decoder_program)));
  lanes->interrupt_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!lanes->interrupt_.valid()) return ErrnoError("eventfd");
  return lanes;
}

Result<std::unique_ptr<Lane>> RoleLanes::NewLane(LaneKind kind) {
  return std::unique_ptr<Lane>(new RoleLane(ports_, decoder_program_, interrupt_.get(), kind));
}

void RoleLanes::Interrupt() {
  const uint64_t one = 1;
  (void)!::write(interrupt_.get(), &one, sizeof(one));
}

}  // namespace fastoci
