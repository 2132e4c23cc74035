// SPDX-License-Identifier: Apache-2.0
// What `fastoci trace` gathers of an image's start:
//   reads      the kernel's tracepoint fastoci_map, in an instance of tracefs of
//              our own, by the monotonic clock
//   misses and requests   the helper's "trace" stream, by the same clock
//   paths      the file system's own map of where its files lie (FIEMAP), taken
//              at the end; nothing of the image is parsed here but the extent
//              table of its meta image
// Each source may be missing; the page then says so.
#ifndef FASTOCI_ATTACH_TRACE_H_
#define FASTOCI_ATTACH_TRACE_H_

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/digest.h"
#include "base/result.h"
#include "base/unique_fd.h"

namespace fastoci {

struct TraceRead {
  enum Kind { kHit, kMiss, kMeta, kZero };
  int64_t at_ns = 0;
  uint64_t sector = 0, nr_sectors = 0;
  Kind kind = kHit;
  std::string program;  // as the kernel names the thread
};
// A line of trace_pipe; nothing if it is no fastoci_map.
std::optional<TraceRead> ParseTraceLine(const std::string& line);

struct TraceChunk {  // a miss
  std::string blob;
  uint32_t chunk_no = 0;
  int64_t since_ns = 0, picked_ns = 0, end_ns = 0;
  bool ok = false;
};
struct TraceRequest {
  std::string blob;
  uint64_t span = 0, spans = 0, attempt = 0, bytes = 0;
  bool background = false;
  // end_ns 0: it had not ended when the trace did.
  int64_t begin_ns = 0, end_ns = 0, network_ns = 0, decode_ns = 0, verify_ns = 0, write_ns = 0;
  std::string error;
};

struct Trace {
  std::string image, ref;
  int64_t begin_ns = 0, end_ns = 0;
  uint64_t chunk_bytes = 0;
  std::vector<TraceRead> reads;
  std::vector<TraceChunk> chunks;
  std::vector<TraceRequest> requests;
  uint64_t lost = 0;  // events that a buffer had no room for
  std::vector<std::string> notes;  // what is missing, and why
};
// A line of the helper's stream.
void AddHelperLine(const std::string& line, Trace* trace);

// Makes a directory with a new name in tracefs' directory of instances, and returns its path.
// Also removes those of processes that ended without doing so, which would trace for ever.
Result<std::string> MakeTraceInstance(const std::string& instances);

// The size of a trace's buffer for each of so many CPUs.
unsigned TraceBufferKb(unsigned nr_cpus);

// What tells an image's events from those of others, as the helper knows it.
struct ImageNumbers {
  uint32_t image_no = 0;  // the kernel's
  uint64_t chunk_bytes = 0;
};
// kNotFound: the helper does not serve an image of that name, nor begins to within wait_ms. It
// learns of a new device a moment after its user does.
Result<ImageNumbers> AskImageNumbers(const std::string& control_socket, const std::string& name, int64_t wait_ms = 0);

// The kernel's half. Its destructor removes what it has made in tracefs.
class KernelTrace {
 public:
  // image_no: the kernel's number.
  static Result<KernelTrace> Begin(uint32_t image_no);
  ~KernelTrace();
  KernelTrace(KernelTrace&&) noexcept;
  KernelTrace& operator=(KernelTrace&&) = delete;
  int fd() const { return pipe_.get(); }
  void Read(Trace* trace);  // takes the events that are there; does not wait
  void Stop();              // ends the events

 private:
  KernelTrace() = default;
  std::string dir_;
  UniqueFd pipe_;
  std::string partial_;
};

// Which data of which blob a sector of the device is, and where on the device a blob's data is.
class ExtentMap {
 public:
  struct Place {
    std::string blob;  // "sha256:..."
    uint64_t data_sector = 0;
    uint64_t nr_sectors = 0;  // as far as the data behind it lies behind it on the device, too
  };
  // Of an assembled meta image; every bound is checked.
  static Result<ExtentMap> Read(const std::string& meta_path);
  std::optional<Place> Find(uint64_t sector) const;  // nothing: no blob's
  // A sector of the device with data of that range of a blob: the lowest in the data space that
  // is found. Nothing: the device has none of it.
  std::optional<uint64_t> SectorOf(const std::string& blob, uint64_t data_sector, uint64_t nr_sectors) const;

 private:
  uint64_t EndOf(size_t extent) const { return extent + 1 < keys_.size() ? keys_[extent + 1] : device_sectors_; }
  std::vector<std::string> blobs_;
  std::vector<uint32_t> keys_;
  std::vector<uint64_t> payloads_;
  uint64_t device_sectors_ = 0;
  std::vector<uint32_t> by_data_;  // the extents that are a blob's, by blob and data sector
};

// Which file's data a sector is.
class FileMap {
 public:
  // Of all regular files below a mount point, of that file system alone.
  static Result<FileMap> Scan(const std::string& mount_point);
  void Add(uint64_t sector, uint64_t nr_sectors, const std::string& path);
  void Sort();
  // Relative to the mount point, with a leading "/"; "" for none.
  std::string Find(uint64_t sector) const;

 private:
  struct Run {
    uint64_t sector, nr_sectors;
    uint32_t path;
  };
  std::vector<std::string> paths_;
  std::vector<Run> runs_;
};

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_TRACE_H_
