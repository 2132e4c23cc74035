// SPDX-License-Identifier: Apache-2.0
#ifndef FASTOCI_CACHE_ALIGNED_BUFFER_H_
#define FASTOCI_CACHE_ALIGNED_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <span>

namespace fastoci {

// Memory that O_DIRECT takes: aligned to a page, and zeroed.
class AlignedBuffer {
 public:
  static constexpr size_t kAlign = 4096;
  explicit AlignedBuffer(size_t bytes);
  bool ok() const { return data_ != nullptr; }
  uint8_t* data() { return data_.get(); }
  size_t size() const { return bytes_; }
  std::span<uint8_t> span() { return {data_.get(), bytes_}; }

 private:
  struct Free {
    void operator()(uint8_t* p) const { std::free(p); }
  };
  size_t bytes_;
  std::unique_ptr<uint8_t, Free> data_;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_ALIGNED_BUFFER_H_
