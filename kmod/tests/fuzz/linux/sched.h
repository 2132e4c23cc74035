/* SPDX-License-Identifier: GPL-2.0 */
#ifndef FUZZ_LINUX_SCHED_H
#define FUZZ_LINUX_SCHED_H

static inline void cond_resched(void)
{
}

#endif
