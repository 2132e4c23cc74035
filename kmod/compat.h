/* SPDX-License-Identifier: GPL-2.0 */
/* Differences between the supported kernels; the only LINUX_VERSION_CODE. */
#ifndef FASTOCI_COMPAT_H
#define FASTOCI_COMPAT_H

#include <linux/srcu.h>
#include <linux/version.h>
#include <net/genetlink.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define FASTOCI_MODE_WRITE BLK_OPEN_WRITE
#else
#define FASTOCI_MODE_WRITE FMODE_WRITE
#endif

/*
 * A reader enters in map() and leaves in end_io, on another CPU or in an
 * interrupt: srcu_down_read() allows that, and so did the raw calls before it.
 */
static inline int fastoci_srcu_enter(struct srcu_struct *ssp)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	int idx = srcu_down_read(ssp);
#else
	int idx = __srcu_read_lock(ssp);
#endif

	__release(ssp); /* for sparse: the section ends elsewhere */
	return idx;
}

static inline void fastoci_srcu_leave(struct srcu_struct *ssp, int idx)
{
	__acquire(ssp);
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 3, 0)
	srcu_up_read(ssp, idx);
#else
	__srcu_read_unlock(ssp, idx);
#endif
}

/* Of a dump's request, FASTOCI_A_MAX + 1 of them, checked by the family's policy. */
static inline struct nlattr **fastoci_dump_attrs(struct netlink_callback *cb)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return genl_info_dump(cb)->attrs;
#else
	return genl_dumpit_info(cb)->attrs;
#endif
}

#endif /* FASTOCI_COMPAT_H */
