/* SPDX-License-Identifier: GPL-2.0 */
/* What the suites share: a cache without a device, a helper without a socket. */
#ifndef FASTOCI_KUNIT_H
#define FASTOCI_KUNIT_H

#include <kunit/test.h>

#include "../compat.h"
#include "../image.h"

#define TEST_SLOTS 32
#define TEST_CHUNKS 2000

/* What the kernel would have told a helper, and whether there is one. */
struct fake_helper {
	u64 generation;
	int send_error;			/* of the next @nr_errors sends */
	u32 nr_errors;
	u32 nr_sends;
	u32 nr_sent;
	struct fastoci_chunk_key sent[4096];
	u32 nr_evicted;
	u32 evicted[TEST_SLOTS];
	u32 nr_bad;			/* the last of them: */
	u32 bad_slot;
	u32 bad_chunk;
};

extern struct fake_helper fake_helper;

/* The helper goes; and a new one comes, with the generation that is returned. */
void lose_helper(void);
u64 new_helper(struct kunit *test);

/* Suite set-up and end: work queues, slabs. A suite may rely on no module_init. */
int test_suite_init(struct kunit_suite *suite);
void test_suite_exit(struct kunit_suite *suite);

/* What each test of a CACHE_SUITE begins with, in test->priv. */
struct fixture {
	struct fastoci_cache *cache;	/* of TEST_SLOTS slots */
	struct fastoci_missq *q;	/* of the cache, as are the next two */
	struct fastoci_chunkmap *map;
	struct fastoci_slots *slots;
	struct fastoci_space *space;	/* a test may put it and set NULL */
	u64 generation;			/* of the helper */
};

/* Another cache takes the place of f->cache, and is put in the end. */
void use_cache(struct fixture *f, struct fastoci_cache *cache);

int fixture_init(struct kunit *test);
void fixture_exit(struct kunit *test);

#define CACHE_SUITE(suite_name, suite_cases) { \
	.name = suite_name, .test_cases = suite_cases, \
	.init = fixture_init, .exit = fixture_exit, \
	.suite_init = test_suite_init, .suite_exit = test_suite_exit, \
}

/* Another cache; fastoci_cache_put() it. */
struct fastoci_cache *make_test_cache(struct kunit *test);

/* A data space of TEST_CHUNKS chunks. */
struct fastoci_space *make_test_space(struct kunit *test, struct fastoci_missq *q, u8 id);

/* Until @nr slots were given back. */
void wait_for_evicted(struct kunit *test, u32 nr);

/* The state of a slot, FASTOCI_SLOT_FREE too. */
u32 slot_state(struct fixture *f, u32 slot);

#endif /* FASTOCI_KUNIT_H */
