// SPDX-License-Identifier: GPL-2.0
#include <linux/delay.h>

#include "kunit.h"

/* Misses without bios, as NOWAIT reads leave them: parking itself is tested in the VM. */

/* The part of a bio of 4 KiB pages that begins @skip bytes behind its start, as map() cuts it. */
static void miss_of(struct kunit *test, u32 chunk_no, blk_opf_t flags, u32 skip)
{
	struct fixture *f = test->priv;
	struct fastoci_waiters waiters = { .missq = f->q };
	struct fastoci_parked read = {
		.waiters = &waiters,
		.space = f->space,
		.data_sector = (u64)chunk_no << (FASTOCI_MIN_CHUNK_SHIFT - SECTOR_SHIFT),
	};
	struct bio_vec *vec = kunit_kcalloc(test, BIO_MAX_VECS, sizeof(*vec), GFP_KERNEL);
	struct bio bio = { .bi_opf = REQ_OP_READ | REQ_NOWAIT | flags, .bi_io_vec = vec };
	u32 i;

	KUNIT_ASSERT_NOT_NULL(test, vec);
	for (i = 0; i < BIO_MAX_VECS; i++)
		vec[i].bv_len = SZ_4K;
	bio.bi_iter.bi_size = BIO_MAX_VECS * SZ_4K;
	bvec_iter_advance(vec, &bio.bi_iter, skip);
	bio.bi_iter.bi_size = SZ_4K;
	fastoci_note_miss(&bio, &read);
}

static void demand(struct kunit *test, u32 chunk_no)
{
	miss_of(test, chunk_no, 0, 0);
}

static void readahead(struct kunit *test, u32 chunk_no)
{
	miss_of(test, chunk_no, REQ_RAHEAD, 0);
}

static void sent(struct kunit *test)
{
	struct fixture *f = test->priv;

	flush_work(&f->q->send_work);
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
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 1);
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

static void the_class_of_readahead_is_by_its_place_in_what_was_submitted(struct kunit *test)
{
	miss_of(test, 0, REQ_RAHEAD, SZ_256K - 512);
	sent(test);
	miss_of(test, 1, REQ_RAHEAD, SZ_256K);
	sent(test);
	miss_of(test, 2, REQ_RAHEAD, SZ_256K + SZ_4K + 512);
	sent(test);
	miss_of(test, 3, 0, SZ_512K);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, 4);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].class, FASTOCI_CLASS_MAYBE);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[1].class, FASTOCI_CLASS_AHEAD);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[2].class, FASTOCI_CLASS_AHEAD);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[3].class, FASTOCI_CLASS_DEMAND);
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
	fastoci_missq_ack(f->q, 1);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, FASTOCI_MISS_WINDOW + 1);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[FASTOCI_MISS_WINDOW].chunk_no, 1900);
	fastoci_missq_ack(f->q, U32_MAX); /* more than there is */
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

/* Two misses whose first sends fail are sent in order, and nobody has to ask for them. */
static void expect_sent_after(struct kunit *test, int error, u32 nr_errors)
{
	int i;

	fake_helper.send_error = error;
	fake_helper.nr_errors = nr_errors;
	demand(test, 3);
	demand(test, 4);
	for (i = 0; i < 100 && fake_helper.nr_sent < 2; i++)
		msleep(20);
	sent(test);
	KUNIT_ASSERT_EQ(test, fake_helper.nr_sent, 2);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[0].chunk_no, 3);
	KUNIT_EXPECT_EQ(test, fake_helper.sent[1].chunk_no, 4);
}

static void without_memory_it_is_sent_later(struct kunit *test)
{
	expect_sent_after(test, -ENOMEM, 1);
}

static void a_full_socket_is_tried_until_it_takes_them(struct kunit *test)
{
	expect_sent_after(test, -EAGAIN, 5);
}

static void without_a_helper_the_next_one_is_sent_them(struct kunit *test)
{
	struct fixture *f = test->priv;

	fake_helper.send_error = -ECONNREFUSED;
	fake_helper.nr_errors = U32_MAX;
	demand(test, 3);
	demand(test, 4);
	sent(test);
	KUNIT_EXPECT_EQ(test, f->q->unacked, 0);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 2);
	fake_helper.nr_errors = 0;
	demand(test, 5);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 3);
}

static void what_is_not_answered_is_forgotten_if_nobody_waits(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fastoci_miss *miss;

	demand(test, 3);
	demand(test, 4);
	sent(test);
	fastoci_missq_lock(f->q);
	miss = list_first_entry(&f->q->asked, struct fastoci_miss, queue);
	miss->asked_at -= msecs_to_jiffies(3600000); /* the most that ask_again_ms can be */
	fastoci_missq_arm_timer_locked(f->q, jiffies);
	fastoci_missq_unlock(f->q);
	flush_delayed_work(&f->q->timer_work);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 1);
	demand(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 3);
}

static void a_filled_or_failed_chunk_can_be_missed_anew(struct kunit *test)
{
	struct fixture *f = test->priv;

	demand(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fastoci_missq_fail(f->q, f->space->no, 3, EIO), 0);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 0);
	demand(test, 3);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 2);
	KUNIT_EXPECT_EQ(test, fastoci_missq_fail(f->q, f->space->no, TEST_CHUNKS, EIO),
			-EINVAL);
}

static void misses_go_with_their_space_alone(struct kunit *test)
{
	struct fixture *f = test->priv;
	struct fastoci_space *mine = f->space;

	demand(test, 1);
	f->space = make_test_space(test, f->q, 2);
	demand(test, 1);
	demand(test, TEST_CHUNKS - 1);
	fastoci_space_put(f->q, f->space);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 1);
	f->space = mine;
	sent(test);
}

static void misses_go_with_the_last_image_although_a_slot_stays(struct kunit *test)
{
	struct fixture *f = test->priv;
	u32 slot;

	KUNIT_ASSERT_EQ(test, fastoci_slots_alloc(f->slots, &slot, 1, f->generation), 1);
	KUNIT_ASSERT_EQ(test, fastoci_missq_fill(f->q, f->space->no, 2, slot,
						 f->generation), 0);
	demand(test, 1);
	sent(test);
	fastoci_space_put(f->q, f->space);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 0);
	f->space = make_test_space(test, f->q, 1);
	demand(test, 1);
	sent(test);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sent, 2);
}

static void a_helper_that_acknowledges_nothing_is_stalled(struct kunit *test)
{
	struct fixture *f = test->priv;
	enum fastoci_helper_state before, stalled, after;

	demand(test, 1);
	sent(test);
	fastoci_missq_lock(f->q);
	before = fastoci_helper_state_locked(f->q);
	f->q->unacked_since -= msecs_to_jiffies(3600000); /* the most that stall_ms can be */
	stalled = fastoci_helper_state_locked(f->q);
	fastoci_missq_unlock(f->q);
	fastoci_missq_ack(f->q, 1);
	fastoci_missq_lock(f->q);
	after = fastoci_helper_state_locked(f->q);
	fastoci_missq_unlock(f->q);
	KUNIT_EXPECT_EQ(test, before, FASTOCI_HELPER_READY);
	KUNIT_EXPECT_EQ(test, stalled, FASTOCI_HELPER_STALLED);
	KUNIT_EXPECT_EQ(test, after, FASTOCI_HELPER_READY);
	lose_helper();
	fastoci_missq_lock(f->q);
	after = fastoci_helper_state_locked(f->q);
	fastoci_missq_unlock(f->q);
	KUNIT_EXPECT_EQ(test, after, FASTOCI_HELPER_NONE);
}

static void nobody_is_asked_without_a_helper(struct kunit *test)
{
	struct fixture *f = test->priv;

	lose_helper();
	demand(test, 1);
	sent(test);
	KUNIT_EXPECT_EQ(test, f->q->nr_misses, 0);
	KUNIT_EXPECT_EQ(test, fake_helper.nr_sends, 0);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(a_chunk_is_asked_for_once),
	KUNIT_CASE(a_plain_read_raises_the_class_of_readahead),
	KUNIT_CASE(the_class_of_readahead_is_by_its_place_in_what_was_submitted),
	KUNIT_CASE(the_window_closes_and_demand_passes_readahead),
	KUNIT_CASE(batches_are_bounded),
	KUNIT_CASE(without_memory_it_is_sent_later),
	KUNIT_CASE(a_full_socket_is_tried_until_it_takes_them),
	KUNIT_CASE(without_a_helper_the_next_one_is_sent_them),
	KUNIT_CASE(what_is_not_answered_is_forgotten_if_nobody_waits),
	KUNIT_CASE(a_filled_or_failed_chunk_can_be_missed_anew),
	KUNIT_CASE(misses_go_with_their_space_alone),
	KUNIT_CASE(misses_go_with_the_last_image_although_a_slot_stays),
	KUNIT_CASE(a_helper_that_acknowledges_nothing_is_stalled),
	KUNIT_CASE(nobody_is_asked_without_a_helper),
	{}
};

static struct kunit_suite suite = CACHE_SUITE("fastoci_missq", cases);

kunit_test_suite(suite);
