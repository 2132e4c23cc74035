// SPDX-License-Identifier: Apache-2.0
// The kernel's entry for 32-bit programs, which 64-bit ones can use, too.
#ifndef FASTOCI_TESTING_IA32_ENTRY_H_
#define FASTOCI_TESTING_IA32_ENTRY_H_
#ifdef __x86_64__

namespace fastoci {

// int $0x80; nr: as 32-bit programs number system calls (getpid is 20, open 5).
int Ia32Call(int nr);

// The signal that a filter of system calls kills with there: SIGSYS, but SIGSEGV
// where the kernel has no such entry (some do not when they are virtual), so that
// there is nothing to filter. Forks.
int Ia32KillSignal();

}  // namespace fastoci

#endif
#endif  // FASTOCI_TESTING_IA32_ENTRY_H_
