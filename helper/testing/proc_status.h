// SPDX-License-Identifier: Apache-2.0
// What /proc says of another process.
#ifndef FASTOCI_TESTING_PROC_STATUS_H_
#define FASTOCI_TESTING_PROC_STATUS_H_

#include <sys/types.h>

#include <string>

namespace fastoci {

// A field of /proc/PID/status; "none" if there is no such field.
std::string StatusField(pid_t pid, const std::string& key);

// Expects what each unprivileged role has: no new privileges, a seccomp filter,
// and, where the test is root, nobody's ids and a bounding set without more than
// `bounding`.
void ExpectConfined(pid_t pid, const std::string& bounding = "0000000000000000");

}  // namespace fastoci

#endif  // FASTOCI_TESTING_PROC_STATUS_H_
