// SPDX-License-Identifier: Apache-2.0
#include "image/overlaybd_writer.h"

#include <fcntl.h>

#include <algorithm>
#include <cstdio>

#include "base/unnamed_file.h"
#include "codec/tar_reader.h"
#include "codec/tar_writer.h"

namespace fastoci {
namespace {

constexpr uint64_t kPayloadAt = 3 * kTarBlockBytes;
constexpr size_t kCopyBytes = 1 << 20;

}  // namespace

Result<std::unique_ptr<OverlaybdWriter>> OverlaybdWriter::Create(const std::string& directory,
                                                                 const LsmtFileOptions& options) {
  std::unique_ptr<OverlaybdWriter> w(new OverlaybdWriter(options));
  FASTOCI_TRY(w->file_, OpenUnnamed(directory));
  OverlaybdWriter* raw = w.get();
  FASTOCI_TRY(ZFileWriter zfile, ZFileWriter::Create({}, [raw](ByteSpan data) {
                Status s = PwriteFull(raw->file_.get(), data, kPayloadAt + raw->payload_bytes_,
                                      "overlaybd layer");
                raw->payload_bytes_ += data.size();
                return s;
              }));
  w->zfile_.emplace(std::move(zfile));
  FASTOCI_CHECK_OK(w->Write(LsmtHeader(options)));
  return w;
}

Status OverlaybdWriter::Write(ByteSpan data) {
  lsmt_bytes_ += data.size();
  chunks_.Update(data);
  return zfile_->Update(data);
}

// Fills up the last sector.
Status OverlaybdWriter::EndRun() {
  if (!in_run_) return OkStatus();
  in_run_ = false;
  FASTOCI_CHECK_OK(Write(Bytes(-lsmt_bytes_ % kSectorBytes)));
  Run& run = runs_.back();
  run.nr_sectors = lsmt_bytes_ / kSectorBytes - run.file_sector;
  if (run.nr_sectors == 0) runs_.pop_back();
  return OkStatus();
}

Status OverlaybdWriter::Begin(uint64_t tar_sector) {
  FASTOCI_CHECK_OK(EndRun());
  runs_.push_back({tar_sector, 0, lsmt_bytes_ / kSectorBytes});
  in_run_ = true;
  return OkStatus();
}

Status OverlaybdWriter::Append(ByteSpan data) { return Write(data); }

// Maps sectors of the tar and of content.data to sectors of the LSMT file, where
// content.data is written next.
Result<LsmtSegments> OverlaybdWriter::Translate(const LsmtContent& content) const {
  LsmtSegments out;
  out.reserve(content.segments.size());
  for (LsmtSegment s : content.segments) {
    if (s.source == LsmtSource::kFile) s.mapped += lsmt_bytes_ / kSectorBytes;
    if (s.source == LsmtSource::kTar) {
      auto run = std::partition_point(runs_.begin(), runs_.end(), [&](const Run& r) {
        return r.tar_sector + r.nr_sectors <= s.mapped;
      });
      if (run == runs_.end() || s.mapped < run->tar_sector ||
          s.mapped + s.nr_sectors > run->tar_sector + run->nr_sectors)
        return Error{ErrorKind::kInternal, EINVAL, "a mapping of what no file holds"};
      s.mapped = run->file_sector + (s.mapped - run->tar_sector);
      s.source = LsmtSource::kFile;
    }
    AppendSegment(&out, s);
  }
  return out;
}

Status OverlaybdWriter::WriteWrapper(uint64_t payload_bytes) {
  std::string record;
  for (size_t length = 0; record.size() != length || length == 0;) {
    length = record.size();
    record = std::to_string(length) + " size=" + std::to_string(payload_bytes) + "\n";
  }
  Bytes front = TarHeader("overlaybd.pax", record.size(), 'x');
  front.insert(front.end(), record.begin(), record.end());
  front.resize(2 * kTarBlockBytes);
  Bytes member = TarHeader("overlaybd.commit", 0, '0');
  front.insert(front.end(), member.begin(), member.end());
  FASTOCI_CHECK_OK(PwriteFull(file_.get(), front, 0, "overlaybd layer"));
  Bytes end(-payload_bytes % kTarBlockBytes + 2 * kTarBlockBytes);
  return PwriteFull(file_.get(), end, kPayloadAt + payload_bytes, "overlaybd layer");
}

Result<PackedOverlaybdLayer> OverlaybdWriter::Finish(const LsmtContent& content) {
  FASTOCI_CHECK_OK(EndRun());
  FASTOCI_TRY(LsmtSegments segments, Translate(content));
  FASTOCI_CHECK_OK(Write(content.data));
  FASTOCI_TRY(Bytes end, LsmtEnd(segments, lsmt_bytes_, options_));
  FASTOCI_CHECK_OK(Write(end));
  FASTOCI_TRY(auto header, zfile_->Finish());
  FASTOCI_CHECK_OK(PwriteFull(file_.get(), header, kPayloadAt, "overlaybd layer"));
  FASTOCI_CHECK_OK(WriteWrapper(payload_bytes_));
  PackedOverlaybdLayer layer;
  layer.bytes = kPayloadAt + payload_bytes_ + -payload_bytes_ % kTarBlockBytes + 2 * kTarBlockBytes;
  layer.chunk_digests = chunks_.Finish();
  Sha256 hash;
  Bytes buffer(kCopyBytes);
  for (uint64_t at = 0; at < layer.bytes; at += buffer.size()) {
    buffer.resize(std::min<uint64_t>(kCopyBytes, layer.bytes - at));
    FASTOCI_CHECK_OK(PreadFull(file_.get(), buffer, at, "overlaybd layer"));
    hash.Update(buffer);
  }
  layer.digest = hash.Finish();
  layer.file = std::move(file_);
  return layer;
}

}  // namespace fastoci
