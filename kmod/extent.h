/* SPDX-License-Identifier: GPL-2.0 */
/* The extent table: immutable once validated, so lookups take no lock. */
#ifndef FASTOCI_EXTENT_H
#define FASTOCI_EXTENT_H

#include <linux/types.h>

/**
 * struct fastoci_extents - I: keys[0..nr] (keys[nr] is the device's size in
 * sectors, a sentinel) and payloads[0..nr-1], as in fastoci_meta.h, in host
 * byte order
 */
struct fastoci_extents {
	u32 nr;
	u32 *keys;
	u64 *payloads;
};

/* The extent that holds @sector; branchless, any context. */
static inline u32 fastoci_extent_find(const struct fastoci_extents *t, u32 sector)
{
	const u32 *keys = t->keys;
	u32 base = 0, n = t->nr;

	while (n > 1) {
		u32 half = n / 2;

		base += keys[base + half] <= sector ? half : 0;
		n -= half;
	}
	return base;
}

#endif /* FASTOCI_EXTENT_H */
