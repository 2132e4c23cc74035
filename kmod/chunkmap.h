/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The data spaces of a cache and their chunk maps. No other code sets the state of a
 * chunk.
 *
 *   chunk: absent -> present -> absent
 *   slot:  FREE -> RESERVED -> PRESENT -> EVICTING -> FREE | RESERVED
 *          FREE | RESERVED -> RESTORED -> PRESENT | FREE
 *          PRESENT | EVICTING -> BAD -> EVICTING, when its helper asks for it
 *
 * Readers of a map take no lock: they enter SRCU, load the slot, and leave in
 * end_io. An eviction first unpublishes the slot. cache.c gives the slot back after
 * a grace period.
 *
 * "The lock" is that of the slots. Callers of fastoci_*_locked() hold it.
 */
#ifndef FASTOCI_CHUNKMAP_H
#define FASTOCI_CHUNKMAP_H

#include <linux/rbtree.h>
#include <linux/srcu.h>
#include <linux/xarray.h>

#include "helper.h"
#include "slots.h"

/* The chunk map of one data space. */
struct fastoci_space {
	struct rb_node node;		/* L(lock) in map->spaces */
	struct list_head reaped;	/* of spaces that are to be freed */
	u32 no;				/* I: */
	u32 nr_chunks;			/* I: */
	u32 nr_present;			/* L(lock) chunks that are served */
	u32 nr_held;			/* L(lock) slots present or restored */
	u32 nr_users;			/* L(lock) images, and RESTORE while it runs */
	u64 data_bytes;			/* I: */
	u8 id[32];			/* I: */
	u32 *map;			/* A: per chunk 0, or slot + 1; written under the lock */
};

struct fastoci_chunkmap {
	u32 chunk_shift;		/* I: log2 bytes */
	struct srcu_struct srcu ____cacheline_aligned;
	struct fastoci_slots slots;
	struct rb_root spaces;		/* L(lock) by id */
	struct xarray spaces_by_no;	/* L(lock); numbers are reserved without the lock */
	u32 next_space;			/* L(xa_lock) */
};

/* Returns 0 or a negative errno. After an error there is nothing to free. Sleeps. */
int fastoci_chunkmap_init(struct fastoci_chunkmap *map, u32 chunk_shift, u32 nr_slots);
/* Waits for SRCU callbacks, then frees. Sleeps. */
void fastoci_chunkmap_exit(struct fastoci_chunkmap *map);

static inline u64 fastoci_nr_chunks(const struct fastoci_chunkmap *map, u64 data_bytes)
{
	return (data_bytes + (1ULL << map->chunk_shift) - 1) >> map->chunk_shift;
}

/*
 * Returns the space @id and counts one more user of it. Makes it if there is none.
 * ERR_PTR: -EEXIST if it is known with another size, -E2BIG if @data_bytes is over a
 * limit, -ENOMEM. Takes the lock. Sleeps.
 */
struct fastoci_space *fastoci_space_get(struct fastoci_chunkmap *map, const u8 *id,
					u64 data_bytes);
/*
 * Ends one use. If the space then has neither users nor slots, moves it to @reaped, which
 * the caller frees by fastoci_spaces_free().
 */
void fastoci_space_unuse_locked(struct fastoci_chunkmap *map, struct fastoci_space *space,
				struct list_head *reaped);
/* The caller does not hold the lock. Sleeps. */
void fastoci_spaces_free(struct list_head *reaped);
/* Returns the space number @no, or NULL. */
struct fastoci_space *fastoci_space_find_locked(struct fastoci_chunkmap *map, u32 no);

/*
 * Publishes a chunk in a slot that @generation has reserved, or that was restored
 * for that chunk. Succeeds too if the chunk is already present. -EINVAL: no such
 * space, chunk or slot; -EPERM: that slot is not the sender's.
 */
int fastoci_chunk_fill_locked(struct fastoci_chunkmap *map, u32 space_no, u32 chunk_no, u32 slot,
			      u64 generation);
/*
 * Puts a slot aside for a chunk, which is served from its first fill on. -EINVAL: no
 * such chunk or slot; -EEXIST: the slot or the chunk is taken. Takes the lock.
 */
int fastoci_chunk_restore(struct fastoci_chunkmap *map, struct fastoci_space *space, u32 chunk_no,
			  u32 slot, u64 generation);
/*
 * Takes a chunk out of its map. True: its slot is now EVICTING, *@slot has its number,
 * and the caller gives it back after a grace period. If the space then has neither
 * users nor slots, moves it to @reaped. Sets *@err to -EINVAL if there is no such chunk.
 */
bool fastoci_chunk_unpublish_locked(struct fastoci_chunkmap *map,
				    const struct fastoci_chunk_key *key, u32 *slot,
				    struct list_head *reaped, int *err);
/*
 * After the grace period: makes an EVICTING slot reserved for the generation @reserve, or free
 * if @reserve is 0.
 */
void fastoci_slot_give_back_locked(struct fastoci_chunkmap *map, u32 slot, u64 reserve);
/*
 * That chunk was read from @slot, and its reader has not left its section. Makes the
 * slot BAD. False: it was bad before. No grace period is needed, because nobody writes
 * to a bad slot, so its other readers still read the same bytes. If the slot was EVICTING,
 * the caller makes sure that its eviction does not give it back.
 */
bool fastoci_slot_retire_locked(struct fastoci_chunkmap *map, struct fastoci_space *space,
				u32 chunk_no, u32 slot);
/* Makes a BAD slot EVICTING, as fastoci_chunk_unpublish_locked() does. False if it is not bad. */
bool fastoci_slot_reuse_locked(struct fastoci_chunkmap *map, u32 slot,
			       struct fastoci_chunk_key *key);
/*
 * Frees slots that @generation has reserved, or that are restored. Stops with -EINVAL
 * at the first that is neither; those before it are free. Takes the lock. Sleeps.
 */
int fastoci_slots_return(struct fastoci_chunkmap *map, const u32 *slots, u32 count,
			 u64 generation);

#endif /* FASTOCI_CHUNKMAP_H */
