// SPDX-License-Identifier: Apache-2.0
// A Progress that tells nobody, for tests.
#ifndef FASTOCI_TESTING_SILENT_PROGRESS_H_
#define FASTOCI_TESTING_SILENT_PROGRESS_H_

#include <cstdint>
#include <string>

#include "attach/progress.h"

namespace fastoci {

class SilentProgress : public Progress {
 public:
  void Step(const std::string&) override {}
  void Bytes(uint64_t, uint64_t) override {}
  void Warn(const std::string&) override {}
};

}  // namespace fastoci

#endif  // FASTOCI_TESTING_SILENT_PROGRESS_H_
