// SPDX-License-Identifier: GPL-2.0
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "kunit.h"

struct fake_helper fake_helper;

/* ---- what is told to the helper ---- */

static int send_misses(u32 cache_no, const struct fastoci_chunk_key *keys, u32 nr)
{
	fake_helper.nr_sends++;
	if (fake_helper.nr_errors) {
		fake_helper.nr_errors--;
		return fake_helper.send_error;
	}
	if (!fastoci_helper_present())
		return -ECONNREFUSED;
	while (nr-- && fake_helper.nr_sent < ARRAY_SIZE(fake_helper.sent))
		fake_helper.sent[fake_helper.nr_sent++] = *keys++;
	return 0;
}

static void send_evicted(u32 cache_no, const struct fastoci_chunk_key *keys, const u32 *slots,
			 u32 nr)
{
	while (nr-- && fake_helper.nr_evicted < ARRAY_SIZE(fake_helper.evicted))
		fake_helper.evicted[fake_helper.nr_evicted++] = *slots++;
}

static void send_slot_bad(u32 cache_no, const struct fastoci_chunk_key *key, u32 slot)
{
	fake_helper.nr_bad++;
	fake_helper.bad_slot = slot;
	fake_helper.bad_chunk = key->chunk_no;
}

static void send_cache(const struct fastoci_cache *cache, bool added)
{
}

static const struct fastoci_helper_ops ops = {
	.send_misses = send_misses,
	.send_evicted = send_evicted,
	.send_slot_bad = send_slot_bad,
	.send_cache = send_cache,
};

static u32 portid;	/* of the helper */

void lose_helper(void)
{
	u64 generation;

	fastoci_helper_release(portid, &generation);
}

u64 new_helper(struct kunit *test)
{
	u64 generation;

	KUNIT_ASSERT_EQ(test, fastoci_helper_register(++portid, true, &generation), 0);
	return generation;
}

/* No read is parked without a bio. */
static void release(struct fastoci_parked *p)
{
	WARN_ON_ONCE(1);
}

/* ---- fixtures ---- */

int test_suite_init(struct kunit_suite *suite)
{
	int err = fastoci_missq_init(release);

	if (err)
		return err;
	fastoci_helper_init(&ops);
	err = fastoci_cache_init();
	if (err)
		fastoci_missq_exit();
	return err;
}

void test_suite_exit(struct kunit_suite *suite)
{
	fastoci_cache_drain();
	fastoci_helper_exit();
	fastoci_cache_exit();
	fastoci_missq_exit();
}

struct fastoci_cache *make_test_cache(struct kunit *test)
{
	static u32 nr; /* each has a UUID of its own: what one leaves reserved is not another's */
	struct fastoci_cache_sb *sb = kunit_kzalloc(test, sizeof(*sb), GFP_KERNEL);
	struct block_device *bdev = kunit_kzalloc(test, sizeof(*bdev), GFP_KERNEL);
	struct fastoci_cache *cache;
	char *error = NULL;

	KUNIT_ASSERT_NOT_NULL(test, sb);
	KUNIT_ASSERT_NOT_NULL(test, bdev);
	memset(&fake_helper, 0, sizeof(fake_helper));
	nr++;
	bdev->bd_dev = MKDEV(1, nr);
	memcpy(sb->uuid, &nr, sizeof(nr));
	sb->chunk_shift = cpu_to_le32(FASTOCI_MIN_CHUNK_SHIFT);
	sb->nr_slots = cpu_to_le32(TEST_SLOTS);
	sb->slots_offset = cpu_to_le64(1 << FASTOCI_MIN_CHUNK_SHIFT);
	cache = fastoci_cache_get(bdev, sb, &error);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, cache);
	return cache;
}

struct fastoci_space *make_test_space(struct kunit *test, struct fastoci_missq *q, u8 id)
{
	u8 long_id[32] = { id };
	struct fastoci_space *space;

	space = fastoci_space_get(&q->map, long_id,
				  (u64)TEST_CHUNKS << FASTOCI_MIN_CHUNK_SHIFT);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, space);
	return space;
}

void use_cache(struct fixture *f, struct fastoci_cache *cache)
{
	f->cache = cache;
	f->q = &cache->missq;
	f->map = &f->q->map;
	f->slots = &f->map->slots;
}

int fixture_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->generation = new_helper(test);
	use_cache(f, make_test_cache(test));
	f->space = make_test_space(test, f->q, 1);
	return 0;
}

void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f->space)
		fastoci_space_put(f->q, f->space);
	fastoci_cache_put(f->cache);
	lose_helper();
}

void wait_for_evicted(struct kunit *test, u32 nr)
{
	int i;

	for (i = 0; i < 100 && READ_ONCE(fake_helper.nr_evicted) < nr; i++)
		msleep(20);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_evicted, nr);
}

u32 slot_state(struct fixture *f, u32 slot)
{
	u32 state;

	spin_lock(&f->slots->lock);
	state = fastoci_slot_state(&f->slots->slot[slot]);
	spin_unlock(&f->slots->lock);
	return state;
}

MODULE_DESCRIPTION("KUnit suites of dm-fastoci");
MODULE_LICENSE("GPL");
MODULE_SOFTDEP("pre: crc32c");
