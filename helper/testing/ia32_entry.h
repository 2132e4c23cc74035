// SPDX-License-Identifier: Apache-2.0
// The kernel's entry for 32-bit programs. 64-bit programs can use it, too.
#ifndef FASTOCI_TESTING_IA32_ENTRY_H_
#define FASTOCI_TESTING_IA32_ENTRY_H_
#ifdef __x86_64__

namespace fastoci {

// int $0x80; nr: as 32-bit programs number system calls (getpid is 20, open 5).
int Ia32Call(int nr);

// The signal with which a filter of system calls kills a process at this entry: SIGSYS. It
// is SIGSEGV if the kernel has no such entry (some virtual machines' kernels have none);
// then there is nothing to filter. Forks.
int Ia32KillSignal();

}  // namespace fastoci

#endif
#endif  // FASTOCI_TESTING_IA32_ENTRY_H_
