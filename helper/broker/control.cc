// SPDX-License-Identifier: Apache-2.0
#include "broker/control.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "base/digest.h"
#include "base/json.h"
#include "base/log.h"
#include "base/event_ring.h"
#include "base/kernel_dev.h"
#include "base/monotonic.h"
#include "base/packet.h"
#include "miss/miss_service.h"
#include "kernel/disk_use.h"

namespace fastoci {
namespace {

constexpr size_t kMaxPendingReplyBytes = 16 << 20;
constexpr size_t kStreamAheadBytes = 64 * 1024;

Result<sockaddr_un> Address(const std::string& path) {
  sockaddr_un address = {};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof(address.sun_path))
    return InvalidError("control socket: its path is too long");
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  return address;
}

std::string Uuid(const CacheUuid& u) {
  std::string h = HexEncode(u);
  for (size_t at : {20, 16, 12, 8}) h.insert(at, "-");
  return h;
}

const char* VerifiedName(MissService::Verified v) {
  switch (v) {
    case MissService::Verified::kByChunk: return "by chunk";
    case MissService::Verified::kWhole: return "as a whole";
    default: return "unverified";
  }
}

std::string CauseName(size_t kind) {
  std::string name = ErrorKindName(static_cast<ErrorKind>(kind));
  std::replace(name.begin(), name.end(), ' ', '_');
  return name;
}

nlohmann::json ByCause(const Counters::ByCause& counts) {
  nlohmann::json out;
  for (size_t i = 0; i < counts.size(); i++) out[CauseName(i)] = counts[i].load();
  return out;
}

nlohmann::json HistogramJson(const Histogram& h) {
  return {{"buckets", h.buckets()}, {"sum_ns", h.sum_ns()}};
}

// Adds the kernel's counters to the images. They are matched by the kernel's number of the
// image, which is not used again.
void AddCounts(MissService* service, nlohmann::json* images) {
  auto counts = service->ReadCounts();
  if (!counts.ok()) {
    Log(LogLevel::kDebug, "%s", counts.error().message.c_str());
    return;
  }
  const auto disks = FastociDisks();
  for (auto& image : *images) {
    auto of = std::find_if(counts->begin(), counts->end(),
                           [&](const ImageInfo& i) { return i.image == image["image"]; });
    if (of == counts->end()) continue;
    image["hits"] = of->hits;
    image["missed"] = of->misses;
    image["errors"] = of->errors;
    image["waiting"] = of->waiting;
    image["hit_times"] = {{"buckets", of->hit_times}, {"sum_ns", of->hit_ns}};
    for (const DiskUse& disk : disks) {
      if (std::find(disk.below.begin(), disk.below.end(), of->meta_dev) == disk.below.end())
        continue;
      image["name"] = disk.name;
      image["read_bytes"] = disk.read_bytes;
    }
  }
}

nlohmann::json WaitsJson(const std::vector<MissService::WaitsFor>& waits) {
  auto out = nlohmann::json::array();
  for (const auto& w : waits)
    out.push_back({{"host", w.host},
                   {"cause", w.cause},
                   {"since_ms", static_cast<uint64_t>(w.since.count())},
                   {"next_try_ms", static_cast<uint64_t>(w.next_try.count())}});
  return out;
}

const char* GateName(HostGate gate) {
  switch (gate) {
    case HostGate::kGated: return "gated";
    case HostGate::kProbing: return "probing";
    default: return "open";
  }
}

uint64_t Until(int64_t from, int64_t to) {
  return static_cast<uint64_t>(std::max<int64_t>(to - from, 0));
}

nlohmann::json HostsJson(MissService* service) {
  static constexpr std::array<const char*, kFetchOutcomes> kOutcomes = {
      "done", "transient", "gated", "gone", "mismatch", "canceled", "refused"};
  auto out = nlohmann::json::array();
  for (const HostState& h : service->Hosts()) {
    nlohmann::json outcomes;
    for (size_t i = 0; i < kOutcomes.size(); i++) outcomes[kOutcomes[i]] = h.outcomes[i];
    const int64_t now = MonotonicMs();
    out.push_back({{"host", h.name},
                   {"state", GateName(h.gate)},
                   {"window", h.window},
                   {"in_flight", h.in_flight},
                   {"requests", h.requests},
                   {"bytes", h.bytes},
                   {"fetches", std::move(outcomes)},
                   {"cause", h.cause},
                   {"http_status", h.http_status},
                   {"since_ms", h.since_ms ? Until(h.since_ms, now) : 0},
                   {"next_try_ms", h.gated_until_ms ? Until(now, h.gated_until_ms) : 0}});
  }
  return out;
}

nlohmann::json Stat(MissService* service, const std::string& cache_device) {
  nlohmann::json out = {{"ok", true}, {"version", FASTOCI_VERSION}, {"cache_device", cache_device},
                        {"jobs", service->nr_jobs()}};
  auto& caches = out["caches"] = nlohmann::json::array();
  for (const auto& c : service->Caches())
    caches.push_back({{"cache", c.info.cache},
                      {"device", c.path},
                      {"uuid", Uuid(c.info.uuid)},
                      {"chunk_bytes", 1ULL << c.info.chunk_shift},
                      {"nr_slots", c.info.nr_slots},
                      {"present", c.present},
                      {"restorable", c.restored},
                      {"reserved", c.reserved},
                      {"evicting", c.evicting},
                      {"retired", c.retired},
                      {"durable", c.durable},
                      {"trouble", c.trouble}});
  auto& images = out["images"] = nlohmann::json::array();
  for (const auto& i : service->Images())
    images.push_back({{"image", i.info.image},
                      {"cache", i.info.cache},
                      {"image_id", HexEncode(i.info.image_id)},
                      {"meta_dev", DevName(i.info.meta_dev)},
                      {"chunks", i.chunks},
                      {"present", i.present},
                      {"pinned", i.pinned},
                      {"prefetching", i.prefetching},
                      {"prefetch_error", i.prefetch_error},
                      {"bytes_fetched", i.bytes_fetched},
                      {"in_flight", i.in_flight},
                      {"oldest_ms", static_cast<uint64_t>(i.oldest.count())},
                      {"waits_for", WaitsJson(i.waits_for)},
                      {"error", i.error}});
  AddCounts(service, &images);
  out["hosts"] = HostsJson(service);
  auto& spaces = out["spaces"] = nlohmann::json::array();
  for (const auto& s : service->Spaces())
    spaces.push_back({{"cache", s.info.cache},
                      {"space", s.info.space},
                      {"id", HexEncode(s.info.id)},
                      {"data_bytes", s.info.data_bytes},
                      {"chunks", s.info.nr_chunks},
                      {"present", s.info.nr_present},
                      {"used", s.used},
                      {"blob", s.used ? DigestString(s.blob) : ""},
                      {"verified", VerifiedName(s.verified)},
                      {"why", s.why}});
  const Counters& n = service->counters();
  out["counters"] = {{"misses", n.misses.load()},
                     {"fills", n.fills.load()},
                     {"fails", n.fails.load()},
                     {"restored", n.restored.load()},
                     {"mismatches", n.mismatches.load()},
                     {"retries", n.retries.load()},
                     {"rotten", n.rotten.load()},
                     {"planted", n.planted.load()},
                     {"scrubbed", n.scrubbed.load()},
                     {"retired", n.retired.load()},
                     {"missed_rows", n.missed_rows.load()},
                     {"evictions", n.evictions.load()},
                     {"requests", n.requests.load()},
                     {"request_retries", n.request_retries.load()},
                     {"tokens", n.tokens.load()},
                     {"bytes_fetched", n.bytes_fetched.load()},
                     {"bytes_background", n.bytes_background.load()},
                     {"bytes_decoded", n.bytes_decoded.load()},
                     {"pieces_unverified", n.unverified.load()}};
  out["causes"] = {{"retry", ByCause(n.retries_by)}, {"fail", ByCause(n.fails_by)}};
  auto& latency = out["latency"] = {{"miss", HistogramJson(n.miss)}};
  for (size_t i = 0; i < kPhaseNames.size(); i++)
    latency["phases"][kPhaseNames[i]] = HistogramJson(n.phases[i]);
  return out;
}

// Why the cache on that device takes no chunk now, or "".
std::string Refuses(MissService* service, const std::string& device) {
  struct stat st;
  if (::stat(device.c_str(), &st) != 0) return "";
  return service->CacheRefuses(KernelDev(st.st_rdev));
}

// What a request names by 64 hex digits.
Result<Sha256Digest> IdOf(const nlohmann::json& request, const char* key) {
  const std::string id = JsonText(request, key);
  if (id.empty()) return InvalidError("\"" + std::string(key) + "\" is missing");
  auto digest = ParseDigest("sha256:" + id);
  if (!digest.ok()) return InvalidError("\"" + std::string(key) + "\" is not 64 hex digits");
  return digest;
}

// Runs action for the image that the request names.
nlohmann::json OfImage(const nlohmann::json& request,
                       const std::function<Status(const Sha256Digest& image_id)>& action) {
  auto id = IdOf(request, "image_id");
  Status s = id.ok() ? action(*id) : Status(id.error());
  if (!s.ok()) return {{"error", s.error().message}};
  return {{"ok", true}};
}

// Which chunks of a data space are in the cache, and in which slots: runs of chunks in adjacent
// slots. Whoever reads a slot compares what it has, because the chunk may be evicted meanwhile.
nlohmann::json Chunks(MissService* service, const nlohmann::json& request) {
  auto image = IdOf(request, "image_id"), space = IdOf(request, "space");
  if (!image.ok() || !space.ok()) return {{"error", (image.ok() ? space : image).error().message}};
  auto found = service->CachedChunks(*image, *space, JsonNumber(request, "from"));
  if (!found.ok()) return {{"error", found.error().message}};
  nlohmann::json out = {{"ok", true},
                        {"device", found->device},
                        {"chunks", found->nr_chunks},
                        {"next", found->next},
                        {"runs", nlohmann::json::array()}};
  for (const auto& run : found->runs) out["runs"].push_back({run.chunk_no, run.slot, run.count});
  return out;
}

}  // namespace

nlohmann::json HandleControl(MissService* service, const std::string& cache_device,
                             const nlohmann::json& request) {
  const std::string op = JsonText(request, "op");
  if (op == "ping") return {{"ok", true}, {"version", FASTOCI_VERSION}, {"pid", ::getpid()}};
  if (op == "stat") return Stat(service, cache_device);
  if (op == "cache")
    return {{"ok", true}, {"device", cache_device}, {"refuses", Refuses(service, cache_device)}};
  if (op == "drain") return {{"ok", true}};
  if (op == "gc") return {{"ok", true}, {"evicted", service->CollectGarbage()}};
  if (op == "scrub") {
    service->Scrub();
    return {{"ok", true}};
  }
  if (op == "reopen") {
    service->ReopenImages();
    return {{"ok", true}};
  }
  if (op == "retry") {
    Status s = service->Retry();
    return s.ok() ? nlohmann::json{{"ok", true}} : nlohmann::json{{"error", s.error().message}};
  }
  if (op == "pin" || op == "unpin")
    return OfImage(request, [&](const auto& id) { return service->Pin(id, op == "pin"); });
  if (op == "chunks") return Chunks(service, request);
  if (op == "prefetch")
    return OfImage(request, [&](const auto& id) { return service->Prefetch(id); });
  if (op.empty()) return {{"error", "the request is not a JSON object with an \"op\""}};
  return {{"error", "unknown op \"" + op + "\""}};
}

nlohmann::json HandleSeed(MissService* service, const nlohmann::json& request,
                          std::vector<UniqueFd> fds) {
  if (fds.size() != 2) return {{"error", "\"seed\" comes with a socket and memory"}};
  return OfImage(request, [&](const auto& id) {
    return service->BeginSeed(id, std::move(fds[0]), std::move(fds[1]));
  });
}

std::string ControlLine(const nlohmann::json& reply) {
  return reply.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
}

ControlServer::Reply HandleEvents(EventRing* ring, const nlohmann::json& request) {
  const bool follow = request.is_object() && request.value("follow", nlohmann::json()) == true;
  // Numbers tell whether something was added since: those of this line are in what follows.
  ControlServer::Reply reply(nlohmann::json{{"ok", true}, {"last", ring->last()}}.dump());
  reply.stream = [ring, cursor = uint64_t{0}, end = ring->last(), follow]() mutable {
    if (!follow && cursor >= end) return std::string();
    return ring->TakeBehind(&cursor, kStreamAheadBytes);
  };
  return reply;
}

ControlServer::Reply HandleTrace(MissService* service) {
  ControlServer::Reply reply(nlohmann::json{{"ok", true}}.dump());
  EventRing* ring = service->tracer()->ring();
  reply.stream = [ring, cursor = ring->last(), on = service->tracer()->Begin()]() mutable {
    return ring->TakeBehind(&cursor, kStreamAheadBytes);
  };
  return reply;
}

Result<std::unique_ptr<ControlServer>> ControlServer::Listen(const std::string& path,
                                                             Handler handler, bool takeover) {
  FASTOCI_TRY(sockaddr_un address, Address(path));
  std::unique_ptr<ControlServer> s(new ControlServer);
  s->handler_ = std::move(handler);
  s->socket_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!s->socket_.valid()) return ErrnoError("control socket");
  const auto* a = reinterpret_cast<const sockaddr*>(&address);
  if (!takeover) {
    UniqueFd probe(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
    if (probe.valid() && ::connect(probe.get(), a, sizeof(address)) == 0)
      return ErrnoError(path + ": a helper runs already", EADDRINUSE);
  }
  struct stat st;
  if (::lstat(path.c_str(), &st) == 0 && S_ISSOCK(st.st_mode)) ::unlink(path.c_str());
  // The mode is right from the start: a umask of the process would race with threads.
  if (::fchmod(s->socket_.get(), 0600) != 0 || ::bind(s->socket_.get(), a, sizeof(address)) != 0 ||
      ::chmod(path.c_str(), 0600) != 0 || ::listen(s->socket_.get(), 16) != 0)
    return ErrnoError(path);
  if (::lstat(path.c_str(), &st) != 0) return ErrnoError(path);
  s->inode_ = st.st_ino;
  s->path_ = path;
  return s;
}

// Removes our socket, but not that of a helper that took over.
ControlServer::~ControlServer() {
  struct stat st;
  if (!path_.empty() && ::lstat(path_.c_str(), &st) == 0 && st.st_ino == inode_)
    ::unlink(path_.c_str());
}

void ControlServer::AddPollFds(std::vector<pollfd>* fds) {
  for (auto& [fd, c] : clients_)
    if (c.stream && c.out.size() < kStreamAheadBytes) c.out += c.stream();
  fds->push_back(
      {socket_.get(), static_cast<short>(clients_.size() < kMaxClients ? POLLIN : 0), 0});
  for (const auto& [fd, c] : clients_)
    fds->push_back({fd, static_cast<short>(c.out.empty() ? POLLIN : POLLIN | POLLOUT), 0});
}

void ControlServer::Handle(const pollfd& fd) {
  if (!fd.revents) return;
  if (fd.fd == socket_.get()) return Accept();
  auto it = clients_.find(fd.fd);
  if (it != clients_.end() && !Serve(&it->second, fd.revents)) clients_.erase(it);
}

void ControlServer::Flush() {
  for (auto& [fd, c] : clients_) {
    if (c.stream) c.out += c.stream();
    (void)Serve(&c, POLLOUT);
  }
}

void ControlServer::Accept() {
  UniqueFd fd(::accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.valid()) return;
  ucred who = {};
  socklen_t size = sizeof(who);
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_PEERCRED, &who, &size) != 0 ||
      (who.uid != 0 && who.uid != ::getuid()))
    return;
  const int n = fd.get();
  clients_[n].fd = std::move(fd);
}

bool ControlServer::Serve(Client* c, short revents) {
  if (revents & (POLLIN | POLLHUP | POLLERR)) {
    uint8_t buffer[4096];
    auto n = ReceiveSome(c->fd.get(), buffer, &c->fds);
    if (n.ok() ? *n == 0 : n.error().err != EAGAIN) return false;
    if (n.ok()) c->in.append(reinterpret_cast<const char*>(buffer), *n);
    if (c->fds.size() > kMaxPacketFds) return false;
    for (size_t end; (end = c->in.find('\n')) != std::string::npos;) {
      Reply reply = handler_(c->in.substr(0, end), std::exchange(c->fds, {}));
      c->out += reply.line + "\n";
      if (reply.stream) c->stream = std::move(reply.stream);
      c->in.erase(0, end + 1);
      if (c->out.size() > kMaxPendingReplyBytes) return false;
    }
    if (c->in.size() > kMaxLineBytes) return false;
  }
  if (!c->out.empty()) {
    ssize_t n = ::send(c->fd.get(), c->out.data(), c->out.size(), MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN && errno != EINTR) return false;
    if (n > 0) c->out.erase(0, static_cast<size_t>(n));
  }
  return true;
}

}  // namespace fastoci
