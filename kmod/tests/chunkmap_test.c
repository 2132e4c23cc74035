// SPDX-License-Identifier: GPL-2.0
#include <linux/delay.h>

#include "kunit.h"

static u32 alloc_one(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = U32_MAX;

	KUNIT_ASSERT_EQ(test, fastoci_slots_alloc(f->slots, &slot, 1, f->generation), 1);
	return slot;
}

static int fill_as(struct kunit *test, u32 chunk_no, u32 slot, u64 generation)
{
	struct fixture *f = test->priv;

	return fastoci_missq_fill(f->q, f->space->no, chunk_no, slot, generation);
}

static int restore(struct kunit *test, u32 chunk_no, u32 slot)
{
	struct fixture *f = test->priv;

	return fastoci_chunk_restore(f->map, f->space, chunk_no, slot, f->generation);
}

static u32 fill(struct kunit *test, u32 chunk_no)
{
	struct fixture *f = test->priv;
	u32 slot = alloc_one(test);

	KUNIT_ASSERT_EQ(test, fill_as(test, chunk_no, slot, f->generation), 0);
	return slot;
}

static int evict(struct kunit *test, u32 chunk_no, u64 reserve)
{
	struct fixture *f = test->priv;
	struct fastoci_chunk_key key = { .space = f->space->no, .chunk_no = chunk_no };

	return fastoci_cache_evict(f->cache, fastoci_eviction_new(1), &key, 1, reserve);
}

static void alloc_hands_each_slot_out_once(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slots[TEST_SLOTS + 1], i;
	DECLARE_BITMAP(seen, TEST_SLOTS) = {};

	KUNIT_EXPECT_EQ(test, fastoci_slots_alloc(f->slots, slots, TEST_SLOTS + 1,
						  f->generation), TEST_SLOTS);
	for (i = 0; i < TEST_SLOTS; i++) {
		KUNIT_ASSERT_LT(test, slots[i], TEST_SLOTS);
		KUNIT_EXPECT_FALSE(test, test_and_set_bit(slots[i], seen));
	}
	KUNIT_EXPECT_EQ(test, fastoci_slots_alloc(f->slots, slots + TEST_SLOTS, 1,
						  f->generation), 0);
	slots[TEST_SLOTS] = slots[0];
	KUNIT_EXPECT_EQ(test, fastoci_slots_return(f->map, slots, TEST_SLOTS + 1,
						   f->generation), -EINVAL);
	KUNIT_EXPECT_EQ(test, f->slots->nr_free, TEST_SLOTS);
}

static void fill_takes_only_what_its_sender_reserved(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = alloc_one(test);
	int err;

	KUNIT_EXPECT_EQ(test, fill_as(test, 0, slot, f->generation + 1), -EPERM);
	KUNIT_EXPECT_EQ(test, fill_as(test, 0, slot + 1, f->generation), -EPERM);
	KUNIT_EXPECT_EQ(test, fill_as(test, 0, TEST_SLOTS, f->generation), -EINVAL);
	KUNIT_EXPECT_EQ(test, fill_as(test, TEST_CHUNKS, slot, f->generation), -EINVAL);
	err = fastoci_missq_fill(f->q, f->space->no + 1, 0, slot, f->generation);
	KUNIT_EXPECT_EQ(test, err, -EINVAL);
	KUNIT_EXPECT_EQ(test, f->space->map[0], 0);
	KUNIT_EXPECT_EQ(test, fill_as(test, 0, slot, f->generation), 0);
	KUNIT_EXPECT_EQ(test, f->space->map[0], slot + 1);
	KUNIT_EXPECT_EQ(test, f->space->nr_present, 1);
}

static void a_second_fill_keeps_the_first_slot(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 5), other = alloc_one(test);

	KUNIT_EXPECT_EQ(test, fill_as(test, 5, slot, f->generation), 0);
	KUNIT_EXPECT_EQ(test, fill_as(test, 5, other, f->generation), 0);
	KUNIT_EXPECT_EQ(test, f->space->map[5], slot + 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, other), FASTOCI_SLOT_RESERVED);
	KUNIT_EXPECT_EQ(test, f->space->nr_present, 1);
}

static void a_restored_chunk_is_served_from_its_fill_on(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = 9;

	KUNIT_EXPECT_EQ(test, restore(test, 3, slot), 0);
	KUNIT_EXPECT_EQ(test, restore(test, 3, slot), 0);
	KUNIT_EXPECT_EQ(test, restore(test, 4, slot), -EEXIST);
	KUNIT_EXPECT_EQ(test, f->space->map[3], 0);
	KUNIT_EXPECT_EQ(test, fill_as(test, 4, slot, f->generation), -EPERM);
	KUNIT_EXPECT_EQ(test, fill_as(test, 3, slot, f->generation + 9), 0);
	KUNIT_EXPECT_EQ(test, f->space->map[3], slot + 1);
	KUNIT_EXPECT_EQ(test, restore(test, 3, slot + 1), -EEXIST);
}

static void return_gives_a_restored_slot_back(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = 9;

	KUNIT_ASSERT_EQ(test, restore(test, 3, slot), 0);
	KUNIT_EXPECT_EQ(test, fastoci_slots_return(f->map, &slot, 1, f->generation), 0);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, f->space->nr_held, 0);
	KUNIT_EXPECT_EQ(test, f->slots->nr_free, TEST_SLOTS);
}

static void one_id_has_one_space_and_one_size(struct kunit *test)
{
	struct fixture *f = test->priv;
	u64 most = (u64)FASTOCI_MAX_IMAGE_CHUNKS << FASTOCI_MIN_CHUNK_SHIFT;
	u8 id[32] = { 1 };

	KUNIT_EXPECT_PTR_EQ(test, make_test_space(test, f->q, 1), f->space);
	fastoci_space_put(f->q, f->space);
	KUNIT_EXPECT_EQ(test, PTR_ERR(fastoci_space_get(f->map, id, 1)), -EEXIST);
	id[0] = 9;
	KUNIT_EXPECT_EQ(test, PTR_ERR(fastoci_space_get(f->map, id, 0)), -E2BIG);
	KUNIT_EXPECT_EQ(test, PTR_ERR(fastoci_space_get(f->map, id, most + 1)), -E2BIG);
}

static void a_space_outlives_its_images_while_it_holds_a_slot(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 no = f->space->no;

	fill(test, 0);
	fastoci_space_put(f->q, f->space);
	KUNIT_EXPECT_NOT_NULL(test, xa_load(&f->map->spaces_by_no, no));
	KUNIT_EXPECT_EQ(test, evict(test, 0, 0), 0);
	KUNIT_EXPECT_NULL(test, xa_load(&f->map->spaces_by_no, no));
	f->space = NULL;
	wait_for_evicted(test, 1);
}

static void what_living_helpers_reserved_outlives_its_cache(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fastoci_cache_sb *sb = kunit_kzalloc(test, sizeof(*sb), GFP_KERNEL);
	struct block_device *bdev = kunit_kzalloc(test, sizeof(*bdev), GFP_KERNEL);
	u32 former = alloc_one(test), gone, mine;
	struct fastoci_cache *cache;
	char *error;

	KUNIT_ASSERT_NOT_NULL(test, sb);
	KUNIT_ASSERT_NOT_NULL(test, bdev);
	KUNIT_ASSERT_EQ(test, fastoci_slots_alloc(f->slots, &gone, 1, f->generation + 1), 1);
	KUNIT_ASSERT_EQ(test, fastoci_slots_alloc(f->slots, &mine, 1, f->generation + 2), 1);
	fill(test, 0);
	bdev->bd_dev = f->cache->dev;
	memcpy(sb->uuid, f->cache->uuid, 16);
	sb->chunk_shift = cpu_to_le32(FASTOCI_MIN_CHUNK_SHIFT);
	sb->nr_slots = cpu_to_le32(TEST_SLOTS + 1);
	sb->slots_offset = cpu_to_le64(1 << FASTOCI_MIN_CHUNK_SHIFT);
	fastoci_space_put(f->q, f->space);
	fastoci_cache_put(f->cache);
	cache = fastoci_cache_get(bdev, sb, &error);
	KUNIT_EXPECT_EQ(test, PTR_ERR_OR_ZERO(cache), -EBUSY);
	fastoci_generation_end(f->generation + 1);
	sb->nr_slots = cpu_to_le32(TEST_SLOTS);
	cache = fastoci_cache_get(bdev, sb, &error);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, cache);
	use_cache(f, cache);
	f->space = make_test_space(test, f->q, 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, former), FASTOCI_SLOT_RESERVED);
	KUNIT_EXPECT_EQ(test, slot_state(f, gone), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, slot_state(f, mine), FASTOCI_SLOT_RESERVED);
	KUNIT_EXPECT_EQ(test, f->slots->nr_reserved, 2);
	KUNIT_EXPECT_EQ(test, f->slots->nr_free, TEST_SLOTS - 2);
	KUNIT_EXPECT_EQ(test, f->space->nr_held, 0);
	/* Its owner writes no more there, and says so. */
	KUNIT_EXPECT_EQ(test, fastoci_slots_release(f->slots, f->generation + 2), 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, mine), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, slot_state(f, former), FASTOCI_SLOT_RESERVED);
	/* The end of a socket is the end of what it reserved in all caches of that UUID. */
	fastoci_generation_end(f->generation);
	KUNIT_EXPECT_EQ(test, slot_state(f, former), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, f->slots->nr_free, TEST_SLOTS);
}

/* ---- eviction's grace period ---- */

static void evict_unpublishes_at_once_and_frees_after_the_last_reader(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1), more[TEST_SLOTS];
	int idx = fastoci_srcu_enter(&f->map->srcu);

	KUNIT_EXPECT_EQ(test, evict(test, 1, 0), 0);
	KUNIT_EXPECT_EQ(test, f->space->map[1], 0);
	msleep(50); /* time in which a wrong grace period would end */
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_EVICTING);
	KUNIT_EXPECT_EQ(test, fastoci_slots_alloc(f->slots, more, TEST_SLOTS, f->generation),
			TEST_SLOTS - 1);
	KUNIT_EXPECT_EQ(test, fill_as(test, 1, slot, f->generation), -EPERM);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_evicted, 0);
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_FREE);
}

static void a_chunk_can_be_filled_elsewhere_while_its_old_slot_is_read(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1), again;
	int idx = fastoci_srcu_enter(&f->map->srcu);

	KUNIT_EXPECT_EQ(test, evict(test, 1, 0), 0);
	again = fill(test, 1);
	KUNIT_EXPECT_NE(test, again, slot);
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, again), FASTOCI_SLOT_PRESENT);
	KUNIT_EXPECT_EQ(test, f->space->map[1], again + 1);
}

static void evict_with_reserve_gives_the_slot_to_its_sender(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1);

	KUNIT_EXPECT_EQ(test, evict(test, 1, f->generation), 0);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_RESERVED);
	KUNIT_EXPECT_EQ(test, fill_as(test, 2, slot, f->generation), 0);
}

static void a_sender_that_died_in_the_grace_period_gets_nothing(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1);
	int idx = fastoci_srcu_enter(&f->map->srcu);

	KUNIT_EXPECT_EQ(test, evict(test, 1, f->generation), 0);
	lose_helper();
	fastoci_slots_release(f->slots, f->generation);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_EVICTING);
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, f->slots->nr_reserved, 0);
}

static void a_lost_helper_loses_its_own_slots_alone(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 present = fill(test, 1), mine = alloc_one(test), other;

	KUNIT_ASSERT_EQ(test, fastoci_slots_alloc(f->slots, &other, 1, f->generation + 1), 1);
	fastoci_slots_release(f->slots, f->generation);
	KUNIT_EXPECT_EQ(test, slot_state(f, present), FASTOCI_SLOT_PRESENT);
	KUNIT_EXPECT_EQ(test, slot_state(f, mine), FASTOCI_SLOT_FREE);
	KUNIT_EXPECT_EQ(test, slot_state(f, other), FASTOCI_SLOT_RESERVED);
}

static void evicting_nothing_is_no_error(struct kunit *test)
{
	struct fixture *f = test->priv;

	KUNIT_EXPECT_EQ(test, evict(test, 7, 0), 0);
	KUNIT_EXPECT_EQ(test, evict(test, TEST_CHUNKS, 0), -EINVAL);
	KUNIT_EXPECT_EQ(test, fastoci_cache_evict(f->cache, fastoci_eviction_new(0), NULL, 0, 0),
			0);
}

/* ---- slots that cannot be read ---- */

static void a_slot_that_cannot_be_read_is_nobodys(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1), all[TEST_SLOTS];

	fastoci_cache_retire(f->cache, f->space, 1, slot);
	KUNIT_EXPECT_EQ(test, f->space->map[1], 0);
	KUNIT_EXPECT_EQ(test, f->space->nr_present, 0);
	KUNIT_EXPECT_EQ(test, f->space->nr_held, 0);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_bad, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.bad_slot, slot);
	KUNIT_EXPECT_EQ(test, fake_helper.bad_chunk, 1);
	fastoci_cache_retire(f->cache, f->space, 1, slot); /* another reader's turn */
	KUNIT_EXPECT_EQ(test, fake_helper.nr_bad, 1);
	KUNIT_EXPECT_EQ(test, fill_as(test, 1, slot, f->generation), -EPERM);
	KUNIT_EXPECT_EQ(test, restore(test, 1, slot), -EEXIST);
	KUNIT_EXPECT_EQ(test, fastoci_slots_return(f->map, &slot, 1, f->generation), -EINVAL);
	KUNIT_EXPECT_EQ(test, evict(test, 1, 0), 0);
	fastoci_slots_release(f->slots, f->generation);
	KUNIT_EXPECT_EQ(test, fastoci_slots_alloc(f->slots, all, TEST_SLOTS, f->generation),
			TEST_SLOTS - 1);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_BAD);
}

static void a_bad_slot_is_used_again_when_its_readers_have_left(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1), slots[] = { TEST_SLOTS, slot, slot }, other = alloc_one(test);
	int idx = fastoci_srcu_enter(&f->map->srcu);

	fastoci_cache_retire(f->cache, f->space, 1, slot);
	KUNIT_EXPECT_EQ(test, f->slots->nr_bad, 1);
	fastoci_cache_reuse(f->cache, fastoci_eviction_new(1), &other, 1, f->generation);
	KUNIT_EXPECT_EQ(test, slot_state(f, other), FASTOCI_SLOT_RESERVED);
	fastoci_cache_reuse(f->cache, fastoci_eviction_new(3), slots, 3, f->generation);
	KUNIT_EXPECT_EQ(test, f->slots->nr_bad, 0);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_EVICTING);
	KUNIT_EXPECT_EQ(test, fill_as(test, 1, slot, f->generation), -EPERM);
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.evicted[0], slot);
	KUNIT_EXPECT_EQ(test, fill_as(test, 1, slot, f->generation), 0);
}

static void retiring_a_slot_leaves_the_chunks_new_slot_alone(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot = fill(test, 1), again;
	int idx = fastoci_srcu_enter(&f->map->srcu);

	KUNIT_EXPECT_EQ(test, evict(test, 1, f->generation), 0);
	again = fill(test, 1);
	fastoci_cache_retire(f->cache, f->space, 1, slot);
	fastoci_srcu_leave(&f->map->srcu, idx);
	KUNIT_EXPECT_EQ(test, f->space->map[1], again + 1);
	KUNIT_EXPECT_EQ(test, f->space->nr_present, 1);
	/* The eviction ends without it: a later one is the first that is told. */
	KUNIT_EXPECT_EQ(test, evict(test, 1, 0), 0);
	wait_for_evicted(test, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.evicted[0], again);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_BAD);
	KUNIT_EXPECT_EQ(test, f->slots->nr_reserved, 0);
}

/* Its first eviction must not end the second one, as then it would be given back twice. */
static void a_slot_that_is_evicted_twice_is_given_back_once(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 other = fill(test, 2), slot = fill(test, 1);
	int idx = fastoci_srcu_enter(&f->map->srcu);

	KUNIT_EXPECT_EQ(test, evict(test, 1, 0), 0);
	KUNIT_EXPECT_TRUE(test, fastoci_cache_retire(f->cache, f->space, 1, slot));
	fastoci_cache_reuse(f->cache, fastoci_eviction_new(1), &slot, 1, f->generation);
	/* The same once more, with two evictions under way. */
	KUNIT_EXPECT_TRUE(test, fastoci_cache_retire(f->cache, f->space, 1, slot));
	KUNIT_EXPECT_EQ(test, f->slots->nr_bad, 1);
	fastoci_cache_reuse(f->cache, fastoci_eviction_new(1), &slot, 1, f->generation);
	KUNIT_EXPECT_EQ(test, evict(test, 2, 0), 0);
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 2);
	KUNIT_EXPECT_EQ(test, fake_helper.evicted[0] + fake_helper.evicted[1], slot + other);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_RESERVED);
	KUNIT_EXPECT_EQ(test, f->slots->nr_reserved, 1);
	KUNIT_EXPECT_EQ(test, f->slots->nr_free, TEST_SLOTS - 1);
	KUNIT_EXPECT_EQ(test, f->slots->nr_bad, 0);
	KUNIT_EXPECT_EQ(test, fill_as(test, 3, slot, f->generation), 0);
	msleep(50); /* time in which an eviction too many would end */
	KUNIT_EXPECT_EQ(test, fake_helper.nr_evicted, 2);
	KUNIT_EXPECT_EQ(test, slot_state(f, slot), FASTOCI_SLOT_PRESENT);
}

/* A batch goes on without the one of its slots that became bad. */
static void a_bad_slot_leaves_the_batch_that_evicts_it(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fastoci_chunk_key keys[3] = {};
	u32 slots[3], i;
	int idx = fastoci_srcu_enter(&f->map->srcu);

	for (i = 0; i < 3; i++) {
		slots[i] = fill(test, i);
		keys[i].space = f->space->no;
		keys[i].chunk_no = i;
	}
	KUNIT_EXPECT_EQ(test, fastoci_cache_evict(f->cache, fastoci_eviction_new(3), keys, 3,
						  f->generation), 0);
	KUNIT_EXPECT_TRUE(test, fastoci_cache_retire(f->cache, f->space, 0, slots[0]));
	fastoci_srcu_leave(&f->map->srcu, idx);
	wait_for_evicted(test, 2);
	KUNIT_EXPECT_EQ(test, fake_helper.evicted[0] + fake_helper.evicted[1], slots[1] + slots[2]);
	KUNIT_EXPECT_EQ(test, slot_state(f, slots[0]), FASTOCI_SLOT_BAD);
	KUNIT_EXPECT_EQ(test, f->slots->nr_reserved, 2);
}

static struct kunit_case map_cases[] = {
	KUNIT_CASE(alloc_hands_each_slot_out_once),
	KUNIT_CASE(fill_takes_only_what_its_sender_reserved),
	KUNIT_CASE(a_second_fill_keeps_the_first_slot),
	KUNIT_CASE(a_restored_chunk_is_served_from_its_fill_on),
	KUNIT_CASE(return_gives_a_restored_slot_back),
	KUNIT_CASE(one_id_has_one_space_and_one_size),
	KUNIT_CASE(a_space_outlives_its_images_while_it_holds_a_slot),
	KUNIT_CASE(a_lost_helper_loses_its_own_slots_alone),
	KUNIT_CASE(what_living_helpers_reserved_outlives_its_cache),
	KUNIT_CASE(a_slot_that_cannot_be_read_is_nobodys),
	{}
};

static struct kunit_case evict_cases[] = {
	KUNIT_CASE(evict_unpublishes_at_once_and_frees_after_the_last_reader),
	KUNIT_CASE(a_chunk_can_be_filled_elsewhere_while_its_old_slot_is_read),
	KUNIT_CASE(evict_with_reserve_gives_the_slot_to_its_sender),
	KUNIT_CASE(a_sender_that_died_in_the_grace_period_gets_nothing),
	KUNIT_CASE(retiring_a_slot_leaves_the_chunks_new_slot_alone),
	KUNIT_CASE(a_bad_slot_is_used_again_when_its_readers_have_left),
	KUNIT_CASE(a_slot_that_is_evicted_twice_is_given_back_once),
	KUNIT_CASE(a_bad_slot_leaves_the_batch_that_evicts_it),
	KUNIT_CASE(evicting_nothing_is_no_error),
	{}
};

static struct kunit_suite map_suite = CACHE_SUITE("fastoci_chunkmap", map_cases);

static struct kunit_suite evict_suite = CACHE_SUITE("fastoci_evict", evict_cases);

kunit_test_suites(&map_suite, &evict_suite);
