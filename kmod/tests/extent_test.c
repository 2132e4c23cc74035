// SPDX-License-Identifier: GPL-2.0
#include <linux/random.h>
#include <linux/prandom.h>

#include "kunit.h"

/* A table of @nr extents whose lengths come from 1..@longest, with its index. */
static void make_table(struct kunit *test, struct fastoci_extents *t, u32 nr, u32 longest)
{
	struct fastoci_extent_bounds bounds = { .metadata_first = 0, .metadata_end = 1 };
	struct rnd_state rnd;
	u32 i, sector = 0;

	prandom_seed_state(&rnd, nr * 31 + longest);
	t->nr = nr;
	t->keys = kunit_kcalloc(test, nr + 1, sizeof(u32), GFP_KERNEL);
	t->payloads = kunit_kcalloc(test, nr, sizeof(u64), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->keys);
	KUNIT_ASSERT_NOT_NULL(test, t->payloads);
	for (i = 0; i < nr; i++) {
		t->keys[i] = (__force u32)cpu_to_le32(sector);
		sector += 1 + prandom_u32_state(&rnd) % longest;
	}
	KUNIT_ASSERT_PTR_EQ(test, fastoci_extents_check(t, sector, &bounds), NULL);
	t->starts = kunit_kcalloc(test, fastoci_extents_plan_starts(t), sizeof(u32), GFP_KERNEL);
	KUNIT_ASSERT_NOT_NULL(test, t->starts);
	fastoci_extents_fill_starts(t);
}

struct shape {
	const char *name;
	u32 nr, longest;
};

static const struct shape shapes[] = {
	{ "one sector", 1, 1 },
	{ "one extent", 1, 100000 },
	{ "two extents", 2, 8 },
	{ "sectors", 1000, 1 },
	{ "short extents", 5000, 8 },
	{ "uneven extents", 1000, 1000000 },
	{ "long extents", 3, 1U << 30 },
};

static void shape_name(const struct shape *s, char *name)
{
	strscpy(name, s->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(shape, shapes, shape_name);

static void finds_the_extent_of_its_first_and_last_sector(struct kunit *test)
{
	const struct shape *s = test->param_value;
	struct fastoci_extents t;
	u32 i;

	make_table(test, &t, s->nr, s->longest);
	for (i = 0; i < t.nr; i++) {
		KUNIT_ASSERT_EQ(test, fastoci_extent_find(&t, t.keys[i]), i);
		KUNIT_ASSERT_EQ(test, fastoci_extent_find(&t, t.keys[i + 1] - 1), i);
		KUNIT_ASSERT_EQ(test, fastoci_extent_find(&t, t.keys[i] +
							  (t.keys[i + 1] - t.keys[i]) / 2), i);
	}
}

static void index_costs_at_most_half_a_word_per_extent(struct kunit *test)
{
	const struct shape *s = test->param_value;
	struct fastoci_extents t;

	make_table(test, &t, s->nr, s->longest);
	KUNIT_EXPECT_LE(test, fastoci_extents_plan_starts(&t), max(t.nr / 2, 2U) + 1);
}

static void one_extent_may_be_as_long_as_a_device(struct kunit *test)
{
	u32 keys[] = { 0, FASTOCI_MAX_DEVICE_SECTORS }, starts[3];
	u64 payload = 0;
	struct fastoci_extents t = {
		.nr = 1, .keys = keys, .payloads = &payload, .starts = starts,
	};

	KUNIT_ASSERT_LE(test, fastoci_extents_plan_starts(&t), ARRAY_SIZE(starts));
	fastoci_extents_fill_starts(&t);
	KUNIT_EXPECT_EQ(test, fastoci_extent_find(&t, 0), 0);
	KUNIT_EXPECT_EQ(test, fastoci_extent_find(&t, FASTOCI_MAX_DEVICE_SECTORS - 1), 0);
}

/* Three extents, of 24 sectors; the metadata area is 64..71, the one blob has 4097 bytes. */
struct bad_table {
	const char *name;
	u32 keys[3];
	u64 payloads[3];
	const char *words;	/* NULL: accepted */
};

#define META(sector) (FASTOCI_EXTENT_META << FASTOCI_EXTENT_TYPE_SHIFT | (sector))
#define BLOB(no, sector) (FASTOCI_EXTENT_BLOB << FASTOCI_EXTENT_TYPE_SHIFT | \
			  (u64)(no) << FASTOCI_EXTENT_BLOB_SHIFT | (sector))
#define GOOD_KEYS { 0, 8, 16 }

static const struct bad_table bad_tables[] = {
	{ "zeros", GOOD_KEYS, { 0, 0, 0 }, NULL },
	{ "whole metadata area", GOOD_KEYS, { META(64), 0, 0 }, NULL },
	{ "to the blob's last, partial sector", GOOD_KEYS, { BLOB(0, 1), 0, 0 }, NULL },
	{ "first key not 0", { 1, 8, 16 }, { 0, 0, 0 },
	  "meta: the first extent does not begin at sector 0" },
	{ "equal keys", { 0, 8, 8 }, { 0, 0, 0 }, "meta: extents are not sorted" },
	{ "falling keys", { 0, 16, 8 }, { 0, 0, 0 }, "meta: extents are not sorted" },
	{ "last key at the end", { 0, 8, 24 }, { 0, 0, 0 },
	  "meta: the last extent begins behind the device" },
	{ "last key is the highest", { 0, 8, U32_MAX }, { 0, 0, 0 },
	  "meta: the last extent begins behind the device" },
	{ "zero with a target", GOOD_KEYS, { 0, 5, 0 }, "meta: a zero extent has a target" },
	{ "before the metadata", GOOD_KEYS, { META(63), 0, 0 },
	  "meta: an extent points outside of the metadata area" },
	{ "over the metadata's end", GOOD_KEYS, { META(65), 0, 0 },
	  "meta: an extent points outside of the metadata area" },
	{ "far behind the metadata", GOOD_KEYS, { META(FASTOCI_EXTENT_SECTOR_MASK), 0, 0 },
	  "meta: an extent points outside of the metadata area" },
	{ "metadata of a blob", GOOD_KEYS, { META(64) | 1ULL << FASTOCI_EXTENT_BLOB_SHIFT, 0, 0 },
	  "meta: an extent of the metadata area names a blob" },
	{ "over the blob's end", GOOD_KEYS, { BLOB(0, 2), 0, 0 },
	  "meta: an extent points behind its data space" },
	{ "far behind the blob", GOOD_KEYS, { BLOB(0, FASTOCI_EXTENT_SECTOR_MASK), 0, 0 },
	  "meta: an extent points behind its data space" },
	{ "second blob of one", GOOD_KEYS, { BLOB(1, 0), 0, 0 },
	  "meta: an extent names a blob that does not exist" },
	{ "highest blob", GOOD_KEYS, { BLOB(FASTOCI_EXTENT_BLOB_MASK, 0), 0, 0 },
	  "meta: an extent names a blob that does not exist" },
	{ "unknown type", GOOD_KEYS, { 0, 0, 3ULL << FASTOCI_EXTENT_TYPE_SHIFT },
	  "meta: an extent has an unknown type" },
};

static void bad_table_name(const struct bad_table *b, char *name)
{
	strscpy(name, b->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(bad_table, bad_tables, bad_table_name);

static void says_what_is_wrong_with_a_table(struct kunit *test)
{
	const struct bad_table *b = test->param_value;
	struct fastoci_meta_blob blob = { .data_bytes = cpu_to_le64(4097) };
	struct fastoci_extent_bounds bounds = { 64, 72, &blob, 1 };
	u32 keys[4] = {}, i;
	u64 payloads[3];
	struct fastoci_extents t = { .nr = 3, .keys = keys, .payloads = payloads };
	const char *words;

	for (i = 0; i < 3; i++) {
		keys[i] = (__force u32)cpu_to_le32(b->keys[i]);
		payloads[i] = (__force u64)cpu_to_le64(b->payloads[i]);
	}
	words = fastoci_extents_check(&t, 24, &bounds);
	if (b->words && words)
		KUNIT_EXPECT_STREQ(test, words, b->words);
	else
		KUNIT_EXPECT_PTR_EQ(test, words, b->words);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(finds_the_extent_of_its_first_and_last_sector, shape_gen_params),
	KUNIT_CASE_PARAM(index_costs_at_most_half_a_word_per_extent, shape_gen_params),
	KUNIT_CASE(one_extent_may_be_as_long_as_a_device),
	KUNIT_CASE_PARAM(says_what_is_wrong_with_a_table, bad_table_gen_params),
	{}
};

static struct kunit_suite suite = { .name = "fastoci_extent", .test_cases = cases };

kunit_test_suite(suite);
