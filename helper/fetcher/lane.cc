// SPDX-License-Identifier: Apache-2.0
#include "fetcher/lane.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>

#include "base/log.h"
#include "base/packet.h"

namespace fastoci {
namespace {

using Clock = std::chrono::steady_clock;

constexpr size_t kFilePieceBytes = 128 << 10;
constexpr int kPollMs = 1000;

Error TimeoutError(std::string what) {
  return {ErrorKind::kUnavailable, ETIMEDOUT, std::move(what)};
}

std::string RangeName(const FetchBlob& blob, uint64_t offset, uint64_t length) {
  return "blob " + blob.digest + " bytes " + std::to_string(offset) + "-" +
         std::to_string(offset + length - 1);
}

// What went wrong at each source: the first says what kind of failure it is,
// unless a later one may work another time.
class Causes {
 public:
  void Add(const std::string& source, const Error& e) {
    text_ += (text_.empty() ? "" : "; ") + source + ": " + e.message;
    if (!first_ || (first_->kind != ErrorKind::kUnavailable && e.kind == ErrorKind::kUnavailable))
      first_ = e;
  }
  Error Sum(const std::string& what) const {
    if (!first_) return NotFoundError(what + ": no source");
    return {first_->kind, first_->err, what + ": " + text_};
  }

 private:
  std::optional<Error> first_;
  std::string text_;
};

}  // namespace

int KernelErrno(const Error& error) {
  if (error.err > 0 && error.err <= 4095) return error.err;
  switch (error.kind) {
    case ErrorKind::kNotFound: return ENOENT;
    case ErrorKind::kDenied: return EACCES;
    case ErrorKind::kMismatch: return EBADMSG;
    case ErrorKind::kInvalid: return EINVAL;
    case ErrorKind::kUnsupported: return EOPNOTSUPP;
    default: return EIO;
  }
}

FetchMessage FailedMessage(uint32_t job, const Error& error) {
  FetchMessage m{};
  m.op = FetchOp::kFailed;
  m.job = job;
  m.err = KernelErrno(error);
  m.kind = static_cast<uint32_t>(error.kind);
  std::string text = error.message;
  if (text.size() >= sizeof(m.text)) {
    Log(LogLevel::kWarning, "%s", text.c_str());  // whole, at least here
    text.resize(sizeof(m.text) - 4);
    text += "...";
  }
  std::memcpy(m.text, text.c_str(), text.size());
  return m;
}

Result<std::unique_ptr<Lane>> Lane::Open(UniqueFd socket, const UniqueFd& ring,
                                         RegistryClient* registry, FindImage find) {
  struct stat st {};
  if (fstat(ring.get(), &st) != 0) return ErrnoError("fetch ring");
  if (!S_ISREG(st.st_mode) || st.st_size != static_cast<off_t>(kFetchRingBytes))
    return InvalidError("fetch ring: wrong size");
  void* p = mmap(nullptr, kFetchRingBytes, PROT_READ | PROT_WRITE, MAP_SHARED, ring.get(), 0);
  if (p == MAP_FAILED) return ErrnoError("fetch ring: mmap");
  std::unique_ptr<Lane> lane(new Lane);
  lane->ring_ = {static_cast<uint8_t*>(p), kFetchRingBytes};
  lane->socket_ = std::move(socket);
  lane->registry_ = registry;
  lane->find_ = std::move(find);
  lane->watch_.fd = lane->socket_.get();
  lane->watch_.on_readable = [l = lane.get()] { return l->Drain(); };
  return lane;
}

Lane::~Lane() {
  if (!ring_.empty()) munmap(ring_.data(), ring_.size());
}

void Lane::Stop() { shutdown(socket_.get(), SHUT_RDWR); }

void Lane::Run() {
  while (!gone_) {
    FetchMessage m{};
    Status s = ReceivePacket(socket_.get(), WritableObjectBytes(&m), -1);
    if (!s.ok()) {
      if (s.error().err != EPIPE) Log(LogLevel::kError, "lane: %s", s.error().message.c_str());
      break;
    }
    // Consumed and Cancel may cross with the end of their job.
    if (m.op == FetchOp::kConsumed || m.op == FetchOp::kCancel) continue;
    if (m.op != FetchOp::kFetch) {
      Log(LogLevel::kError, "lane: unknown message");
      break;
    }
    Serve(m);
  }
  Stop();  // the broker sees the end, though the lane is freed later
  ended_ = true;
}

void Lane::Serve(const FetchMessage& request) {
  job_ = request.job;
  canceled_ = false;
  total_ = consumed_ = 0;
  source_ = 0;
  tally_ = {};
  deadline_ = DeadlineIn(request.deadline_ms);
  Status s = Transfer(request);
  FetchMessage m{};
  if (s.ok()) {
    m.op = FetchOp::kDone;
    m.job = job_;
    m.total = total_;
    m.source = source_;
  } else {
    m = FailedMessage(job_, s.error());
  }
  m.requests = tally_.requests;
  m.retries = tally_.retries;
  m.tokens = tally_.tokens;
  if (!Reply(m).ok()) gone_ = true;
}

Status Lane::Transfer(const FetchMessage& request) {
  std::shared_ptr<const FetchImage> image = find_(request.image);
  if (image == nullptr)
    return Error{ErrorKind::kInvalid, ESTALE,
                 "image " + std::to_string(request.image) + " is not open"};
  if (request.blob >= image->blobs.size())
    return InvalidError("no blob " + std::to_string(request.blob) + " in the image JSON");
  const FetchBlob& blob = image->blobs[request.blob];
  if (request.length == 0 || request.offset > blob.bytes ||
      request.length > blob.bytes - request.offset)
    return InvalidError("blob " + blob.digest + ": bad range, " + std::to_string(request.length) +
                        " bytes at " + std::to_string(request.offset) + " of " +
                        std::to_string(blob.bytes));
  std::string name = RangeName(blob, request.offset, request.length);
  Causes causes;
  size_t count = blob.sources.size();
  for (size_t i = 0; i < count; i++) {
    source_ = static_cast<uint32_t>((request.source + i) % count);
    const BlobLocation& source = blob.sources[source_];
    auto now = Clock::now();
    if (i > 0 && now >= deadline_) break;
    // A source that hangs must leave time for the next one.
    SteadyTime until = i + 1 == count ? deadline_ : now + (deadline_ - now) / 2;
    Status s = ReadSource(source, blob, request.offset + total_, request.length - total_, until,
                          request.source != 0);
    if (s.ok()) return s;
    if (canceled_ || gone_) return CanceledError().Wrap(name);
    causes.Add(source.ToString(), s.error());
  }
  return causes.Sum(name);
}

Status Lane::ReadSource(const BlobLocation& source, const FetchBlob& blob, uint64_t offset,
                        uint64_t length, SteadyTime deadline, bool fresh) {
  if (source.type == BlobLocation::Type::kFile)
    return ReadFileSource(source.path, blob, offset, length);
  CallOptions call;
  call.deadline = deadline;
  call.watch = &watch_;
  call.tally = &tally_;
  call.fresh_connection = fresh;
  call.scheme = source.scheme;
  Status s = registry_->GetBlobRange(
      source.repository, blob.digest, {offset, length, blob.bytes},
      [this](ByteSpan bytes) { return Write(bytes); }, call);
  if (s.ok()) return s;
  // Transfer() names blob and range itself, before all causes.
  Error e = s.error();
  std::string prefix = RangeName(blob, offset, length) + ": ";
  if (e.message.starts_with(prefix)) e.message.erase(0, prefix.size());
  return e;
}

Status Lane::ReadFileSource(const std::string& path, const FetchBlob& blob, uint64_t offset,
                            uint64_t length) {
  // O_NONBLOCK: a FIFO must not hold the lane.
  UniqueFd fd(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat st {};
  if (!fd.valid() || fstat(fd.get(), &st) != 0) {
    Error e{ErrorKind::kIo, errno, std::strerror(errno)};
    if (e.err == ENOENT) e.kind = ErrorKind::kNotFound;
    if (e.err == EACCES) e.kind = ErrorKind::kDenied;
    return e;
  }
  if (!S_ISREG(st.st_mode)) return InvalidError("not a regular file");
  if (static_cast<uint64_t>(st.st_size) != blob.bytes)
    return MismatchError("has " + std::to_string(st.st_size) + " bytes, not " +
                         std::to_string(blob.bytes));
  Bytes piece(std::min<uint64_t>(length, kFilePieceBytes));
  for (uint64_t done = 0; done < length;) {
    if (Clock::now() >= deadline_) return TimeoutError("deadline passed");
    std::span<uint8_t> part(piece.data(), std::min<uint64_t>(piece.size(), length - done));
    FASTOCI_CHECK_OK(PreadFull(fd.get(), part, offset + done, "file"));
    FASTOCI_CHECK_OK(Write(part));
    done += part.size();
  }
  return OkStatus();
}

Status Lane::Write(ByteSpan bytes) {
  while (!bytes.empty()) {
    FASTOCI_CHECK_OK(WaitForRoom());
    size_t place = total_ % kFetchRingBytes;
    size_t n = std::min<uint64_t>({bytes.size(), kFetchRingBytes - (total_ - consumed_),
                                   kFetchRingBytes - place});
    std::copy_n(bytes.begin(), n, ring_.begin() + static_cast<ptrdiff_t>(place));
    bytes = bytes.subspan(n);
    total_ += n;
    FetchMessage m{};
    m.op = FetchOp::kData;
    m.job = job_;
    m.total = total_;
    FASTOCI_CHECK_OK(Reply(m));
  }
  return OkStatus();
}

Status Lane::WaitForRoom() {
  while (true) {
    if (Drain()) return CanceledError();
    if (total_ - consumed_ < kFetchRingBytes) return OkStatus();
    auto left = deadline_ - Clock::now();
    if (left <= Clock::duration::zero())
      return TimeoutError("deadline passed while the ring was full");
    auto ms = std::chrono::duration_cast<std::chrono::milliseconds>(left).count() + 1;
    FASTOCI_TRY(bool ready, WaitFor(socket_.get(), POLLIN,
                                    static_cast<int>(std::min<int64_t>(ms, kPollMs))));
    (void)ready;
  }
}

bool Lane::Drain() {
  while (!gone_) {
    FetchMessage m{};
    Status s = ReceivePacket(socket_.get(), WritableObjectBytes(&m), 0);
    if (!s.ok()) {
      gone_ = s.error().err != ETIMEDOUT;
    } else if (m.op == FetchOp::kCancel) {
      canceled_ |= m.job == job_;
      continue;
    } else if (m.op == FetchOp::kConsumed) {
      if (m.job != job_) continue;
      gone_ = m.total > total_ || m.total < consumed_;
      if (!gone_) consumed_ = m.total;
      if (!gone_) continue;
    } else {
      gone_ = true;  // a Fetch while one runs, or nonsense
    }
    if (gone_ && s.ok()) Log(LogLevel::kError, "lane: the broker breaks the protocol");
    break;
  }
  return gone_ || canceled_;
}

// Also while the socket is full the broker is listened to: it may be waiting to
// send itself.
Status Lane::Reply(const FetchMessage& m) {
  while (true) {
    Status s = SendPacket(socket_.get(), ObjectBytes(m), {}, /*dont_wait=*/true);
    if (s.ok() || s.error().err != EAGAIN) {
      if (!s.ok()) gone_ = true;
      return s;
    }
    pollfd p{socket_.get(), POLLIN | POLLOUT, 0};
    (void)poll(&p, 1, kPollMs);
    (void)Drain();
    if (gone_) return CanceledError();
  }
}

}  // namespace fastoci
