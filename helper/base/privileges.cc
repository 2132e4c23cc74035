// SPDX-License-Identifier: Apache-2.0
#include "base/privileges.h"

#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <csignal>

namespace fastoci {
namespace {

Status BecomeNobody(int keep_capability) {
  if (geteuid() != 0) return OkStatus();
  for (int cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
    if (cap != keep_capability && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) != 0 && errno != EPERM)
      return ErrnoError("drop privileges: bounding set");
  if (prctl(PR_SET_KEEPCAPS, keep_capability >= 0 ? 1 : 0, 0, 0, 0) != 0 ||
      setgroups(0, nullptr) != 0 || setresgid(kNobody, kNobody, kNobody) != 0 ||
      setresuid(kNobody, kNobody, kNobody) != 0)
    return ErrnoError("drop privileges: cannot become nobody");
  return OkStatus();
}

Status DropCapabilities(int keep_capability) {
  if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0)
    return ErrnoError("drop privileges: ambient capabilities");
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (syscall(SYS_capget, &header, data) != 0) return ErrnoError("drop privileges: capget");
  // What is not there cannot be kept: a process that root did not start.
  const __u32 keep = keep_capability < 0 ? 0 : data[0].permitted & (1U << keep_capability);
  // Inheritable, too, so that the process can make it an ambient capability.
  data[0] = {keep, keep, keep};
  data[1] = {};
  if (syscall(SYS_capset, &header, data) != 0) return ErrnoError("drop privileges: capset");
  return OkStatus();
}

}  // namespace

Status LimitResource(int resource, uint64_t value) {
  const rlimit limit{value, value};
  if (setrlimit(static_cast<__rlimit_resource>(resource), &limit) != 0)
    return ErrnoError("setrlimit");
  return OkStatus();
}

Status DropPrivileges(int keep_capability) {
  FASTOCI_CHECK_OK(BecomeNobody(keep_capability));
  FASTOCI_CHECK_OK(DropCapabilities(keep_capability));
  FASTOCI_CHECK_OK(LimitResource(RLIMIT_CORE, 0));
  if (prctl(PR_SET_DUMPABLE, 0) != 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
      prctl(PR_SET_PDEATHSIG, SIGKILL) != 0)
    return ErrnoError("drop privileges: prctl");
  return OkStatus();
}

}  // namespace fastoci
