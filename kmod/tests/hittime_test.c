// SPDX-License-Identifier: GPL-2.0
#include "kunit.h"

static void a_bound_is_the_last_of_its_entry(struct kunit *test)
{
	u64 bound;
	u32 i;

	for (i = 0; i < FASTOCI_NR_HIT_TIMES - 1; i++) {
		bound = 1ULL << (FASTOCI_HIT_TIME_SHIFT + i);
		KUNIT_EXPECT_EQ(test, fastoci_hit_time_index(bound), i);
		KUNIT_EXPECT_EQ(test, fastoci_hit_time_index(bound + 1), i + 1);
	}
}

static void any_time_has_an_entry(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, fastoci_hit_time_index(0), 0);
	KUNIT_EXPECT_EQ(test, fastoci_hit_time_index(1), 0);
	KUNIT_EXPECT_EQ(test, fastoci_hit_time_index(U64_MAX), FASTOCI_NR_HIT_TIMES - 1);
}

#define LINE(type, field) (offsetof(struct type, field) / L1_CACHE_BYTES)

static void a_hit_reads_no_line_that_a_miss_writes(struct kunit *test)
{
	KUNIT_EXPECT_LT(test, LINE(fastoci_slots, accessed), LINE(fastoci_slots, lock));
	KUNIT_EXPECT_LE(test, LINE(fastoci_slots, lock), LINE(fastoci_slots, nr_free));
	KUNIT_EXPECT_LT(test, LINE(fastoci_chunkmap, srcu), LINE(fastoci_chunkmap, slots));
	KUNIT_EXPECT_LT(test, LINE(fastoci_image, chunk_shift), LINE(fastoci_image, waiters));
	KUNIT_EXPECT_LT(test, LINE(fastoci_image, accessed), LINE(fastoci_image, waiters));
	KUNIT_EXPECT_LE(test, LINE(fastoci_image, waiters), LINE(fastoci_image, reread));
	/* All that a hit reads of its image is on two lines. */
	KUNIT_EXPECT_LE(test, LINE(fastoci_image, chunk_shift), 1);
}

static struct kunit_case cases[] = {
	KUNIT_CASE(a_bound_is_the_last_of_its_entry),
	KUNIT_CASE(any_time_has_an_entry),
	KUNIT_CASE(a_hit_reads_no_line_that_a_miss_writes),
	{}
};

static struct kunit_suite suite = { .name = "fastoci_hittime", .test_cases = cases };

kunit_test_suite(suite);
