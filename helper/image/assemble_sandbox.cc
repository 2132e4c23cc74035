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
#include <spawn.h>
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
  w.U64(input.json.size());
  for (const AssembleLayer& layer : input.layers) {
    w.Append(layer.meta_digest);
    w.Append(layer.target_digest);
    w.U64(layer.target_bytes);
    w.U32(layer.codec);
    w.U32(layer.file != nullptr ? 1 : 0);
    w.U32(layer.blob_fd >= 0 ? 1 : 0);
    w.U32(layer.digests_fd >= 0 ? 1 : 0);
  }
  w.Append(AsBytes(input.json));
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
  uint64_t json_bytes = r.U64();
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
    input.layers.push_back(layer);
  }
  ByteSpan json = r.Take(json_bytes);
  if (!r.ok() || r.remaining() != 0) return InvalidError("assemble: damaged request");
  input.json.assign(json.begin(), json.end());
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
  std::string how = WIFSIGNALED(wait_status)
                        ? "was killed by signal " + std::to_string(WTERMSIG(wait_status))
                        : "exited with status " + std::to_string(WEXITSTATUS(wait_status));
  return Error{ErrorKind::kInternal, EIO, "the decoder " + how + " during assembly"};
}

// Copies above all numbers that the decoder will use.
Result<UniqueFd> DuplicateAbove(int fd, int limit) {
  UniqueFd copy(fcntl(fd, F_DUPFD_CLOEXEC, limit));
  if (!copy.valid()) return ErrnoError("duplicate descriptor");
  return copy;
}

Result<pid_t> Spawn(const std::string& path, const char* task, const std::vector<UniqueFd>& fds) {
  posix_spawn_file_actions_t actions;
  if (posix_spawn_file_actions_init(&actions) != 0)
    return Error{ErrorKind::kInternal, ENOMEM, "posix_spawn_file_actions_init"};
  int rc = 0;
  for (size_t i = 0; i < fds.size() && rc == 0; i++)
    rc = posix_spawn_file_actions_adddup2(&actions, fds[i].get(), kOutFd + static_cast<int>(i));
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::string name = path, verb = task, count = std::to_string(fds.size());
  char* argv[] = {name.data(), verb.data(), count.data(), nullptr};
  char* envp[] = {nullptr};
  pid_t pid = -1;
  if (rc == 0) rc = posix_spawn(&pid, path.c_str(), &actions, &attributes, argv, envp);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (rc != 0) return ErrnoError("start " + path, rc);
  return pid;
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

}  // namespace

const char* LayerTaskVerb(LayerTask task) {
  switch (task) {
    case LayerTask::kInspect: return "inspect";
    case LayerTask::kCheck: return "check";
    default: return "assemble";
  }
}

Status AssembleViaDecoder(const std::string& decoder_path, const AssembleInput& input, int out_fd,
                          LayerTask task) {
  if (input.layers.empty() || input.layers.size() > kMaxAssembleLayers)
    return InvalidError("an image has 1 to 256 layers");
  UniqueFd request(memfd_create("fastoci-assemble", MFD_CLOEXEC));
  if (!request.valid()) return ErrnoError("memfd_create");
  FASTOCI_CHECK_OK(PwriteFull(request.get(), Bytes(kReplyBytes), 0, "request"));
  FASTOCI_CHECK_OK(PwriteFull(request.get(), EncodeRequest(input), kReplyBytes, "request"));
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) != 0) return ErrnoError("socketpair");
  UniqueFd ours(pair[0]), theirs(pair[1]);
  std::vector<UniqueFd> fds;
  std::vector<int> originals = {out_fd, request.get(), theirs.get()};
  std::vector<const ReadAtFile*> files;
  for (const AssembleLayer& layer : input.layers) {
    if (layer.file == nullptr) originals.push_back(layer.fd);
    if (layer.blob_fd >= 0) originals.push_back(layer.blob_fd);
    if (layer.digests_fd >= 0) originals.push_back(layer.digests_fd);
    files.push_back(layer.file);
  }
  // As few as can be: a process may have 1024, and there are 256 layers.
  const int limit = kOutFd + static_cast<int>(originals.size());
  for (int fd : originals) {
    FASTOCI_TRY(UniqueFd copy, DuplicateAbove(fd, limit));
    fds.push_back(std::move(copy));
  }
  FASTOCI_TRY(pid_t pid, Spawn(decoder_path, LayerTaskVerb(task), fds));
  fds.clear();
  theirs.reset();
  Status served = ServeRanges(ours.get(), files, AssembleOptions().max_layer_bytes);
  ours.reset();  // whoever still waits there is told
  int wait_status = 0;
  while (waitpid(pid, &wait_status, 0) < 0) {
    if (errno == EINTR) continue;
    if (errno != ECHILD) return ErrnoError("waitpid");
    break;  // the caller ignores SIGCHLD: gone, and its status with it
  }
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
