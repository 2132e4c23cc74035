// SPDX-License-Identifier: GPL-2.0
/*
 * Data spaces and their chunk maps: the only code that sets a chunk's state.
 *
 *   chunk: absent -> (miss) -> present -> absent
 *   slot:  FREE -> RESERVED -> PRESENT -> EVICTING -> FREE | RESERVED
 *          FREE | RESERVED -> RESTORED -> PRESENT | FREE
 *          PRESENT | EVICTING -> BAD, until the cache goes
 *
 * Readers of a map take no lock: they enter SRCU, load the slot, and leave in
 * end_io. An evicted slot is unpublished first and given back by work that an
 * SRCU callback queues, so nobody waits for a grace period.
 */
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "fastoci.h"

/* The space number @no, or NULL. */
static struct fastoci_space *find_space(struct fastoci_cache *cache, u32 no)
{
	lockdep_assert_held(&cache->lock);
	return xa_load(&cache->spaces_by_no, no);
}

static struct fastoci_space *find_space_by_id(struct fastoci_cache *cache, const u8 *id)
{
	struct fastoci_space *space;

	lockdep_assert_held(&cache->lock);
	list_for_each_entry(space, &cache->spaces, node)
		if (!memcmp(space->id, id, 32))
			return space;
	return NULL;
}

static void free_space(struct fastoci_space *space)
{
	if (!space)
		return;
	kvfree(space->map);
	kfree(space);
}

void fastoci_spaces_free(struct list_head *reaped)
{
	struct fastoci_space *space, *tmp;

	list_for_each_entry_safe(space, tmp, reaped, node)
		free_space(space);
}

static struct fastoci_space *make_space(const struct fastoci_cache *cache, const u8 *id,
					u64 data_bytes)
{
	u64 nr_chunks = fastoci_nr_chunks(cache, data_bytes);
	struct fastoci_space *space;

	if (!nr_chunks || nr_chunks > FASTOCI_MAX_IMAGE_CHUNKS)
		return ERR_PTR(-E2BIG);
	space = kzalloc(sizeof(*space), GFP_KERNEL);
	if (!space)
		return ERR_PTR(-ENOMEM);
	/* The size comes from a meta image: fail rather than call the OOM killer. */
	space->map = kvcalloc(nr_chunks, sizeof(u32),
			      GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL);
	if (!space->map) {
		kfree(space);
		return ERR_PTR(-ENOMEM);
	}
	space->nr_chunks = nr_chunks;
	space->data_bytes = data_bytes;
	memcpy(space->id, id, 32);
	return space;
}

/*
 * The space @id, made if need be, with one user more; fastoci_space_put() drops
 * it. -EEXIST if it is known with another size. Process context, sleeps.
 */
struct fastoci_space *fastoci_space_get(struct fastoci_cache *cache, const u8 *id, u64 data_bytes)
{
	struct fastoci_space *space, *fresh = NULL;
	int err;

	spin_lock(&cache->lock);
	space = find_space_by_id(cache, id);
	if (!space) {
		spin_unlock(&cache->lock);
		fresh = make_space(cache, id, data_bytes);
		if (IS_ERR(fresh))
			return fresh;
		/* Reserves the number: a look-up gives NULL until the store below. */
		err = xa_alloc_cyclic(&cache->spaces_by_no, &fresh->no, NULL,
				      XA_LIMIT(1, FASTOCI_MAX_SPACE_NO), &cache->next_space,
				      GFP_KERNEL);
		if (err < 0) {
			free_space(fresh);
			return ERR_PTR(err);
		}
		spin_lock(&cache->lock);
		space = find_space_by_id(cache, id);
		if (!space) {
			space = fresh;
			xa_store(&cache->spaces_by_no, fresh->no, fresh, GFP_NOWAIT);
			list_add_tail(&fresh->node, &cache->spaces);
			fresh = NULL;
		} else {
			xa_erase(&cache->spaces_by_no, fresh->no);
		}
	}
	if (space->data_bytes == data_bytes)
		space->nr_users++;
	else
		space = ERR_PTR(-EEXIST);
	spin_unlock(&cache->lock);
	free_space(fresh);
	return space;
}

/* Takes an unused, empty space out of the cache; the caller frees what it returns. */
static struct fastoci_space *reap_space(struct fastoci_cache *cache, struct fastoci_space *space)
{
	lockdep_assert_held(&cache->lock);
	if (space->nr_users || space->nr_held)
		return NULL;
	list_del(&space->node);
	xa_erase(&cache->spaces_by_no, space->no);
	return space;
}

void fastoci_space_put(struct fastoci_cache *cache, struct fastoci_space *space)
{
	spin_lock(&cache->lock);
	if (!--space->nr_users)
		fastoci_misses_drop(cache, space->no);
	space = reap_space(cache, space);
	spin_unlock(&cache->lock);
	free_space(space);
}

static bool is_restored(struct fastoci_cache *cache, u32 slot, u32 space, u32 chunk_no)
{
	const struct fastoci_slot *s = &cache->slots[slot];

	return fastoci_slot_state(s) == FASTOCI_SLOT_RESTORED && fastoci_slot_space(s) == space &&
	       s->chunk_no == chunk_no;
}

/* Gives up a restored slot, whose content was wrong; an empty space goes to @reaped. */
bool fastoci_restored_drop(struct fastoci_cache *cache, u32 slot, struct list_head *reaped)
{
	struct fastoci_space *space;

	if (slot >= cache->nr_slots ||
	    fastoci_slot_state(&cache->slots[slot]) != FASTOCI_SLOT_RESTORED)
		return false;
	space = find_space(cache, fastoci_slot_space(&cache->slots[slot]));
	if (WARN_ON_ONCE(!space))
		return false;
	space->nr_held--;
	if (reap_space(cache, space))
		list_add(&space->node, reaped);
	return true;
}

int fastoci_chunk_fill(struct fastoci_cache *cache, u32 space_no, u32 chunk_no, u32 slot,
		       u64 generation)
{
	struct fastoci_space *space;
	int err = -EINVAL;

	spin_lock(&cache->lock);
	space = find_space(cache, space_no);
	if (!space || chunk_no >= space->nr_chunks || slot >= cache->nr_slots)
		goto out;
	if (!READ_ONCE(space->map[chunk_no])) {
		err = -EPERM;
		if (is_restored(cache, slot, space_no, chunk_no))
			space->nr_held--; /* counted again below */
		else if (fastoci_slot_reserved_by(cache, slot, generation))
			cache->nr_reserved--;
		else
			goto out;
		cache->slots[slot].chunk_no = chunk_no;
		cache->slots[slot].space_state =
			(u32)FASTOCI_SLOT_PRESENT << FASTOCI_SLOT_STATE_SHIFT | space_no;
		set_bit(slot, cache->accessed);
		space->nr_present++;
		space->nr_held++;
		/* Pairs with READ_ONCE() in try_hit(): the slot's state is set before. */
		smp_store_release(&space->map[chunk_no], slot + 1);
	}
	fastoci_miss_complete(cache, space_no, chunk_no, BLK_STS_OK);
	err = 0;
out:
	spin_unlock(&cache->lock);
	return err;
}

/* What readers see; everything that the block layer treats in a way of its own is EIO. */
static blk_status_t fail_status(u32 err)
{
	switch (err) {
	case ETIMEDOUT:
		return BLK_STS_TIMEOUT;
	case ENODATA:
		return BLK_STS_MEDIUM;
	case EILSEQ:
		return BLK_STS_PROTECTION;
	default:
		return BLK_STS_IOERR;
	}
}

int fastoci_chunk_fail(struct fastoci_cache *cache, u32 space_no, u32 chunk_no, u32 err)
{
	struct fastoci_space *space;
	int ret = -EINVAL;

	spin_lock(&cache->lock);
	space = find_space(cache, space_no);
	if (space && chunk_no < space->nr_chunks) {
		fastoci_miss_complete(cache, space_no, chunk_no, fail_status(err));
		ret = 0;
	}
	spin_unlock(&cache->lock);
	return ret;
}

/*
 * Puts a slot that is free, or that the sender reserved, aside for a chunk
 * that its database knows; the chunk is served from its first FILL on.
 */
int fastoci_chunk_restore(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			  u32 slot, u64 generation)
{
	int err = -EINVAL;

	spin_lock(&cache->lock);
	if (chunk_no >= space->nr_chunks || slot >= cache->nr_slots)
		goto out;
	err = 0;
	if (is_restored(cache, slot, space->no, chunk_no))
		goto out;
	err = -EEXIST;
	if (READ_ONCE(space->map[chunk_no]))
		goto out;
	if (fastoci_slot_reserved_by(cache, slot, generation)) {
		cache->nr_reserved--;
	} else if (!test_bit(slot, cache->busy)) {
		__set_bit(slot, cache->busy);
		cache->nr_free--;
	} else {
		goto out;
	}
	cache->slots[slot].chunk_no = chunk_no;
	cache->slots[slot].space_state =
		(u32)FASTOCI_SLOT_RESTORED << FASTOCI_SLOT_STATE_SHIFT | space->no;
	space->nr_held++;
	err = 0;
out:
	spin_unlock(&cache->lock);
	return err;
}

struct evict_batch {
	struct rcu_head rcu;
	struct work_struct work;
	struct fastoci_cache *cache;	/* a reference */
	u64 reserve;			/* 0, or the generation that gets the slots */
	u32 nr;
	u32 *slots;			/* behind the keys */
	struct fastoci_miss_key keys[];
};

/*
 * No command comes between the slots' return and the event. Else a helper could
 * be handed a slot, fill and evict it again, and then take the event of its
 * former eviction for the end of this one, while the slot is still read.
 */
static void evicted(struct work_struct *work)
{
	struct evict_batch *b = container_of(work, struct evict_batch, work);
	struct fastoci_cache *cache = b->cache;
	u32 i, nr = 0;
	bool reserve;

	fastoci_commands_stop();
	/* The end of that generation would sweep what is reserved for it after this. */
	reserve = b->reserve && fastoci_generation_alive(b->reserve);
	spin_lock(&cache->lock);
	for (i = 0; i < b->nr; i++) {
		if (fastoci_slot_state(&cache->slots[b->slots[i]]) == FASTOCI_SLOT_BAD)
			continue; /* its last reader failed */
		if (reserve)
			fastoci_slot_reserve(cache, b->slots[i], b->reserve);
		else
			fastoci_slot_free(cache, b->slots[i]);
		b->keys[nr] = b->keys[i];
		b->slots[nr++] = b->slots[i];
	}
	spin_unlock(&cache->lock);
	if (nr)
		fastoci_send_evicted(cache, b->keys, b->slots, nr);
	fastoci_commands_go_on();
	fastoci_cache_put(cache);
	kfree(b);
}

/* No reader that saw a slot of this batch is left. */
static void grace_period_over(struct rcu_head *rcu)
{
	fastoci_queue_evicted(&container_of(rcu, struct evict_batch, rcu)->work);
}

int fastoci_chunks_evict(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr,
			 u64 reserve)
{
	struct evict_batch *b = kzalloc(struct_size(b, keys, nr) + nr * sizeof(u32), GFP_KERNEL);
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	if (!b)
		return -ENOMEM;
	INIT_WORK(&b->work, evicted);
	b->slots = (u32 *)(b->keys + nr);
	b->cache = cache;
	b->reserve = reserve;
	spin_lock(&cache->lock);
	for (i = 0; i < nr; i++) {
		struct fastoci_space *space = find_space(cache, keys[i].space);
		u32 slot;

		if (!space)
			continue; /* gone with its last chunk */
		if (keys[i].chunk_no >= space->nr_chunks) {
			err = -EINVAL;
			break;
		}
		slot = READ_ONCE(space->map[keys[i].chunk_no]);
		if (!slot)
			continue;
		slot--;
		WRITE_ONCE(space->map[keys[i].chunk_no], 0);
		space->nr_present--;
		space->nr_held--;
		cache->slots[slot].space_state =
			(u32)FASTOCI_SLOT_EVICTING << FASTOCI_SLOT_STATE_SHIFT | keys[i].space;
		clear_bit(slot, cache->accessed);
		b->keys[b->nr] = keys[i];
		b->slots[b->nr++] = slot;
		if (reap_space(cache, space))
			list_add(&space->node, &reaped);
	}
	spin_unlock(&cache->lock);
	fastoci_spaces_free(&reaped);
	if (!b->nr) {
		kfree(b);
		return err;
	}
	kref_get(&cache->kref);
	call_srcu(&cache->srcu, &b->rcu, grace_period_over);
	return err;
}

/*
 * Takes a slot out of service for as long as the cache lives. No grace period:
 * as nobody writes to it any more, who still reads it reads the same. With
 * commands stopped, so that whoever is refused a FILL of that slot, since it is
 * bad, was told so before (as in evicted()).
 */
void fastoci_slot_retire(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			 u32 slot)
{
	struct fastoci_slot *s = &cache->slots[slot];
	struct fastoci_miss_key key = { .space = space->no, .chunk_no = chunk_no };
	bool bad;

	fastoci_commands_stop();
	spin_lock(&cache->lock);
	bad = fastoci_slot_state(s) != FASTOCI_SLOT_BAD; /* or another reader came first */
	if (bad) {
		if (READ_ONCE(space->map[chunk_no]) == slot + 1) {
			WRITE_ONCE(space->map[chunk_no], 0);
			space->nr_present--; /* its reader's image keeps the space */
			space->nr_held--;
		}
		s->space_state = (u32)FASTOCI_SLOT_BAD << FASTOCI_SLOT_STATE_SHIFT | space->no;
		clear_bit(slot, cache->accessed);
	}
	spin_unlock(&cache->lock);
	if (bad) {
		DMWARN_LIMIT("cache %u: slot %u cannot be read and is not used any more: check the cache device",
			     cache->no, slot);
		fastoci_send_slot_bad(cache, &key, slot);
	}
	fastoci_commands_go_on();
}
