// SPDX-License-Identifier: Apache-2.0
// What a long operation tells its caller while it runs.
#ifndef FASTOCI_ATTACH_PROGRESS_H_
#define FASTOCI_ATTACH_PROGRESS_H_

#include <cstdint>
#include <string>

namespace fastoci {

class Progress {
 public:
  virtual ~Progress() = default;
  virtual void Step(const std::string& what) = 0;
  virtual void Warn(const std::string& what) = 0;
  // Within the current step; total 0 if it is not known.
  virtual void Bytes(uint64_t done, uint64_t total) = 0;
};

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_PROGRESS_H_
