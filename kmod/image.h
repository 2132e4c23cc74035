/* SPDX-License-Identifier: GPL-2.0 */
/*
 * An image: the state of one table, and the state of each of its reads. Parked reads
 * keep the device alive, and with it the image.
 */
#ifndef FASTOCI_IMAGE_H
#define FASTOCI_IMAGE_H

#include <linux/bio.h>
#include <linux/device-mapper.h>
#include <linux/llist.h>

#include "cache.h"
#include "extent.h"

#define DM_MSG_PREFIX "fastoci"

struct fastoci_stats {
	u64 hits;			/* a read is a hit or a miss by its first look-up */
	u64 misses;
	u64 errors;
	u64 hit_ns;			/* of the hits that are timed */
	u64 hit_times[FASTOCI_NR_HIT_TIMES];
};

/* Which of hit_times counts a hit that took @ns. */
static inline u32 fastoci_hit_time_index(u64 ns)
{
	u64 units = (ns ? ns - 1 : 0) >> FASTOCI_HIT_TIME_SHIFT;

	return min_t(u32, fls64(units), FASTOCI_NR_HIT_TIMES - 1);
}

struct fastoci_image {
	/* A hit reads these. Some are copies from the cache, so that a hit touches few lines. */
	struct fastoci_extents extents;	/* I: */
	struct fastoci_space **spaces;	/* I: by blob number */
	struct block_device *cache_bdev; /* I: */
	struct srcu_struct *srcu;	/* I: */
	unsigned long *accessed;	/* I: A: its words */
	struct fastoci_stats __percpu *stats; /* I: */
	sector_t slots_sector;		/* I: */
	u32 chunk_shift;		/* I: log2 sectors */
	u32 nr_spaces;			/* I: */
	struct fastoci_cache *cache;	/* I: holds a reference */
	struct dm_dev *meta_dev;	/* I: */
	struct dm_dev *cache_dev;	/* I: */
	struct page *probe_page;	/* I: W: its content: reread_work */
	u32 no;				/* I: */
	u8 image_id[32];		/* I: */

	/* These change when a read misses or fails. They are on cache lines of their own. */
	struct fastoci_waiters waiters ____cacheline_aligned;
	struct llist_head reread;	/* A: of fastoci_bio.reread_node */
	struct work_struct reread_work;
};

/* Per-bio data; set by map(). */
struct fastoci_bio {
	struct fastoci_parked parked;
	struct fastoci_image *image;
	u64 timed_at;			/* ns, 0: not a hit that is timed */
	struct bvec_iter iter;		/* what is to be read; its sector is in data_sector */
	int srcu_idx;			/* -1: in no read section */
	u32 slot;			/* the one that is read */
	bool in_steps;			/* it is read chunk by chunk */
	u8 nr_tries;			/* failed reads of @tried_slot, at most 2 */
	u8 nr_retired;			/* slots of the chunk at @iter that this bio retired */
	u32 tried_slot;
	unsigned long failing_since;	/* jiffies: the first failure of @tried_slot */
	struct llist_node reread_node;	/* image->reread */
};

/*
 * Opens both devices, reads and checks both superblocks and the tables, and takes a
 * reference to the cache. Returns 0, or a negative errno with the reason in ti->error.
 * Call fastoci_image_free() also after an error. Sleeps.
 */
int fastoci_image_load(struct fastoci_image *image, struct dm_target *ti, const char *meta_path,
		       const char *cache_path);
/* Frees what the image holds, and the image. Sleeps. */
void fastoci_image_free(struct fastoci_image *image, struct dm_target *ti);

/* Sums up the counters of all CPUs. Any context. */
void fastoci_image_count(const struct fastoci_image *image, struct fastoci_stats *sum);

/* For messages: the name of the image's device-mapper device, "major:minor". */
static inline const char *fastoci_image_name(const struct fastoci_image *image)
{
	return dm_device_name(dm_table_get_md(image->waiters.ti->table));
}

#endif /* FASTOCI_IMAGE_H */
