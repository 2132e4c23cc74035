// SPDX-License-Identifier: Apache-2.0
// NetlinkLink: KernelLink over the generic netlink family "fastoci".
//
// Events and replies share one socket, since the kernel takes commands only
// from the socket that registered. A receiving thread reads the socket. A message without
// a sequence number is an event. Any other message wakes the call that waits for its
// number. A call waits at most kReplyTimeoutMs, and a dump waits so long for each part. If
// nobody waits for a reply (an error of Ack(), a late reply), it is dropped with a debug
// line in the log.
#ifndef FASTOCI_KERNEL_NETLINK_LINK_H_
#define FASTOCI_KERNEL_NETLINK_LINK_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/byte_reader.h"
#include "base/mutex.h"
#include "base/unique_fd.h"
#include "kernel/kernel_link.h"

struct nl_msg;
struct nl_sock;
struct nlmsghdr;

namespace fastoci {

class NetlinkLink : public KernelLink {
 public:
  static constexpr int kReplyTimeoutMs = 10000;
  static constexpr int kReceiveBufferBytes = 4 << 20;

  // NotFound: the module is not loaded. events must outlive the link.
  static Result<std::unique_ptr<NetlinkLink>> Open(KernelEvents* events);
  ~NetlinkLink() override;

  Status Register(bool takeover) override;
  Result<std::vector<uint32_t>> Alloc(uint32_t cache, uint32_t count) override;
  Status Return(uint32_t cache, std::span<const uint32_t> slots) override;
  Status ReturnAll(uint32_t cache) override;
  Status Reuse(uint32_t cache, std::span<const uint32_t> slots) override;
  void Ack(uint32_t cache, uint32_t count) override;
  Status Fill(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  Status Fail(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  Status Evict(uint32_t cache, std::span<const ChunkEntry> chunks) override;
  Status Restore(uint32_t cache, const Sha256Digest& space_id, uint64_t data_bytes,
                 std::span<const ChunkEntry> chunks) override;
  Status GetSlots(uint32_t cache, bool clear_accessed,
                  const std::function<void(const SlotInfo&)>& each) override;
  Result<std::vector<CacheInfo>> GetCaches() override;
  Result<std::vector<ImageInfo>> GetImages() override;
  Result<std::vector<SpaceInfo>> GetSpaces() override;
  Status GetPending() override;

 private:
  struct Attrs;  // the attributes of one message, checked
  struct Call {
    bool done = false;
    int err = 0;  // negative errno of the kernel
    std::string ext_ack;
    std::vector<Bytes> messages;
    uint64_t nr_parts = 0;  // of a dump, so far
    // If set, takes what would be messages, which may be millions.
    const std::function<void(const nlmsghdr*)>* part = nullptr;
  };
  struct MessageDeleter {
    void operator()(nl_msg* m) const;
  };
  using Message = std::unique_ptr<nl_msg, MessageDeleter>;

  explicit NetlinkLink(KernelEvents* events) : events_(events) {}
  Message NewMessage(uint8_t cmd, int flags);
  using PartHandler = std::function<void(const nlmsghdr*)>;
  Result<std::vector<Bytes>> Send(Message message, const char* what, bool wait,
                                  const PartHandler* part = nullptr);
  Status SendSlots(uint8_t cmd, const char* what, uint32_t cache, std::span<const uint32_t> slots);
  // extra: more attributes of each message, or null.
  Status SendChunks(uint8_t cmd, const char* what, uint32_t cache,
                    std::span<const ChunkEntry> chunks,
                    const std::function<void(nl_msg*)>& extra = nullptr);
  Result<std::vector<Bytes>> Dump(uint8_t cmd, const char* what);
  void Receive();
  bool OnReceiveError(int err, int in_a_row);
  void HandleDatagram(const uint8_t* data, size_t size);
  void HandleReply(const nlmsghdr* nlh);
  void HandleEvent(const nlmsghdr* nlh);

  KernelEvents* const events_;
  nl_sock* sock_ = nullptr;
  int family_ = -1;
  UniqueFd wake_;  // eventfd: ends the receiving thread
  std::thread receiver_;
  Mutex dump_mutex_ ACQUIRED_BEFORE(mutex_);  // a socket carries one dump at a time
  Mutex mutex_;                               // held while sending
  CondVar changed_;
  std::map<uint32_t, Call> calls_ GUARDED_BY(mutex_);
  uint32_t next_seq_ GUARDED_BY(mutex_) = 1;
  std::atomic<uint64_t> generation_{0};
};

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_NETLINK_LINK_H_
