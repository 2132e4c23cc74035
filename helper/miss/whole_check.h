// SPDX-License-Identifier: Apache-2.0
// WholeCheck: what makes a data space trusted that has no chunk digests, or digests that the
// manifest does not vouch for (a referrer's: BlobInfo::unproven()). Ranges of its blob could be
// anything; the blob as a whole has a digest. So, behind the images' download delay and at the
// download's rate, the blob is read once from end to end. What goes into the decoder is hashed,
// and so are the 64 KiB pieces that come out. If the blob's digest is right, the pieces' digests
// are what the meta layer should have said:
//
//   1. they are recorded, and every job from now on verifies by them;
//   2. once no job is left that does not, all that is cached is compared, and
//      what differs is evicted.
//
// With download.enable this is the download of such a layer: its chunks are cached as they come.
//
// If no source gives a blob that fits its digest, that is a mismatch. The policy decides
// whether it is only reported, or the blob is refused: then nothing of it is served any more.
//
// A blob whose hosts do not answer holds up no other one: its reader (whole_reader.h) is kept, and
// goes on where it was when one of them answers.
#ifndef FASTOCI_MISS_WHOLE_CHECK_H_
#define FASTOCI_MISS_WHOLE_CHECK_H_

#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "miss/checker.h"
#include "miss/download.h"
#include "miss/whole_reader.h"

namespace fastoci {

class WholeCheck {
 public:
  using Clock = std::chrono::steady_clock;
  WholeCheck(WholePolicy policy, const DecodeOptions& decode, Catalog* catalog,
             Dispatcher* dispatcher, FetchStage* fetch, Checker* checker, Download* download,
             Counters* counters);
  ~WholeCheck();  // Stop()
  void Start();
  void Stop() EXCLUDES(mutex_);  // after the fetch stage's and the checker's

  // It is yet to be read, and will be.
  bool Awaits(const SpaceInfo& space) EXCLUDES(mutex_);
  // Why a space is not verified yet, beyond that it has no digests; or empty.
  std::string WhyOf(const SpaceInfo& space) EXCLUDES(mutex_);

 private:
  using SpaceKey = std::pair<uint32_t, uint32_t>;  // cache, space
  struct State {
    std::string why;
    bool ended = false;   // with a mismatch
    bool unread = false;  // at least once: its download does not wait any more
    Clock::time_point at;  // not before
  };
  struct Reader {
    Sha256Digest id{};  // of the data space
    std::unique_ptr<WholeReader> reader;
  };
  void Run();
  std::shared_ptr<const SpaceView> Next() EXCLUDES(mutex_);
  void Check(const std::shared_ptr<const SpaceView>& view);
  bool IsDownload(const SpaceView& view);
  void DropReaders();
  bool WaitUntil(const std::function<bool()>& condition) EXCLUDES(mutex_);  // false: stop
  Status Pace(Clock::time_point begin, uint64_t bytes) EXCLUDES(mutex_);
  void Adopt(std::shared_ptr<const SpaceView> view, const std::vector<Sha256Digest>& digests);
  // pause: before the next try. unread: see State.
  void SetWhy(const SpaceView& view, const std::string& why, Clock::duration pause, bool unread)
      EXCLUDES(mutex_);
  bool AwaitsLocked(const SpaceView& view) REQUIRES(mutex_);

  const WholePolicy policy_;
  const WholeReader::Parts reader_parts_;
  Catalog* const catalog_;
  Dispatcher* const dispatcher_;
  Checker* const checker_;
  Download* const download_;
  Mutex mutex_;
  CondVar changed_;
  std::atomic<bool> stop_{false};
  std::map<SpaceKey, State> states_ GUARDED_BY(mutex_);
  std::map<SpaceKey, Reader> readers_;  // the thread's
  std::thread thread_;
};

}  // namespace fastoci

#endif  // FASTOCI_MISS_WHOLE_CHECK_H_
