// SPDX-License-Identifier: Apache-2.0
// SocketLink: a KernelLink to another process that stands in for the kernel. It serves
// benchmarks and tests of the whole helper without dm-fastoci. Calls and answers are
// packets, see socket_wire.h.
#ifndef FASTOCI_KERNEL_SOCKET_LINK_H_
#define FASTOCI_KERNEL_SOCKET_LINK_H_

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <thread>

#include "base/mutex.h"
#include "base/unique_fd.h"
#include "kernel/kernel_link.h"
#include "kernel/socket_wire.h"

namespace fastoci {

class SocketLink : public KernelLink {
 public:
  // path: of a SOCK_SEQPACKET Unix socket. events outlives the link.
  static Result<std::unique_ptr<SocketLink>> Open(const std::string& path, KernelEvents* events);
  ~SocketLink() override;  // no event after it

  Status Register(bool takeover) override;
  Result<std::vector<uint32_t>> Alloc(uint32_t cache, uint32_t count) override;
  Status Return(uint32_t cache, std::span<const uint32_t> slots) override;
  Status ReturnAll(uint32_t cache) override;  // slots of that kernel are never bad: no Reuse()
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
  struct Answer {
    int32_t err = 0;
    std::vector<uint8_t> items;
    bool complete = false;
  };
  SocketLink() = default;
  void Receive();
  void Tell(const LinkPacket& packet);
  template <typename T>
  Result<Answer> Call(LinkHeader header, std::span<const T> items);
  template <typename T>
  Result<std::vector<T>> Get(LinkHeader header);
  template <typename T>
  Status Send(LinkHeader header, std::span<const T> items);  // in as many packets as it takes

  std::atomic<KernelEvents*> events_ = nullptr;
  UniqueFd socket_;
  std::thread receiver_;
  Mutex mutex_;
  CondVar answered_;
  uint32_t next_number_ GUARDED_BY(mutex_) = 1;
  std::map<uint32_t, Answer> answers_ GUARDED_BY(mutex_);  // of calls that wait
  bool gone_ GUARDED_BY(mutex_) = false;
};

}  // namespace fastoci

#endif  // FASTOCI_KERNEL_SOCKET_LINK_H_
