// SPDX-License-Identifier: Apache-2.0
// The fetcher's sandbox. The fetcher needs the network, name resolution, CA
// certificates and readable files, and uses libraries for them that change. The filter
// lists the system calls that these libraries make. Any other call fails with ENOSYS, as
// on an older kernel; the libraries are prepared for that. A call that only an attacker
// makes (running programs, reaching into other processes, kernel interfaces) kills the
// process.
#ifndef FASTOCI_FETCHER_SANDBOX_H_
#define FASTOCI_FETCHER_SANDBOX_H_

#include "base/result.h"

namespace fastoci {

// Both drop privileges (base/privileges.h) and load a filter. They are for processes with
// one thread; after an error the process must end.
Status EnterFetcherSandbox();
// For the keeper and the programs that it runs: nobody, with CAP_DAC_READ_SEARCH. System
// calls that reach into other processes or into the kernel fail.
Status EnterKeeperSandbox();

}  // namespace fastoci

#endif  // FASTOCI_FETCHER_SANDBOX_H_
