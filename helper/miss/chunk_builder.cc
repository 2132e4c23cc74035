// SPDX-License-Identifier: Apache-2.0
#include "miss/chunk_builder.h"

#include <algorithm>

namespace fastoci {
namespace {

constexpr size_t kGroup = 16;  // chunks
constexpr auto kMemoryPoll = std::chrono::milliseconds(200);

// What the writer's callback needs of a chunk.
struct Ticket {
  std::shared_ptr<SpanWork> work;
  uint64_t order;  // Dispatcher::Awaited
};

}  // namespace

ChunkBuilder::ChunkBuilder(std::shared_ptr<SpanWork> work, Dispatcher* dispatcher,
                           Counters* counters, std::function<bool()> stop)
    : work_(std::move(work)),
      dispatcher_(dispatcher),
      counters_(counters),
      stop_(std::move(stop)),
      view_(*work_->job().view),
      next_(work_->job().range.out_begin) {}

// A chunk that is served already is not written again.
Status ChunkBuilder::BeginChunk(uint32_t chunk_no) {
  pieces_.clear();
  chunk_ = ChunkBuffer();
  Cache& cache = *view_.cache;
  const uint32_t space = view_.info.space;
  cache.WaitForClaim(space, chunk_no);
  if (auto where = cache.Find(space, chunk_no)) {
    const auto awaited = dispatcher_->IsAwaited(work_->job().space, chunk_no);
    if (where->use == SlotUse::kPresent && !awaited.by_reader) return OkStatus();
    if (where->use == SlotUse::kPresent && cache.FillAgain(space, chunk_no)) {
      dispatcher_->Resolve(work_->job(), chunk_no, awaited.order);
      return OkStatus();
    }
    // If the chunk is restored and not verified yet, the fresh bytes replace it.
    if (auto slot = cache.Claim(space, chunk_no)) cache.Drop({&*slot, 1});
  }
  while (!chunk_) {
    chunk_ = view_.writer->WaitForChunk(std::chrono::steady_clock::now() + kMemoryPoll);
    if (!chunk_ && (stop_() || view_.writer->stopped() || work_->failed()))
      return Error{ErrorKind::kUnavailable, ECANCELED, "stopping"};
    if (!chunk_) Flush();  // what we hold may be what is missing
  }
  return OkStatus();
}

Status ChunkBuilder::Take(uint64_t data_offset, uint64_t length, const Copy& copy) {
  const uint64_t end = data_offset + length;
  for (uint64_t at = data_offset; at < end;) {
    const uint64_t left = view_.blob->data_bytes - std::min(view_.blob->data_bytes, at);
    const uint64_t bytes = std::min<uint64_t>(kDigestBytes, left);
    if (at != next_ || bytes == 0 || bytes > end - at) {
      Error error{ErrorKind::kMismatch, EBADMSG, "the decoder's pieces are out of order"};
      work_->Fail(Fault::kBytes, error);
      return error;
    }
    FASTOCI_CHECK_OK(TakePiece(at, bytes, copy));
    at = next_ = at + bytes;
  }
  return OkStatus();
}

Status ChunkBuilder::TakePiece(uint64_t at, size_t bytes, const Copy& copy) {
  const uint64_t chunk_bytes = view_.cache->chunk_bytes();
  const auto chunk_no = static_cast<uint32_t>(at / chunk_bytes);
  const uint64_t in_chunk = at % chunk_bytes;
  if (in_chunk == 0)
    if (Status s = BeginChunk(chunk_no); !s.ok()) {
      work_->Fail(Fault::kStopped, s.error());
      return s;
    }
  if (!chunk_) return OkStatus();
  const auto begin = std::chrono::steady_clock::now();
  std::span<uint8_t> piece = chunk_.span().subspan(in_chunk, bytes);
  copy(at, piece);
  pieces_.push_back(Sha256::Of(piece));
  times_.verify += std::chrono::steady_clock::now() - begin;
  const auto& digests = view_.blob->digests;
  if (!digests.empty() && digests[at / kDigestBytes] != pieces_.back()) {
    Error error = MismatchError("digest of data bytes " + std::to_string(at) + "+" +
                                std::to_string(bytes) + " differs");
    work_->Fail(Fault::kBytes, error);
    return error;
  }
  counters_->bytes_decoded += bytes;
  if (digests.empty()) counters_->unverified++;
  if (in_chunk + bytes == chunk_bytes || at + bytes == view_.blob->data_bytes)
    EndChunk(chunk_no, in_chunk + bytes);
  return OkStatus();
}

void ChunkBuilder::EndChunk(uint32_t chunk_no, size_t bytes) {
  VerifiedChunk c;
  c.space = view_.info.space;
  c.row = {.space_id = view_.blob->data_space_id,
           .chunk_no = chunk_no,
           .digest = ChunkDigest(pieces_),
           .data_bytes = view_.blob->data_bytes};
  c.data = std::move(chunk_);
  c.data_bytes = bytes;
  const auto awaited = dispatcher_->IsAwaited(work_->job().space, chunk_no);
  c.urgent = awaited.by_reader;
  c.owner = std::make_shared<Ticket>(Ticket{work_, awaited.order});
  work_->BeginWrite();
  if (c.urgent) {
    std::vector<VerifiedChunk> one;
    one.push_back(std::move(c));
    view_.writer->Write(std::move(one));
    return;
  }
  ready_.push_back(std::move(c));
  if (ready_.size() >= kGroup) Flush();
}

void ChunkBuilder::Flush() {
  if (!ready_.empty()) view_.writer->Write(std::exchange(ready_, {}));
}

void OnChunksWritten(Dispatcher* dispatcher, std::vector<VerifiedChunk> chunks) {
  for (VerifiedChunk& c : chunks) {
    const auto ticket = std::static_pointer_cast<Ticket>(std::move(c.owner));
    const std::shared_ptr<SpanWork>& work = ticket->work;
    if (c.result.ok())
      dispatcher->Resolve(work->job(), c.row.chunk_no, ticket->order);
    else
      work->Fail(c.result.error().err == ECANCELED ? Fault::kStopped : Fault::kCache,
                 c.result.error());
    work->EndWrite();
  }
}

}  // namespace fastoci
