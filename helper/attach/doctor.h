// SPDX-License-Identifier: Apache-2.0
// What is wrong with this node, and what to do about it. Each check reads only,
// and none waits for a fastoci device.
#ifndef FASTOCI_ATTACH_DOCTOR_H_
#define FASTOCI_ATTACH_DOCTOR_H_

#include <string>
#include <vector>

#include "attach/attach.h"

namespace fastoci {

enum class Health { kGood, kWarning, kBad };  // kBad: reads fail, hang, or attach cannot work
const char* HealthName(Health health);        // "ok", "warning", "problem"

struct Finding {
  Health health = Health::kGood;
  std::string what;    // what was found, in a sentence
  std::string advice;  // a command or a step; "" if nothing is to be done
};

Finding CheckKernel(const std::string& release);
// loaded: the module's version, "" if it is not loaded. signed_only: SignedModulesOnly().
Finding CheckModule(const std::string& loaded, const std::string& ours, bool signed_only);
// Whether the kernel refuses unsigned modules: by its parameter module.sig_enforce, or by its lockdown, which Secure Boot turns
// on in distributions' kernels. The contents of both files, "" where there is none.
bool SignedModulesOnly(const std::string& sig_enforce, const std::string& lockdown);
struct CacheFacts {
  std::string device;
  uint64_t block_bytes = 0;   // logical
  bool is_loop = false;
  bool direct_io = false;     // of the loop device
  std::string backing_file;
  uint64_t left_bytes = 0;    // what the backing file may still grow by
  uint64_t free_bytes = 0;    // on its file system
};
std::vector<Finding> CheckCache(const CacheFacts& facts);
std::vector<Finding> CheckImage(const ImageReport& image);

// All of them, on this machine.
std::vector<Finding> Examine(const AttachPaths& paths);

}  // namespace fastoci

#endif  // FASTOCI_ATTACH_DOCTOR_H_
