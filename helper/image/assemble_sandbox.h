// SPDX-License-Identifier: Apache-2.0
// Assembly in a process of its own: `fastoci-decoderd VERB N SECONDS`. The process may
// use SECONDS of CPU time. It inherits the descriptors 3 .. N + 2, in this order: the
// output; the request (a memfd, assemble_sandbox.cc has its layout); a socket on which it
// asks for ranges of the layers that have no descriptor (range_channel.h); then the
// descriptors of the other layers. It returns errors in the request's memfd.
#ifndef FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_
#define FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_

#include <string>

#include "base/process.h"
#include "base/result.h"
#include "image/assemble.h"

namespace fastoci {

// What the decoder is asked to make of the layers.
enum class LayerTask { kAssemble, kInspect, kCheck };
// "assemble", "inspect", "check".
const char* LayerTaskVerb(LayerTask task);

// Limits on the decoder, because a stranger made the layers that it works on.
struct AssembleLimits {
  int64_t stall_ms = 600000;    // without a request for a range, and from the last one to the end
  uint64_t cpu_seconds = 600;
};

// Caller's side: starts the decoder (bin/fastoci-decoderd), waits for it and
// returns what Assemble() or InspectLayers() returned there. ETIMEDOUT if it had to be
// killed. The caller still owns the descriptors in input. It may have threads and signal
// handlers.
Status AssembleViaDecoder(const Program& decoder, const AssembleInput& input, int out_fd,
                          LayerTask task = LayerTask::kAssemble,
                          const AssembleLimits& limits = {});

// Decoder's side, behind EnterSandbox(): the program's exit status.
// argv[0] is N.
int AssembleInSandbox(LayerTask task, int argc, char** argv);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_
