// SPDX-License-Identifier: Apache-2.0
// The fetcher's sandbox. It needs the network, name resolution, CA certificates
// and readable files, through libraries whose system calls nobody can list for
// good; so unlike the decoder's this filter names what is forbidden: running
// programs, other processes, kernel interfaces (these kill it), and changing
// files or opening other kinds of sockets (these fail).
#ifndef FASTOCI_FETCHER_SANDBOX_H_
#define FASTOCI_FETCHER_SANDBOX_H_

#include "base/result.h"

namespace fastoci {

// Becomes nobody without privileges, whom ptrace cannot reach; dies with its
// parent. Keeps keep_capability if that is not -1. Single-threaded processes
// only, for this and the next; after an error the process must end.
Status DropPrivileges(int keep_capability = -1);
Status EnterFetcherSandbox();

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_SANDBOX_H_
