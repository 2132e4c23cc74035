// SPDX-License-Identifier: GPL-2.0
#include "../reread.h"
#include "kunit.h"

struct verdict_case {
	const char *name;
	blk_status_t status;
	u32 nr_tries;
	bool time_is_over;
	enum fastoci_reread verdict;
};

static const struct verdict_case verdict_cases[] = {
	{ "EIO", BLK_STS_IOERR, 1, false, FASTOCI_TRY_AGAIN },
	{ "EIO, often", BLK_STS_IOERR, 2, false, FASTOCI_TRY_AGAIN },
	{ "EIO, for long", BLK_STS_IOERR, 2, true, FASTOCI_RETIRE },
	{ "medium", BLK_STS_MEDIUM, 1, false, FASTOCI_TRY_AGAIN },
	{ "medium, once, for long", BLK_STS_MEDIUM, 1, true, FASTOCI_TRY_AGAIN },
	{ "medium, twice", BLK_STS_MEDIUM, 2, false, FASTOCI_RETIRE },
	{ "protection, twice", BLK_STS_PROTECTION, 2, false, FASTOCI_RETIRE },
	{ "target, twice", BLK_STS_TARGET, 2, false, FASTOCI_TRY_AGAIN },
	{ "target, for long", BLK_STS_TARGET, 2, true, FASTOCI_RETIRE },
	{ "reservation conflict, twice", BLK_STS_RESV_CONFLICT, 2, false, FASTOCI_TRY_AGAIN },
	{ "reservation conflict, for long", BLK_STS_RESV_CONFLICT, 2, true, FASTOCI_RETIRE },
	{ "transport", BLK_STS_TRANSPORT, 2, false, FASTOCI_TRY_AGAIN },
	{ "transport, for long", BLK_STS_TRANSPORT, 2, true, FASTOCI_GIVE_UP },
	{ "timeout, for long", BLK_STS_TIMEOUT, 2, true, FASTOCI_GIVE_UP },
	{ "resource, for long", BLK_STS_RESOURCE, 2, true, FASTOCI_GIVE_UP },
	{ "device resource, for long", BLK_STS_DEV_RESOURCE, 2, true, FASTOCI_GIVE_UP },
	{ "no retries", BLK_STS_TRANSPORT, 1, true, FASTOCI_GIVE_UP },
};

static void verdict_case_name(const struct verdict_case *c, char *name)
{
	strscpy(name, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(verdict, verdict_cases, verdict_case_name);

static void only_a_slot_is_retired_whose_error_speaks_of_it(struct kunit *test)
{
	const struct verdict_case *c = test->param_value;

	KUNIT_EXPECT_EQ(test, fastoci_reread_verdict(c->status, c->nr_tries, c->time_is_over),
			c->verdict);
}

static void what_says_nothing_of_the_slot_goes_to_the_reader(struct kunit *test)
{
	static const blk_status_t statuses[] = { BLK_STS_AGAIN, BLK_STS_NOTSUPP, BLK_STS_INVAL };
	struct fastoci_bio *fb = kunit_kzalloc(test, sizeof(*fb), GFP_KERNEL);
	struct bio bio = { .bi_opf = REQ_OP_READ };
	int i;

	KUNIT_ASSERT_NOT_NULL(test, fb);
	for (i = 0; i < ARRAY_SIZE(statuses); i++)
		KUNIT_EXPECT_FALSE(test, fastoci_read_again(fb, &bio, statuses[i]));
	bio.bi_opf |= REQ_RAHEAD;
	KUNIT_EXPECT_FALSE(test, fastoci_read_again(fb, &bio, BLK_STS_IOERR));
}

static struct kunit_case cases[] = {
	KUNIT_CASE(what_says_nothing_of_the_slot_goes_to_the_reader),
	KUNIT_CASE_PARAM(only_a_slot_is_retired_whose_error_speaks_of_it, verdict_gen_params),
	{}
};

static struct kunit_suite suite = { .name = "fastoci_reread", .test_cases = cases };

kunit_test_suite(suite);
