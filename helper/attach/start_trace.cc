// SPDX-License-Identifier: Apache-2.0
#include "attach/start_trace.h"

#include <algorithm>
#include <cstdio>
#include <sstream>

#include "base/digest.h"
#include "base/foreign_json.h"
#include "base/json.h"
#include "fastoci_meta.h"

namespace fastoci {
namespace {

using Json = nlohmann::json;

constexpr char kMagic[] = "fastoci-start 2";
constexpr char kBlob[] = "blob ";
constexpr uint64_t kSector = 512;
constexpr uint64_t kMaxSector = FASTOCI_MAX_DATA_BYTES / kSector;
constexpr size_t kMaxWorkloadName = 63;

// overlaybd's file: a header and records of 24 bytes each.
constexpr uint32_t kTraceMagic = 0xc2ef1820;
constexpr size_t kTraceRecord = 24;
constexpr uint64_t kMaxTraceRecords = 1 << 18;
constexpr uint32_t kMaxTraceLayers = 256;

Error Damaged(size_t line, const char* what) {
  return InvalidError("line " + std::to_string(line) + " of the trace " + what);
}

Status TakeBlob(const std::string& line, size_t number, StartTrace* trace) {
  const std::string digest = line.substr(sizeof(kBlob) - 1);
  if (!ParseDigest(digest).ok() || !trace->runs.empty() || trace->blobs.size() == FASTOCI_MAX_BLOBS ||
      std::find(trace->blobs.begin(), trace->blobs.end(), digest) != trace->blobs.end())
    return Damaged(number, "names no blob, one again, too many of them, or too late");
  trace->blobs.push_back(digest);
  return OkStatus();
}

}  // namespace

uint64_t StartTrace::bytes() const {
  uint64_t sectors = 0;
  for (const DataRun& run : runs) sectors += run.nr_sectors;
  return sectors * kSector;
}

std::string StartToText(const StartTrace& trace) {
  std::string text = std::string(kMagic) + "\n";
  for (const std::string& blob : trace.blobs) text += kBlob + blob + "\n";
  for (const DataRun& run : trace.runs)
    text += std::to_string(run.blob) + " " + std::to_string(run.sector) + " " + std::to_string(run.nr_sectors) + "\n";
  return text;
}

Result<StartTrace> StartFromText(const std::string& text) {
  if (text.size() > kMaxStartBytes)
    return InvalidError("the trace has more than " + std::to_string(kMaxStartBytes) + " bytes");
  std::istringstream in(text);
  std::string line;
  std::getline(in, line);
  if (line != kMagic) return InvalidError("it does not begin with \"" + std::string(kMagic) + "\"");
  StartTrace trace;
  uint64_t all = 0;
  for (size_t number = 2; std::getline(in, line); number++) {
    if (line.starts_with(kBlob)) {
      FASTOCI_CHECK_OK(TakeBlob(line, number, &trace));
      continue;
    }
    // No number of a sane run has more digits. sscanf() does not tell when one overflows.
    if (line.size() > 60 || line.find_first_not_of("0123456789 ") != std::string::npos)
      return Damaged(number, "is no run of sectors");
    unsigned long long blob = 0, sector = 0, nr_sectors = 0;
    char rest;
    if (std::sscanf(line.c_str(), "%19llu %19llu %19llu%c", &blob, &sector, &nr_sectors, &rest) != 3)
      return Damaged(number, "is no run of sectors");
    if (blob >= trace.blobs.size() || sector >= kMaxSector || nr_sectors == 0 ||
        nr_sectors > std::min<uint64_t>(kMaxSector - sector, kMaxStartSectors - all))
      return Damaged(number, "is out of bounds");
    all += nr_sectors;
    trace.runs.push_back({static_cast<uint32_t>(blob), sector, nr_sectors});
  }
  return trace;
}

bool IsOverlaybdTrace(ByteSpan file) {
  return file.size() >= kTraceRecord && ByteReader(file).U32() == kTraceMagic;
}

Result<std::vector<OverlaybdRead>> ParseOverlaybdTrace(ByteSpan file) {
  if (!IsOverlaybdTrace(file)) return InvalidError("it is no trace of overlaybd");
  ByteReader header(file);
  header.Skip(8);
  const uint64_t bytes = header.U64();
  const uint32_t checksum = header.U32();
  const ByteSpan records = file.subspan(kTraceRecord);
  if (bytes != records.size() || bytes % kTraceRecord != 0 || bytes / kTraceRecord > kMaxTraceRecords)
    return InvalidError("overlaybd's trace has another length than its header says, or too many records");
  if (Crc32cRaw(0, records) != checksum) return InvalidError("the checksum of overlaybd's trace is wrong");
  std::vector<OverlaybdRead> reads;
  ByteReader reader(records);
  for (uint64_t i = 0; i < bytes / kTraceRecord; i++) {
    const char op = static_cast<char>(reader.U32() & 0xff);  // and three bytes of padding
    OverlaybdRead read;
    read.layer = reader.U32();
    read.bytes = reader.U64();
    read.offset = reader.U64();
    if (op != 'R') continue;  // layers are not written
    if (read.layer >= kMaxTraceLayers || read.offset >= FASTOCI_MAX_DATA_BYTES ||
        read.bytes > FASTOCI_MAX_DATA_BYTES - read.offset)
      return InvalidError("record " + std::to_string(i + 1) + " of overlaybd's trace is out of bounds");
    if (read.bytes > 0) reads.push_back(read);
  }
  return reads;
}

bool IsWorkloadName(const std::string& text) {
  auto alphanumeric = [](char c) {
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
  };
  return !text.empty() && text.size() <= kMaxWorkloadName && alphanumeric(text[0]) &&
         std::all_of(text.begin(), text.end(),
                     [&](char c) { return alphanumeric(c) || c == '.' || c == '_' || c == '-'; });
}

Result<Descriptor> ParseStartManifest(const std::string& body, const std::string& image_digest,
                                      const std::string& workload) {
  const Json j = ParseForeignJson(body);
  if (JsonText(j, "artifactType") != kStartArtifact) return MismatchError("it is no start trace");
  if (JsonText(JsonChild(j, "subject"), "digest") != image_digest)
    return MismatchError("it is the start trace of another image than " + image_digest);
  if (JsonText(JsonChild(j, "annotations"), kWorkloadAnnotation) != workload)
    return MismatchError("it is the start trace of another workload than " + workload);
  const Json& layers = JsonChild(j, "layers");
  if (!layers.is_array() || layers.size() != 1 || JsonText(layers[0], "mediaType") != kStartType)
    return InvalidError("a start trace has one layer, of the type " + std::string(kStartType));
  const Descriptor d = {kStartType, JsonText(layers[0], "digest"), JsonNumber(layers[0], "size")};
  FASTOCI_CHECK_OK(ParseDigest(d.digest));
  if (d.bytes == 0 || d.bytes > kMaxStartBytes)
    return InvalidError("a start trace of " + std::to_string(d.bytes) + " bytes; the limit is " +
                        std::to_string(kMaxStartBytes));
  return d;
}

Result<std::vector<std::string>> StartArtifacts(const std::string& index_body, const std::string& workload) {
  FASTOCI_TRY(const Json j, ParseForeignObject(index_body, "the list of referrers"));
  struct Entry {
    std::string created, digest;
  };
  std::vector<Entry> entries;
  for (const Json& m : JsonChild(j, "manifests")) {
    const Json& notes = JsonChild(m, "annotations");
    const std::string named = JsonText(notes, kWorkloadAnnotation), digest = JsonText(m, "digest");
    if (JsonText(m, "artifactType") != kStartArtifact || !ParseDigest(digest).ok()) continue;
    if (!named.empty() && named != workload) continue;
    entries.push_back({JsonText(notes, kCreatedAnnotation), digest});
  }
  // Of equal times, the one that was added last.
  std::reverse(entries.begin(), entries.end());
  std::stable_sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) { return a.created > b.created; });
  entries.resize(std::min(entries.size(), kMaxStartArtifacts));
  std::vector<std::string> digests;
  for (Entry& entry : entries) digests.push_back(std::move(entry.digest));
  return digests;
}

}  // namespace fastoci
