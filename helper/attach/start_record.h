// SPDX-License-Identifier: Apache-2.0
// Records start traces (start_trace.h) of attached images, and replays them.
//
// Recording: the kernel's tracepoint tells what is read from a device (trace.h). Reads of
// file-system metadata and of zeros are left out, because they cost nothing, and so are those
// of replays.
//
// Replaying: a child process asks the kernel to read a page of each piece ahead. That is a
// miss of the piece's chunk, and the kernel marks it, so the helper serves it after reads
// that somebody waits for.
#ifndef FASTOCI_ATTACH_START_RECORD_H_
#define FASTOCI_ATTACH_START_RECORD_H_

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "attach/start_trace.h"
#include "attach/trace.h"
#include "base/result.h"

namespace fastoci {

// How long the helper may take to learn of a device that was attached just now.
inline constexpr int64_t kServedMs = 5000;

// As the kernel names the process that replays.
inline constexpr char kReplayProgram[] = "fastoci-ahead";

// A trace that is made piece by piece; the first touch of each counts. Takes at most kMaxStartSectors.
class PieceTrace {
 public:
  // False: there is no room for another one.
  bool Add(const std::string& blob, uint64_t piece);
  const StartTrace& trace() const { return trace_; }
  uint64_t bytes() const { return touched_.size() * kPieceSectors * 512; }

 private:
  uint32_t NumberOf(const std::string& blob);
  StartTrace trace_;
  std::set<std::pair<uint32_t, uint64_t>> touched_;  // blob, piece
};

// Makes a trace of reads.
class FirstTouches {
 public:
  // extents must outlive it.
  explicit FirstTouches(const ExtentMap* extents) : extents_(*extents) {}
  void Add(const TraceRead& read);
  const StartTrace& trace() const { return pieces_.trace(); }
  uint64_t bytes() const { return pieces_.bytes(); }

 private:
  const ExtentMap& extents_;
  PieceTrace pieces_;
};

// Records a device that the helper serves.
class StartRecorder {
 public:
  // image: its name; meta_path: its assembled meta image.
  static Result<StartRecorder> Begin(const std::string& control_socket, const std::string& image,
                                     const std::string& meta_path);
  int fd() const { return kernel_.fd(); }  // readable: call Take()
  void Take();                             // the events that are there; does not wait
  const StartTrace& trace() const { return touches_->trace(); }
  uint64_t bytes() const { return touches_->bytes(); }
  uint64_t lost() const { return lost_; }  // events that a buffer had no room for

 private:
  StartRecorder(KernelTrace kernel, std::unique_ptr<ExtentMap> extents)
      : kernel_(std::move(kernel)),
        extents_(std::move(extents)),
        touches_(std::make_unique<FirstTouches>(extents_.get())) {}
  KernelTrace kernel_;
  std::unique_ptr<ExtentMap> extents_;
  std::unique_ptr<FirstTouches> touches_;
  uint64_t lost_ = 0;
};

// Of overlaybd's trace, whose layers are those of the image, bottom first: what it reads as
// data. Takes only layers in overlaybd's own format; the offsets of others are in files that no
// registry has. blobs: the layers' digests. meta_path: the assembled meta image.
Result<StartTrace> StartOfOverlaybd(const std::vector<OverlaybdRead>& reads, const std::vector<std::string>& blobs,
                                    const std::string& meta_path);

// One replay, and what became of it.
class StartReplay {
 public:
  // extents must outlive it.
  StartReplay(const StartTrace& trace, const ExtentMap* extents);
  // Asks for all pieces, in their order; does not wait for them. node: of the device.
  Status Run(const std::string& node) const;
  // A read of the device, from the replay's begin on.
  void Add(const TraceRead& read);
  struct Count {
    // Bytes of whole pieces. present: were in the cache before; unmapped: the device has none of it.
    uint64_t present = 0, used = 0, unused = 0, unmapped = 0;
    uint64_t asked() const { return present + used + unused; }
  };
  Count count() const;

 private:
  struct Piece {
    bool present = false, used = false;
  };
  const ExtentMap& extents_;
  std::map<std::pair<std::string, uint64_t>, Piece> pieces_;  // by blob and number
  std::vector<uint64_t> sectors_;                              // of the device, one a piece, in order
  uint64_t unmapped_ = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_START_RECORD_H_
