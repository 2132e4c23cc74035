// SPDX-License-Identifier: Apache-2.0
#include "attach/start_record.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "attach/bounded.h"
#include "base/digest.h"
#include "base/process.h"
#include "base/unique_fd.h"
#include "image/meta_image.h"

namespace fastoci {
namespace {

constexpr int64_t kReplayMs = 120000;
constexpr uint64_t kSector = 512;
constexpr uint64_t kPieceBytes = kPieceSectors * kSector;
constexpr off_t kPageBytes = 4096;
constexpr uint64_t kZFileHeader = 512;
constexpr size_t kMaxSpansLookedAt = 1 << 20;

bool IsOfData(const TraceRead& read) {
  return read.kind != TraceRead::kMeta && read.kind != TraceRead::kZero && read.nr_sectors > 0;
}

// Calls fn(blob, piece) for each piece that the read touches. The kernel has cut it to one extent.
template <typename Fn>
void ForPieces(const ExtentMap& extents, const TraceRead& read, const Fn& fn) {
  const auto place = extents.Find(read.sector);
  if (!place || place->nr_sectors == 0) return;
  const uint64_t last = place->data_sector + std::min(read.nr_sectors, place->nr_sectors) - 1;
  for (uint64_t piece = place->data_sector / kPieceSectors; piece <= last / kPieceSectors; piece++) fn(place->blob, piece);
}

// Adds the piece at the end, as part of the last run if that goes on there.
void Append(uint32_t blob, uint64_t piece, StartTrace* trace) {
  const uint64_t sector = piece * kPieceSectors;
  if (!trace->runs.empty()) {
    DataRun& last = trace->runs.back();
    if (last.blob == blob && last.sector + last.nr_sectors == sector) {
      last.nr_sectors += kPieceSectors;
      return;
    }
  }
  trace->runs.push_back({blob, sector, kPieceSectors});
}

}  // namespace

uint32_t PieceTrace::NumberOf(const std::string& blob) {
  const auto it = std::find(trace_.blobs.begin(), trace_.blobs.end(), blob);
  const auto number = static_cast<uint32_t>(it - trace_.blobs.begin());
  if (it == trace_.blobs.end()) trace_.blobs.push_back(blob);
  return number;
}

bool PieceTrace::Add(const std::string& blob, uint64_t piece) {
  if ((touched_.size() + 1) * kPieceSectors > kMaxStartSectors) return false;
  const uint32_t number = NumberOf(blob);
  if (touched_.insert({number, piece}).second) Append(number, piece, &trace_);
  return true;
}

void FirstTouches::Add(const TraceRead& read) {
  if (!IsOfData(read) || read.program == kReplayProgram) return;
  ForPieces(extents_, read, [&](const std::string& blob, uint64_t piece) { (void)pieces_.Add(blob, piece); });
}

Result<StartRecorder> StartRecorder::Begin(const std::string& control_socket, const std::string& image,
                                           const std::string& meta_path) {
  FASTOCI_TRY(ImageNumbers numbers, AskImageNumbers(control_socket, image, kServedMs));
  FASTOCI_TRY(ExtentMap extents, ExtentMap::Read(meta_path));
  FASTOCI_TRY(KernelTrace kernel, KernelTrace::Begin(numbers.image_no));
  return StartRecorder(std::move(kernel), std::make_unique<ExtentMap>(std::move(extents)));
}

void StartRecorder::Take() {
  Trace trace;
  kernel_.Read(&trace);
  for (const TraceRead& read : trace.reads) touches_->Add(read);
  lost_ += trace.lost;
}

Result<StartTrace> StartOfOverlaybd(const std::vector<OverlaybdRead>& reads, const std::vector<std::string>& blobs,
                                    const std::string& meta_path) {
  UniqueFd fd(::open(meta_path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat st;
  if (!fd.valid() || ::fstat(fd.get(), &st) != 0) return ErrnoError(meta_path);
  FASTOCI_TRY(MetaImage image, ReadMetaImage(fd.get(), static_cast<uint64_t>(st.st_size)));
  std::map<std::string, const BlobInfo*> known;
  for (const BlobInfo& blob : image.blobs)
    if (blob.codec == FASTOCI_CODEC_ZFILE) known[DigestString(blob.blob_digest)] = &blob;
  PieceTrace pieces;
  size_t looked_at = 0;
  for (const OverlaybdRead& read : reads) {
    const auto it = read.layer < blobs.size() ? known.find(blobs[read.layer]) : known.end();
    if (it == known.end() || read.offset < kZFileHeader) continue;
    const std::vector<Span>& spans = it->second->spans;
    // The first span begins behind the file's header. What comes before the file is a wrapper.
    const uint64_t begin = spans[0].blob_offset + (read.offset - kZFileHeader), end = begin + read.bytes;
    auto span = std::upper_bound(spans.begin(), spans.end(), begin,
                                 [](uint64_t offset, const Span& s) { return offset < s.blob_offset; });
    for (span = std::prev(span); span != spans.end() && span->blob_offset < end; ++span) {
      if (++looked_at > kMaxSpansLookedAt) return pieces.trace();
      const uint64_t data_end = std::next(span) == spans.end() ? it->second->data_bytes : std::next(span)->data_offset;
      for (uint64_t piece = span->data_offset / kPieceBytes; piece * kPieceBytes < data_end; piece++)
        if (!pieces.Add(it->first, piece)) return pieces.trace();
    }
  }
  return pieces.trace();
}

StartReplay::StartReplay(const StartTrace& trace, const ExtentMap* extents) : extents_(*extents) {
  for (const DataRun& run : trace.runs) {
    const uint64_t last = (run.sector + run.nr_sectors - 1) / kPieceSectors;
    for (uint64_t piece = run.sector / kPieceSectors; piece <= last; piece++) {
      const std::string& blob = trace.blobs[run.blob];
      if (pieces_.contains({blob, piece})) continue;
      const auto sector = extents_.SectorOf(blob, piece * kPieceSectors, kPieceSectors);
      if (!sector) {
        unmapped_++;
        continue;
      }
      pieces_[{blob, piece}];
      sectors_.push_back(*sector);
    }
  }
}

Status StartReplay::Run(const std::string& node) const {
  auto code = RunBounded("read ahead", kReplayMs, {}, [&] {
    SetProcessName(kReplayProgram);
    const int fd = ::open(node.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return errno;
    for (const uint64_t sector : sectors_)
      (void)::posix_fadvise(fd, static_cast<off_t>(sector * kSector), kPageBytes, POSIX_FADV_WILLNEED);
    // The cache has it, or will; the pages are needed no more.
    (void)::posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    return 0;
  });
  if (!code.ok()) return code.error();
  return *code == 0 ? OkStatus() : Status(ErrnoError("open " + node, *code));
}

void StartReplay::Add(const TraceRead& read) {
  if (!IsOfData(read)) return;
  const bool own = read.program == kReplayProgram;
  ForPieces(extents_, read, [&](const std::string& blob, uint64_t piece) {
    auto it = pieces_.find({blob, piece});
    if (it == pieces_.end()) return;
    if (!own) it->second.used = true;
    else if (read.kind == TraceRead::kHit) it->second.present = true;
  });
}

StartReplay::Count StartReplay::count() const {
  Count count;
  for (const auto& [key, piece] : pieces_)
    (piece.present ? count.present : piece.used ? count.used : count.unused) += kPieceBytes;
  count.unmapped = unmapped_ * kPieceBytes;
  return count;
}

}  // namespace fastoci
