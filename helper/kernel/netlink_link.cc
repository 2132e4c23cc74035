// SPDX-License-Identifier: Apache-2.0
// Two sockets. `command_` is the registered one: commands and events. Whoever
// holds its mutex reads it: a command puts events that it meets into a queue and
// raises an eventfd, so that the thread that polls learns of them. `dump_` is
// used for nothing else, so a dump that failed in the middle is repaired by a
// new socket.
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
#include <mutex>

#include "base/unique_fd.h"

namespace fastoci {
namespace {

constexpr int kReceiveBufferBytes = 8 << 20;
constexpr size_t kMessageBytes = 256 << 10;  // the kernel's are at most 32 KiB
constexpr int kReplyTimeoutMs = 10000;
constexpr int kMaxTries = 4;  // of a command whose answer was lost
using Clock = std::chrono::steady_clock;

struct SocketDeleter {
  void operator()(struct nl_sock* s) const { nl_socket_free(s); }
};
struct MessageDeleter {
  void operator()(struct nl_msg* m) const { nlmsg_free(m); }
};
using Socket = std::unique_ptr<struct nl_sock, SocketDeleter>;

Error NoMemory() { return ErrnoError("netlink", ENOMEM); }

// Builds a message; errors (no room) are told at the end.
class Message {
 public:
  Message(int family, uint8_t command, int flags)
      : msg_(nlmsg_alloc_size(kMessageBytes / 4)) {
    ok_ = msg_ && genlmsg_put(msg_.get(), NL_AUTO_PORT, NL_AUTO_SEQ, family, 0,
                              NLM_F_REQUEST | flags, command, FASTOCI_GENL_VERSION);
  }
  Message& U32(int attribute, uint32_t v) { return Take(nla_put_u32(msg_.get(), attribute, v)); }
  Message& U64(int attribute, uint64_t v) { return Take(nla_put_u64(msg_.get(), attribute, v)); }
  Message& Data(int attribute, ByteSpan d) {
    return Take(nla_put(msg_.get(), attribute, static_cast<int>(d.size()), d.data()));
  }
  Message& Text(int attribute, const char* s) {
    return Take(nla_put_string(msg_.get(), attribute, s));
  }
  template <typename Fill>
  Message& Nest(int attribute, Fill fill) {
    struct nlattr* nest = ok_ ? nla_nest_start(msg_.get(), attribute | NLA_F_NESTED) : nullptr;
    ok_ = ok_ && nest != nullptr;
    if (ok_) fill();
    if (ok_) nla_nest_end(msg_.get(), nest);
    return *this;
  }
  struct nl_msg* get() const { return msg_.get(); }
  bool ok() const { return ok_; }

 private:
  Message& Take(int result) {
    ok_ = ok_ && result >= 0;
    return *this;
  }
  std::unique_ptr<struct nl_msg, MessageDeleter> msg_;
  bool ok_ = false;
};

// The attributes of one message or nest, with their sizes checked.
class Attributes {
 public:
  Attributes(const struct nlattr* head, int length, int max) : table_(max + 1) {
    struct nlattr* a;
    int rest;
    nla_for_each_attr(a, const_cast<struct nlattr*>(head), length, rest) {
      if (nla_type(a) <= max) table_[nla_type(a)] = a;
    }
  }
  bool Has(int i) const { return table_[i] != nullptr; }
  uint64_t Int(int i, bool* ok) const {
    ByteReader r(Data(i));
    uint64_t v = 0;
    switch (r.remaining()) {
      case 1: v = r.U8(); break;
      case 4: v = r.U32(); break;
      case 8: v = r.U64(); break;
      default: *ok = false;
    }
    return v;
  }
  uint32_t U32(int i, bool* ok) const { return static_cast<uint32_t>(Int(i, ok)); }
  template <size_t N>
  std::array<uint8_t, N> Array(int i, bool* ok) const {
    std::array<uint8_t, N> out{};
    ByteSpan d = Data(i);
    if (d.size() == N)
      std::copy(d.begin(), d.end(), out.begin());
    else
      *ok = false;
    return out;
  }
  ByteSpan Data(int i) const {
    if (table_[i] == nullptr) return {};
    return {static_cast<const uint8_t*>(nla_data(table_[i])),
            static_cast<size_t>(nla_len(table_[i]))};
  }
  const struct nlattr* Get(int i) const { return table_[i]; }

 private:
  std::vector<const struct nlattr*> table_;
};

Attributes ParseMessage(struct nlmsghdr* h) {
  auto* g = static_cast<struct genlmsghdr*>(nlmsg_data(h));
  return {genlmsg_attrdata(g, 0), genlmsg_attrlen(g, 0), FASTOCI_A_MAX};
}

template <typename Visit>
void ForEachChunk(const Attributes& message, Visit visit) {
  struct nlattr* a;
  int rest;
  if (!message.Has(FASTOCI_A_CHUNKS)) return;
  nla_for_each_nested(a, const_cast<struct nlattr*>(message.Get(FASTOCI_A_CHUNKS)), rest) {
    if (nla_type(a) != FASTOCI_A_CHUNK) continue;
    visit(Attributes(static_cast<struct nlattr*>(nla_data(a)), nla_len(a), FASTOCI_C_MAX));
  }
}

Error LibnlError(const char* what, int code) {
  return {ErrorKind::kIo, EIO, std::string(what) + ": " + nl_geterror(code)};
}

Result<Socket> OpenSocket() {
  Socket s(nl_socket_alloc());
  if (!s) return NoMemory();
  nl_socket_disable_auto_ack(s.get());
  if (int e = genl_connect(s.get()); e < 0) return LibnlError("netlink socket", e);
  int fd = nl_socket_get_fd(s.get());
  int bytes = kReceiveBufferBytes, on = 1;
  if (setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &bytes, sizeof(bytes)) != 0)
    return ErrnoError("netlink: SO_RCVBUFFORCE");
  (void)setsockopt(fd, SOL_NETLINK, NETLINK_EXT_ACK, &on, sizeof(on));
  (void)setsockopt(fd, SOL_NETLINK, NETLINK_CAP_ACK, &on, sizeof(on));
  return s;
}

// The kernel's errno, with its own words if it has some.
Error AnswerError(const struct nlmsghdr* h, const struct nlmsgerr* e) {
  Error error = ErrnoError("kernel", -e->error);
  if (-e->error == EPERM) error.kind = ErrorKind::kDenied;
  if (!(h->nlmsg_flags & NLM_F_ACK_TLVS)) return error;
  size_t skip = sizeof(*e);
  if (!(h->nlmsg_flags & NLM_F_CAPPED)) skip += NLMSG_ALIGN(e->msg.nlmsg_len) - NLMSG_HDRLEN;
  size_t bytes = h->nlmsg_len - NLMSG_HDRLEN;
  if (skip >= bytes) return error;
  Attributes a(reinterpret_cast<const struct nlattr*>(reinterpret_cast<const uint8_t*>(e) + skip),
               static_cast<int>(bytes - skip), NLMSGERR_ATTR_MSG);
  ByteSpan text = a.Data(NLMSGERR_ATTR_MSG);
  if (!text.empty())
    error.message += " (" + std::string(reinterpret_cast<const char*>(text.data()),
                                        strnlen(reinterpret_cast<const char*>(text.data()),
                                                text.size())) + ")";
  return error;
}

class NetlinkLink : public KernelLink {
 public:
  static Result<std::unique_ptr<KernelLink>> Open() {
    auto link = std::make_unique<NetlinkLink>();
    FASTOCI_TRY(link->command_, OpenSocket());
    FASTOCI_TRY(link->dump_, OpenSocket());
    link->wake_.reset(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
    if (!link->wake_.valid()) return ErrnoError("eventfd");
    link->buffer_.resize(kMessageBytes);
    link->dump_buffer_.resize(kMessageBytes);
    FASTOCI_CHECK_OK(link->Resolve());
    return std::unique_ptr<KernelLink>(std::move(link));
  }

  Status Register(bool takeover) override {
    Message m(family_, FASTOCI_CMD_REGISTER, NLM_F_ACK);
    m.U32(FASTOCI_A_VERSION, FASTOCI_PROTOCOL_VERSION);
    if (takeover) m.U32(FASTOCI_A_FLAGS, FASTOCI_REGISTER_TAKEOVER);
    bool good = true;
    FASTOCI_CHECK_OK(Call(m, [&](const Attributes& a) {
      generation_ = a.Int(FASTOCI_A_GENERATION, &good);
    }));
    if (!good || generation_ == 0) return InvalidError("kernel: no generation in its answer");
    return OkStatus();
  }

  Result<std::vector<uint32_t>> Alloc(uint32_t cache, uint32_t count) override {
    Message m = Command(FASTOCI_CMD_ALLOC, cache);
    m.U32(FASTOCI_A_COUNT, std::min<uint32_t>(count, FASTOCI_MAX_BATCH));
    std::vector<uint32_t> slots;
    FASTOCI_CHECK_OK(Call(m, [&](const Attributes& a) {
      ByteReader r(a.Data(FASTOCI_A_SLOTS));
      while (r.remaining() >= sizeof(uint32_t)) slots.push_back(r.U32());
    }));
    if (slots.empty()) return InvalidError("kernel: no slot in its answer");
    return slots;
  }

  Status Return(uint32_t cache, std::span<const uint32_t> slots) override {
    for (size_t i = 0; i < slots.size() || i == 0; i += FASTOCI_MAX_BATCH) {
      auto part = slots.subspan(i, std::min<size_t>(slots.size() - i, FASTOCI_MAX_BATCH));
      Message m = Command(FASTOCI_CMD_RETURN, cache);
      m.Data(FASTOCI_A_SLOTS,
             {reinterpret_cast<const uint8_t*>(part.data()), part.size_bytes()});
      FASTOCI_CHECK_OK(Call(m, {}));
    }
    return OkStatus();
  }

  Status Ack(uint32_t cache, uint32_t count) override {
    Message m = Command(FASTOCI_CMD_ACK, cache);
    m.U32(FASTOCI_A_COUNT, count);
    return Call(m, {});
  }

  Status Fill(uint32_t cache, const KernelChunk& chunk) override {
    return Chunks(FASTOCI_CMD_FILL, cache, {&chunk, 1});
  }
  Status Fail(uint32_t cache, const KernelChunk& chunk) override {
    return Chunks(FASTOCI_CMD_FAIL, cache, {&chunk, 1});
  }
  Status Evict(uint32_t cache, std::span<const KernelChunk> chunks) override {
    for (size_t i = 0; i < chunks.size(); i += FASTOCI_MAX_BATCH)
      FASTOCI_CHECK_OK(
          Chunks(FASTOCI_CMD_EVICT, cache,
                 chunks.subspan(i, std::min<size_t>(chunks.size() - i, FASTOCI_MAX_BATCH))));
    return OkStatus();
  }

  Status Restore(uint32_t cache, const Sha256Digest& id, uint64_t data_bytes,
                 std::span<const KernelChunk> chunks) override {
    if (chunks.size() > FASTOCI_MAX_BATCH) return InvalidError("batch is too large");
    Message m = Command(FASTOCI_CMD_RESTORE, cache);
    m.Data(FASTOCI_A_SPACE_ID, id).U64(FASTOCI_A_DATA_BYTES, data_bytes);
    m.Nest(FASTOCI_A_CHUNKS, [&] {
      for (const KernelChunk& c : chunks)
        m.Nest(FASTOCI_A_CHUNK,
               [&] { m.U32(FASTOCI_C_CHUNK_NO, c.chunk_no).U32(FASTOCI_C_SLOT, c.slot); });
    });
    return Call(m, {});
  }

  Result<std::vector<KernelCache>> Caches() override {
    std::vector<KernelCache> out;
    FASTOCI_CHECK_OK(Dump(FASTOCI_CMD_GET_CACHES, {}, [&](const Attributes& a, bool* ok) {
      out.push_back({.cache = a.U32(FASTOCI_A_CACHE, ok),
                     .uuid = a.Array<16>(FASTOCI_A_UUID, ok),
                     .cache_dev = a.U32(FASTOCI_A_CACHE_DEV, ok),
                     .chunk_shift = a.U32(FASTOCI_A_CHUNK_SHIFT, ok),
                     .nr_slots = a.U32(FASTOCI_A_NR_SLOTS, ok),
                     .nr_free = a.U32(FASTOCI_A_NR_FREE, ok)});
    }));
    return out;
  }

  Result<std::vector<KernelImage>> Images() override {
    std::vector<KernelImage> out;
    FASTOCI_CHECK_OK(Dump(FASTOCI_CMD_GET_IMAGES, {}, [&](const Attributes& a, bool* ok) {
      out.push_back({.image = a.U32(FASTOCI_A_IMAGE, ok),
                     .cache = a.U32(FASTOCI_A_CACHE, ok),
                     .meta_dev = a.U32(FASTOCI_A_META_DEV, ok),
                     .cache_dev = a.U32(FASTOCI_A_CACHE_DEV, ok),
                     .image_id = a.Array<32>(FASTOCI_A_IMAGE_ID, ok)});
    }));
    return out;
  }

  Result<std::vector<KernelSpace>> Spaces() override {
    std::vector<KernelSpace> out;
    FASTOCI_CHECK_OK(Dump(FASTOCI_CMD_GET_SPACES, {}, [&](const Attributes& a, bool* ok) {
      out.push_back({.cache = a.U32(FASTOCI_A_CACHE, ok),
                     .space = a.U32(FASTOCI_A_SPACE, ok),
                     .id = a.Array<32>(FASTOCI_A_SPACE_ID, ok),
                     .data_bytes = a.Int(FASTOCI_A_DATA_BYTES, ok),
                     .nr_chunks = a.U32(FASTOCI_A_NR_CHUNKS, ok),
                     .nr_present = a.U32(FASTOCI_A_NR_PRESENT, ok)});
    }));
    return out;
  }

  Result<std::vector<KernelSlot>> Slots(uint32_t cache, bool clear_accessed) override {
    std::vector<KernelSlot> out;
    auto arguments = [&](Message* m) {
      m->U32(FASTOCI_A_CACHE, cache);
      if (clear_accessed) m->U32(FASTOCI_A_FLAGS, FASTOCI_SLOTS_CLEAR_ACCESSED);
    };
    FASTOCI_CHECK_OK(
        Dump(FASTOCI_CMD_GET_SLOTS, arguments, [&](const Attributes& message, bool* ok) {
          ForEachChunk(message, [&](const Attributes& c) {
            KernelSlot s;
            s.slot = c.U32(FASTOCI_C_SLOT, ok);
            s.state = static_cast<fastoci_slot_state>(c.Int(FASTOCI_C_STATE, ok));
            if (s.state != FASTOCI_SLOT_RESERVED) {
              s.space = c.U32(FASTOCI_C_SPACE, ok);
              s.chunk_no = c.U32(FASTOCI_C_CHUNK_NO, ok);
            }
            s.accessed = c.Has(FASTOCI_C_ACCESSED);
            out.push_back(s);
          });
        }));
    return out;
  }

  Status ResendPending() override {
    return Dump(FASTOCI_CMD_GET_PENDING, {}, [](const Attributes&, bool*) {});
  }

  std::vector<int> event_fds() const override {
    return {nl_socket_get_fd(command_.get()), wake_.get()};
  }

  Result<std::vector<KernelEvent>> TakeEvents() override {
    std::lock_guard<std::mutex> lock(mutex_);
    uint64_t ignored;
    (void)!read(wake_.get(), &ignored, sizeof(ignored));
    for (;;) {
      auto got = Receive(command_.get(), &buffer_, 0);
      if (!got.ok() && got.error().err == ETIMEDOUT) break;
      if (!got.ok() && got.error().err == ENOBUFS) continue;  // NoteLost() was told
      if (!got.ok()) return got.error();
      Walk(&buffer_, *got, [&](struct nlmsghdr* h) {
        if (h->nlmsg_type == family_ && h->nlmsg_seq == 0) KeepEvent(h);
        return true;  // the late answer to a command that was given up
      });
    }
    return std::exchange(events_, {});
  }

 private:
  Message Command(uint8_t command, uint32_t cache) const {
    Message m(family_, command, NLM_F_ACK);
    m.U64(FASTOCI_A_GENERATION, generation_).U32(FASTOCI_A_CACHE, cache);
    return m;
  }

  Status Chunks(uint8_t command, uint32_t cache, std::span<const KernelChunk> chunks) {
    Message m = Command(command, cache);
    m.Nest(FASTOCI_A_CHUNKS, [&] {
      for (const KernelChunk& c : chunks)
        m.Nest(FASTOCI_A_CHUNK, [&] {
          m.U32(FASTOCI_C_SPACE, c.space).U32(FASTOCI_C_CHUNK_NO, c.chunk_no);
          if (command == FASTOCI_CMD_FILL) m.U32(FASTOCI_C_SLOT, c.slot);
          if (command == FASTOCI_CMD_FAIL) m.U32(FASTOCI_C_ERRNO, c.err);
        });
    });
    return Call(m, {});
  }

  // The family's number; asked for by hand, as libnl's own way would eat events.
  Status Resolve() {
    Message m(GENL_ID_CTRL, CTRL_CMD_GETFAMILY, NLM_F_ACK);
    m.Text(CTRL_ATTR_FAMILY_NAME, FASTOCI_GENL_NAME);
    bool good = true;
    Status s = Call(m, [&](const Attributes& a) {
      // CTRL_ATTR_FAMILY_ID is u16.
      ByteReader r(a.Data(CTRL_ATTR_FAMILY_ID));
      family_ = r.U16();
      good = r.ok();
    });
    if (!s.ok() && s.error().err == ENOENT)
      return Error{ErrorKind::kUnsupported, ENOENT,
                   "the kernel module is not loaded (try: modprobe dm-fastoci)"};
    if (s.ok() && (!good || family_ < GENL_MIN_ID)) return InvalidError("kernel: no such family");
    return s;
  }

  // One datagram; its length. kUnavailable ETIMEDOUT or ENOBUFS.
  Result<size_t> Receive(struct nl_sock* socket, Bytes* buffer, int timeout_ms) {
    int fd = nl_socket_get_fd(socket);
    for (;;) {
      struct sockaddr_nl from {};
      struct iovec iov {buffer->data(), buffer->size()};
      struct msghdr msg {};
      msg.msg_name = &from;
      msg.msg_namelen = sizeof(from);
      msg.msg_iov = &iov;
      msg.msg_iovlen = 1;
      ssize_t n = recvmsg(fd, &msg, MSG_DONTWAIT);
      if (n >= 0 && (from.nl_pid != 0 || msg.msg_namelen != sizeof(from))) continue;
      if (n >= 0 && (msg.msg_flags & MSG_TRUNC)) return InvalidError("netlink: truncated");
      if (n >= 0) return static_cast<size_t>(n);
      if (errno == EINTR) continue;
      if (errno == ENOBUFS) {
        if (socket == command_.get()) NoteLost();
        return Error{ErrorKind::kUnavailable, ENOBUFS, "netlink: messages were lost"};
      }
      if (errno != EAGAIN) return ErrnoError("netlink: recvmsg");
      struct pollfd p {fd, POLLIN, 0};
      int ready = timeout_ms == 0 ? 0 : poll(&p, 1, timeout_ms);
      if (ready == 0)
        return Error{ErrorKind::kUnavailable, ETIMEDOUT, "netlink: the kernel does not answer"};
      if (ready < 0 && errno != EINTR) return ErrnoError("poll");
    }
  }

  // visit(header): false ends it.
  template <typename Visit>
  static void Walk(Bytes* buffer, size_t bytes, Visit visit) {
    auto* h = reinterpret_cast<struct nlmsghdr*>(buffer->data());
    for (int rest = static_cast<int>(bytes); nlmsg_ok(h, rest); h = nlmsg_next(h, &rest))
      if (!visit(h)) return;
  }

  void NoteLost() {
    events_.push_back({.type = KernelEvent::Type::kLost, .cache = 0, .chunks = {}});
    Wake();
  }
  void Wake() {
    uint64_t one = 1;
    (void)!write(wake_.get(), &one, sizeof(one));
  }

  void KeepEvent(struct nlmsghdr* h) {
    Attributes a = ParseMessage(h);
    KernelEvent e;
    bool ok = true;
    switch (static_cast<struct genlmsghdr*>(nlmsg_data(h))->cmd) {
      case FASTOCI_CMD_MISS: e.type = KernelEvent::Type::kMiss; break;
      case FASTOCI_CMD_EVICTED: e.type = KernelEvent::Type::kEvicted; break;
      case FASTOCI_CMD_IMAGE_ADDED:
      case FASTOCI_CMD_IMAGE_REMOVED: e.type = KernelEvent::Type::kImages; break;
      case FASTOCI_CMD_CACHE_ADDED:
      case FASTOCI_CMD_CACHE_REMOVED: e.type = KernelEvent::Type::kCaches; break;
      default: return;
    }
    e.cache = a.U32(FASTOCI_A_CACHE, &ok);
    ForEachChunk(a, [&](const Attributes& c) {
      KernelChunk k;
      k.space = c.U32(FASTOCI_C_SPACE, &ok);
      k.chunk_no = c.U32(FASTOCI_C_CHUNK_NO, &ok);
      if (c.Has(FASTOCI_C_SLOT)) k.slot = c.U32(FASTOCI_C_SLOT, &ok);
      if (c.Has(FASTOCI_C_CLASS)) k.miss_class = static_cast<uint8_t>(c.Int(FASTOCI_C_CLASS, &ok));
      e.chunks.push_back(k);
    });
    if (ok) events_.push_back(std::move(e));
  }

  using Answer = std::function<void(const Attributes&)>;

  Status Call(const Message& m, const Answer& answer) {
    if (!m.ok()) return NoMemory();
    std::lock_guard<std::mutex> lock(mutex_);
    Status s = OkStatus();
    for (int i = 0; i < kMaxTries; i++) {
      s = CallOnce(m, answer);
      // Lost answers: every command may be given again.
      if (s.ok() || (s.error().err != ENOBUFS && s.error().err != EAGAIN)) break;
    }
    return s;
  }

  Status CallOnce(const Message& m, const Answer& answer) {
    uint32_t seq = next_seq_++;
    if (next_seq_ == 0) next_seq_ = 1;  // 0 marks events
    struct nlmsghdr* h = nlmsg_hdr(m.get());
    h->nlmsg_seq = seq;
    h->nlmsg_pid = nl_socket_get_local_port(command_.get());
    FASTOCI_CHECK_OK(Send(command_.get(), h));
    auto end = Clock::now() + std::chrono::milliseconds(kReplyTimeoutMs);
    for (;;) {
      auto left = std::chrono::duration_cast<std::chrono::milliseconds>(end - Clock::now());
      FASTOCI_TRY(size_t bytes,
                  Receive(command_.get(), &buffer_, std::max<int>(1, static_cast<int>(left.count()))));
      bool done = false;
      Status result = OkStatus();
      Walk(&buffer_, bytes, [&](struct nlmsghdr* r) {
        if (r->nlmsg_seq == 0 && r->nlmsg_type == family_) {
          KeepEvent(r);
          Wake();
        } else if (r->nlmsg_seq == seq && r->nlmsg_type == NLMSG_ERROR) {
          auto* e = static_cast<struct nlmsgerr*>(nlmsg_data(r));
          if (nlmsg_datalen(r) >= static_cast<int>(sizeof(*e)) && e->error != 0)
            result = AnswerError(r, e);
          done = true;
        } else if (r->nlmsg_seq == seq && answer) {
          answer(ParseMessage(r));
        }
        return true;
      });
      if (done) return result;
    }
  }

  static Status Send(struct nl_sock* socket, struct nlmsghdr* h) {
    struct sockaddr_nl kernel {};
    kernel.nl_family = AF_NETLINK;
    ssize_t n;
    do {
      n = sendto(nl_socket_get_fd(socket), h, h->nlmsg_len, 0,
                 reinterpret_cast<struct sockaddr*>(&kernel), sizeof(kernel));
    } while (n < 0 && errno == EINTR);
    if (n < 0) return ErrnoError("netlink: send");
    return OkStatus();
  }

  Status Dump(uint8_t command, const std::function<void(Message*)>& arguments,
              const std::function<void(const Attributes&, bool*)>& item) {
    Message m(family_, command, NLM_F_DUMP);
    if (arguments) arguments(&m);
    if (!m.ok()) return NoMemory();
    std::lock_guard<std::mutex> lock(dump_mutex_);
    Status s = DumpOnce(m, item);
    if (s.ok()) return s;
    // Its remaining answers must not meet the next dump.
    if (auto fresh = OpenSocket(); fresh.ok()) dump_ = std::move(*fresh);
    return s;
  }

  Status DumpOnce(const Message& m, const std::function<void(const Attributes&, bool*)>& item) {
    uint32_t seq = ++dump_seq_;
    struct nlmsghdr* h = nlmsg_hdr(m.get());
    h->nlmsg_seq = seq;
    h->nlmsg_pid = nl_socket_get_local_port(dump_.get());
    FASTOCI_CHECK_OK(Send(dump_.get(), h));
    for (;;) {
      FASTOCI_TRY(size_t bytes, Receive(dump_.get(), &dump_buffer_, kReplyTimeoutMs));
      bool done = false, ok = true;
      Status result = OkStatus();
      Walk(&dump_buffer_, bytes, [&](struct nlmsghdr* r) {
        if (r->nlmsg_seq != seq) return true;
        if (r->nlmsg_type == NLMSG_DONE || r->nlmsg_type == NLMSG_ERROR) {
          // Both begin with the error.
          auto* error = static_cast<int*>(nlmsg_data(r));
          if (nlmsg_datalen(r) >= static_cast<int>(sizeof(int)) && *error < 0)
            result = ErrnoError("kernel: dump", -*error);
          done = true;
          return false;
        }
        item(ParseMessage(r), &ok);
        return true;
      });
      if (!ok) return InvalidError("kernel: a dump's answer lacks an attribute");
      if (done) return result;
    }
  }

  std::mutex mutex_;  // of all but the dump's
  Socket command_;
  UniqueFd wake_;
  Bytes buffer_;
  std::vector<KernelEvent> events_;
  uint32_t next_seq_ = 1;
  int family_ = 0;
  uint64_t generation_ = 0;  // set before other threads start
  std::mutex dump_mutex_;
  Socket dump_;
  Bytes dump_buffer_;
  uint32_t dump_seq_ = 0;
};

}  // namespace

Result<std::unique_ptr<KernelLink>> OpenNetlinkLink() { return NetlinkLink::Open(); }

}  // namespace fastoci
