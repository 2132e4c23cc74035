// SPDX-License-Identifier: Apache-2.0
// The request's memfd: a reply area of kReplyBytes, written by the decoder, then
// the request. All little-endian.
//   reply:   u32 state (0 none, 1 success, 2 error), u32 ErrorKind, u32 errno,
//            u32 length, text
//   request: u32 magic, u32 layers, image id, u64 length of the JSON part; per
//            layer: digest of the meta layer, digest of the target, u64 bytes of
//            the target, u32 codec, u32 whether it is read by ranges, u32 whether
//            it has a descriptor of its blob behind its own, u32 whether it has
//            one of its chunk digests; the JSON part
#include "image/assemble_sandbox.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <list>

#include "base/byte_reader.h"
#include "base/log.h"
#include "base/unique_fd.h"
#include "image/inspect.h"
#include "image/range_channel.h"

namespace fastoci {
namespace {

constexpr uint32_t kRequestMagic = 0x41494f46;  // "FOIA"
constexpr uint64_t kReplyBytes = 4096, kReplyHeaderBytes = 16;
constexpr uint64_t kMaxRequestBytes = 64 << 20;
constexpr int kOutFd = 3, kRequestFd = 4, kRangeFd = 5, kFirstLayerFd = 6;
constexpr uint32_t kSuccess = 1, kFailure = 2;
constexpr uint32_t kMaxErrno = 4095;

Bytes EncodeRequest(const AssembleInput& input) {
  ByteWriter w;
  w.U32(kRequestMagic);
  w.U32(static_cast<uint32_t>(input.layers.size()));
  w.Append(input.image_id);
  w.U64(input.json_head.size());
  w.U64(input.json_tail.size());
  for (const AssembleLayer& layer : input.layers) {
    w.Append(layer.meta_digest);
    w.Append(layer.target_digest);
    w.U64(layer.target_bytes);
    w.U32(layer.codec);
    w.U32(layer.file != nullptr ? 1 : 0);
    w.U32(layer.blob_fd >= 0 ? 1 : 0);
    w.U32(layer.digests_fd >= 0 ? 1 : 0);
    w.U64(layer.json.size());
    w.Append(AsBytes(layer.json));
  }
  w.Append(AsBytes(input.json_head));
  w.Append(AsBytes(input.json_tail));
  return std::move(w.bytes());
}

void TakeDigest(ByteReader* r, Sha256Digest* digest) {
  ByteSpan s = r->Take(digest->size());
  std::copy(s.begin(), s.end(), digest->begin());
}

// files: get those that the layers refer to. nr_fds: of the layers.
Result<AssembleInput> DecodeRequest(ByteSpan bytes, std::list<RangeFile>* files, int* nr_fds) {
  ByteReader r(bytes);
  *nr_fds = 0;
  AssembleInput input;
  if (r.U32() != kRequestMagic) return InvalidError("assemble: not a request");
  uint32_t nr_layers = r.U32();
  TakeDigest(&r, &input.image_id);
  const uint64_t head_bytes = r.U64(), tail_bytes = r.U64();
  auto text = [&r](uint64_t bytes) {
    ByteSpan s = r.Take(bytes);
    return std::string(s.begin(), s.end());
  };
  if (nr_layers > kMaxAssembleLayers) return InvalidError("assemble: too many layers");
  for (uint32_t i = 0; i < nr_layers; i++) {
    AssembleLayer layer;
    TakeDigest(&r, &layer.meta_digest);
    TakeDigest(&r, &layer.target_digest);
    layer.target_bytes = r.U64();
    layer.codec = static_cast<fastoci_codec>(r.U32());
    if (r.U32() == 0) {
      layer.fd = kFirstLayerFd + (*nr_fds)++;
    } else {
      layer.file = &files->emplace_back(kRangeFd, i, layer.target_bytes);
    }
    if (r.U32() != 0) layer.blob_fd = kFirstLayerFd + (*nr_fds)++;
    if (r.U32() != 0) layer.digests_fd = kFirstLayerFd + (*nr_fds)++;
    layer.json = text(r.U64());
    input.layers.push_back(layer);
  }
  input.json_head = text(head_bytes);
  input.json_tail = text(tail_bytes);
  if (!r.ok() || r.remaining() != 0) return InvalidError("assemble: damaged request");
  return input;
}

Bytes EncodeReply(const Status& status) {
  ByteWriter w;
  w.U32(status.ok() ? kSuccess : kFailure);
  std::string text;
  if (status.ok()) {
    w.U32(0);
    w.U32(0);
  } else {
    w.U32(static_cast<uint32_t>(status.error().kind));
    w.U32(static_cast<uint32_t>(status.error().err));
    text = status.error().message.substr(0, kReplyBytes - kReplyHeaderBytes);
  }
  w.U32(static_cast<uint32_t>(text.size()));
  w.Append(AsBytes(text));
  return std::move(w.bytes());
}

// The decoder may have been taken over by what it read: only the reply's form
// is relied on.
Status DecodeReply(int fd, int wait_status) {
  Bytes bytes(kReplyBytes);
  FASTOCI_CHECK_OK(PreadFull(fd, bytes, 0, "assembly's reply"));
  ByteReader r(bytes);
  uint32_t state = r.U32(), kind = r.U32(), err = r.U32(), length = r.U32();
  bool exited_well = WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
  if (state == kSuccess && exited_well) return OkStatus();
  if (state == kFailure && length <= r.remaining() && err <= kMaxErrno &&
      kind <= static_cast<uint32_t>(ErrorKind::kInternal)) {
    ByteSpan text = r.Take(length);
    std::string message(text.begin(), text.end());
    for (char& c : message)
      if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';
    return Error{static_cast<ErrorKind>(kind), static_cast<int>(err), message};
  }
  return Error{ErrorKind::kInternal, EIO,
               "the decoder " + HowItEnded(wait_status) + " during assembly"};
}

Result<Bytes> ReadRequest() {
  off_t end = lseek(kRequestFd, 0, SEEK_END);  // the sandbox has no fstat
  if (end < 0) return ErrnoError("assemble: request");
  uint64_t size = static_cast<uint64_t>(end);
  if (size < kReplyBytes || size - kReplyBytes > kMaxRequestBytes)
    return InvalidError("assemble: size of the request");
  Bytes bytes(size - kReplyBytes);
  FASTOCI_CHECK_OK(PreadFull(kRequestFd, bytes, kReplyBytes, "assemble: request"));
  return bytes;
}

Status RunRequest(LayerTask task, int nr_fds) {
  FASTOCI_TRY(Bytes request, ReadRequest());
  std::list<RangeFile> files;
  int layer_fds = 0;
  FASTOCI_TRY(AssembleInput input, DecodeRequest(request, &files, &layer_fds));
  if (layer_fds + (kFirstLayerFd - kOutFd) != nr_fds)
    return InvalidError("assemble: number of descriptors");
  if (task == LayerTask::kAssemble) return Assemble(input, {}, kOutFd);
  return InspectLayers(input, {}, task == LayerTask::kCheck, kOutFd);
}

Error StallError(LayerTask task, const AssembleLimits& limits) {
  return {ErrorKind::kInvalid, ETIMEDOUT,
          std::string("the decoder did nothing for ") + std::to_string(limits.stall_ms / 1000) +
              " s while it should " + LayerTaskVerb(task) + " the layers, and was ended"};
}

}  // namespace

const char* LayerTaskVerb(LayerTask task) {
  switch (task) {
    case LayerTask::kInspect: return "inspect";
    case LayerTask::kCheck: return "check";
    default: return "assemble";
  }
}

Status AssembleViaDecoder(const Program& decoder, const AssembleInput& input, int out_fd,
                          LayerTask task, const AssembleLimits& limits) {
  if (input.layers.empty() || input.layers.size() > kMaxAssembleLayers)
    return InvalidError("an image has 1 to 256 layers");
  UniqueFd request(memfd_create("fastoci-assemble", MFD_CLOEXEC));
  if (!request.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(PwriteFull(request.get(), Bytes(kReplyBytes), 0, "request"));
  FASTOCI_CHECK_OK(PwriteFull(request.get(), EncodeRequest(input), kReplyBytes, "request"));
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::vector<int> fds = {out_fd, request.get(), theirs.get()};
  std::vector<const ReadAtFile*> files;
  for (const AssembleLayer& layer : input.layers) {
    if (layer.file == nullptr) fds.push_back(layer.fd);
    if (layer.blob_fd >= 0) fds.push_back(layer.blob_fd);
    if (layer.digests_fd >= 0) fds.push_back(layer.digests_fd);
    files.push_back(layer.file);
  }
  FASTOCI_TRY(pid_t pid, StartProgram(decoder, {.args = {LayerTaskVerb(task),
                                                         std::to_string(fds.size()),
                                                         std::to_string(limits.cpu_seconds)},
                                                .fds = fds}));
  theirs.reset();
  Status served = ServeRanges(ours.get(), files, AssembleOptions().max_layer_bytes,
                              static_cast<int>(limits.stall_ms));
  ours.reset();  // whoever still waits there is told
  const bool stalls = !served.ok() && served.error().err == ETIMEDOUT;
  auto ended = WaitForChild(pid, stalls ? 0 : static_cast<int>(limits.stall_ms));
  if (stalls || (!ended.ok() && ended.error().err == ETIMEDOUT)) return StallError(task, limits);
  // The caller may ignore SIGCHLD: then the status is gone, and the reply decides.
  if (!ended.ok() && ended.error().err != ECHILD) return ended.error();
  const int wait_status = ended.ok() ? *ended : 0;
  Status status = DecodeReply(request.get(), wait_status);
  if (!served.ok() && served.error().err == EPROTO) return served;
  return status;
}

int AssembleInSandbox(LayerTask task, int argc, char** argv) {
  Status status = RunRequest(task, argc > 0 ? std::atoi(argv[0]) : 0);
  Status sent = PwriteFull(kRequestFd, EncodeReply(status), 0, "reply");
  if (!sent.ok()) Log(LogLevel::kError, "assemble: %s", sent.error().message.c_str());
  return status.ok() && sent.ok() ? 0 : 1;
}

}  // namespace fastoci
