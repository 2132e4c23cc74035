// SPDX-License-Identifier: Apache-2.0
// Assembly in a process of its own: `fastoci-decoderd VERB N` inherits the
// descriptors 3 .. N + 2: output, request (a memfd: assemble_sandbox.cc has its
// layout), a socket on which it asks for ranges of layers that have no descriptor
// (range_channel.h), then one per layer that has. Errors come back through the
// request's memfd.
#ifndef FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_
#define FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_

#include <string>

#include "base/result.h"
#include "image/assemble.h"

namespace fastoci {

// What the decoder is asked to make of the layers.
enum class LayerTask { kAssemble, kInspect, kCheck };
// "assemble", "inspect", "check".
const char* LayerTaskVerb(LayerTask task);

// Caller's side: starts decoder_path (bin/fastoci-decoderd), waits for it and
// returns what Assemble() or InspectLayers() returned there. Descriptors of input stay the
// caller's. Threads and signal handlers of the caller do not matter.
Status AssembleViaDecoder(const std::string& decoder_path, const AssembleInput& input, int out_fd,
                          LayerTask task = LayerTask::kAssemble);

// Decoder's side, behind EnterSandbox(): the program's exit status.
// argv[0] is N.
int AssembleInSandbox(LayerTask task, int argc, char** argv);

}  // namespace fastoci

#endif  // FASTOCI_IMAGE_ASSEMBLE_SANDBOX_H_
