// SPDX-License-Identifier: Apache-2.0
#include "verify/whole_blob.h"

#include <algorithm>
#include <string>
#include <utility>

#include "verify/chunk_check.h"

namespace fastoci {
namespace {

// Distance in the data between kept states: a state has a few hundred bytes, and spans may be tiny.
constexpr uint64_t kStateDistance = 1 << 20;
// Most states of input that is not decoded yet. A transfer cannot get so far ahead of its decoder.
constexpr size_t kMaxStates = 256;

Error OutOfOrder(const char* what, uint64_t offset, uint64_t wanted) {
  return {ErrorKind::kInternal, EINVAL,
          std::string("check of a whole blob: ") + what + " at " + std::to_string(offset) +
              " instead of " + std::to_string(wanted)};
}

}  // namespace

WholeBlob::WholeBlob(const BlobInfo& blob)
    : blob_bytes_(blob.blob_bytes),
      data_bytes_(blob.data_bytes),
      digest_(blob.blob_digest),
      spans_(blob.spans) {}

uint64_t WholeBlob::DataBytesAt(uint64_t offset) const {
  return offset >= data_bytes_ ? 0 : std::min<uint64_t>(kDigestBytes, data_bytes_ - offset);
}

// The first piece that begins in the span or after it.
uint64_t WholeBlob::FirstPieceOf(uint32_t span) const {
  return (spans_[span].data_offset + kDigestBytes - 1) / kDigestBytes * kDigestBytes;
}

void WholeBlob::Restart() {
  hash_ = Sha256();
  next_input_ = next_data_ = known_input_ = 0;
  pieces_.clear();
  nr_sure_ = 0;
  next_span_ = 1;
  states_.clear();
}

// A whole piece after its begin is known: it will be decoded again and compared.
bool WholeBlob::IsUsable(const State& state) const {
  return FirstPieceOf(state.span) + kDigestBytes <= pieces_.size() * kDigestBytes;
}

WholeBlob::Point WholeBlob::Resume() {
  if (IsSure()) {
    nr_sure_ = pieces_.size();
    known_input_ = next_input_;
    known_digest_ = hash_.Copy().Finish();
  } else {
    pieces_.resize(nr_sure_);
  }
  Point point;
  hash_ = Sha256();
  if (!states_.empty() && IsUsable(states_.front())) {
    const State& state = states_.front();
    point = {state.span, InputOffsetOf(state.span), FirstPieceOf(state.span)};
    hash_ = state.hash.Copy();
  }
  next_input_ = point.input_offset;
  next_data_ = point.data_offset;
  return point;
}

// At the begin of next_span_.
void WholeBlob::KeepState() {
  const uint64_t last = states_.empty() ? 0 : spans_[states_.back().span].data_offset;
  if (spans_[next_span_].data_offset - last < kStateDistance || states_.size() >= kMaxStates)
    return;
  State state;
  state.span = next_span_;
  state.hash = hash_.Copy();
  states_.push_back(std::move(state));
}

// Keeps the last state that is usable, and those after it.
void WholeBlob::DropOldStates() {
  while (states_.size() > 1 && IsUsable(states_[1])) states_.pop_front();
}

uint64_t WholeBlob::BytesToNextStop() const {
  uint64_t stop = blob_bytes_;
  if (next_span_ < spans_.size() && InputOffsetOf(next_span_) > next_input_)
    stop = std::min(stop, InputOffsetOf(next_span_));
  if (known_input_ > next_input_) stop = std::min(stop, known_input_);
  return stop - next_input_;
}

Status WholeBlob::Input(uint64_t offset, ByteSpan bytes) {
  if (offset != next_input_) return OutOfOrder("input", offset, next_input_);
  if (bytes.size() > blob_bytes_ - next_input_)
    return MismatchError("the source sends more than the blob has");
  while (!bytes.empty()) {
    const size_t n = std::min<uint64_t>(bytes.size(), BytesToNextStop());
    hash_.Update(bytes.first(n));
    next_input_ += n;
    bytes = bytes.subspan(n);
    if (next_input_ == known_input_ && hash_.Copy().Finish() != known_digest_)
      return MismatchError("the first " + std::to_string(next_input_) +
                           " bytes of the blob are others than before");
    for (; next_span_ < spans_.size() && InputOffsetOf(next_span_) <= next_input_; next_span_++)
      if (InputOffsetOf(next_span_) == next_input_) KeepState();
  }
  return OkStatus();
}

Status WholeBlob::Piece(uint64_t offset, const Sha256Digest& digest) {
  if (offset != next_data_ || offset >= data_bytes_) return OutOfOrder("a piece", offset, next_data_);
  const size_t index = offset / kDigestBytes;
  if (index < pieces_.size() && pieces_[index] != digest)
    return MismatchError("what is decoded at " + std::to_string(offset) +
                         " is something else than before");
  if (index == pieces_.size()) pieces_.push_back(digest);
  next_data_ += DataBytesAt(offset);
  if (IsSure()) DropOldStates();
  return OkStatus();
}

Result<std::vector<Sha256Digest>> WholeBlob::Finish() {
  if (!complete())
    return Error{ErrorKind::kInternal, EINVAL,
                 "check of a whole blob: it ended at byte " + std::to_string(next_input_) + " of " +
                     std::to_string(blob_bytes_)};
  const Sha256Digest got = hash_.Copy().Finish();
  if (got != digest_) return MismatchError("what the source sends is " + DigestString(got));
  return pieces_;
}

}  // namespace fastoci
