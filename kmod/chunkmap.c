// SPDX-License-Identifier: GPL-2.0
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "chunkmap.h"
#include "fastoci_meta.h"

int fastoci_chunkmap_init(struct fastoci_chunkmap *map, u32 chunk_shift, u32 nr_slots)
{
	int err;

	map->chunk_shift = chunk_shift;
	map->spaces = RB_ROOT;
	xa_init_flags(&map->spaces_by_no, XA_FLAGS_ALLOC1);
	err = fastoci_slots_init(&map->slots, nr_slots);
	if (!err)
		err = init_srcu_struct(&map->srcu);
	if (err)
		fastoci_slots_exit(&map->slots);
	return err;
}

static void free_space(struct fastoci_space *space)
{
	if (!space)
		return;
	kvfree(space->map);
	kfree(space);
}

void fastoci_chunkmap_exit(struct fastoci_chunkmap *map)
{
	struct fastoci_space *space;
	unsigned long no;

	srcu_barrier(&map->srcu);
	cleanup_srcu_struct(&map->srcu);
	xa_for_each(&map->spaces_by_no, no, space)
		free_space(space);
	xa_destroy(&map->spaces_by_no);
	fastoci_slots_exit(&map->slots);
}

/* ---- data spaces ---- */

struct fastoci_space *fastoci_space_find_locked(struct fastoci_chunkmap *map, u32 no)
{
	lockdep_assert_held(&map->slots.lock);
	return xa_load(&map->spaces_by_no, no);
}

static int compare_id(const void *id, const struct rb_node *n)
{
	return memcmp(id, rb_entry(n, struct fastoci_space, node)->id, 32);
}

static bool id_less(struct rb_node *a, const struct rb_node *b)
{
	return compare_id(rb_entry(a, struct fastoci_space, node)->id, b) < 0;
}

static struct fastoci_space *find_space_by_id(struct fastoci_chunkmap *map, const u8 *id)
{
	struct rb_node *n;

	lockdep_assert_held(&map->slots.lock);
	n = rb_find(id, &map->spaces, compare_id);
	return n ? rb_entry(n, struct fastoci_space, node) : NULL;
}

void fastoci_spaces_free(struct list_head *reaped)
{
	struct fastoci_space *space, *tmp;

	list_for_each_entry_safe(space, tmp, reaped, reaped)
		free_space(space);
}

static struct fastoci_space *make_space(const struct fastoci_chunkmap *map, const u8 *id,
					u64 data_bytes)
{
	u64 nr_chunks = fastoci_nr_chunks(map, data_bytes);
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

struct fastoci_space *fastoci_space_get(struct fastoci_chunkmap *map, const u8 *id,
					u64 data_bytes)
{
	struct fastoci_space *space, *fresh = NULL;
	int err;

	spin_lock(&map->slots.lock);
	space = find_space_by_id(map, id);
	if (!space) {
		spin_unlock(&map->slots.lock);
		fresh = make_space(map, id, data_bytes);
		if (IS_ERR(fresh))
			return fresh;
		/* Reserves the number: a look-up gives NULL until the store below. */
		err = xa_alloc_cyclic(&map->spaces_by_no, &fresh->no, NULL,
				      XA_LIMIT(1, FASTOCI_MAX_SPACE_NO), &map->next_space,
				      GFP_KERNEL);
		if (err < 0) {
			free_space(fresh);
			return ERR_PTR(err);
		}
		spin_lock(&map->slots.lock);
		space = find_space_by_id(map, id);
		if (!space) {
			space = fresh;
			xa_store(&map->spaces_by_no, fresh->no, fresh, GFP_NOWAIT);
			rb_add(&fresh->node, &map->spaces, id_less);
			fresh = NULL;
		} else {
			xa_erase(&map->spaces_by_no, fresh->no);
		}
	}
	if (space->data_bytes == data_bytes)
		space->nr_users++;
	else
		space = ERR_PTR(-EEXIST);
	spin_unlock(&map->slots.lock);
	free_space(fresh);
	return space;
}

/* Takes an unused, empty space out of the map. */
static void reap_space(struct fastoci_chunkmap *map, struct fastoci_space *space,
		       struct list_head *reaped)
{
	lockdep_assert_held(&map->slots.lock);
	if (space->nr_users || space->nr_held)
		return;
	rb_erase(&space->node, &map->spaces);
	xa_erase(&map->spaces_by_no, space->no);
	list_add(&space->reaped, reaped);
}

void fastoci_space_unuse_locked(struct fastoci_chunkmap *map, struct fastoci_space *space,
				struct list_head *reaped)
{
	lockdep_assert_held(&map->slots.lock);
	space->nr_users--;
	reap_space(map, space, reaped);
}

/* ---- chunks ---- */

static bool is_restored(struct fastoci_chunkmap *map, u32 slot, u32 space, u32 chunk_no)
{
	const struct fastoci_slot *s = &map->slots.slot[slot];

	return fastoci_slot_state(s) == FASTOCI_SLOT_RESTORED && fastoci_slot_space(s) == space &&
	       s->chunk_no == chunk_no;
}

int fastoci_chunk_fill_locked(struct fastoci_chunkmap *map, u32 space_no, u32 chunk_no, u32 slot,
			      u64 generation)
{
	struct fastoci_space *space = fastoci_space_find_locked(map, space_no);
	struct fastoci_slots *slots = &map->slots;

	if (!space || chunk_no >= space->nr_chunks || slot >= slots->nr)
		return -EINVAL;
	if (READ_ONCE(space->map[chunk_no]))
		return 0;
	if (is_restored(map, slot, space_no, chunk_no))
		space->nr_held--; /* counted again below */
	else if (fastoci_slot_reserved_by(slots, slot, generation))
		slots->nr_reserved--;
	else
		return -EPERM;
	slots->slot[slot].chunk_no = chunk_no;
	fastoci_slot_set(&slots->slot[slot], FASTOCI_SLOT_PRESENT, space_no);
	set_bit(slot, slots->accessed);
	space->nr_present++;
	space->nr_held++;
	/* Pairs with READ_ONCE() in fastoci_try_hit(): the slot's state is set before. */
	smp_store_release(&space->map[chunk_no], slot + 1);
	return 0;
}

int fastoci_chunk_restore(struct fastoci_chunkmap *map, struct fastoci_space *space, u32 chunk_no,
			  u32 slot, u64 generation)
{
	struct fastoci_slots *slots = &map->slots;
	int err = -EINVAL;

	spin_lock(&slots->lock);
	if (chunk_no >= space->nr_chunks || slot >= slots->nr)
		goto out;
	err = 0;
	if (is_restored(map, slot, space->no, chunk_no))
		goto out;
	err = -EEXIST;
	if (READ_ONCE(space->map[chunk_no]) || !fastoci_slot_take(slots, slot, generation))
		goto out;
	slots->slot[slot].chunk_no = chunk_no;
	fastoci_slot_set(&slots->slot[slot], FASTOCI_SLOT_RESTORED, space->no);
	space->nr_held++;
	err = 0;
out:
	spin_unlock(&slots->lock);
	return err;
}

bool fastoci_chunk_unpublish_locked(struct fastoci_chunkmap *map,
				    const struct fastoci_chunk_key *key, u32 *slot,
				    struct list_head *reaped, int *err)
{
	struct fastoci_space *space = fastoci_space_find_locked(map, key->space);
	u32 was;

	*err = 0;
	if (!space)
		return false; /* gone with its last chunk */
	if (key->chunk_no >= space->nr_chunks) {
		*err = -EINVAL;
		return false;
	}
	was = READ_ONCE(space->map[key->chunk_no]);
	if (!was)
		return false;
	*slot = was - 1;
	WRITE_ONCE(space->map[key->chunk_no], 0);
	space->nr_present--;
	space->nr_held--;
	fastoci_slot_set(&map->slots.slot[*slot], FASTOCI_SLOT_EVICTING, key->space);
	clear_bit(*slot, map->slots.accessed);
	reap_space(map, space, reaped);
	return true;
}

/* ---- slots that come back, or do not ---- */

void fastoci_slot_give_back_locked(struct fastoci_chunkmap *map, u32 slot, u64 reserve)
{
	lockdep_assert_held(&map->slots.lock);
	WARN_ON_ONCE(fastoci_slot_state(&map->slots.slot[slot]) != FASTOCI_SLOT_EVICTING);
	if (reserve)
		fastoci_slot_reserve(&map->slots, slot, reserve);
	else
		fastoci_slot_free(&map->slots, slot);
}

bool fastoci_slot_retire_locked(struct fastoci_chunkmap *map, struct fastoci_space *space,
				u32 chunk_no, u32 slot)
{
	struct fastoci_slot *s = &map->slots.slot[slot];

	lockdep_assert_held(&map->slots.lock);
	if (fastoci_slot_state(s) == FASTOCI_SLOT_BAD)
		return false; /* another reader came first */
	if (READ_ONCE(space->map[chunk_no]) == slot + 1) {
		WRITE_ONCE(space->map[chunk_no], 0);
		space->nr_present--; /* its reader's image keeps the space */
		space->nr_held--;
	}
	fastoci_slot_set(s, FASTOCI_SLOT_BAD, space->no);
	map->slots.nr_bad++;
	clear_bit(slot, map->slots.accessed);
	return true;
}

/* Readers that entered before the slot became bad may still be there, hence EVICTING. */
bool fastoci_slot_reuse_locked(struct fastoci_chunkmap *map, u32 slot,
			       struct fastoci_chunk_key *key)
{
	struct fastoci_slot *s = &map->slots.slot[slot];

	lockdep_assert_held(&map->slots.lock);
	if (slot >= map->slots.nr || fastoci_slot_state(s) != FASTOCI_SLOT_BAD)
		return false;
	key->space = fastoci_slot_space(s);
	key->chunk_no = s->chunk_no;
	fastoci_slot_set(s, FASTOCI_SLOT_EVICTING, key->space);
	map->slots.nr_bad--;
	return true;
}

/* Gives up a restored slot, whose content was wrong. */
static bool drop_restored(struct fastoci_chunkmap *map, u32 slot, struct list_head *reaped)
{
	struct fastoci_space *space;

	if (slot >= map->slots.nr ||
	    fastoci_slot_state(&map->slots.slot[slot]) != FASTOCI_SLOT_RESTORED)
		return false;
	space = fastoci_space_find_locked(map, fastoci_slot_space(&map->slots.slot[slot]));
	if (WARN_ON_ONCE(!space))
		return false;
	space->nr_held--;
	reap_space(map, space, reaped);
	return true;
}

int fastoci_slots_return(struct fastoci_chunkmap *map, const u32 *slots, u32 count, u64 generation)
{
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	spin_lock(&map->slots.lock);
	for (i = 0; i < count && !err; i++) {
		if (fastoci_slot_reserved_by(&map->slots, slots[i], generation)) {
			map->slots.nr_reserved--;
			fastoci_slot_free(&map->slots, slots[i]);
		} else if (drop_restored(map, slots[i], &reaped)) {
			fastoci_slot_free(&map->slots, slots[i]);
		} else {
			err = -EINVAL;
		}
	}
	spin_unlock(&map->slots.lock);
	fastoci_spaces_free(&reaped);
	return err;
}
