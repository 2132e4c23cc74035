// SPDX-License-Identifier: Apache-2.0
#include "image/file_mapping.h"

#include <algorithm>
#include <cstring>

namespace fastoci {

FileMapping::FileMapping(const TarEntry& entry) {
  std::vector<TarRun> whole;
  if (!entry.sparse && entry.size != 0) whole.push_back({0, entry.size});
  const std::vector<TarRun>& runs = entry.sparse ? entry.runs : whole;
  uint64_t stored = 0;
  for (size_t i = 0; i < runs.size(); i++) {
    AddRun(runs[i], stored, entry.data_offset, i + 1 == runs.size());
    stored += runs[i].bytes;
  }
}

void FileMapping::AddRun(const TarRun& run, uint64_t stored, uint64_t data_offset, bool last) {
  uint64_t end = run.file_offset + run.bytes;
  uint64_t first_block = run.file_offset / kFsBlockBytes;
  uint64_t end_block = (end + kFsBlockBytes - 1) / kFsBlockBytes;
  if (!blocks_.empty() && first_block <= blocks_.back().first + blocks_.back().second) {
    blocks_.back().second = end_block - blocks_.back().first;
  } else {
    blocks_.emplace_back(first_block, end_block - first_block);
  }
  uint64_t tar_offset = data_offset + stored;
  if (run.file_offset % kSectorBytes != 0 || tar_offset % kSectorBytes != 0) {
    copies_.push_back({stored, run.bytes, run.file_offset});
    return;
  }
  uint64_t whole = run.bytes / kSectorBytes, rest = run.bytes % kSectorBytes;
  uint64_t sector = run.file_offset / kSectorBytes, tar_sector = tar_offset / kSectorBytes;
  if (whole != 0) mapped_.push_back({sector, whole, tar_sector});
  if (rest == 0) return;
  copies_.push_back({stored + run.bytes - rest, rest, end - rest});
  if (last) {
    has_tail_ = true;
    tail_ = {sector + whole, 1, tar_sector + whole};
  }
}

Status FileMapping::OnData(uint64_t offset, ByteSpan data) {
  uint64_t end = offset + data.size();
  while (next_copy_ < copies_.size() && copies_[next_copy_].stored < end) {
    const Copy& copy = copies_[next_copy_];
    uint64_t from = std::max(offset, copy.stored), to = std::min(end, copy.stored + copy.bytes);
    for (uint64_t at = from; at < to;) {
      uint64_t file_offset = copy.file_offset + (at - copy.stored);
      uint64_t n = std::min(to - at, kSectorBytes - file_offset % kSectorBytes);
      Sector& sector = copied_[file_offset / kSectorBytes];
      std::memcpy(sector.data() + file_offset % kSectorBytes, data.data() + (at - offset), n);
      at += n;
    }
    if (copied_.size() > kMaxCopiedSectors)
      return InvalidError("more than 256 MiB of a sparse file are not aligned to 512 bytes");
    if (copy.stored + copy.bytes > end) break;
    next_copy_++;
  }
  return OkStatus();
}

void FileMapping::Emit(bool zero_padding, const std::vector<FileExtent>& extents,
                       LsmtBuilder* out) const {
  bool tail_mapped = has_tail_ && zero_padding && copied_.size() <= 1;
  // With other copied sectors the tail's sector may hold another run's end, too.
  if (has_tail_ && zero_padding && copied_.size() > 1) {
    bool shared = false;
    for (const Copy& c : copies_)
      shared = shared || (c.file_offset / kSectorBytes <= tail_.sector &&
                          (c.file_offset + c.bytes - 1) / kSectorBytes >= tail_.sector &&
                          c.file_offset != tail_.sector * kSectorBytes);
    tail_mapped = !shared;
  }
  std::vector<Mapped> mapped = mapped_;
  if (tail_mapped) mapped.push_back(tail_);
  for (const FileExtent& extent : extents) EmitBlocks(extent, mapped, tail_mapped, out);
}

void FileMapping::EmitBlocks(const FileExtent& extent, const std::vector<Mapped>& mapped,
                             bool tail_mapped, LsmtBuilder* out) const {
  uint64_t begin = uint64_t{extent.logical} * kFsBlockSectors;
  uint64_t end = begin + uint64_t{extent.nr_blocks} * kFsBlockSectors;
  uint64_t device = uint64_t{extent.block} * kFsBlockSectors;
  auto m = std::partition_point(mapped.begin(), mapped.end(), [&](const Mapped& s) {
    return s.sector + s.nr_sectors <= begin;
  });
  auto c = copied_.lower_bound(begin);
  for (uint64_t at = begin; at < end;) {
    if (tail_mapped && c != copied_.end() && c->first == tail_.sector) ++c;
    uint64_t next_mapped = m == mapped.end() ? end : std::min(end, m->sector);
    uint64_t next_copied = c == copied_.end() ? end : std::min(end, c->first);
    uint64_t to = at;
    if (next_copied <= at && c != copied_.end()) {
      out->AddData(device + (at - begin), c->second);
      to = at + 1;
      ++c;
    } else if (next_mapped <= at && m != mapped.end()) {
      to = std::min(end, m->sector + m->nr_sectors);
      out->AddTar(device + (at - begin), to - at, m->tar_sector + (at - m->sector));
      if (to == m->sector + m->nr_sectors) ++m;
    } else {
      to = std::min(next_mapped, next_copied);
      out->AddZero(device + (at - begin), to - at);
    }
    at = to;
  }
}

}  // namespace fastoci
