// SPDX-License-Identifier: Apache-2.0
#include "image/memory_device.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

namespace fastoci {
namespace {

constexpr MemoryDevice::Block kZeroBlock{};

MemoryDevice* DeviceOf(io_channel channel) {
  return static_cast<MemoryDevice*>(channel->private_data);
}

// A negative count is a number of bytes.
size_t TransferBytes(io_channel channel, int count) {
  return count < 0 ? static_cast<size_t>(-static_cast<int64_t>(count))
                   : static_cast<size_t>(count) * static_cast<size_t>(channel->block_size);
}

errcode_t Open(const char* name, int flags, io_channel* out);

errcode_t Close(io_channel channel) {
  if (--channel->refcount > 0) return 0;
  std::free(channel->name);
  std::free(channel);
  return 0;
}

errcode_t SetBlockSize(io_channel channel, int bytes) {
  channel->block_size = bytes;
  return 0;
}

errcode_t ReadBlk64(io_channel channel, unsigned long long block, int count, void* data) {
  DeviceOf(channel)->Read(block * static_cast<uint64_t>(channel->block_size),
                          {static_cast<uint8_t*>(data), TransferBytes(channel, count)});
  return 0;
}

errcode_t WriteBlk64(io_channel channel, unsigned long long block, int count, const void* data) {
  DeviceOf(channel)->Write(block * static_cast<uint64_t>(channel->block_size),
                           {static_cast<const uint8_t*>(data), TransferBytes(channel, count)});
  return 0;
}

errcode_t ReadBlk(io_channel channel, unsigned long block, int count, void* data) {
  return ReadBlk64(channel, block, count, data);
}

errcode_t WriteBlk(io_channel channel, unsigned long block, int count, const void* data) {
  return WriteBlk64(channel, block, count, data);
}

errcode_t Flush(io_channel) { return 0; }

struct_io_manager MakeManager() {
  struct_io_manager m{};
  m.magic = EXT2_ET_MAGIC_IO_MANAGER;
  m.name = "fastoci";
  m.open = Open;
  m.close = Close;
  m.set_blksize = SetBlockSize;
  m.read_blk = ReadBlk;
  m.write_blk = WriteBlk;
  m.flush = Flush;
  m.read_blk64 = ReadBlk64;
  m.write_blk64 = WriteBlk64;
  return m;
}

struct_io_manager g_manager = MakeManager();

// name: the device's address, as Name() makes it.
errcode_t Open(const char* name, int, io_channel* out) {
  uintptr_t address = 0;
  std::from_chars(name, name + std::strlen(name), address, 16);
  auto* channel = static_cast<io_channel>(std::calloc(1, sizeof(struct_io_channel)));
  if (channel == nullptr) return EXT2_ET_NO_MEMORY;
  channel->magic = EXT2_ET_MAGIC_IO_CHANNEL;
  channel->manager = &g_manager;
  channel->name = strdup(name);
  channel->block_size = 1024;
  channel->refcount = 1;
  channel->private_data = reinterpret_cast<void*>(address);
  *out = channel;
  return 0;
}

}  // namespace

io_manager MemoryDevice::Manager() { return &g_manager; }

std::string MemoryDevice::Name() const {
  char text[32];
  auto [end, ec] = std::to_chars(text, text + sizeof(text), reinterpret_cast<uintptr_t>(this), 16);
  return std::string(text, end);
}

void MemoryDevice::Read(uint64_t offset, std::span<uint8_t> out) const {
  while (!out.empty()) {
    size_t at = offset % kFsBlockBytes, n = std::min<size_t>(out.size(), kFsBlockBytes - at);
    auto it = blocks_.find(offset / kFsBlockBytes);
    const Block& block = it == blocks_.end() ? kZeroBlock : *it->second;
    std::memcpy(out.data(), block.data() + at, n);
    out = out.subspan(n);
    offset += n;
  }
}

void MemoryDevice::Write(uint64_t offset, ByteSpan data) {
  while (!data.empty()) {
    size_t at = offset % kFsBlockBytes, n = std::min<size_t>(data.size(), kFsBlockBytes - at);
    WritePart(offset / kFsBlockBytes, at, data.first(n));
    data = data.subspan(n);
    offset += n;
  }
}

void MemoryDevice::WritePart(uint64_t number, size_t at, ByteSpan data) {
  auto it = blocks_.find(number);
  const Block& old = it == blocks_.end() ? kZeroBlock : *it->second;
  if (std::memcmp(old.data() + at, data.data(), data.size()) == 0) return;
  auto [before, first] = before_.try_emplace(number);
  if (it == blocks_.end()) {
    it = blocks_.emplace(number, std::make_unique<Block>(kZeroBlock)).first;
  } else if (first) {
    before->second = std::make_unique<Block>(old);
  }
  std::memcpy(it->second->data() + at, data.data(), data.size());
}

void MemoryDevice::Commit(const CommitFn& fn) {
  std::vector<uint64_t> numbers;
  numbers.reserve(before_.size());
  for (const auto& [number, before] : before_) {
    const Block& old = before ? *before : kZeroBlock;
    if (old != *blocks_.at(number)) numbers.push_back(number);
  }
  before_.clear();
  std::sort(numbers.begin(), numbers.end());
  for (uint64_t number : numbers) {
    const Block& data = *blocks_.at(number);
    fn(number, data, data == kZeroBlock);
  }
}

}  // namespace fastoci
