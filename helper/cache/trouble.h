// SPDX-License-Identifier: Apache-2.0
// Trouble: what does not work in a cache. It is logged at once, and then now and then.
#ifndef FASTOCI_CACHE_TROUBLE_H_
#define FASTOCI_CACHE_TROUBLE_H_

#include <chrono>
#include <cstdint>
#include <string>

namespace fastoci {

// One thread at a time.
class Trouble {
 public:
  // text: what does not work and what to do, or empty if it works. A change is logged as the event
  // cache_fault or cache_works. The text may change with each slot: while the trouble lasts, it is
  // logged once a minute.
  void Set(uint32_t cache, const std::string& text);
  const std::string& text() const { return text_; }

 private:
  std::string text_;
  std::chrono::steady_clock::time_point logged_;
};

}  // namespace fastoci

#endif  // FASTOCI_CACHE_TROUBLE_H_
