/* SPDX-License-Identifier: GPL-2.0 */
/* The extent table: immutable once validated, so lookups take no lock. */
#ifndef FASTOCI_EXTENT_H
#define FASTOCI_EXTENT_H

#include <linux/types.h>

/**
 * struct fastoci_extents - I: all of it; in host byte order
 * @nr: number of extents
 * @shift: log2 of the sectors per bucket
 * @keys: keys[0..nr], the first sector of each; keys[nr] is the device's size, a sentinel
 * @payloads: payloads[0..nr-1], as in fastoci_meta.h
 * @starts: per bucket of 1 << @shift sectors the extent that holds its first
 *	sector, and one more for the device's last extent. There are at most
 *	@nr / 2 buckets, so 2 bytes per extent; a look-up searches the few
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
