// SPDX-License-Identifier: Apache-2.0
#include "fetcher/fetcher.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <set>

#include "base/monotonic.h"
#include "base/packet.h"
#include "fetcher/image.h"
#include "fetcher/reply.h"

namespace fastoci {
namespace {

// Messages taken in one round: the network must not wait for a broker that talks.
constexpr int kMessagesPerRound = 64;

bool IsTimeout(const Status& s) { return !s.ok() && s.error().err == ETIMEDOUT; }
bool IsGone(const Status& s) { return !s.ok() && s.error().err == EPIPE; }

Result<std::string> ReadJson(const UniqueFd& fd) {
  struct stat st {};
  if (fstat(fd.get(), &st) != 0) return ErrnoError("image JSON");
  if (!S_ISREG(st.st_mode) || static_cast<uint64_t>(st.st_size) > kMaxImageJsonBytes)
    return InvalidError("image JSON: too large");
  std::string json(static_cast<size_t>(st.st_size), '\0');
  FASTOCI_CHECK_OK(PreadFull(
      fd.get(), {reinterpret_cast<uint8_t*>(json.data()), json.size()}, 0, "image JSON"));
  return json;
}

}  // namespace

Fetcher::Fetcher(UniqueFd control, UniqueFd work, Options options, Keeper* keeper)
    : control_(std::move(control)),
      work_(std::move(work)),
      options_(std::move(options)),
      keeper_(keeper),
      control_out_(control_.get()),
      work_out_(work_.get()) {}

Fetcher::~Fetcher() {
  fetches_.reset();
  files_.reset();
  if (!arena_.empty()) munmap(arena_.data(), arena_.size());
}

Result<std::unique_ptr<Fetcher>> Fetcher::Open(UniqueFd control, UniqueFd work,
                                               const UniqueFd& arena, Options options,
                                               Keeper* keeper) {
  std::unique_ptr<Fetcher> f(
      new Fetcher(std::move(control), std::move(work), std::move(options), keeper));
  FASTOCI_CHECK_OK(f->MapArena(arena));
  FASTOCI_TRY(f->http_, HttpLoop::Open(f->options_.http));
  FASTOCI_TRY(f->files_, FileReader::Open());
  f->fetches_ = std::make_unique<Fetches>(Fetches::Env{.http = f->http_.get(),
                                                       .files = f->files_.get(),
                                                       .keeper = keeper,
                                                       .locations = &f->locations_,
                                                       .outbox = &f->work_out_,
                                                       .arena = f->arena_,
                                                       .times = f->options_.times});
  return f;
}

Status Fetcher::MapArena(const UniqueFd& arena) {
  struct stat st {};
  if (fstat(arena.get(), &st) != 0) return ErrnoError("arena");
  constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW;
  int seals = fcntl(arena.get(), F_GET_SEALS);
  if (!S_ISREG(st.st_mode) || st.st_size <= 0 || seals < 0 || (seals & kSeals) != kSeals)
    return InvalidError("arena: it must be a memfd that is sealed against a change of its size");
  void* p = mmap(nullptr, static_cast<size_t>(st.st_size), PROT_READ | PROT_WRITE, MAP_SHARED,
                 arena.get(), 0);
  if (p == MAP_FAILED) return ErrnoError("arena: mmap");
  arena_ = {static_cast<uint8_t*>(p), static_cast<size_t>(st.st_size)};
  return OkStatus();
}

Status Fetcher::Run() {
  while (true) {
    fetches_->Tick();
    FASTOCI_TRY(Ready ready, Wait());
    http_->Process();
    if (ready.files) files_->Process();
    FASTOCI_CHECK_OK(keeper_->Process(MonotonicMs()));
    control_out_.Flush();
    work_out_.Flush();
    Status s = ready.control ? ServeControl() : OkStatus();
    if (s.ok() && ready.work) s = ServeWork();
    if (IsGone(s)) return OkStatus();
    if (!s.ok()) return s;
    if (control_out_.gone() || work_out_.gone()) return OkStatus();
  }
}

Result<Fetcher::Ready> Fetcher::Wait() {
  auto events = [](const Outbox& out) {
    return static_cast<short>(out.full() ? POLLIN | POLLOUT : POLLIN);
  };
  pollfd fds[] = {{control_.get(), events(control_out_), 0},
                  {work_.get(), events(work_out_), 0},
                  {http_->fd(), POLLIN, 0},
                  {files_->fd(), POLLIN, 0},
                  {keeper_->fd(), POLLIN, 0}};
  int64_t timeout = INT64_MAX;
  for (int ms : {fetches_->TimeoutMs(), http_->TimeoutMs()})
    if (ms >= 0) timeout = std::min<int64_t>(timeout, ms);
  if (keeper_->deadline_ms() != INT64_MAX)
    timeout = std::min(timeout, std::max<int64_t>(0, keeper_->deadline_ms() - MonotonicMs()));
  int n = poll(fds, std::size(fds), timeout == INT64_MAX ? -1 : static_cast<int>(timeout));
  if (n < 0 && errno != EINTR) return ErrnoError("poll");
  auto is_ready = [&](int i) { return n > 0 && fds[i].revents != 0; };
  return Ready{.control = is_ready(0), .work = is_ready(1), .files = is_ready(3)};
}

Status Fetcher::ServeControl() {
  ControlMessage m{};
  std::vector<UniqueFd> fds;
  Status s = ReceivePacket(control_.get(), WritableObjectBytes(&m), 0, &fds);
  if (IsTimeout(s)) return OkStatus();
  if (!s.ok()) return s.error().Wrap("control socket");
  Handle(m, fds);
  return OkStatus();
}

Status Fetcher::ServeWork() {
  for (int i = 0; i < kMessagesPerRound; i++) {
    WorkRequest m{};
    Status s = ReceivePacket(work_.get(), WritableObjectBytes(&m), 0);
    if (IsTimeout(s)) return OkStatus();
    if (s.ok()) s = fetches_->Handle(m);
    if (!s.ok()) return s.error().Wrap("work socket");
  }
  return OkStatus();
}

void Fetcher::Fail(uint32_t call, const Error& error) {
  ControlMessage reply{};
  reply.op = ControlOp::kFailed;
  reply.call = call;
  SetFailure(&reply, error);
  control_out_.Push(reply);
}

void Fetcher::Handle(const ControlMessage& m, const std::vector<UniqueFd>& fds) {
  Status s = OkStatus();
  if (m.op == ControlOp::kOpenImage) {
    s = OpenImage(m, fds);
  } else if (m.op == ControlOp::kCloseImage) {
    Forget(locations_.Close(m.image));
    ControlMessage reply{};
    reply.op = ControlOp::kDone;
    reply.call = m.call;
    control_out_.Push(reply);
  } else {
    s = InvalidError("unknown control message");
  }
  if (!s.ok()) Fail(m.call, s.error());
}

void Fetcher::Forget(const Locations::Gone& gone) {
  for (const auto& location : gone.locations) fetches_->Forget(*location);
  for (uint32_t host : gone.hosts) fetches_->DropHost(host);
}

// Answers when the keeper has answered, unless it fails.
Status Fetcher::OpenImage(const ControlMessage& m, const std::vector<UniqueFd>& fds) {
  if (fds.size() != 1) return InvalidError("OpenImage without a memfd");
  FASTOCI_TRY(std::string json, ReadJson(fds[0]));
  auto opening = std::make_shared<Opening>();
  opening->call = m.call;
  opening->image = m.image;
  FASTOCI_TRY(opening->parsed, ParseFetchImage(json));
  opening->knowledge.plain_http = options_.plain_http;
  opening->knowledge.p2p = options_.p2p;
  opening->knowledge.p2p_proxy = options_.p2p_proxy;
  std::set<std::string> registries;
  for (const FetchBlob& blob : opening->parsed.blobs)
    for (const BlobLocation& l : blob.sources)
      if (l.type == BlobLocation::Type::kRegistry) registries.insert(l.repository.host);
  const std::string image_id = FieldText(m.image_id);
  // One more than are asked, so that none of them is the last one meanwhile.
  opening->unanswered = 1;
  if (!image_id.empty() && !registries.empty()) {
    opening->unanswered++;
    keeper_->FindAccess(image_id, [this, opening](Result<std::vector<Access>> found) {
      if (found.ok()) opening->knowledge.accesses = AccessesFor(opening->parsed, std::move(*found));
      else opening->error = found.error();
      Answered(opening);
    });
  }
  for (const std::string& host : registries) {
    opening->unanswered++;
    keeper_->FindHosts(host, image_id, [this, opening, host](Result<std::vector<HostConfig>> found) {
      if (found.ok()) opening->knowledge.hosts[host] = std::move(*found);
      else opening->error = found.error();
      Answered(opening);
    });
  }
  Answered(opening);
  return OkStatus();
}

void Fetcher::Answered(const std::shared_ptr<Opening>& opening) {
  if (--opening->unanswered > 0) return;
  Status s = OkStatus();
  // What root wrote and can mend: the broker asks again.
  if (opening->error)
    s = Error{ErrorKind::kUnavailable, KernelErrno(*opening->error), opening->error->message};
  else
    s = FinishOpening(*opening);
  if (!s.ok()) Fail(opening->call, s.error());
}

// Answers, unless it fails.
Status Fetcher::FinishOpening(const Opening& o) {
  FASTOCI_TRY(Locations::Opened opened, locations_.Open(o.image, o.parsed, o.knowledge));
  for (const auto& host : opened.new_hosts) fetches_->AddHost(host.number, host.name, host.server);
  Forget(opened.gone);

  ControlMessage reply{};
  reply.op = ControlOp::kLocations;
  reply.call = o.call;
  for (size_t blob = 0; blob < opened.blobs.size(); blob++) {
    for (const auto& location : opened.blobs[blob]) {
      reply.entries[reply.count++] = {static_cast<uint32_t>(blob), location->number,
                                      location->host};
      if (reply.count < kEntriesPerMessage) continue;
      control_out_.Push(reply);
      reply.count = 0;
    }
  }
  if (reply.count > 0) control_out_.Push(reply);
  reply = {};
  reply.op = ControlOp::kDone;
  reply.call = o.call;
  reply.count = static_cast<uint32_t>(opened.blobs.size());
  control_out_.Push(reply);
  return OkStatus();
}

}  // namespace fastoci
