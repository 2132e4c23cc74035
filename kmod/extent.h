/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The extent table: immutable once checked, so look-ups take no lock. It knows
 * no I/O and no allocation, and builds in user space as well (tests/fuzz).
 */
#ifndef FASTOCI_EXTENT_H
#define FASTOCI_EXTENT_H

#include <linux/types.h>

#include "fastoci_meta.h"

/**
 * struct fastoci_extents - I: all of it; in host byte order
 * @nr: number of extents, at least 1
 * @shift: log2 of the sectors per bucket
 * @keys: keys[0..nr], the first sector of each; keys[nr] is the device's size, a sentinel
 * @payloads: payloads[0..nr-1], as in fastoci_meta.h
 * @starts: per bucket of 1 << @shift sectors the extent that holds its first
 *	sector, and one more for the device's last extent. There are at most
 *	@nr / 2 buckets or two, so 2 bytes per extent; a look-up searches the few
 *	extents of one bucket instead of all. Uneven extents cost more steps,
 *	never more than a search of the whole table.
 */
struct fastoci_extents {
	u32 nr;
	u32 shift;
	u32 *keys;
	u64 *payloads;
	u32 *starts;
};

/**
 * struct fastoci_extent_bounds - what payloads may point to
 * @metadata_first: first sector of the metadata area on the meta device
 * @metadata_end: the sector behind it
 * @blobs: the blob table, checked
 * @nr_blobs: its entries
 */
struct fastoci_extent_bounds {
	u64 metadata_first;
	u64 metadata_end;
	const struct fastoci_meta_blob *blobs;
	u32 nr_blobs;
};

/*
 * Takes the tables as they were read: converts @t->keys and @t->payloads to
 * host byte order in place, sets the sentinel and checks every extent. Returns
 * NULL or what is wrong, a static string. May reschedule.
 */
char *fastoci_extents_check(struct fastoci_extents *t, u32 device_sectors,
			    const struct fastoci_extent_bounds *bounds);

/* Sets @t->shift of a checked table; returns how many u32 @t->starts needs. */
u32 fastoci_extents_plan_starts(struct fastoci_extents *t);
/* Fills @t->starts, after it was allocated. May reschedule. */
void fastoci_extents_fill_starts(struct fastoci_extents *t);

/* The extent that holds @sector, which lies on the device. Any context. */
static inline u32 fastoci_extent_find(const struct fastoci_extents *t, u32 sector)
{
	const u32 *start = &t->starts[sector >> t->shift];
	const u32 *keys = t->keys;
	u32 base = start[0], n = start[1] - base + 1;

	while (n > 1) {
		u32 half = n / 2;

		base += keys[base + half] <= sector ? half : 0;
		n -= half;
	}
	return base;
}

#endif /* FASTOCI_EXTENT_H */
