// SPDX-License-Identifier: Apache-2.0
// What every process does that reads what strangers wrote, before it reads it.
#ifndef FASTOCI_BASE_PRIVILEGES_H_
#define FASTOCI_BASE_PRIVILEGES_H_

#include <cstdint>

#include "base/result.h"

namespace fastoci {

inline constexpr unsigned kNobody = 65534;  // user and group

// Gives up the privileges of this process for good:
//  - Root becomes nobody, with no group besides its own.
//  - The process loses all capabilities, and cannot gain one by an exec. It keeps
//    keep_capability (CAP_*, -1: none) if it has that now, and may hand that one to a
//    program that it runs, by making it an ambient capability.
//  - It cannot be traced, and dumps no core.
//  - It dies with the thread that started it. The death signal is set last, because the
//    kernel clears it at each change of user. If the parent has died before, the process
//    does not notice.
Status DropPrivileges(int keep_capability = -1);

// Sets both the hard and the soft limit. resource: RLIMIT_*.
Status LimitResource(int resource, uint64_t value);

}  // namespace fastoci

#endif  // FASTOCI_BASE_PRIVILEGES_H_
