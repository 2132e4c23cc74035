/* SPDX-License-Identifier: GPL-2.0 */
/* Differences between the supported kernels; the only LINUX_VERSION_CODE. */
#ifndef FASTOCI_COMPAT_H
#define FASTOCI_COMPAT_H

#include <linux/dm-io.h>
#include <linux/srcu.h>
#include <linux/version.h>
#include <net/genetlink.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 5, 0)
#define FASTOCI_MODE_WRITE BLK_OPEN_WRITE
#else
#define FASTOCI_MODE_WRITE FMODE_WRITE
#endif

/*
 * A reader enters in map() and leaves in end_io, which may run on another CPU or in
 * an interrupt. srcu_down_read() allows that. Kernels before 6.3 do not have it, and
 * their raw calls allow it too.
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

/* Whether a bio was refused because of its form. Old kernels, such as 6.1, cannot say so. */
static inline bool fastoci_status_is_invalid(blk_status_t status)
{
#ifdef BLK_STS_INVAL
	return status == BLK_STS_INVAL;
#else
	return false;
#endif
}

/*
 * dm_io() takes four, five or six arguments. The version does not tell which: within
 * one series only some kernels have the priority. So the compiler chooses by the type
 * of dm_io(). The other forms are compiled, but never called.
 */
static inline int fastoci_dm_io_4(void *dm_io_fn, struct dm_io_request *req,
				  struct dm_io_region *region)
{
	int (*fn)(struct dm_io_request *req, unsigned int nr, struct dm_io_region *region,
		  unsigned long *error_bits) = dm_io_fn;

	return fn(req, 1, region, NULL);
}

static inline int fastoci_dm_io_5(void *dm_io_fn, struct dm_io_request *req,
				  struct dm_io_region *region)
{
	int (*fn)(struct dm_io_request *req, unsigned int nr, struct dm_io_region *region,
		  unsigned long *error_bits, unsigned short ioprio) = dm_io_fn;

	return fn(req, 1, region, NULL, 0);
}

static inline int fastoci_dm_io_6(void *dm_io_fn, struct dm_io_request *req,
				  struct dm_io_region *region)
{
	int (*fn)(struct dm_io_request *req, unsigned int nr, struct dm_io_region *region,
		  unsigned long *error_bits, unsigned long *unsupported_bits,
		  unsigned short ioprio) = dm_io_fn;

	return fn(req, 1, region, NULL, NULL, 0);
}

/* Calls dm_io() for one region. Sleeps. */
#define FASTOCI_DM_IO(req, region) \
	_Generic(&dm_io, \
		 int (*)(struct dm_io_request *, unsigned int, struct dm_io_region *, \
			 unsigned long *) : fastoci_dm_io_4, \
		 int (*)(struct dm_io_request *, unsigned int, struct dm_io_region *, \
			 unsigned long *, unsigned short) : fastoci_dm_io_5, \
		 int (*)(struct dm_io_request *, unsigned int, struct dm_io_region *, \
			 unsigned long *, unsigned long *, \
			 unsigned short) : fastoci_dm_io_6)(dm_io, req, region)

/* The FASTOCI_A_MAX + 1 attributes of a dump's request, checked by the family's policy. */
static inline struct nlattr **fastoci_dump_attrs(struct netlink_callback *cb)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	return genl_info_dump(cb)->attrs;
#else
	return genl_dumpit_info(cb)->attrs;
#endif
}

#endif /* FASTOCI_COMPAT_H */
