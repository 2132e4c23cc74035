// SPDX-License-Identifier: GPL-2.0
/* Checks the extent table of a meta image and builds its index; see extent.h. */
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/sched.h>

#include "extent.h"

#define RESCHED_EVERY 4096	/* extents or buckets */

/* The extent @payload of @len sectors against its bounds. */
static char *check_extent(u64 payload, u32 len, const struct fastoci_extent_bounds *b)
{
	u64 sector = payload & FASTOCI_EXTENT_SECTOR_MASK, limit;
	u32 blob = (payload >> FASTOCI_EXTENT_BLOB_SHIFT) & FASTOCI_EXTENT_BLOB_MASK;

	switch (payload >> FASTOCI_EXTENT_TYPE_SHIFT) {
	case FASTOCI_EXTENT_ZERO:
		return payload ? "meta: a zero extent has a target" : NULL;
	case FASTOCI_EXTENT_META:
		if (blob)
			return "meta: an extent of the metadata area names a blob";
		if (sector < b->metadata_first || sector > b->metadata_end ||
		    len > b->metadata_end - sector)
			return "meta: an extent points outside of the metadata area";
		return NULL;
	case FASTOCI_EXTENT_BLOB:
		if (blob >= b->nr_blobs)
			return "meta: an extent names a blob that does not exist";
		limit = DIV_ROUND_UP_ULL(le64_to_cpu(b->blobs[blob].data_bytes), 512);
		if (sector > limit || len > limit - sector)
			return "meta: an extent points behind its data space";
		return NULL;
	default:
		return "meta: an extent has an unknown type";
	}
}

char *fastoci_extents_check(struct fastoci_extents *t, u32 device_sectors,
			    const struct fastoci_extent_bounds *bounds)
{
	char *error;
	u32 i;

	for (i = 0; i < t->nr; i++) {
		t->keys[i] = le32_to_cpu((__force __le32)t->keys[i]);
		t->payloads[i] = le64_to_cpu((__force __le64)t->payloads[i]);
		if (!(i % RESCHED_EVERY))
			cond_resched();
	}
	t->keys[t->nr] = device_sectors;
	if (t->keys[0])
		return "meta: the first extent does not begin at sector 0";
	for (i = 0; i < t->nr; i++) {
		if (t->keys[i + 1] <= t->keys[i])
			return i + 1 < t->nr ? "meta: extents are not sorted" :
					       "meta: the last extent begins behind the device";
		error = check_extent(t->payloads[i], t->keys[i + 1] - t->keys[i], bounds);
		if (error)
			return error;
		if (!(i % RESCHED_EVERY))
			cond_resched();
	}
	return NULL;
}

static u32 nr_buckets(const struct fastoci_extents *t)
{
	return ((t->keys[t->nr] - 1) >> t->shift) + 1;
}

u32 fastoci_extents_plan_starts(struct fastoci_extents *t)
{
	u32 most = max(t->nr / 2, 2U);

	t->shift = 0; /* 31 at most: then there are two */
	while (nr_buckets(t) > most)
		t->shift++;
	return nr_buckets(t) + 1;
}

void fastoci_extents_fill_starts(struct fastoci_extents *t)
{
	u32 i = 0, b, nr = nr_buckets(t);

	for (b = 0; b < nr; b++) {
		while (t->keys[i + 1] <= (u64)b << t->shift)
			i++;
		t->starts[b] = i;
		if (!(b % RESCHED_EVERY))
			cond_resched();
	}
	t->starts[nr] = t->nr - 1;
}
