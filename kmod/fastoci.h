/* SPDX-License-Identifier: GPL-2.0 */
/*
 * dm-fastoci internals. Field codes: I: immutable after setup, L(lock): under
 * that lock, A: atomic or single-word accesses, W: one work item only.
 *
 * Lock order: caches_mutex > cache->lock, helper.lock (netlink.c) > cache->lock;
 * the two mutexes are never held together.
 * cache->lock is a plain spinlock: every user runs in process context; end_io,
 * which may be an interrupt, and SRCU callbacks take no lock.
 */
#ifndef FASTOCI_H
#define FASTOCI_H

#include <linux/blkdev.h>
#include <linux/device-mapper.h>
#include <linux/kref.h>
#include <linux/llist.h>
#include <linux/rbtree.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include "compat.h"
#include "extent.h"
#include "fastoci_meta.h"
#include "fastoci_netlink.h"

#define DM_MSG_PREFIX "fastoci"

/* Chunk map of one data space. */
struct fastoci_space {
	struct list_head node;		/* L(cache->lock) in cache->spaces */
	u32 no;				/* I: */
	u32 nr_chunks;			/* I: */
	u32 nr_present;			/* L(cache->lock) chunks that are served */
	u32 nr_held;			/* L(cache->lock) slots present or restored */
	u32 nr_users;			/* L(cache->lock) images, and RESTORE while it runs */
	u64 data_bytes;			/* I: */
	u8 id[32];			/* I: */
	u32 *map;			/* A: per chunk 0, or slot + 1; written under cache->lock */
};

/* RESERVED: @chunk_no is the low half of the generation that reserved it. */
struct fastoci_slot {
	u32 chunk_no;			/* L(cache->lock) */
	u32 space_state;		/* L(cache->lock) state << 29 | space */
};

#define FASTOCI_SLOT_STATE_SHIFT	29
#define FASTOCI_MAX_SPACE_NO		((1U << FASTOCI_SLOT_STATE_SHIFT) - 1)

static inline u32 fastoci_slot_state(const struct fastoci_slot *s)
{
	return s->space_state >> FASTOCI_SLOT_STATE_SHIFT;
}

static inline u32 fastoci_slot_space(const struct fastoci_slot *s)
{
	return s->space_state & FASTOCI_MAX_SPACE_NO;
}

struct fastoci_miss_key {
	u32 space;
	u32 chunk_no;
	u8 class;
};

/* One chunk that is on its way. All fields L(cache->lock). */
struct fastoci_miss {
	struct rb_node node;
	struct list_head queue;		/* in cache->unsent[key.class], or cache->asked */
	struct list_head bios;		/* of fastoci_bio.miss_node */
	struct fastoci_miss_key key;
	u64 since_ns;			/* ktime */
	unsigned long asked_at;		/* jiffies, in cache->asked */
};

struct fastoci_cache {
	struct kref kref;
	struct list_head node;		/* L(caches_mutex) */
	u32 no;				/* I: */
	dev_t dev;			/* I: */
	u8 uuid[16];			/* I: */
	u32 chunk_shift;		/* I: log2 bytes */
	u32 nr_slots;			/* I: */
	sector_t slots_sector;		/* I: */

	spinlock_t lock;		/* what L(lock) marks, and images' state */
	struct list_head images;	/* L(lock) in the order of their numbers */
	struct list_head spaces;	/* L(lock) */
	struct xarray spaces_by_no;	/* L(lock), its numbers are reserved without */
	u32 next_space;			/* L(xa_lock) */
	struct fastoci_slot *slots;	/* L(lock) */
	unsigned long *busy;		/* L(lock) bit per slot: not free */
	unsigned long *accessed;	/* A: bit per slot */
	u32 nr_free;			/* L(lock) */
	u32 nr_reserved;		/* L(lock) */
	u32 alloc_hint;			/* L(lock) */

	struct rb_root misses;		/* L(lock) */
	struct list_head unsent[FASTOCI_NR_CLASSES]; /* L(lock) misses by class */
	struct list_head asked;		/* L(lock) misses that were sent, oldest first */
	struct list_head overflow;	/* L(lock) bios without a miss entry */
	struct list_head released;	/* L(lock) bios for release_work */
	u32 nr_misses;			/* L(lock) */
	u32 unacked;			/* L(lock) */
	unsigned long unacked_since;	/* L(lock) jiffies: last ACK, or first MISS after it */

	struct work_struct send_work;
	struct work_struct release_work;
	struct llist_head reread;	/* A: bios for reread_work */
	struct work_struct reread_work;
	struct delayed_work timer_work;	/* deadlines and overflow */
	bool timer_armed;		/* L(lock) */
	unsigned long timer_at;		/* L(lock) jiffies */
	struct work_struct free_work;
	struct fastoci_miss_key batch[FASTOCI_MAX_BATCH]; /* W: send_work */

	struct srcu_struct srcu;
};

enum fastoci_policy { FASTOCI_HOLD, FASTOCI_FAIL_AFTER };

struct fastoci_stats {
	u64 hits;
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

/* One table. Parked bios keep the device, and so this, alive. */
struct fastoci_image {
	struct list_head node;		/* L(cache->lock) in cache->images */
	struct list_head parked;	/* L(cache->lock) */
	u32 nr_parked;			/* L(cache->lock) */
	u32 no;				/* I: */
	struct fastoci_cache *cache;	/* I: holds a reference */
	struct dm_dev *meta_dev;	/* I: */
	struct dm_dev *cache_dev;	/* I: */
	struct fastoci_extents extents;	/* I: */
	struct fastoci_space **spaces;	/* I: by blob number */
	u32 nr_spaces;			/* I: */
	u8 image_id[32];		/* I: */
	struct fastoci_stats __percpu *stats;
	enum fastoci_policy policy;	/* L(cache->lock) */
	u32 fail_after_ms;		/* L(cache->lock) */
	u32 suspend_grace_ms;		/* L(cache->lock) */
	bool requeue;			/* L(cache->lock) a no-flush suspend runs */
	bool draining;			/* L(cache->lock) a flushing suspend runs */
	unsigned long drain_since;	/* L(cache->lock) */
};

/* Per-bio data; set by map(), then L(cache->lock) while parked. */
struct fastoci_bio {
	int srcu_idx;			/* -1: in no read section */
	u32 slot;			/* that is read */
	u8 nr_failures;			/* of the chunk at @iter; not 0: read chunk by chunk */
	bool parked_before;
	blk_status_t verdict;		/* BLK_STS_OK: look up again */
	struct fastoci_image *image;
	struct fastoci_space *space;
	u64 data_sector;		/* first sector in the data space */
	u64 timed_at;			/* ns, 0: not a hit that is timed */
	struct bvec_iter iter;		/* what is to be read, but for the sector: data_sector */
	unsigned long parked_at;	/* jiffies */
	union {
		struct list_head miss_node;	/* miss->bios, overflow or released */
		struct llist_node reread_node;	/* cache->reread */
	};
	struct list_head image_node;	/* image->parked */
};

static inline u32 fastoci_chunk_of(const struct fastoci_cache *cache, const struct fastoci_bio *pb)
{
	return pb->data_sector >> (cache->chunk_shift - SECTOR_SHIFT);
}

/* target.c */
void fastoci_image_count(const struct fastoci_image *image, struct fastoci_stats *sum);
int fastoci_target_init(void);
void fastoci_target_exit(void);
bool fastoci_try_hit(struct fastoci_image *image, struct fastoci_space *space, u64 data_sector,
		     struct bio *bio, struct fastoci_bio *pb, bool may_split);

/* meta.c: process context, sleep; *error gets a static string on failure. */
struct fastoci_meta {
	struct fastoci_extents extents;
	struct fastoci_meta_blob *blobs; /* vmalloc */
	u32 nr_blobs;
	u64 device_sectors;
	u8 image_id[32];
};

int fastoci_meta_load(struct block_device *bdev, struct fastoci_meta *meta, char **error);
void fastoci_meta_free(struct fastoci_meta *meta);
void fastoci_extents_free(struct fastoci_extents *t);
int fastoci_cache_sb_load(struct block_device *bdev, struct fastoci_cache_sb *sb, char **error);

/* cache.c */
int fastoci_cache_init(void);
void fastoci_cache_exit(void);
/* The cache of that superblock, with a reference; sleeps. */
struct fastoci_cache *fastoci_cache_get(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error);
struct fastoci_cache *fastoci_cache_by_no(u32 no);	/* takes a reference */
void fastoci_cache_put(struct fastoci_cache *cache);	/* any context, waits for nothing */
void fastoci_cache_for_each(void (*fn)(struct fastoci_cache *cache, void *arg), void *arg);
void fastoci_queue_evicted(struct work_struct *work);
/* A helper's socket is closed: what it reserved on caches that are gone is free. Sleeps. */
void fastoci_quarantine_end(u64 generation);

/* chunkmap.c: take cache->lock, but fastoci_restored_drop(), which wants it held. */
struct fastoci_space *fastoci_space_get(struct fastoci_cache *cache, const u8 *id, u64 data_bytes);
void fastoci_space_put(struct fastoci_cache *cache, struct fastoci_space *space);
void fastoci_spaces_free(struct list_head *spaces);
bool fastoci_restored_drop(struct fastoci_cache *cache, u32 slot, struct list_head *reaped);
int fastoci_chunk_fill(struct fastoci_cache *cache, u32 space, u32 chunk_no, u32 slot,
		       u64 generation);
int fastoci_chunk_fail(struct fastoci_cache *cache, u32 space, u32 chunk_no, u32 err);
int fastoci_chunk_restore(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			  u32 slot, u64 generation);
int fastoci_chunks_evict(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr,
			 u64 reserve);
/*
 * A read of that chunk from @slot failed, and its reader has not left yet: nobody
 * gets the slot any more. Sleeps, takes helper.lock.
 */
void fastoci_slot_retire(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			 u32 slot);

static inline u64 fastoci_nr_chunks(const struct fastoci_cache *cache, u64 data_bytes)
{
	return (data_bytes + (1ULL << cache->chunk_shift) - 1) >> cache->chunk_shift;
}

/* slots.c: the first three with cache->lock held */
bool fastoci_slot_reserved_by(struct fastoci_cache *cache, u32 slot, u64 generation);
void fastoci_slot_free(struct fastoci_cache *cache, u32 slot);
void fastoci_slot_reserve(struct fastoci_cache *cache, u32 slot, u64 generation);
u32 fastoci_slots_alloc(struct fastoci_cache *cache, u32 *slots, u32 count, u64 generation);
int fastoci_slots_return(struct fastoci_cache *cache, const u32 *slots, u32 count, u64 generation);
void fastoci_cache_helper_lost(struct fastoci_cache *cache, void *generation);

struct fastoci_slot_info {
	u8 state;	/* enum fastoci_slot_state */
	bool accessed;
	u32 space;
	u32 chunk_no;
};

bool fastoci_slot_next(struct fastoci_cache *cache, u32 *slot, struct fastoci_slot_info *info);

/* missq.c */
enum fastoci_park { FASTOCI_PARKED, FASTOCI_PRESENT, FASTOCI_PARK_REQUEUE, FASTOCI_PARK_FAIL };
enum fastoci_helper_state { FASTOCI_HELPER_NONE, FASTOCI_HELPER_STALLED, FASTOCI_HELPER_READY };

int fastoci_missq_init(void);
void fastoci_missq_exit(void);
void fastoci_missq_setup(struct fastoci_cache *cache);
void fastoci_missq_free(struct fastoci_cache *cache);	/* waits for its work items */
enum fastoci_park fastoci_park(struct bio *bio, struct fastoci_bio *pb);
void fastoci_note_miss(struct fastoci_bio *pb, struct bio *bio);
void fastoci_sweep(struct fastoci_image *image, blk_status_t verdict);
/* By pb->verdict: looks a bio up again or ends it; it is no longer the caller's. */
void fastoci_bio_go_on(struct fastoci_bio *pb);
void fastoci_missq_queue(struct work_struct *work);	/* any context */
void fastoci_cache_resend(struct fastoci_cache *cache, void *arg);
void fastoci_cache_ack(struct fastoci_cache *cache, u32 count);
/* with cache->lock held: */
void fastoci_sweep_locked(struct fastoci_image *image, blk_status_t verdict);
void fastoci_fail_readahead(struct fastoci_cache *cache);
void fastoci_cache_arm_timer(struct fastoci_cache *cache, unsigned long at);
void fastoci_miss_complete(struct fastoci_cache *cache, u32 space, u32 chunk_no,
			   blk_status_t verdict);
void fastoci_misses_drop(struct fastoci_cache *cache, u32 space);
enum fastoci_helper_state fastoci_helper_state(struct fastoci_cache *cache);

/* reread.c */
bool fastoci_read_again(struct fastoci_image *image, struct fastoci_bio *pb, const struct bio *bio,
			blk_status_t status);
void fastoci_reread_setup(struct fastoci_cache *cache);

/* netlink.c */
int fastoci_netlink_init(void);
void fastoci_netlink_exit(void);
bool fastoci_helper_present(void);
u64 fastoci_helper_generation(void);	/* 0: no helper */
/* Whether slots may still be reserved for that generation; it ends under helper.lock. */
bool fastoci_generation_alive(u64 generation);
/* Between these two no command runs and no registration begins or ends. They take helper.lock. */
void fastoci_commands_stop(void);
void fastoci_commands_go_on(void);
/* 0, or -ECONNREFUSED (no helper), -EAGAIN (its socket is full), -ENOMEM. May sleep. */
int fastoci_send_misses(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr);
void fastoci_send_evicted(struct fastoci_cache *cache, const struct fastoci_miss_key *keys,
			  const u32 *slots, u32 nr);
void fastoci_send_slot_bad(struct fastoci_cache *cache, const struct fastoci_miss_key *key,
			   u32 slot);
void fastoci_send_image(struct fastoci_image *image, bool added);
void fastoci_send_cache(struct fastoci_cache *cache, bool added);

#endif /* FASTOCI_H */
