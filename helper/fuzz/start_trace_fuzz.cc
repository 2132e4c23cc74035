// SPDX-License-Identifier: Apache-2.0
// Start traces of a registry, overlaybd's trace files, and the manifests that name the former.
#include "attach/start_trace.h"
#include "fastoci_meta.h"
#include "fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace fastoci;
  const std::string text(reinterpret_cast<const char*>(data), size);
  if (auto trace = StartFromText(text); trace.ok()) {
    Require(trace->bytes() <= kMaxStartSectors * 512 && trace->blobs.size() <= FASTOCI_MAX_BLOBS);
    for (const DataRun& run : trace->runs)
      Require(run.blob < trace->blobs.size() && run.nr_sectors > 0 &&
              run.sector + run.nr_sectors <= FASTOCI_MAX_DATA_BYTES / 512);
    auto again = StartFromText(StartToText(*trace));
    Require(again.ok() && again->runs == trace->runs && again->blobs == trace->blobs);
  }
  if (auto reads = ParseOverlaybdTrace(ByteSpan(data, size)); reads.ok())
    for (const OverlaybdRead& read : *reads) Require(read.bytes > 0 && read.offset + read.bytes <= FASTOCI_MAX_DATA_BYTES);
  const std::string image = "sha256:" + std::string(64, 'c');
  if (auto d = ParseStartManifest(text, image, kDefaultWorkload); d.ok()) Require(d->bytes > 0 && d->bytes <= kMaxStartBytes);
  if (auto found = StartArtifacts(text, kDefaultWorkload); found.ok()) Require(found->size() <= kMaxStartArtifacts);
  return 0;
}
