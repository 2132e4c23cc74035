// SPDX-License-Identifier: Apache-2.0
#include "miss/whole_reader.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

#include "base/packet.h"

namespace fastoci {
namespace {

constexpr uint64_t kCopyBytes = 1 << 20;  // of input at a time
constexpr int kDecoderPollMs = 100;
constexpr int kMaxDecoders = 10;  // that are lost in one call of Run()

bool IsLie(const Error& e) {
  return e.kind == ErrorKind::kMismatch || e.kind == ErrorKind::kInvalid;
}

}  // namespace

Result<std::vector<Sha256Digest>> WholeReader::Run(std::shared_ptr<const SpaceView> view,
                                                   bool cache) {
  if (!memory_.valid()) {
    memory_.reset(::memfd_create("fastoci-whole", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    if (!memory_.valid() || ::ftruncate(memory_.get(), kCopyBytes) != 0) {
      memory_.reset();
      return ErrnoError("whole blob: memory");
    }
  }
  view_ = std::move(view);
  cache_ = cache;
  begin_ = Clock::now();
  read_ = 0;
  auto digests = RunAttempts();
  EndCaching();
  decoder_ = nullptr;
  view_ = nullptr;
  return digests;
}

Result<std::vector<Sha256Digest>> WholeReader::RunAttempts() {
  for (;;) {
    if (!whole_) FASTOCI_CHECK_OK(BeginAttempt());
    Status read = ReadOn();
    if (read.ok()) {
      auto digests = whole_->Finish();
      if (digests.ok()) return digests;
      read = digests.error();
    }
    const Error& e = read.error();
    if (parts_.stop()) return e;
    if (IsLie(e)) {
      parts_.counters->mismatches++;
      lie_ = e;
    } else if (e.err == ESTALE) {  // whom we excluded has another number now
      Reset();
      return e;
    } else if (e.err == EAGAIN && attempt_ > 0) {
      undecided_ = e;
    } else {
      return e;
    }
    EndCaching();
    whole_ = nullptr;
    attempt_++;
  }
}

void WholeReader::Reset() {
  attempt_ = 0;
  whole_ = nullptr;
  undecided_.reset();
}

Status WholeReader::BeginAttempt() {
  const uint32_t cache = view_->info.cache, space = view_->info.space;
  if (attempt_ == 0) {
    choice_ = {};
    index_ = parts_.dispatcher->IndexOf(cache, space);
    if (!index_) return NotFoundError("its image is gone");
  } else {
    if (attempt_ == 1) ways_ = parts_.dispatcher->WaysOf(cache, space);
    const size_t n = ways_.pairs.size();
    if (n == 0 || (attempt_ >= std::max(kMinAttempts, n + 1) && undecided_)) {
      const Error e = undecided_.value_or(
          Error{ErrorKind::kUnavailable, EAGAIN, "no location can be asked now"});
      Reset();
      return e;
    }
    if (attempt_ >= std::max(kMinAttempts, n + 1))
      return MismatchError(lie_.message + ": the same result from " +
                           (n == 1 ? "its only source" : "each of its " + std::to_string(n) +
                                                             " sources alone"));
    const BlobSource::Pair& pair = ways_.pairs[(attempt_ - 1) % n];
    choice_ = {};
    choice_.fetcher = ways_.fetcher;
    choice_.fresh = true;
    for (const BlobSource::Pair& other : ways_.pairs)
      if (other.location.location != pair.location.location)
        choice_.not_these.insert(other.location.location);
    index_ = pair.index;
  }
  whole_ = std::make_unique<WholeBlob>(index_->table);
  return OkStatus();
}

// A decoder that is lost is replaced, and the next one goes on nearby.
Status WholeReader::ReadOn() {
  Status status = OkStatus();
  for (int decoders = 0; decoders < kMaxDecoders; decoders++) {
    status = StartDecoder();
    if (status.ok()) status = Pump();
    if (status.ok() || status.error().err != EPIPE) break;
  }
  return status;
}

Status WholeReader::StartDecoder() {
  const WholeBlob::Point point = whole_->Resume();
  fed_ = 0;
  input_free_ = true;
  BeginCaching();
  FASTOCI_TRY(decoder_, DecoderClient::Spawn(parts_.decode.program, memory_.get()));
  const BlobInfo& table = index_->table;
  FASTOCI_CHECK_OK(decoder_->OpenSpace(index_->key, table.codec, table.data_bytes,
                                       table.blob_bytes, index_->memfd.get()));
  return decoder_->Decode({.job = ++job_,
                           .space = index_->key,
                           .span_data_offset = table.spans[point.span].data_offset,
                           .blob_offset = point.input_offset,
                           .out_begin = point.data_offset,
                           .out_end = table.data_bytes});
}

Status WholeReader::Pump() {
  const uint64_t blob_bytes = index_->table.blob_bytes;
  const auto stall = std::chrono::milliseconds(parts_.decode.stall_ms);
  auto heard = Clock::now();
  while (!whole_->complete()) {
    if (parts_.stop()) return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
    if (whole_->next_input() < blob_bytes && (input_free_ || !decoder_->busy())) {
      FASTOCI_CHECK_OK(FeedNext());
      heard = Clock::now();
    }
    if (!decoder_->busy()) {
      if (whole_->next_input() < blob_bytes) continue;
      return MismatchError("the decoder ended before the end of the blob");
    }
    auto m = decoder_->Receive(kDecoderPollMs);
    if (!m.ok() && m.error().err != ETIMEDOUT)
      return Error{ErrorKind::kUnavailable, EPIPE, "decoder: " + m.error().message};
    if (!m.ok() && Clock::now() - heard > stall)  // it has all that it needs to go on
      return Error{ErrorKind::kUnavailable, EPIPE, "decoder: it made no progress for too long"};
    if (!m.ok()) continue;
    heard = Clock::now();
    if (m->op == DecodeOp::kInputDone && m->total == fed_) input_free_ = true;
    if (m->op == DecodeOp::kFailed)
      return Error{ErrorKind::kInvalid, EBADMSG, "decode: " + FieldText(m->text)};
    if (m->op != DecodeOp::kOutput) continue;
    FASTOCI_CHECK_OK(Take(m->data_offset, m->length));
    if (decoder_->busy()) FASTOCI_CHECK_OK(decoder_->OutputDone());
  }
  return OkStatus();
}

// Copies, hashes and hands on the next bytes of the blob.
Status WholeReader::FeedNext() {
  const uint64_t offset = whole_->next_input(), blob_bytes = index_->table.blob_bytes;
  const uint64_t length = std::min(kCopyBytes, blob_bytes - offset);
  FASTOCI_CHECK_OK(parts_.pace(begin_, read_));
  const SpaceInfo& info = view_->info;
  FASTOCI_TRY(auto bytes,
              parts_.fetch->Read({info.cache, info.space, view_->image, offset, length}, choice_));
  if (attempt_ == 0) choice_.first = bytes.location.location;  // it answers
  read_ += length;
  copy_.resize(length);
  FASTOCI_CHECK_OK(parts_.fetch->arena().Read(bytes.place->offset(), copy_));
  FASTOCI_CHECK_OK(whole_->Input(offset, copy_));
  if (!decoder_->busy()) return OkStatus();  // it is done, and the rest is only hashed
  if (::pwrite(memory_.get(), copy_.data(), length, 0) != static_cast<ssize_t>(length))
    return ErrnoError("whole blob: memory");
  fed_ += length;
  input_free_ = false;
  return decoder_->Input(0, length, offset + length == blob_bytes);
}

Status WholeReader::Take(uint64_t at, uint64_t length) {
  for (const uint64_t end = at + length; at < end;) {
    const size_t n = std::min<uint64_t>(kDigestBytes, end - at);
    piece_.resize(n);
    decoder_->Copy(at, piece_);
    FASTOCI_CHECK_OK(whole_->Piece(at, Sha256::Of(piece_)));
    // Until the end, a referrer's digests hold as well: the builder compares with them.
    if (builder_ && at >= builder_->next() &&
        !builder_
             ->Take(at, n,
                    [&](uint64_t, std::span<uint8_t> out) {
                      std::copy_n(piece_.begin(), out.size(), out.begin());
                    })
             .ok())
      builder_ = nullptr;
    at += n;
  }
  return OkStatus();
}

// From the next whole chunk on.
void WholeReader::BeginCaching() {
  if (!cache_ || keep_) return;
  SpanJob job;
  job.view = view_;
  job.space = parts_.dispatcher->NumberOf(view_->info.cache, view_->info.space);
  const uint64_t chunk_bytes = view_->cache->chunk_bytes();
  job.range.out_begin = (whole_->next_data() + chunk_bytes - 1) / chunk_bytes * chunk_bytes;
  job.range.out_end = index_->table.data_bytes;
  keep_ = std::make_shared<SpanWork>(std::move(job), [](const SpanJob&, const SpanWork::End&) {});
  builder_ = std::make_unique<ChunkBuilder>(keep_, parts_.dispatcher, parts_.counters, parts_.stop);
}

void WholeReader::EndCaching() {
  if (builder_) builder_->Flush();
  builder_ = nullptr;
  if (keep_) keep_->Drop();
  keep_ = nullptr;
}

}  // namespace fastoci
