// SPDX-License-Identifier: GPL-2.0
#include <linux/crc32c.h>

#include "../metacheck.h"
#include "kunit.h"

#define DEVICE_BYTES 0x100000

/* A field is overwritten with @value; the checksum is made right again unless it is the field. */
struct bad_field {
	const char *name;
	u32 offset, bytes;
	u64 value;
	const char *words;	/* NULL: accepted */
};

static void fill_meta(struct fastoci_meta_sb *sb)
{
	memset(sb, 0, sizeof(*sb));
	memcpy(sb->magic, FASTOCI_META_MAGIC, 8);
	sb->version = cpu_to_le32(FASTOCI_META_VERSION);
	sb->sb_bytes = cpu_to_le32(FASTOCI_META_SB_BYTES);
	sb->device_sectors = cpu_to_le64(800);
	sb->total_bytes = cpu_to_le64(0x6000);
	sb->nr_blobs = cpu_to_le32(2);
	sb->nr_extents = cpu_to_le32(100);
	sb->blobs = (struct fastoci_meta_region){ cpu_to_le64(0x1000), cpu_to_le64(256) };
	sb->keys = (struct fastoci_meta_region){ cpu_to_le64(0x2000), cpu_to_le64(400) };
	sb->payloads = (struct fastoci_meta_region){ cpu_to_le64(0x3000), cpu_to_le64(800) };
	sb->metadata = (struct fastoci_meta_region){ cpu_to_le64(0x4000), cpu_to_le64(0x2000) };
}

#define M(member) offsetof(struct fastoci_meta_sb, member), \
		  sizeof_field(struct fastoci_meta_sb, member)

static const struct bad_field meta_fields[] = {
	{ "nothing", 0, 0, 0, NULL },
	{ "compat", M(compat), 0x80000001, NULL },
	{ "ro_compat", M(ro_compat), 1, NULL },
	{ "image_id", offsetof(struct fastoci_meta_sb, image_id), 8, 1, NULL },
	{ "magic", M(magic), 0, "meta: bad magic, not an assembled meta image" },
	{ "version 0", M(version), 0, "meta: unsupported version" },
	{ "version 2", M(version), 2, "meta: unsupported version" },
	{ "sb_bytes", M(sb_bytes), 512, "meta: bad superblock size" },
	{ "crc", M(crc), 0, "meta: superblock checksum mismatch" },
	{ "incompat", M(incompat), 1U << 31, "meta: unknown incompatible feature" },
	{ "reserved, first", offsetof(struct fastoci_meta_sb, reserved), 1, 1,
	  "meta: reserved bytes of the superblock are not zero" },
	{ "reserved, last", 4095, 1, 128, "meta: reserved bytes of the superblock are not zero" },
	{ "device_sectors 0", M(device_sectors), 0, "meta: device size out of range" },
	{ "device_sectors 2^32", M(device_sectors), 1ULL << 32, "meta: device size out of range" },
	{ "device_sectors highest", M(device_sectors), FASTOCI_MAX_DEVICE_SECTORS, NULL },
	{ "total_bytes is the device's", M(total_bytes), DEVICE_BYTES, NULL },
	{ "total_bytes one more", M(total_bytes), DEVICE_BYTES + 1,
	  "meta: truncated, total_bytes exceeds the device" },
	{ "total_bytes one less", M(total_bytes), 0x5fff,
	  "meta: the metadata region ends behind total_bytes" },
	{ "nr_blobs too many", M(nr_blobs), FASTOCI_MAX_BLOBS + 1, "meta: too many blobs" },
	{ "nr_blobs one less", M(nr_blobs), 1, "meta: blob table has the wrong size" },
	{ "nr_extents 0", M(nr_extents), 0, "meta: number of extents out of range" },
	{ "nr_extents too many", M(nr_extents), FASTOCI_MAX_EXTENTS + 1,
	  "meta: number of extents out of range" },
	{ "nr_extents that wraps", M(nr_extents), 100 | 1U << 30,
	  "meta: number of extents out of range" },
	{ "bytes of keys", M(keys.bytes), 404, "meta: key table has the wrong size" },
	{ "bytes of payloads", M(payloads.bytes), 0, "meta: payload table has the wrong size" },
	{ "offset of blobs", M(blobs.offset), 0, "meta: the blobs region covers the superblock" },
	{ "offset of keys", M(keys.offset), 0x2200,
	  "meta: the keys region is not aligned to 4096" },
	{ "keys over blobs", M(keys.offset), 0x1000, "meta: the keys region overlaps another" },
	{ "metadata over payloads", M(metadata.offset), 0x3000,
	  "meta: the metadata region overlaps another" },
	{ "metadata at the top", M(metadata.offset), ~0ULL << 12,
	  "meta: the metadata region ends behind total_bytes" },
	{ "metadata without end", M(metadata.bytes), ~0ULL,
	  "meta: the metadata region ends behind total_bytes" },
	{ "empty with an offset", M(json.offset), 0x1000,
	  "meta: the json region is empty and has an offset" },
	{ "reserved of a region", M(helper.reserved), 1,
	  "meta: reserved bytes of the helper region are not zero" },
};

static void fill_cache(struct fastoci_cache_sb *sb)
{
	memset(sb, 0, sizeof(*sb));
	memcpy(sb->magic, FASTOCI_CACHE_MAGIC, 8);
	sb->version = cpu_to_le32(FASTOCI_CACHE_VERSION);
	sb->sb_bytes = cpu_to_le32(FASTOCI_CACHE_SB_BYTES);
	sb->chunk_shift = cpu_to_le32(16);
	sb->nr_slots = cpu_to_le32(15);
	sb->slots_offset = cpu_to_le64(1 << 16);
}

#define C(member) offsetof(struct fastoci_cache_sb, member), \
		  sizeof_field(struct fastoci_cache_sb, member)

static const struct bad_field cache_fields[] = {
	{ "nothing", 0, 0, 0, NULL },
	{ "compat", C(compat), 1, NULL },
	{ "magic", C(magic), 1, "cache: bad magic, not a cache device" },
	{ "version", C(version), 2, "cache: unsupported version" },
	{ "sb_bytes", C(sb_bytes), 8192, "cache: bad superblock size" },
	{ "crc", C(crc), 0, "cache: superblock checksum mismatch" },
	{ "incompat", C(incompat), 1, "cache: unknown incompatible feature" },
	{ "reserved", 4095, 1, 1, "cache: reserved bytes of the superblock are not zero" },
	{ "chunk_shift low", C(chunk_shift), 15, "cache: chunk size out of range" },
	{ "chunk_shift high", C(chunk_shift), 23, "cache: chunk size out of range" },
	{ "chunk_shift 64", C(chunk_shift), 64, "cache: chunk size out of range" },
	{ "nr_slots 0", C(nr_slots), 0, "cache: number of slots out of range" },
	{ "nr_slots too many", C(nr_slots), FASTOCI_MAX_SLOTS + 1,
	  "cache: number of slots out of range" },
	{ "nr_slots over the device", C(nr_slots), 16, "cache: the slots do not fit the device" },
	{ "slots_offset 0", C(slots_offset), 0,
	  "cache: the slots do not begin at a multiple of the chunk size" },
	{ "slots_offset at the top", C(slots_offset), ~0ULL << 16,
	  "cache: the slots do not fit the device" },
};

static void field_name(const struct bad_field *f, char *name)
{
	strscpy(name, f->name, KUNIT_PARAM_DESC_SIZE);
}

KUNIT_ARRAY_PARAM(meta_field, meta_fields, field_name);
KUNIT_ARRAY_PARAM(cache_field, cache_fields, field_name);

/* Both superblocks have their checksum at the same place. */
static void break_field(u8 *sb, const struct bad_field *f)
{
	__le64 value = cpu_to_le64(f->value);
	__le32 crc;

	memcpy(sb + f->offset, &value, f->bytes);
	if (f->bytes && f->offset == offsetof(struct fastoci_meta_sb, crc))
		return;
	memset(sb + offsetof(struct fastoci_meta_sb, crc), 0, 4);
	crc = cpu_to_le32(fastoci_crc(sb, 4096));
	memcpy(sb + offsetof(struct fastoci_meta_sb, crc), &crc, 4);
}

static void expect_words(struct kunit *test, const char *words, const char *wanted)
{
	if (words && wanted)
		KUNIT_EXPECT_STREQ(test, words, wanted);
	else
		KUNIT_EXPECT_PTR_EQ(test, words, wanted);
}

static void says_which_field_of_a_meta_superblock_is_bad(struct kunit *test)
{
	const struct bad_field *f = test->param_value;
	struct fastoci_meta_sb *sb = kunit_kzalloc(test, sizeof(*sb), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, sb);
	fill_meta(sb);
	break_field((u8 *)sb, f);
	expect_words(test, fastoci_meta_check_sb(sb, DEVICE_BYTES), f->words);
}

static void says_which_field_of_a_cache_superblock_is_bad(struct kunit *test)
{
	const struct bad_field *f = test->param_value;
	struct fastoci_cache_sb *sb = kunit_kzalloc(test, sizeof(*sb), GFP_KERNEL);

	KUNIT_ASSERT_NOT_NULL(test, sb);
	fill_cache(sb);
	break_field((u8 *)sb, f);
	expect_words(test, fastoci_cache_check_sb(sb, DEVICE_BYTES), f->words);
}

static void refuses_blobs_without_size_or_with_flags(struct kunit *test)
{
	struct fastoci_meta_blob blobs[2] = {
		{ .data_bytes = cpu_to_le64(FASTOCI_MAX_DATA_BYTES) },
		{ .data_bytes = cpu_to_le64(1) },
	};

	expect_words(test, fastoci_meta_check_blobs(blobs, 2), NULL);
	blobs[1].data_bytes = 0;
	expect_words(test, fastoci_meta_check_blobs(blobs, 2),
		     "meta: size of a data space out of range");
	blobs[1].data_bytes = cpu_to_le64(FASTOCI_MAX_DATA_BYTES + 1);
	expect_words(test, fastoci_meta_check_blobs(blobs, 2),
		     "meta: size of a data space out of range");
	blobs[1].data_bytes = cpu_to_le64(1);
	blobs[1].flags = cpu_to_le32(1);
	expect_words(test, fastoci_meta_check_blobs(blobs, 2), "meta: unknown flag of a blob");
}

static struct kunit_case cases[] = {
	KUNIT_CASE_PARAM(says_which_field_of_a_meta_superblock_is_bad, meta_field_gen_params),
	KUNIT_CASE_PARAM(says_which_field_of_a_cache_superblock_is_bad, cache_field_gen_params),
	KUNIT_CASE(refuses_blobs_without_size_or_with_flags),
	{}
};

static struct kunit_suite suite = { .name = "fastoci_metacheck", .test_cases = cases };

kunit_test_suite(suite);
