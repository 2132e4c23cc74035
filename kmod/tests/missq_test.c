// SPDX-License-Identifier: GPL-2.0
#include <linux/delay.h>

#include "kunit.h"

/* Misses without bios, as NOWAIT reads leave them: parking itself is tested in the VM. */
struct fixture {
	struct fastoci_cache *cache;
	struct fastoci_space *space;
	struct fastoci_image image;
};

static int init(struct kunit *test)
{
	struct fixture *f = kunit_kzalloc(test, sizeof(*f), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, f);
	test->priv = f;
	f->cache = make_test_cache(test);
	f->space = make_test_space(test, f->cache, 1);
	f->image.cache = f->cache;
	return 0;
}

static void end(struct kunit *test)
{
	struct fixture *f = test->priv;

	fastoci_space_put(f->cache, f->space);
	fastoci_cache_put(f->cache);
}

static void miss_of(struct kunit *test, u32 chunk_no, blk_opf_t flags, u32 bytes)
{
	struct fixture *f = test->priv;
	struct fastoci_bio pb = {
		.image = &f->image,
		.space = f->space,
		.data_sector = (u64)chunk_no << (FASTOCI_MIN_CHUNK_SHIFT - SECTOR_SHIFT),
	};
	struct bio bio = { .bi_opf = REQ_OP_READ | REQ_NOWAIT | flags };

	bio.bi_iter.bi_size = bytes;
	fastoci_note_miss(&pb, &bio);
}

static void demand(struct kunit *test, u32 chunk_no)
{
	miss_of(test, chunk_no, 0, 4096);
}

static void readahead(struct kunit *test, u32 chunk_no)
{
	miss_of(test, chunk_no, REQ_RAHEAD, 4096);
}

static void sent(struct kunit *test)
{
	struct fixture *f = test->priv;

	flush_work(&f->cache->send_work);
}

static void a_chunk_is_asked_for_once(struct kunit *test)
{
	struct fixture *f = test->priv;

	demand(test, 3);
	sent(test);
	demand(test, 3);
	readahead(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].chunk_no, 3);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].space, f->space->no);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].class, FASTOCI_CLASS_DEMAND);
	KUNIT_EXPECT_EQ(test, f->cache->nr_misses, 1);
}

static void a_plain_read_raises_the_class_of_readahead(struct kunit *test)
{
	readahead(test, 3);
	sent(test);
	demand(test, 3);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, 2);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].class, FASTOCI_CLASS_MAYBE);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[1].class, FASTOCI_CLASS_DEMAND);
}

static void long_readahead_comes_last(struct kunit *test)
{
	miss_of(test, 0, REQ_RAHEAD, SZ_256K + 4096);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].class, FASTOCI_CLASS_AHEAD);
}

static void the_window_closes_and_demand_passes_readahead(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 i;

	for (i = 0; i < FASTOCI_MISS_WINDOW; i++)
		readahead(test, i);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, FASTOCI_MISS_WINDOW);
	for (i = 0; i < 10; i++)
		readahead(test, FASTOCI_MISS_WINDOW + i);
	demand(test, 1900);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, FASTOCI_MISS_WINDOW);
	fastoci_cache_ack(f->cache, 1);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, FASTOCI_MISS_WINDOW + 1);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[FASTOCI_MISS_WINDOW].chunk_no, 1900);
	fastoci_cache_ack(f->cache, U32_MAX); /* more than there is */
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, FASTOCI_MISS_WINDOW + 11);
}

static void batches_are_bounded(struct kunit *test)
{
	u32 i;

	for (i = 0; i <= FASTOCI_MAX_BATCH; i++)
		demand(test, i);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, FASTOCI_MAX_BATCH + 1);
	KUNIT_EXPECT_GE(test, fake_helper.nr_sends, 2);
}

static void without_memory_it_is_sent_later(struct kunit *test)
{
	int i;

	fake_helper.send_error = -ENOMEM;
	demand(test, 3);
	demand(test, 4);
	for (i = 0; i < 100 && fake_helper.nr_sent < 2; i++)
		msleep(20);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, 2);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].chunk_no, 3);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[1].chunk_no, 4);
}

static void a_full_socket_silences_until_the_helper_asks(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 sends;

	fake_helper.send_error = -EAGAIN;
	demand(test, 3);
	sent(test);
	sends = fake_helper.nr_sends;
	demand(test, 4);
	sent(test);
	fastoci_cache_ack(f->cache, 1);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sends, sends);
	fastoci_cache_resend(f->cache, NULL);
	demand(test, 5);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 1);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].chunk_no, 5);
}

static void a_filled_or_failed_chunk_can_be_missed_anew(struct kunit *test)
{
	struct fixture *f = test->priv;

	demand(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fastoci_chunk_fail(f->cache, f->space->no, 3, EIO), 0);
	KUNIT_EXPECT_EQ(test, f->cache->nr_misses, 0);
	demand(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 2);
	KUNIT_EXPECT_EQ(test, fastoci_chunk_fail(f->cache, f->space->no, TEST_CHUNKS, EIO),
			-EINVAL);
}

static void misses_go_with_their_space_alone(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fastoci_space *mine = f->space;

	demand(test, 1);
	f->space = make_test_space(test, f->cache, 2);
	demand(test, 1);
	demand(test, TEST_CHUNKS - 1);
	fastoci_space_put(f->cache, f->space);
	KUNIT_EXPECT_EQ(test, f->cache->nr_misses, 1);
	f->space = mine;
	sent(test);
}

static void a_helper_that_acknowledges_nothing_is_stalled(struct kunit *test)
{
	struct fixture *f = test->priv;
	enum fastoci_helper_state before, stalled, after;

	demand(test, 1);
	sent(test);
	spin_lock(&f->cache->lock);
	before = fastoci_helper_state(f->cache);
	f->cache->unacked_since -= msecs_to_jiffies(3600000); /* the most that stall_ms can be */
	stalled = fastoci_helper_state(f->cache);
	spin_unlock(&f->cache->lock);
	fastoci_cache_ack(f->cache, 1);
	spin_lock(&f->cache->lock);
	after = fastoci_helper_state(f->cache);
	spin_unlock(&f->cache->lock);
	KUNIT_EXPECT_EQ(test, before, FASTOCI_HELPER_READY);
	KUNIT_EXPECT_EQ(test, stalled, FASTOCI_HELPER_STALLED);
	KUNIT_EXPECT_EQ(test, after, FASTOCI_HELPER_READY);
	fake_helper.present = false;
	spin_lock(&f->cache->lock);
	after = fastoci_helper_state(f->cache);
	spin_unlock(&f->cache->lock);
	KUNIT_EXPECT_EQ(test, after, FASTOCI_HELPER_NONE);
}

static void nobody_is_asked_without_a_helper(struct kunit *test)
{
	struct fixture *f = test->priv;

	fake_helper.present = false;
	demand(test, 1);
	sent(test);
	KUNIT_EXPECT_EQ(test, f->cache->nr_misses, 0);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sends, 0);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(a_chunk_is_asked_for_once),
	KUNIT_CASE(a_plain_read_raises_the_class_of_readahead),
	KUNIT_CASE(long_readahead_comes_last),
	KUNIT_CASE(the_window_closes_and_demand_passes_readahead),
	KUNIT_CASE(batches_are_bounded),
	KUNIT_CASE(without_memory_it_is_sent_later),
	KUNIT_CASE(a_full_socket_silences_until_the_helper_asks),
	KUNIT_CASE(a_filled_or_failed_chunk_can_be_missed_anew),
	KUNIT_CASE(misses_go_with_their_space_alone),
	KUNIT_CASE(a_helper_that_acknowledges_nothing_is_stalled),
	KUNIT_CASE(nobody_is_asked_without_a_helper),
	{}
};

static struct kunit_suite suite = {
	.name = "fastoci_missq", .test_cases = cases, .init = init, .exit = end,
	.suite_init = test_suite_init, .suite_exit = test_suite_exit,
};

kunit_test_suite(suite);
