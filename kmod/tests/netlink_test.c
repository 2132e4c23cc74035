// SPDX-License-Identifier: GPL-2.0
/* The attribute policies, which stand between any root process and the commands. */
#include "../netlink.c"

#include <kunit/test.h>

struct attr_case {
	const char *name;
	u16 type, bytes;
	u64 value;	/* its first bytes */
	bool chunk;	/* by the policy inside of CHUNK */
	int err;
};

static const struct attr_case attr_cases[] = {
	{ "VERSION", FASTOCI_A_VERSION, 4, 1, false, 0 },
	{ "VERSION of 2 bytes", FASTOCI_A_VERSION, 2, 1, false, -EINVAL },
	{ "VERSION of no byte", FASTOCI_A_VERSION, 0, 0, false, -EINVAL },
	{ "GENERATION", FASTOCI_A_GENERATION, 8, 1, false, 0 },
	{ "GENERATION of 4 bytes", FASTOCI_A_GENERATION, 4, 1, false, -EINVAL },
	{ "FLAGS 0", FASTOCI_A_FLAGS, 4, 0, false, 0 },
	{ "FLAGS 1", FASTOCI_A_FLAGS, 4, 1, false, 0 },
	{ "FLAGS, an unknown one", FASTOCI_A_FLAGS, 4, 3, false, -EINVAL },
	{ "CACHE", FASTOCI_A_CACHE, 4, 1, false, 0 },
	{ "CACHE of 8 bytes", FASTOCI_A_CACHE, 8, 1, false, -EINVAL },
	{ "COUNT", FASTOCI_A_COUNT, 4, 1, false, 0 },
	{ "COUNT 0", FASTOCI_A_COUNT, 4, 0, false, -ERANGE },
	{ "SPACE_ID", FASTOCI_A_SPACE_ID, 32, 0, false, 0 },
	{ "SPACE_ID, short", FASTOCI_A_SPACE_ID, 31, 0, false, -ERANGE },
	{ "SPACE_ID, long", FASTOCI_A_SPACE_ID, 33, 0, false, -ERANGE },
	{ "SLOTS, a batch", FASTOCI_A_SLOTS, FASTOCI_MAX_BATCH * 4, 0, false, 0 },
	{ "SLOTS, too many", FASTOCI_A_SLOTS, FASTOCI_MAX_BATCH * 4 + 4, 0, false, -ERANGE },
	{ "CHUNKS, empty", FASTOCI_A_CHUNKS | NLA_F_NESTED, 0, 0, false, 0 },
	{ "CHUNKS, not nested", FASTOCI_A_CHUNKS, 4, 0, false, -EINVAL },
	{ "an event's attribute", FASTOCI_A_NR_PENDING, 4, 0, false, -EINVAL },
	{ "an attribute of the future", FASTOCI_A_MAX + 1, 4, 0, false, -EINVAL },
	{ "chunk: SPACE", FASTOCI_C_SPACE, 4, 1, true, 0 },
	{ "chunk: CHUNK_NO of 8 bytes", FASTOCI_C_CHUNK_NO, 8, 1, true, -EINVAL },
	{ "chunk: SLOT of 1 byte", FASTOCI_C_SLOT, 1, 1, true, -EINVAL },
	{ "chunk: ERRNO 1", FASTOCI_C_ERRNO, 4, 1, true, 0 },
	{ "chunk: ERRNO 0", FASTOCI_C_ERRNO, 4, 0, true, -ERANGE },
	{ "chunk: ERRNO 4096", FASTOCI_C_ERRNO, 4, 4096, true, -ERANGE },
	{ "chunk: negative ERRNO", FASTOCI_C_ERRNO, 4, (u32)-5, true, -ERANGE },
	{ "chunk: the kernel's STATE", FASTOCI_C_STATE, 1, 1, true, -EINVAL },
};

static void attr_case_name(const struct attr_case *c, char *name)
{
	strscpy(name, c->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(attr, attr_cases, attr_case_name);

static void the_policy_bounds_every_attribute(struct kunit *test)
{
	const struct attr_case *c = test->param_value;
	struct nlattr *a = kunit_kzalloc(test, nla_total_size(c->bytes) + 8, GFP_KERNEL);
	struct nlattr *tb[FASTOCI_A_MAX + 1];
	int err;

	KUNIT_ASSERT_NOT_NULL(test, a);
	a->nla_type = c->type;
	a->nla_len = nla_attr_size(c->bytes);
	memcpy(nla_data(a), &c->value, min_t(u32, c->bytes, sizeof(c->value)));
	err = nla_parse(tb, c->chunk ? FASTOCI_C_MAX : FASTOCI_A_MAX, a, nla_total_size(c->bytes),
			c->chunk ? chunk_policy : policy, NULL);
	KUNIT_EXPECT_EQ(test, err, c->err);
}

static void every_command_needs_privilege(struct kunit *test)
{
	int i;

	for (i = 0; i < fastoci_genl_family.n_ops; i++) {
		KUNIT_EXPECT_TRUE(test, ops[i].flags & GENL_ADMIN_PERM);
		KUNIT_EXPECT_TRUE(test, ops[i].doit || ops[i].start);
	}
	KUNIT_EXPECT_FALSE(test, fastoci_genl_family.netnsok);
	KUNIT_EXPECT_TRUE(test, fastoci_genl_family.parallel_ops);
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(the_policy_bounds_every_attribute, attr_gen_params),
	KUNIT_CASE(every_command_needs_privilege),
	{}
};

static struct kunit_suite suite = { .name = "fastoci_netlink", .test_cases = cases };

kunit_test_suite(suite);
