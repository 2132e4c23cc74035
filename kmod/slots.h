/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The slots of a cache device: which are free, which are reserved for whom, and which
 * stay reserved when a cache is gone. The kernel owns the free list. A helper writes
 * only to slots that are reserved for its generation, so it cannot overwrite a slot
 * that is still read.
 *
 * The lock is in this file because this is the lowest layer that needs one. It guards
 * everything that changes in a cache: slots, chunks (chunkmap.h) and misses (missq.h).
 * It is a plain spinlock, because every user runs in process context. end_io, which may
 * run in an interrupt, and SRCU callbacks take no lock.
 *
 * Field codes, in all headers: I: immutable after setup, L(lock): under that
 * lock, A: atomic or single-word accesses, W: one work item only.
 */
#ifndef FASTOCI_SLOTS_H
#define FASTOCI_SLOTS_H

#include <linux/cache.h>
#include <linux/list.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "fastoci_netlink.h"

/* RESERVED: @chunk_no is the low half of the generation that reserved it. */
struct fastoci_slot {
	u32 chunk_no;			/* L(lock) */
	u32 space_state;		/* L(lock) state << 29 | space */
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

static inline void fastoci_slot_set(struct fastoci_slot *s, enum fastoci_slot_state state,
				    u32 space)
{
	s->space_state = (u32)state << FASTOCI_SLOT_STATE_SHIFT | space;
}

struct fastoci_slots {
	unsigned long *accessed;	/* I: bit per slot, A: its words */
	u32 nr;				/* I: */
	/* on lines of their own, because hits on other CPUs read the fields above */
	spinlock_t lock ____cacheline_aligned;
	struct fastoci_slot *slot;	/* L(lock) */
	unsigned long *busy;		/* L(lock) bit per slot: not free */
	u32 nr_free;			/* L(lock) */
	u32 nr_reserved;		/* L(lock) */
	u32 nr_bad;			/* L(lock) */
	u32 alloc_hint;			/* L(lock) */
};

/* Makes @nr slots, all free. -ENOMEM. Call fastoci_slots_exit() also after an error. Sleeps. */
int fastoci_slots_init(struct fastoci_slots *s, u32 nr);
void fastoci_slots_exit(struct fastoci_slots *s);

/* With the lock held. @slot may be out of range. */
bool fastoci_slot_reserved_by(struct fastoci_slots *s, u32 slot, u64 generation);
/* With the lock held. The slot is busy. The caller has uncounted its former state. */
void fastoci_slot_free(struct fastoci_slots *s, u32 slot);
void fastoci_slot_reserve(struct fastoci_slots *s, u32 slot, u64 generation);
/* With the lock held. Takes a slot that is free or reserved by @generation, else returns false. */
bool fastoci_slot_take(struct fastoci_slots *s, u32 slot, u64 generation);

/*
 * Reserves up to @count free slots and stores their numbers in @slots. Returns how many.
 * Takes the lock.
 */
u32 fastoci_slots_alloc(struct fastoci_slots *s, u32 *slots, u32 count, u64 generation);
/*
 * Frees the slots that @generation has reserved, and returns how many they were. The
 * caller makes sure that no slot is reserved for it meanwhile. Takes the lock, and drops
 * it now and then. Sleeps.
 */
u32 fastoci_slots_release(struct fastoci_slots *s, u64 generation);

struct fastoci_slot_info {
	u8 state;	/* enum fastoci_slot_state */
	bool accessed;
	u32 space;
	u32 chunk_no;
};

/*
 * Finds the first slot from *@slot on that is not free. Sets *@slot and *@info. False if there
 * is none. Takes the lock.
 */
bool fastoci_slots_next(struct fastoci_slots *s, u32 *slot, struct fastoci_slot_info *info);

/*
 * The slots that helpers had reserved in a cache when it was freed. Each helper, the
 * current one too, may still have a write to them under way. Only the end of its socket
 * proves that it has none. So the next cache of that UUID begins with these slots
 * reserved for the same generations. cache.c, which owns it, serializes all calls.
 */
struct fastoci_quarantine {
	struct list_head node;
	u8 uuid[16];
	u32 chunk_shift;
	sector_t slots_sector;
	u32 nr;
	u32 nr_reserved;
	struct fastoci_slot *slot;	/* only the reserved ones count */
};

/* Moves the slots of a dead cache to @q. They do not change any more. Allocates nothing. */
void fastoci_quarantine_fill(struct fastoci_quarantine *q, struct fastoci_slots *s);
/* Reserves the slots in @s that are reserved in @q. @s is new and of the same size. Sleeps. */
void fastoci_quarantine_pass_on(const struct fastoci_quarantine *q, struct fastoci_slots *s);
/* Ends the reservations of @generation. Returns how many slots are still reserved. Sleeps. */
u32 fastoci_quarantine_end(struct fastoci_quarantine *q, u64 generation);
void fastoci_quarantine_free(struct fastoci_quarantine *q);

#endif /* FASTOCI_SLOTS_H */
