// SPDX-License-Identifier: GPL-2.0
/*
 * The free list of a cache's slots. The kernel owns it, so that no helper can
 * overwrite a slot that is still read: a helper writes only what was reserved
 * for its generation, and what a generation reserved stays in quarantine until
 * its socket is closed.
 */
#include "fastoci.h"

bool fastoci_slot_reserved_by(struct fastoci_cache *cache, u32 slot, u64 generation)
{
	return slot < cache->nr_slots &&
	       fastoci_slot_state(&cache->slots[slot]) == FASTOCI_SLOT_RESERVED &&
	       cache->slots[slot].chunk_no == (u32)generation;
}

void fastoci_slot_free(struct fastoci_cache *cache, u32 slot)
{
	lockdep_assert_held(&cache->lock);
	cache->slots[slot].space_state = 0;
	__clear_bit(slot, cache->busy);
	cache->nr_free++;
}

void fastoci_slot_reserve(struct fastoci_cache *cache, u32 slot, u64 generation)
{
	lockdep_assert_held(&cache->lock);
	cache->slots[slot].chunk_no = (u32)generation;
	cache->slots[slot].space_state = (u32)FASTOCI_SLOT_RESERVED << FASTOCI_SLOT_STATE_SHIFT;
	cache->nr_reserved++;
}

u32 fastoci_slots_alloc(struct fastoci_cache *cache, u32 *slots, u32 count, u64 generation)
{
	u32 n = 0, at;

	spin_lock(&cache->lock);
	while (n < count && cache->nr_free) {
		at = find_next_zero_bit(cache->busy, cache->nr_slots, cache->alloc_hint);
		if (at >= cache->nr_slots)
			at = find_first_zero_bit(cache->busy, cache->nr_slots);
		if (WARN_ON_ONCE(at >= cache->nr_slots))
			break;
		__set_bit(at, cache->busy);
		fastoci_slot_reserve(cache, at, generation);
		cache->alloc_hint = at + 1;
		cache->nr_free--;
		slots[n++] = at;
	}
	spin_unlock(&cache->lock);
	return n;
}

int fastoci_slots_return(struct fastoci_cache *cache, const u32 *slots, u32 count, u64 generation)
{
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	spin_lock(&cache->lock);
	for (i = 0; i < count && !err; i++) {
		if (fastoci_slot_reserved_by(cache, slots[i], generation)) {
			cache->nr_reserved--;
			fastoci_slot_free(cache, slots[i]);
		} else if (fastoci_restored_drop(cache, slots[i], &reaped)) {
			fastoci_slot_free(cache, slots[i]);
		} else {
			err = -EINVAL;
		}
	}
	spin_unlock(&cache->lock);
	fastoci_spaces_free(&reaped);
	return err;
}

#define SLOTS_AT_ONCE 65536	/* under the lock, while readers may want to park */

/*
 * A helper's socket is closed, so no write of its can be under way: the slots
 * of its generation (*@arg, u64) end their quarantine. No other is reserved for
 * it any more, so the lock may be dropped in between. Sleeps.
 */
void fastoci_cache_helper_lost(struct fastoci_cache *cache, void *arg)
{
	u32 slot = 0, end, generation = *(u64 *)arg;

	spin_lock(&cache->lock);
	if (!fastoci_helper_present())
		fastoci_fail_readahead(cache);
	while (slot < cache->nr_slots && cache->nr_reserved) {
		end = min(slot + SLOTS_AT_ONCE, cache->nr_slots);
		for_each_set_bit_from(slot, cache->busy, end)
			if (fastoci_slot_reserved_by(cache, slot, generation)) {
				cache->nr_reserved--;
				fastoci_slot_free(cache, slot);
			}
		slot = end;
		spin_unlock(&cache->lock);
		cond_resched();
		spin_lock(&cache->lock);
	}
	spin_unlock(&cache->lock);
}

/* The first slot from *@slot on that is not free; false if there is none. */
bool fastoci_slot_next(struct fastoci_cache *cache, u32 *slot, struct fastoci_slot_info *info)
{
	const struct fastoci_slot *s;

	spin_lock(&cache->lock);
	*slot = find_next_bit(cache->busy, cache->nr_slots, *slot);
	if (*slot < cache->nr_slots) {
		s = &cache->slots[*slot];
		info->state = fastoci_slot_state(s);
		info->space = fastoci_slot_space(s);
		info->chunk_no = s->chunk_no;
		info->accessed = test_bit(*slot, cache->accessed);
	}
	spin_unlock(&cache->lock);
	return *slot < cache->nr_slots;
}
