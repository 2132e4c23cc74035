// SPDX-License-Identifier: GPL-2.0
#include <linux/bitmap.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "slots.h"

/* The number of slots comes from a device: fail rather than call the OOM killer. */
#define BIG (GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

#define SLOTS_AT_ONCE 65536	/* under the lock, while readers may want to park */

int fastoci_slots_init(struct fastoci_slots *s, u32 nr)
{
	size_t words = BITS_TO_LONGS(nr) * sizeof(long);

	spin_lock_init(&s->lock);
	s->nr = nr;
	s->nr_free = nr;
	s->slot = __vmalloc((u64)nr * sizeof(*s->slot), BIG);
	s->busy = __vmalloc(words, BIG);
	s->accessed = __vmalloc(words, BIG);
	return s->slot && s->busy && s->accessed ? 0 : -ENOMEM;
}

void fastoci_slots_exit(struct fastoci_slots *s)
{
	vfree(s->slot);
	vfree(s->busy);
	vfree(s->accessed);
}

bool fastoci_slot_reserved_by(struct fastoci_slots *s, u32 slot, u64 generation)
{
	return slot < s->nr && fastoci_slot_state(&s->slot[slot]) == FASTOCI_SLOT_RESERVED &&
	       s->slot[slot].chunk_no == (u32)generation;
}

void fastoci_slot_free(struct fastoci_slots *s, u32 slot)
{
	lockdep_assert_held(&s->lock);
	fastoci_slot_set(&s->slot[slot], FASTOCI_SLOT_FREE, 0);
	__clear_bit(slot, s->busy);
	s->nr_free++;
}

void fastoci_slot_reserve(struct fastoci_slots *s, u32 slot, u64 generation)
{
	lockdep_assert_held(&s->lock);
	s->slot[slot].chunk_no = (u32)generation;
	fastoci_slot_set(&s->slot[slot], FASTOCI_SLOT_RESERVED, 0);
	s->nr_reserved++;
}

bool fastoci_slot_take(struct fastoci_slots *s, u32 slot, u64 generation)
{
	lockdep_assert_held(&s->lock);
	if (fastoci_slot_reserved_by(s, slot, generation)) {
		s->nr_reserved--;
		return true;
	}
	if (test_bit(slot, s->busy))
		return false;
	__set_bit(slot, s->busy);
	s->nr_free--;
	return true;
}

u32 fastoci_slots_alloc(struct fastoci_slots *s, u32 *slots, u32 count, u64 generation)
{
	u32 n = 0, at;

	spin_lock(&s->lock);
	while (n < count && s->nr_free) {
		at = find_next_zero_bit(s->busy, s->nr, s->alloc_hint);
		if (at >= s->nr)
			at = find_first_zero_bit(s->busy, s->nr);
		if (WARN_ON_ONCE(at >= s->nr))
			break;
		__set_bit(at, s->busy);
		fastoci_slot_reserve(s, at, generation);
		s->alloc_hint = at + 1;
		s->nr_free--;
		slots[n++] = at;
	}
	spin_unlock(&s->lock);
	return n;
}

u32 fastoci_slots_release(struct fastoci_slots *s, u64 generation)
{
	u32 slot = 0, end, nr = 0;

	spin_lock(&s->lock);
	while (slot < s->nr && s->nr_reserved) {
		end = min(slot + SLOTS_AT_ONCE, s->nr);
		for_each_set_bit_from(slot, s->busy, end)
			if (fastoci_slot_reserved_by(s, slot, generation)) {
				s->nr_reserved--;
				fastoci_slot_free(s, slot);
				nr++;
			}
		slot = end;
		spin_unlock(&s->lock);
		cond_resched();
		spin_lock(&s->lock);
	}
	spin_unlock(&s->lock);
	return nr;
}

bool fastoci_slots_next(struct fastoci_slots *s, u32 *slot, struct fastoci_slot_info *info)
{
	const struct fastoci_slot *found;

	spin_lock(&s->lock);
	*slot = find_next_bit(s->busy, s->nr, *slot);
	if (*slot < s->nr) {
		found = &s->slot[*slot];
		info->state = fastoci_slot_state(found);
		info->space = fastoci_slot_space(found);
		info->chunk_no = found->chunk_no;
		info->accessed = test_bit(*slot, s->accessed);
	}
	spin_unlock(&s->lock);
	return *slot < s->nr;
}

/* ---- quarantine ---- */

static bool is_reserved(const struct fastoci_slot *s)
{
	return fastoci_slot_state(s) == FASTOCI_SLOT_RESERVED;
}

void fastoci_quarantine_fill(struct fastoci_quarantine *q, struct fastoci_slots *s)
{
	q->nr = s->nr;
	q->nr_reserved = s->nr_reserved;
	q->slot = s->slot;
	s->slot = NULL;
	s->nr_reserved = 0;
}

void fastoci_quarantine_pass_on(const struct fastoci_quarantine *q, struct fastoci_slots *s)
{
	u32 i;

	for (i = 0; i < q->nr; i++) {
		if (!(i % SLOTS_AT_ONCE))
			cond_resched();
		if (!is_reserved(&q->slot[i]) || __test_and_set_bit(i, s->busy))
			continue;
		s->slot[i] = q->slot[i];
		s->nr_free--;
		s->nr_reserved++;
	}
}

u32 fastoci_quarantine_end(struct fastoci_quarantine *q, u64 generation)
{
	u32 i;

	for (i = 0; i < q->nr && q->nr_reserved; i++) {
		if (is_reserved(&q->slot[i]) && q->slot[i].chunk_no == (u32)generation) {
			fastoci_slot_set(&q->slot[i], FASTOCI_SLOT_FREE, 0);
			q->nr_reserved--;
		}
		if (!(i % SLOTS_AT_ONCE))
			cond_resched();
	}
	return q->nr_reserved;
}

void fastoci_quarantine_free(struct fastoci_quarantine *q)
{
	vfree(q->slot);
	kfree(q);
}
