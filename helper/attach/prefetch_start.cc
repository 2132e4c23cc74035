// SPDX-License-Identifier: Apache-2.0
// PrefetchStart().
#include "attach/attach.h"
#include "attach/start_artifact.h"
#include "attach/start_record.h"

namespace fastoci {

Result<uint64_t> PrefetchStart(const ImageReport& image, const RegistryAccess& access, const std::string& workload,
                               Progress* progress) {
  const std::string& ref = image.state.ref;
  if (ref.empty()) return NotFoundError(image.name + " was not attached by a reference, so no start trace of it can be found");
  FASTOCI_TRY(ImagePuller puller, ImagePuller::Open(access));
  FASTOCI_TRY(ResolvedImage resolved, puller.Resolve(ref, progress));
  FASTOCI_TRY(NamedImage named, OpenImageStore(ref, access, false));
  FASTOCI_TRY(StartTrace trace, FetchStart(named.store.get(), resolved.named.digest, workload));
  FASTOCI_TRY(ExtentMap extents, ExtentMap::Read(image.state.meta_path));
  const StartReplay replay(trace, &extents);
  progress->Step("reading ahead what the start of " + image.name + " reads");
  FASTOCI_CHECK_OK(replay.Run(image.device));
  return replay.count().asked();
}

}  // namespace fastoci
