// SPDX-License-Identifier: Apache-2.0
// A start trace: which data an image's start reads, in the order of the first reads. It
// names the data by blob, as runs of sectors of the blob's data space. So one trace serves
// every conversion of the image's layers, and every device that is made of them.
//
// As text, at most kMaxStartBytes:
//   fastoci-start 2
//   blob sha256:<64 digits>       one line a blob; the first one is number 0
//   <blob> <sector> <sectors>     one line a run
//
// A trace from a registry is untrusted. It can only make the node read data of the image
// ahead that nobody needs, at most kMaxStartSectors of it. Nothing here does I/O.
#ifndef FASTOCI_ATTACH_START_TRACE_H_
#define FASTOCI_ATTACH_START_TRACE_H_

#include <cstdint>
#include <string>
#include <vector>

#include "base/byte_reader.h"
#include "base/result.h"
#include "image/oci_image.h"

namespace fastoci {

struct DataRun {
  uint32_t blob = 0;  // index into StartTrace::blobs
  uint64_t sector = 0, nr_sectors = 0;
  bool operator==(const DataRun&) const = default;
};
struct StartTrace {
  std::vector<std::string> blobs;  // "sha256:..."
  std::vector<DataRun> runs;       // in the order in which they are to be read
  uint64_t bytes() const;
};

// First reads are kept in pieces of this size, which is that of the smallest chunk.
inline constexpr uint64_t kPieceSectors = 128;
inline constexpr uint64_t kMaxStartSectors = 128 << 11;
inline constexpr size_t kMaxStartBytes = 256 << 10;

std::string StartToText(const StartTrace& trace);
// kInvalid: it is damaged, or exceeds a limit.
Result<StartTrace> StartFromText(const std::string& text);

// One record of overlaybd's trace files: a read of a layer's file, below its compression.
struct OverlaybdRead {
  uint32_t layer = 0;  // bottom first
  uint64_t offset = 0, bytes = 0;
};
bool IsOverlaybdTrace(ByteSpan file);
// kInvalid: the checksum is wrong, or a record makes no sense.
Result<std::vector<OverlaybdRead>> ParseOverlaybdTrace(ByteSpan file);

// Names of workloads: 1 to 63 letters, digits, '.', '_' and '-', the first one a letter or a digit.
inline constexpr char kDefaultWorkload[] = "default";
bool IsWorkloadName(const std::string& text);
// The label of a container's snapshot, or of a layer's, that names the workload.
inline constexpr char kWorkloadLabel[] = "containerd.io/snapshot/fastoci/workload";

// What the artifact's manifest (StartManifest() in image/oci_image.h) says of the trace.
// kMismatch: it is no trace of that image and workload.
Result<Descriptor> ParseStartManifest(const std::string& body, const std::string& image_digest,
                                      const std::string& workload);
// The digests in an index of referrers that may be traces of the workload, the newest
// first, at most kMaxStartArtifacts. An entry without annotations may be one.
inline constexpr size_t kMaxStartArtifacts = 16;
Result<std::vector<std::string>> StartArtifacts(const std::string& index_body, const std::string& workload);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_START_TRACE_H_
