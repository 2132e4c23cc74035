// SPDX-License-Identifier: Apache-2.0
// fastoci-decoderd: the process that parses untrusted bytes. Started by the
// broker; protocol.h says how. `fastoci-decoderd assemble N SECONDS`, or inspect or
// check, works on layers (image/assemble_sandbox.h) with the descriptors 3 to N + 2 and
// that much CPU time.
#include <cstdlib>
#include <string_view>

#include "base/digest.h"
#include "base/log.h"
#include "base/process.h"
#include "decoder/decoder.h"
#include "decoder/protocol.h"
#include "decoder/sandbox.h"
#include "image/assemble_sandbox.h"

namespace fastoci {
namespace {

int Fatal(const Error& error) {
  Log(LogLevel::kError, "%s", error.message.c_str());
  return 1;
}

int Serve() {
  auto decoder =
      Decoder::Open(UniqueFd(kDecoderSocketFd), kDecoderInputFd, kDecoderOutputFd);
  if (!decoder.ok()) return Fatal(decoder.error());
  Status s = EnterSandbox({.max_fd = kDecoderOutputFd});
  if (!s.ok()) return Fatal(s.error());
  s = decoder->Run();
  return s.ok() ? 0 : Fatal(s.error());
}

int RunOnLayers(LayerTask task, int argc, char** argv) {
  constexpr int kMaxFds = 600;  // two for each of the most layers, and some
  int nr_fds = argc > 2 ? std::atoi(argv[2]) : -1;
  if (nr_fds < 0 || nr_fds > kMaxFds)
    return Fatal(InvalidError("assemble: the number of descriptors is out of range"));
  const int cpu_seconds = argc > 3 ? std::atoi(argv[3]) : 0;
  if (cpu_seconds <= 0)
    return Fatal(InvalidError("assemble: the limit of CPU time is out of range"));
  SandboxOptions options{.max_fd = 2 + nr_fds,
                         .address_space_bytes = 4ULL << 30,
                         .cpu_seconds = static_cast<uint64_t>(cpu_seconds),
                         .file_io = true};
  Sha256::Of({});  // OpenSSL reads its configuration at the first use
  Status s = EnterSandbox(options);
  if (!s.ok()) return Fatal(s.error());
  return AssembleInSandbox(task, argc - 2, argv + 2);
}

}  // namespace
}  // namespace fastoci

int main(int argc, char** argv) {
  fastoci::SetLogProgram("fastoci-decoderd");
  fastoci::SetProcessName("fastoci-decoderd");
  if (argc == 1) return fastoci::Serve();
  for (auto task : {fastoci::LayerTask::kAssemble, fastoci::LayerTask::kInspect,
                    fastoci::LayerTask::kCheck})
    if (std::string_view(argv[1]) == fastoci::LayerTaskVerb(task))
      return fastoci::RunOnLayers(task, argc, argv);
  fastoci::Log(fastoci::LogLevel::kError,
               "unknown arguments: only fastoci-helperd starts this program");
  return 2;
}
