/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Misses, and how the helper is asked for them. A chunk has one miss.
 *
 *   miss:  unsent <-> asked -> gone
 *
 * A miss ends when it is answered. It also ends when its last read was ended in another
 * way, so that the next reader asks anew. send_work sends the messages, in batches.
 *
 * "The lock" is that of the slots, fastoci_missq_lock().
 */
#ifndef FASTOCI_ASK_H
#define FASTOCI_ASK_H

#include <linux/workqueue.h>

#include "chunkmap.h"

enum fastoci_helper_state { FASTOCI_HELPER_NONE, FASTOCI_HELPER_STALLED, FASTOCI_HELPER_READY };

struct fastoci_missq {
	struct fastoci_chunkmap map;
	u32 cache_no;			/* I: set before the first miss */
	struct list_head images;	/* L(lock) of fastoci_waiters */
	struct rb_root misses;		/* L(lock) */
	struct list_head unsent[FASTOCI_NR_CLASSES]; /* L(lock) misses by class */
	struct list_head asked;		/* L(lock) misses that were sent, oldest first */
	struct list_head overflow;	/* L(lock) reads without a miss entry */
	struct list_head retries;	/* L(lock) reads that are looked up again at retry_at */
	struct list_head released;	/* L(lock) reads for release_work */
	u32 nr_misses;			/* L(lock) */
	u32 unacked;			/* L(lock) */
	unsigned long unacked_since;	/* L(lock) jiffies: last ACK, or first MISS after it */
	bool told_stalled;		/* L(lock) the last event said so */
	bool timer_armed;		/* L(lock) */
	unsigned long timer_at;		/* L(lock) jiffies */
	struct work_struct send_work;
	struct work_struct release_work;
	struct delayed_work timer_work;	/* deadlines, overflow and retries */
	struct fastoci_chunk_key batch[FASTOCI_MAX_BATCH]; /* W: send_work */
};

/* One chunk that is on its way. All fields L(lock). */
struct fastoci_miss {
	struct rb_node node;
	struct list_head queue;		/* in missq->unsent[key.class], or missq->asked */
	struct list_head reads;		/* of fastoci_parked.node */
	struct fastoci_chunk_key key;
	u64 since_ns;			/* ktime */
	unsigned long asked_at;		/* jiffies, in missq->asked */
};

/* -ENOMEM. Sleeps. */
int fastoci_asks_init(void);
void fastoci_asks_exit(void);
/* Call it before anybody else knows the cache. */
void fastoci_asks_setup(struct fastoci_missq *q);
/* Queues work on the workqueue of this file, which works under memory pressure. Any context. */
void fastoci_missq_queue(struct work_struct *work);

static inline void fastoci_missq_lock(struct fastoci_missq *q)
	__acquires(&q->map.slots.lock)
{
	spin_lock(&q->map.slots.lock);
}

static inline void fastoci_missq_unlock(struct fastoci_missq *q)
	__releases(&q->map.slots.lock)
{
	spin_unlock(&q->map.slots.lock);
}

static inline void fastoci_missq_assert_locked(struct fastoci_missq *q)
{
	lockdep_assert_held(&q->map.slots.lock);
}

/* ---- the caller of these holds the lock; any context but interrupts ---- */

/* Returns NULL if the chunk has no miss. */
struct fastoci_miss *fastoci_miss_find(struct fastoci_missq *q, u32 space, u32 chunk_no);
/*
 * Returns the miss of a chunk. Makes it if there is none, raises it to @class if it has a
 * lower one, and sends it soon in both cases. NULL if there is no memory.
 */
struct fastoci_miss *fastoci_miss_get(struct fastoci_missq *q, u32 space, u32 chunk_no, u8 class);
/*
 * The helper has filled the chunk, or failed it if @filled is false. Returns the miss of the
 * chunk, which the caller ends, or NULL if there is none.
 */
struct fastoci_miss *fastoci_miss_answered(struct fastoci_missq *q, u32 space, u32 chunk_no,
					   bool filled);
/* Removes and frees a miss that no read waits for. */
void fastoci_miss_erase(struct fastoci_missq *q, struct fastoci_miss *miss);
/* No image uses the space any more, so nobody waits for its chunks. */
void fastoci_misses_drop_locked(struct fastoci_missq *q, u32 space);
/*
 * Called by the timer, with the present state of the helper. If a miss was not answered in
 * time, sends it again, or erases it if no read waits for it. Arms the timer for the next
 * miss, or the next ACK, that may be overdue.
 */
void fastoci_misses_ask_again_locked(struct fastoci_missq *q, enum fastoci_helper_state helper);
/* Sends every miss again for which somebody waits. */
void fastoci_misses_resend_locked(struct fastoci_missq *q);
/* The helper has taken @count misses more. */
void fastoci_misses_acked_locked(struct fastoci_missq *q, u32 count);
enum fastoci_helper_state fastoci_helper_state_locked(struct fastoci_missq *q);
/* Makes sure that timer_work runs at @at (jiffies) or earlier. */
void fastoci_missq_arm_timer_locked(struct fastoci_missq *q, unsigned long at);
void fastoci_missq_arm_timer_in_locked(struct fastoci_missq *q, u32 ms);

#endif /* FASTOCI_ASK_H */
