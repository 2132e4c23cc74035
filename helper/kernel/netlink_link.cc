// SPDX-License-Identifier: Apache-2.0
#include "kernel/netlink_link.h"

#include <netlink/attr.h>
#include <netlink/genl/ctrl.h>
#include <netlink/genl/genl.h>
#include <netlink/msg.h>
#include <netlink/netlink.h>
#include <netlink/socket.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <chrono>
#include <cstring>

#include "base/log.h"
#include "base/thread.h"
#include "fastoci_netlink.h"

namespace fastoci {
namespace {

constexpr size_t kReceiveBytes = 256 * 1024;  // larger than any message of the kernel
constexpr size_t kMessageBytes = 32 * 1024;   // holds FASTOCI_MAX_BATCH chunks
constexpr int kMaxReceiveErrors = 100;        // in a row

Error KernelError(const char* what, int err, const std::string& ext_ack) {
  Error e = ErrnoError(std::string("kernel: ") + what, -err);
  if (!ext_ack.empty()) e.message += ": " + ext_ack;
  if (e.err == ENOENT) e.kind = ErrorKind::kNotFound;
  if (e.err == EPERM) e.kind = ErrorKind::kDenied;
  return e;
}

uint32_t GetU32(nlattr* a) { return a && nla_len(a) >= 4 ? nla_get_u32(a) : 0; }

uint64_t GetU64(nlattr* a) { return a && nla_len(a) >= 8 ? nla_get_u64(a) : 0; }

template <size_t N>
void GetBytes(nlattr* a, std::array<uint8_t, N>* out) {
  if (a && nla_len(a) == static_cast<int>(N))
    std::copy_n(static_cast<const uint8_t*>(nla_data(a)), N, out->begin());
}

std::vector<ChunkEntry> ParseChunks(nlattr* nest) {
  std::vector<ChunkEntry> out;
  if (!nest) return out;
  int rem;
  nlattr* pos;
  nla_for_each_nested(pos, nest, rem) {
    nlattr* tb[FASTOCI_C_MAX + 1];
    if (out.size() == FASTOCI_MAX_BATCH) break;
    if (nla_parse_nested(tb, FASTOCI_C_MAX, pos, nullptr) != 0) continue;
    if (!tb[FASTOCI_C_SPACE] || !tb[FASTOCI_C_CHUNK_NO]) continue;
    ChunkEntry c;
    c.space = GetU32(tb[FASTOCI_C_SPACE]);
    c.chunk_no = GetU32(tb[FASTOCI_C_CHUNK_NO]);
    c.slot = GetU32(tb[FASTOCI_C_SLOT]);
    if (tb[FASTOCI_C_CLASS] && nla_len(tb[FASTOCI_C_CLASS]) >= 1)
      c.miss_class = nla_get_u8(tb[FASTOCI_C_CLASS]);
    out.push_back(c);
  }
  return out;
}

}  // namespace

struct NetlinkLink::Attrs {
  nlattr* tb[FASTOCI_A_MAX + 1] = {};
  bool Parse(const Bytes& message) {
    auto* nlh = reinterpret_cast<nlmsghdr*>(const_cast<uint8_t*>(message.data()));
    return genlmsg_parse(nlh, 0, tb, FASTOCI_A_MAX, nullptr) == 0;
  }
  nlattr* operator[](int i) const { return tb[i]; }
};

void NetlinkLink::MessageDeleter::operator()(nl_msg* m) const { nlmsg_free(m); }

Result<std::unique_ptr<NetlinkLink>> NetlinkLink::Open(KernelEvents* events) {
  std::unique_ptr<NetlinkLink> link(new NetlinkLink(events));
  link->sock_ = nl_socket_alloc();
  if (!link->sock_) return Error{ErrorKind::kInternal, ENOMEM, "netlink: out of memory"};
  // libnl opens the socket with SOCK_CLOEXEC: no child may keep it alive.
  int err = genl_connect(link->sock_);
  if (err < 0) return Error{ErrorKind::kIo, EIO, std::string("netlink: ") + nl_geterror(err)};
  link->family_ = genl_ctrl_resolve(link->sock_, FASTOCI_GENL_NAME);
  if (link->family_ < 0)
    return NotFoundError("netlink: no family \"fastoci\": the module dm-fastoci is not loaded; try: modprobe dm-fastoci");
  int fd = nl_socket_get_fd(link->sock_);
  int bytes = kReceiveBufferBytes, one = 1;
  if (::setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0)
    Log(LogLevel::kWarning, "netlink: receive buffer stays small: %s", std::strerror(errno));
  (void)::setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof(one));
  link->wake_.reset(::eventfd(0, EFD_CLOEXEC));
  if (!link->wake_.valid()) return ErrnoError("eventfd");
  FASTOCI_TRY(link->receiver_, StartThread([l = link.get()] { l->Receive(); }));
  return link;
}

NetlinkLink::~NetlinkLink() {
  if (receiver_.joinable()) {
    uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof(one));
    receiver_.join();
  }
  if (sock_) nl_socket_free(sock_);
}

NetlinkLink::Message NetlinkLink::NewMessage(uint8_t cmd, int flags) {
  Message m(nlmsg_alloc_size(kMessageBytes));
  if (m && !genlmsg_put(m.get(), nl_socket_get_local_port(sock_), 0, family_, 0,
                        NLM_F_REQUEST | flags, cmd, FASTOCI_GENL_VERSION))
    m.reset();
  return m;
}

Result<std::vector<Bytes>> NetlinkLink::Send(Message message, const char* what, bool wait,
                                             const PartHandler* part) {
  if (!message)
    return Error{ErrorKind::kInternal, ENOMEM, std::string("kernel: ") + what + ": no memory"};
  nlmsghdr* nlh = nlmsg_hdr(message.get());
  MutexLock lock(mutex_);
  while (next_seq_ == 0 || calls_.count(next_seq_)) next_seq_++;  // 0 marks events
  const uint32_t seq = nlh->nlmsg_seq = next_seq_++;
  if (wait) {
    nlh->nlmsg_flags |= NLM_F_ACK;
    calls_[seq].part = part;
  }
  sockaddr_nl kernel = {};
  kernel.nl_family = AF_NETLINK;
  // A command runs inside send(): its reply may be there before it returns.
  ssize_t n = ::sendto(nl_socket_get_fd(sock_), nlh, nlh->nlmsg_len, 0,
                       reinterpret_cast<sockaddr*>(&kernel), sizeof(kernel));
  if (n < 0) {
    calls_.erase(seq);
    return ErrnoError(std::string("kernel: ") + what + ": send");
  }
  if (!wait) return std::vector<Bytes>();
  for (uint64_t parts = ~0ULL; !calls_[seq].done && calls_[seq].nr_parts != parts;) {
    parts = calls_[seq].nr_parts;
    changed_.WaitFor(mutex_, std::chrono::milliseconds(kReplyTimeoutMs),
                     [&]() REQUIRES(mutex_) { return calls_[seq].done; });
  }
  Call call = std::move(calls_[seq]);
  calls_.erase(seq);
  if (!call.done)
    return Error{ErrorKind::kUnavailable, ETIMEDOUT, std::string("kernel: ") + what + ": no reply"};
  lock.Unlock();
  if (call.err == -ESTALE) events_->OnReplaced();
  if (call.err) return KernelError(what, call.err, call.ext_ack);
  return std::move(call.messages);
}

// ---- receiving ----

void NetlinkLink::Receive() {
  Bytes buffer(kReceiveBytes);
  int errors = 0;
  const int fd = nl_socket_get_fd(sock_);
  pollfd fds[2] = {{fd, POLLIN, 0}, {wake_.get(), POLLIN, 0}};
  for (;;) {
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) {
      Log(LogLevel::kError, "netlink: poll: %s", std::strerror(errno));
      return events_->OnBroken();
    }
    if (fds[1].revents) return;
    if (!fds[0].revents) continue;
    sockaddr_nl from = {};
    socklen_t from_size = sizeof(from);
    ssize_t n = ::recvfrom(fd, buffer.data(), buffer.size(), MSG_TRUNC | MSG_DONTWAIT,
                           reinterpret_cast<sockaddr*>(&from), &from_size);
    if (n < 0) {
      if (errno == EINTR || errno == EAGAIN) continue;
      if (!OnReceiveError(errno, ++errors)) return;
      continue;
    }
    errors = 0;
    if (from.nl_pid != 0) continue;  // only the kernel is heard
    if (static_cast<size_t>(n) > buffer.size()) {
      events_->OnLost();
      continue;
    }
    HandleDatagram(buffer.data(), static_cast<size_t>(n));
  }
}

// Returns false if the socket does not work any more. It still works after these errors:
// ENOBUFS: an event found no room. ENOMEM and others: a dump could not go on. EINVAL: nothing was
// lost; recvmsg() met a dump under way, and the thread that asked for the dump took its last part
// first (net/netlink/af_netlink.c, netlink_dump()).
bool NetlinkLink::OnReceiveError(int err, int in_a_row) {
  if (err == EBADF || err == ENOTSOCK || in_a_row >= kMaxReceiveErrors) {
    Log(LogLevel::kError, "netlink: receive: %s", std::strerror(err));
    events_->OnBroken();
    return false;
  }
  if (err != EINVAL) {
    Log(LogLevel::kWarning, "netlink: events were lost (%s), asking for what is pending",
        std::strerror(err));
    events_->OnLost();
  }
  return true;
}

void NetlinkLink::HandleDatagram(const uint8_t* data, size_t size) {
  auto* nlh = reinterpret_cast<nlmsghdr*>(const_cast<uint8_t*>(data));
  int left = static_cast<int>(size);
  for (; nlmsg_ok(nlh, left); nlh = nlmsg_next(nlh, &left)) {
    if (nlh->nlmsg_seq == 0)
      HandleEvent(nlh);
    else
      HandleReply(nlh);
  }
}

void NetlinkLink::HandleReply(const nlmsghdr* nlh) {
  const auto* raw = reinterpret_cast<const uint8_t*>(nlh);
  MutexLock lock(mutex_);
  auto it = calls_.find(nlh->nlmsg_seq);
  if (it == calls_.end()) {
    if (nlh->nlmsg_type == NLMSG_ERROR)
      Log(LogLevel::kDebug, "netlink: a reply that nobody waits for");
    return;
  }
  Call& call = it->second;
  if (nlh->nlmsg_type == NLMSG_ERROR || nlh->nlmsg_type == NLMSG_DONE) {
    if (nlh->nlmsg_len >= NLMSG_HDRLEN + sizeof(int))
      std::memcpy(&call.err, raw + NLMSG_HDRLEN, sizeof(int));
    if (nlh->nlmsg_type == NLMSG_DONE && call.err > 0) call.err = 0;
    if (nlh->nlmsg_type == NLMSG_ERROR && (nlh->nlmsg_flags & NLM_F_ACK_TLVS)) {
      // The reply begins with the request: its header, or all of it.
      size_t at = NLMSG_HDRLEN + sizeof(nlmsgerr);
      if (!(nlh->nlmsg_flags & NLM_F_CAPPED)) {
        nlmsgerr e;
        if (nlh->nlmsg_len >= at) {
          std::memcpy(&e, raw + NLMSG_HDRLEN, sizeof(e));
          if (e.msg.nlmsg_len > sizeof(nlmsghdr))
            at += NLMSG_ALIGN(e.msg.nlmsg_len - sizeof(nlmsghdr));
        }
      }
      if (at < nlh->nlmsg_len) {
        auto* attrs = reinterpret_cast<nlattr*>(const_cast<uint8_t*>(raw + at));
        nlattr* text = nla_find(attrs, static_cast<int>(nlh->nlmsg_len - at), NLMSGERR_ATTR_MSG);
        if (text) {
          const char* s = static_cast<const char*>(nla_data(text));
          call.ext_ack.assign(s, strnlen(s, static_cast<size_t>(nla_len(text))));
        }
      }
    }
    call.done = true;
    changed_.NotifyAll();
    return;
  }
  call.nr_parts++;
  if (call.part) return (*call.part)(nlh);
  call.messages.emplace_back(raw, raw + nlh->nlmsg_len);
  // Set before the next event is handled, because that may send an ACK.
  Attrs attrs;
  const auto* gnlh = static_cast<const genlmsghdr*>(nlmsg_data(nlh));
  if (nlmsg_datalen(nlh) >= static_cast<int>(sizeof(*gnlh)) && gnlh->cmd == FASTOCI_CMD_REGISTER &&
      attrs.Parse(call.messages.back()) && attrs[FASTOCI_A_GENERATION] &&
      nla_len(attrs[FASTOCI_A_GENERATION]) == 8)
    generation_ = nla_get_u64(attrs[FASTOCI_A_GENERATION]);
}

void NetlinkLink::HandleEvent(const nlmsghdr* nlh) {
  const auto* raw = reinterpret_cast<const uint8_t*>(nlh);
  if (nlh->nlmsg_type != family_ || nlmsg_datalen(nlh) < static_cast<int>(sizeof(genlmsghdr)))
    return;
  Attrs a;
  Bytes copy(raw, raw + nlh->nlmsg_len);
  if (!a.Parse(copy)) return;
  const uint8_t cmd = static_cast<const genlmsghdr*>(nlmsg_data(nlh))->cmd;
  const uint32_t cache = GetU32(a[FASTOCI_A_CACHE]);
  switch (cmd) {
    case FASTOCI_CMD_MISS: events_->OnMiss(cache, ParseChunks(a[FASTOCI_A_CHUNKS])); break;
    case FASTOCI_CMD_EVICTED: events_->OnEvicted(cache, ParseChunks(a[FASTOCI_A_CHUNKS])); break;
    case FASTOCI_CMD_SLOT_BAD: events_->OnSlotBad(cache, ParseChunks(a[FASTOCI_A_CHUNKS])); break;
    case FASTOCI_CMD_CACHE_REMOVED: events_->OnCacheRemoved(cache); break;
    case FASTOCI_CMD_IMAGE_ADDED:
    case FASTOCI_CMD_IMAGE_REMOVED: {
      ImageInfo image;
      image.image = GetU32(a[FASTOCI_A_IMAGE]);
      image.cache = cache;
      image.meta_dev = GetU32(a[FASTOCI_A_META_DEV]);
      image.cache_dev = GetU32(a[FASTOCI_A_CACHE_DEV]);
      GetBytes(a[FASTOCI_A_IMAGE_ID], &image.image_id);
      events_->OnImage(image, cmd == FASTOCI_CMD_IMAGE_ADDED);
      break;
    }
    default: break;  // an event of a newer kernel
  }
}

// ---- commands ----

Status NetlinkLink::Register(bool takeover) {
  Message m = NewMessage(FASTOCI_CMD_REGISTER, 0);
  if (m) {
    nla_put_u32(m.get(), FASTOCI_A_VERSION, FASTOCI_PROTOCOL_VERSION);
    if (takeover) nla_put_u32(m.get(), FASTOCI_A_FLAGS, FASTOCI_REGISTER_TAKEOVER);
  }
  FASTOCI_TRY(auto replies, Send(std::move(m), "REGISTER", true));
  if (replies.empty() || generation_ == 0)
    return Error{ErrorKind::kInternal, EPROTO, "kernel: REGISTER: no generation in the reply"};
  return OkStatus();
}

Result<std::vector<uint32_t>> NetlinkLink::Alloc(uint32_t cache, uint32_t count) {
  Message m = NewMessage(FASTOCI_CMD_ALLOC, 0);
  if (m) {
    nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
    nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
    nla_put_u32(m.get(), FASTOCI_A_COUNT, count);
  }
  FASTOCI_TRY(auto replies, Send(std::move(m), "ALLOC", true));
  Attrs a;
  if (replies.empty() || !a.Parse(replies[0]) || !a[FASTOCI_A_SLOTS])
    return Error{ErrorKind::kInternal, EPROTO, "kernel: ALLOC: no slots in the reply"};
  std::vector<uint32_t> slots(static_cast<size_t>(nla_len(a[FASTOCI_A_SLOTS])) / sizeof(uint32_t));
  std::memcpy(slots.data(), nla_data(a[FASTOCI_A_SLOTS]), slots.size() * sizeof(uint32_t));
  return slots;
}

Status NetlinkLink::SendSlots(uint8_t cmd, const char* what, uint32_t cache,
                              std::span<const uint32_t> slots) {
  while (!slots.empty()) {
    auto part = slots.first(std::min<size_t>(slots.size(), FASTOCI_MAX_BATCH));
    Message m = NewMessage(cmd, 0);
    if (m) {
      nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
      nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
      nla_put(m.get(), FASTOCI_A_SLOTS, static_cast<int>(part.size_bytes()), part.data());
    }
    FASTOCI_CHECK_OK(Send(std::move(m), what, true));
    slots = slots.subspan(part.size());
  }
  return OkStatus();
}

Status NetlinkLink::Return(uint32_t cache, std::span<const uint32_t> slots) {
  return SendSlots(FASTOCI_CMD_RETURN, "RETURN", cache, slots);
}

Status NetlinkLink::Reuse(uint32_t cache, std::span<const uint32_t> slots) {
  return SendSlots(FASTOCI_CMD_REUSE, "REUSE", cache, slots);
}

Status NetlinkLink::ReturnAll(uint32_t cache) {
  Message m = NewMessage(FASTOCI_CMD_RETURN, 0);
  if (m) {
    nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
    nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
  }
  FASTOCI_CHECK_OK(Send(std::move(m), "RETURN", true));
  return OkStatus();
}

void NetlinkLink::Ack(uint32_t cache, uint32_t count) {
  Message m = NewMessage(FASTOCI_CMD_ACK, 0);
  if (m) {
    nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
    nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
    nla_put_u32(m.get(), FASTOCI_A_COUNT, count);
  }
  auto sent = Send(std::move(m), "ACK", false);
  if (!sent.ok()) Log(LogLevel::kWarning, "%s", sent.error().message.c_str());
}

Status NetlinkLink::SendChunks(uint8_t cmd, const char* what, uint32_t cache,
                               std::span<const ChunkEntry> chunks,
                               const std::function<void(nl_msg*)>& extra) {
  while (!chunks.empty()) {
    auto part = chunks.first(std::min<size_t>(chunks.size(), FASTOCI_MAX_BATCH));
    Message m = NewMessage(cmd, 0);
    if (m) {
      nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
      nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
      if (extra) extra(m.get());
      nlattr* list = nla_nest_start(m.get(), FASTOCI_A_CHUNKS | NLA_F_NESTED);
      for (const ChunkEntry& c : part) {
        nlattr* nest = nla_nest_start(m.get(), FASTOCI_A_CHUNK | NLA_F_NESTED);
        if (cmd != FASTOCI_CMD_RESTORE) nla_put_u32(m.get(), FASTOCI_C_SPACE, c.space);
        nla_put_u32(m.get(), FASTOCI_C_CHUNK_NO, c.chunk_no);
        if (cmd == FASTOCI_CMD_FILL || cmd == FASTOCI_CMD_RESTORE)
          nla_put_u32(m.get(), FASTOCI_C_SLOT, c.slot);
        if (cmd == FASTOCI_CMD_FAIL) nla_put_u32(m.get(), FASTOCI_C_ERRNO, c.err);
        nla_nest_end(m.get(), nest);
      }
      nla_nest_end(m.get(), list);
    }
    FASTOCI_CHECK_OK(Send(std::move(m), what, true));
    chunks = chunks.subspan(part.size());
  }
  return OkStatus();
}

Status NetlinkLink::Fill(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return SendChunks(FASTOCI_CMD_FILL, "FILL", cache, chunks);
}
Status NetlinkLink::Fail(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return SendChunks(FASTOCI_CMD_FAIL, "FAIL", cache, chunks);
}
Status NetlinkLink::Evict(uint32_t cache, std::span<const ChunkEntry> chunks) {
  return SendChunks(FASTOCI_CMD_EVICT, "EVICT", cache, chunks, [](nl_msg* m) {
    nla_put_u32(m, FASTOCI_A_FLAGS, FASTOCI_EVICT_RESERVE);
  });
}
Status NetlinkLink::Restore(uint32_t cache, const Sha256Digest& space_id, uint64_t data_bytes,
                            std::span<const ChunkEntry> chunks) {
  return SendChunks(FASTOCI_CMD_RESTORE, "RESTORE", cache, chunks, [&](nl_msg* m) {
    nla_put(m, FASTOCI_A_SPACE_ID, static_cast<int>(space_id.size()), space_id.data());
    nla_put_u64(m, FASTOCI_A_DATA_BYTES, data_bytes);
  });
}

// ---- dumps ----

Result<std::vector<Bytes>> NetlinkLink::Dump(uint8_t cmd, const char* what) {
  MutexLock lock(dump_mutex_);
  return Send(NewMessage(cmd, NLM_F_DUMP), what, true);
}

Result<std::vector<CacheInfo>> NetlinkLink::GetCaches() {
  FASTOCI_TRY(auto messages, Dump(FASTOCI_CMD_GET_CACHES, "GET_CACHES"));
  std::vector<CacheInfo> out;
  for (const Bytes& m : messages) {
    Attrs a;
    if (!a.Parse(m)) continue;
    CacheInfo c;
    c.cache = GetU32(a[FASTOCI_A_CACHE]);
    GetBytes(a[FASTOCI_A_UUID], &c.uuid);
    c.dev = GetU32(a[FASTOCI_A_CACHE_DEV]);
    c.chunk_shift = GetU32(a[FASTOCI_A_CHUNK_SHIFT]);
    c.nr_slots = GetU32(a[FASTOCI_A_NR_SLOTS]);
    c.nr_free = GetU32(a[FASTOCI_A_NR_FREE]);
    c.nr_pending = GetU32(a[FASTOCI_A_NR_PENDING]);
    c.nr_bad = GetU32(a[FASTOCI_A_NR_BAD]);
    out.push_back(c);
  }
  return out;
}

Result<std::vector<ImageInfo>> NetlinkLink::GetImages() {
  FASTOCI_TRY(auto messages, Dump(FASTOCI_CMD_GET_IMAGES, "GET_IMAGES"));
  std::vector<ImageInfo> out;
  for (const Bytes& m : messages) {
    Attrs a;
    if (!a.Parse(m)) continue;
    ImageInfo i;
    i.image = GetU32(a[FASTOCI_A_IMAGE]);
    i.cache = GetU32(a[FASTOCI_A_CACHE]);
    i.meta_dev = GetU32(a[FASTOCI_A_META_DEV]);
    i.cache_dev = GetU32(a[FASTOCI_A_CACHE_DEV]);
    GetBytes(a[FASTOCI_A_IMAGE_ID], &i.image_id);
    i.hits = GetU64(a[FASTOCI_A_NR_HITS]);
    i.misses = GetU64(a[FASTOCI_A_NR_MISSED]);
    i.errors = GetU64(a[FASTOCI_A_NR_ERRORS]);
    i.waiting = GetU32(a[FASTOCI_A_NR_PARKED]);
    if (nlattr* times = a[FASTOCI_A_HIT_TIMES]; times && nla_len(times) == int{sizeof(i.hit_times)})
      std::memcpy(i.hit_times.data(), nla_data(times), sizeof(i.hit_times));
    i.hit_ns = GetU64(a[FASTOCI_A_HIT_NS]);
    out.push_back(i);
  }
  return out;
}

Result<std::vector<SpaceInfo>> NetlinkLink::GetSpaces() {
  FASTOCI_TRY(auto messages, Dump(FASTOCI_CMD_GET_SPACES, "GET_SPACES"));
  std::vector<SpaceInfo> out;
  for (const Bytes& m : messages) {
    Attrs a;
    if (!a.Parse(m)) continue;
    SpaceInfo s;
    s.cache = GetU32(a[FASTOCI_A_CACHE]);
    s.space = GetU32(a[FASTOCI_A_SPACE]);
    GetBytes(a[FASTOCI_A_SPACE_ID], &s.id);
    s.data_bytes = GetU64(a[FASTOCI_A_DATA_BYTES]);
    s.nr_chunks = GetU32(a[FASTOCI_A_NR_CHUNKS]);
    s.nr_present = GetU32(a[FASTOCI_A_NR_PRESENT]);
    out.push_back(s);
  }
  return out;
}

Status NetlinkLink::GetSlots(uint32_t cache, bool clear_accessed,
                             const std::function<void(const SlotInfo&)>& each) {
  const PartHandler part = [&each](const nlmsghdr* nlh) {
    auto* message = const_cast<nlmsghdr*>(nlh);
    nlattr* tb[FASTOCI_A_MAX + 1];
    if (genlmsg_parse(message, 0, tb, FASTOCI_A_MAX, nullptr) != 0 || !tb[FASTOCI_A_CHUNKS]) return;
    int rem;
    nlattr* pos;
    nla_for_each_nested(pos, tb[FASTOCI_A_CHUNKS], rem) {
      nlattr* c[FASTOCI_C_MAX + 1];
      if (nla_parse_nested(c, FASTOCI_C_MAX, pos, nullptr) != 0) continue;
      if (!c[FASTOCI_C_SLOT] || !c[FASTOCI_C_STATE] || nla_len(c[FASTOCI_C_STATE]) < 1) continue;
      each({.slot = GetU32(c[FASTOCI_C_SLOT]),
            .state = nla_get_u8(c[FASTOCI_C_STATE]),
            .space = GetU32(c[FASTOCI_C_SPACE]),
            .chunk_no = GetU32(c[FASTOCI_C_CHUNK_NO]),
            .accessed = c[FASTOCI_C_ACCESSED] != nullptr});
    }
  };
  MutexLock lock(dump_mutex_);
  Message m = NewMessage(FASTOCI_CMD_GET_SLOTS, NLM_F_DUMP);
  if (m) {
    nla_put_u32(m.get(), FASTOCI_A_CACHE, cache);
    if (clear_accessed) nla_put_u32(m.get(), FASTOCI_A_FLAGS, FASTOCI_SLOTS_CLEAR_ACCESSED);
  }
  FASTOCI_CHECK_OK(Send(std::move(m), "GET_SLOTS", true, &part));
  return OkStatus();
}

Status NetlinkLink::GetPending() {
  MutexLock lock(dump_mutex_);
  Message m = NewMessage(FASTOCI_CMD_GET_PENDING, NLM_F_DUMP);
  if (m) nla_put_u64(m.get(), FASTOCI_A_GENERATION, generation_);
  FASTOCI_CHECK_OK(Send(std::move(m), "GET_PENDING", true));
  return OkStatus();
}

}  // namespace fastoci
