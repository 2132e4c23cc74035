// SPDX-License-Identifier: GPL-2.0
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/slab.h>

#include "kunit.h"

struct fake_helper fake_helper;

/* ---- in place of netlink.c and target.c ---- */

bool fastoci_helper_present(void)
{
	return fake_helper.present;
}

u64 fastoci_helper_generation(void)
{
	return fake_helper.present ? fake_helper.generation : 0;
}

bool fastoci_generation_alive(u64 generation)
{
	return fastoci_helper_generation() == generation;
}

void fastoci_commands_stop(void)
{
}

void fastoci_commands_go_on(void)
{
}

int fastoci_send_misses(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr)
{
	fake_helper.nr_sends++;
	if (fake_helper.nr_errors) {
		fake_helper.nr_errors--;
		return fake_helper.send_error;
	}
	if (!fake_helper.present)
		return -ECONNREFUSED;
	while (nr-- && fake_helper.nr_sent < ARRAY_SIZE(fake_helper.sent))
		fake_helper.sent[fake_helper.nr_sent++] = *keys++;
	return 0;
}

void fastoci_send_evicted(struct fastoci_cache *cache, const struct fastoci_miss_key *keys,
			  const u32 *slots, u32 nr)
{
	while (nr-- && fake_helper.nr_evicted < ARRAY_SIZE(fake_helper.evicted))
		fake_helper.evicted[fake_helper.nr_evicted++] = *slots++;
}

void fastoci_send_slot_bad(struct fastoci_cache *cache, const struct fastoci_miss_key *key,
			   u32 slot)
{
	fake_helper.nr_bad++;
	fake_helper.bad_slot = slot;
	fake_helper.bad_chunk = key->chunk_no;
}

void fastoci_send_cache(struct fastoci_cache *cache, bool added)
{
}

bool fastoci_try_hit(struct fastoci_image *image, struct fastoci_space *space, u64 data_sector,
		     struct bio *bio, struct fastoci_bio *pb, bool may_split)
{
	return false;
}

void fastoci_image_count(const struct fastoci_image *image, struct fastoci_stats *sum)
{
	*sum = (struct fastoci_stats){};
}

/* ---- fixtures ---- */

int test_suite_init(struct kunit_suite *suite)
{
	int err = fastoci_missq_init();

	if (err)
		return err;
	err = fastoci_cache_init();
	if (err)
		fastoci_missq_exit();
	return err;
}

void test_suite_exit(struct kunit_suite *suite)
{
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
	fake_helper.present = true;
	fake_helper.generation = TEST_GENERATION;
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

struct fastoci_space *make_test_space(struct kunit *test, struct fastoci_cache *cache, u8 id)
{
	u8 long_id[32] = { id };
	struct fastoci_space *space;

	space = fastoci_space_get(cache, long_id,
				  (u64)TEST_CHUNKS << FASTOCI_MIN_CHUNK_SHIFT);
	KUNIT_ASSERT_NOT_ERR_OR_NULL(test, space);
	return space;
}

int fixture_init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->cache = make_test_cache(test);
	f->space = make_test_space(test, f->cache, 1);
	return 0;
}

void fixture_exit(struct kunit *test)
{
	struct fixture *f = test->priv;

	if (f->space)
		fastoci_space_put(f->cache, f->space);
	fastoci_cache_put(f->cache);
}

void wait_for_evicted(struct kunit *test, u32 nr)
{
	int i;

	for (i = 0; i < 100 && READ_ONCE(fake_helper.nr_evicted) < nr; i++)
		msleep(20);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_evicted, nr);
}

u32 slot_state(struct fastoci_cache *cache, u32 slot)
{
	u32 state;

	spin_lock(&cache->lock);
	state = fastoci_slot_state(&cache->slots[slot]);
	spin_unlock(&cache->lock);
	return state;
}

MODULE_DESCRIPTION("KUnit suites of dm-fastoci");
MODULE_LICENSE("GPL");
MODULE_SOFTDEP("pre: crc32c");
