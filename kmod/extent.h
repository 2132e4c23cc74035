/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The extent table. It does not change once it is checked, so look-ups take no lock.
 * This code does no I/O and allocates nothing, and it builds in user space as well
 * (tests/fuzz).
 */
#ifndef FASTOCI_EXTENT_H
#define FASTOCI_EXTENT_H

#include <linux/types.h>

#include "fastoci_meta.h"

/**
 * struct fastoci_extents - I: all of it; in host byte order
 * @nr: number of extents, at least 1
 * @shift: log2 of the sectors per bucket
 * @keys: keys[0..nr-1], the first sector of each extent; keys[nr] is a sentinel, the
 *	device's size in sectors
 * @payloads: payloads[0..nr-1], as in fastoci_meta.h
 * @starts: for each bucket of 1 << @shift sectors, the extent that holds the first
 *	sector of the bucket, and one more entry for the device's last extent. A
 *	look-up searches the few extents of one bucket instead of all extents. There
 *	are at most max(@nr / 2, 2) buckets, so the array takes about 2 bytes per
 *	extent. If the extents differ much in size, a look-up takes more steps, but
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
 * @metadata_end: the first sector after the metadata area
 * @blobs: the blob table, checked; the caller keeps it
 * @nr_blobs: entries of the blob table
 */
struct fastoci_extent_bounds {
	u64 metadata_first;
	u64 metadata_end;
	const struct fastoci_meta_blob *blobs;
	u32 nr_blobs;
};

/*
 * Takes the tables as they were read from the device. Converts @t->keys and
 * @t->payloads to host byte order in place, sets the sentinel and checks every
 * extent. Returns NULL, or a static string that says what is wrong. May reschedule.
 */
char *fastoci_extents_check(struct fastoci_extents *t, u32 device_sectors,
			    const struct fastoci_extent_bounds *bounds);

/* Sets @t->shift of a checked table; returns how many u32 @t->starts needs. */
u32 fastoci_extents_plan_starts(struct fastoci_extents *t);
/* Fills @t->starts, which the caller has allocated. May reschedule. */
void fastoci_extents_fill_starts(struct fastoci_extents *t);

/* Returns the number of the extent that holds @sector, which lies on the device. Any context. */
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
