// SPDX-License-Identifier: Apache-2.0
// Start traces (start_trace.h) beside their image in a registry or a layout: each is an
// artifact whose subject is the image's manifest.
#ifndef FASTOCI_ATTACH_START_ARTIFACT_H_
#define FASTOCI_ATTACH_START_ARTIFACT_H_

#include <string>

#include "attach/start_trace.h"
#include "image/image_store.h"

namespace fastoci {

// image: the manifest that the trace is about. Returns the artifact's digest.
Result<std::string> PushStart(ImageStore* store, const Descriptor& image, const std::string& workload,
                              const StartTrace& trace);

// The newest trace of the workload that is sound. kNotFound: there is none.
Result<StartTrace> FetchStart(ImageStore* store, const std::string& image_digest, const std::string& workload);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_START_ARTIFACT_H_
