/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Cache objects: their lifetime, their evictions with the grace periods, and the
 * slots that stay reserved when a cache is gone. A cache lives from its first table
 * to its last. Its UUID identifies it. Images and evictions hold references.
 */
#ifndef FASTOCI_CACHE_H
#define FASTOCI_CACHE_H

#include <linux/blk_types.h>
#include <linux/kref.h>

#include "fastoci_meta.h"
#include "missq.h"

struct fastoci_cache {
	struct fastoci_missq missq;
	sector_t slots_sector;		/* I: */
	u32 no;				/* I: */
	dev_t dev;			/* I: */
	u8 uuid[16];			/* I: */
	struct kref kref;
	struct list_head node;		/* L(caches_mutex) */
	struct list_head evictions;	/* L(lock) whose grace periods run */
	struct fastoci_quarantine *quarantine; /* L(caches_mutex) for what is reserved at its end */
	struct work_struct free_work;
};

static inline void fastoci_cache_lock(struct fastoci_cache *cache)
	__acquires(&cache->missq.map.slots.lock)
{
	spin_lock(&cache->missq.map.slots.lock);
}

static inline void fastoci_cache_unlock(struct fastoci_cache *cache)
	__releases(&cache->missq.map.slots.lock)
{
	spin_unlock(&cache->missq.map.slots.lock);
}

int fastoci_cache_init(void);
/*
 * Waits until the last cache is freed. Call it when no table is left. Then only
 * grace periods, which end by themselves, and their events are under way.
 */
void fastoci_cache_drain(void);
/* Call it when no socket can be released any more. */
void fastoci_cache_exit(void);

/*
 * Returns the cache that @sb describes, with a reference. Makes it if there is none.
 * On failure returns an ERR_PTR and sets *@error to the reason, a static string. Sleeps.
 */
struct fastoci_cache *fastoci_cache_get(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error);
/* Returns the cache number @no with a reference, or NULL. Sleeps. */
struct fastoci_cache *fastoci_cache_by_no(u32 no);
void fastoci_cache_put(struct fastoci_cache *cache);	/* any context, waits for nothing */
/* @fn may sleep. It must not keep a reference after it returns. Sleeps. */
void fastoci_cache_for_each(void (*fn)(struct fastoci_cache *cache, void *arg), void *arg);

/*
 * The socket of that generation is closed. Frees the slots that it had reserved, those of
 * caches that are gone included. Sleeps.
 */
void fastoci_generation_end(u64 generation);

/*
 * Allocates an eviction for at most @nr slots. Call it before any lock is taken. NULL if
 * there is no memory. Sleeps.
 */
struct fastoci_eviction *fastoci_eviction_new(u32 nr);
void fastoci_eviction_free(struct fastoci_eviction *e);
/*
 * Takes chunks out of service. After a grace period each slot is reserved for the
 * generation @reserve if that is still the helper's, and free otherwise. An EVICTED
 * event tells so. Stops with -EINVAL at the first key that names no chunk; the chunks
 * before it are evicted. @nr is at most what @e was made for. Takes @e over, also on
 * an error.
 */
int fastoci_cache_evict(struct fastoci_cache *cache, struct fastoci_eviction *e,
			const struct fastoci_chunk_key *keys, u32 nr, u64 reserve);
/*
 * Takes the bad ones among @slots into use again. Like evicted ones, they are reserved for
 * @generation after a grace period. @nr is at most what @e was made for. Takes @e over.
 */
void fastoci_cache_reuse(struct fastoci_cache *cache, struct fastoci_eviction *e,
			 const u32 *slots, u32 nr, u64 generation);
/*
 * A read of that chunk from @slot failed, and its reader has not left its section.
 * Makes the slot bad, so that nobody gets it, and tells the helper. If it was being
 * evicted, its eviction ends without it. Returns false if the slot was bad before.
 * Takes the helper's lock, so the helper knows of the bad slot before one of its fills
 * can be refused for it. Sleeps.
 */
bool fastoci_cache_retire(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			  u32 slot);

#endif /* FASTOCI_CACHE_H */
