/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Reads that wait for a miss, and their deadlines.
 *
 *   read:  parked -> released -> looked up again | ended
 *
 * A parked read is on two lists: that of its miss, and that of its image, so that one
 * device can be swept alone. Only release_work handles released reads.
 *
 * To park a read, the code takes the lock, looks again at the slot, the helper, the
 * policy and the suspend state, and then parks. Code that changes one of these changes
 * it first, and then sweeps under the same lock. So no wake-up is lost. Parking needs
 * no memory but the bio's own. If there is no memory for a miss, the read waits on the
 * overflow list.
 *
 * "The lock" is that of the slots, fastoci_missq_lock().
 */
#ifndef FASTOCI_MISSQ_H
#define FASTOCI_MISSQ_H

#include <linux/blk_types.h>
#include <linux/device-mapper.h>

#include "ask.h"

enum fastoci_policy { FASTOCI_HOLD, FASTOCI_FAIL_AFTER };

/* The reads of one image that wait, and the settings that decide how long they wait. */
struct fastoci_waiters {
	struct list_head node;		/* L(lock) in missq->images */
	struct list_head parked;	/* L(lock) of fastoci_parked */
	u32 nr_parked;			/* L(lock) */
	enum fastoci_policy policy;	/* L(lock) */
	u32 fail_after_ms;		/* L(lock) */
	u32 suspend_grace_ms;		/* L(lock) */
	bool requeue;			/* L(lock) a no-flush suspend runs */
	bool draining;			/* L(lock) a flushing suspend runs */
	unsigned long drain_since;	/* L(lock) jiffies */
	struct dm_target *ti;		/* I: */
	struct fastoci_missq *missq;	/* I: */
	struct work_struct event_work;
};

/* A read that misses. It lies in its bio's own data. All fields L(lock) while it is parked. */
struct fastoci_parked {
	struct fastoci_waiters *waiters;
	struct fastoci_space *space;
	u64 data_sector;		/* first sector in the data space */
	unsigned long parked_at;	/* jiffies */
	unsigned long retry_at;		/* jiffies, in missq->retries */
	struct list_head node;		/* miss->reads, overflow, retries or released */
	struct list_head image_node;	/* waiters->parked */
	bool parked_before;
	bool readahead;
	blk_status_t verdict;		/* BLK_STS_OK: look up again */
};

static inline u32 fastoci_chunk_of(const struct fastoci_chunkmap *map,
				   const struct fastoci_parked *p)
{
	return p->data_sector >> (map->chunk_shift - SECTOR_SHIFT);
}

/*
 * @release is called in process context for each read that is released. It looks the
 * read up again or ends it, depending on p->verdict. It takes the read over. -ENOMEM.
 */
int fastoci_missq_init(void (*release)(struct fastoci_parked *p));
void fastoci_missq_exit(void);
/* Call it before anybody else knows the cache. */
void fastoci_missq_setup(struct fastoci_missq *q);
/* Call it when no image is left. Ends the work items and waits for them. */
void fastoci_missq_stop(struct fastoci_missq *q);
void fastoci_waiters_setup(struct fastoci_waiters *w);
/*
 * Adds or removes the image. The caller has set @w->ti and @w->missq. The removal waits
 * for the image's event work: it sleeps.
 */
void fastoci_waiters_add_locked(struct fastoci_waiters *w);
void fastoci_waiters_remove(struct fastoci_waiters *w);

/*
 * Raises a device-mapper event of the image, soon (`dmsetup wait`): a read failed,
 * the helper came, went, stalled or goes on, a slot became bad or is used again.
 * Any context, while the image lives.
 */
void fastoci_waiters_event(struct fastoci_waiters *w);
void fastoci_missq_event_locked(struct fastoci_missq *q); /* of all images */

/* ---- reads that miss; any context but interrupts ---- */

enum fastoci_park { FASTOCI_PARKED, FASTOCI_PRESENT, FASTOCI_PARK_REQUEUE, FASTOCI_PARK_FAIL };

/*
 * FASTOCI_PARKED: the bio is no longer the caller's. FASTOCI_PRESENT: the chunk is there by now,
 * look it up. The other two: the caller requeues the bio, or fails it.
 */
enum fastoci_park fastoci_park(struct bio *bio, struct fastoci_parked *p);
/* For a read that may not park: asks for its chunk. */
void fastoci_note_miss(struct bio *bio, struct fastoci_parked *p);
/* Releases a read that is not parked after @ms. Takes the read over. */
void fastoci_release_in(struct fastoci_parked *p, u32 ms);
/*
 * Releases all parked reads of the image. With BLK_STS_OK they are looked up again, otherwise
 * they end with @verdict.
 */
void fastoci_sweep(struct fastoci_waiters *w, blk_status_t verdict);
void fastoci_sweep_locked(struct fastoci_waiters *w, blk_status_t verdict);

/* ---- what the helper says; process context ---- */

int fastoci_missq_fill(struct fastoci_missq *q, u32 space, u32 chunk_no, u32 slot,
		       u64 generation);
/* @err: positive errno */
int fastoci_missq_fail(struct fastoci_missq *q, u32 space, u32 chunk_no, u32 err);
void fastoci_missq_ack(struct fastoci_missq *q, u32 count);
/* Sends every pending miss again. */
void fastoci_missq_resend(struct fastoci_missq *q);
/* There is a new helper. */
void fastoci_missq_helper_came(struct fastoci_missq *q);
/* A helper has gone. There may be another one already. */
void fastoci_missq_helper_lost(struct fastoci_missq *q);

/* Ends one use of the space. Drops its misses if that was the last use. Sleeps. */
void fastoci_space_put(struct fastoci_missq *q, struct fastoci_space *space);

#endif /* FASTOCI_MISSQ_H */
