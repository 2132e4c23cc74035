// SPDX-License-Identifier: GPL-2.0
/* Checks the superblocks, the regions and the blob table; see metacheck.h. */
#include <linux/crc32c.h>
#include <linux/kernel.h>
#include <linux/sizes.h>
#include <linux/string.h>

#include "metacheck.h"

u32 fastoci_crc(const void *data, size_t bytes)
{
	return ~crc32c(~0U, data, bytes);
}

/* The checksum of the 4096 bytes at @sb with those of its field @crc as zeros. */
static bool sb_crc_ok(const void *sb, const __le32 *crc)
{
	static const __le32 zero;
	const void *behind = crc + 1;
	u32 c = crc32c(~0U, sb, (const void *)crc - sb);

	c = crc32c(c, &zero, sizeof(zero));
	return ~crc32c(c, behind, SZ_4K - (behind - sb)) == le32_to_cpu(*crc);
}

static bool all_zero(const u8 *p, size_t n)
{
	return !memchr_inv(p, 0, n);
}

struct region_words {
	char *reserved, *empty, *place, *align, *end, *overlap;
};

#define REGION_WORDS(what) { \
	.reserved = "meta: reserved bytes of the " what " region are not zero", \
	.empty = "meta: the " what " region is empty and has an offset", \
	.place = "meta: the " what " region covers the superblock", \
	.align = "meta: the " what " region is not aligned to 4096", \
	.end = "meta: the " what " region ends behind total_bytes", \
	.overlap = "meta: the " what " region overlaps another", \
}

static char *check_regions(const struct fastoci_meta_sb *sb)
{
	static const struct region_words words[] = {
		REGION_WORDS("blobs"), REGION_WORDS("keys"), REGION_WORDS("payloads"),
		REGION_WORDS("metadata"), REGION_WORDS("helper"), REGION_WORDS("json"),
	};
	const struct fastoci_meta_region *r[] = { &sb->blobs, &sb->keys, &sb->payloads,
						  &sb->metadata, &sb->helper, &sb->json };
	u64 total = le64_to_cpu(sb->total_bytes);
	int i, k;

	for (i = 0; i < ARRAY_SIZE(r); i++) {
		u64 off = le64_to_cpu(r[i]->offset), len = le64_to_cpu(r[i]->bytes);

		if (r[i]->reserved)
			return words[i].reserved;
		if (!len) {
			if (off)
				return words[i].empty;
			continue;
		}
		if (off < FASTOCI_META_SB_BYTES)
			return words[i].place;
		if (off % FASTOCI_META_ALIGN)
			return words[i].align;
		if (off > total || len > total - off)
			return words[i].end;
		for (k = 0; k < i; k++) {
			u64 o2 = le64_to_cpu(r[k]->offset), l2 = le64_to_cpu(r[k]->bytes);

			if (l2 && off < o2 + l2 && o2 < off + len)
				return words[i].overlap;
		}
	}
	return NULL;
}

char *fastoci_meta_check_sb(const struct fastoci_meta_sb *sb, u64 dev_bytes)
{
	u32 nr_blobs = le32_to_cpu(sb->nr_blobs), nr_extents = le32_to_cpu(sb->nr_extents);
	u64 sectors = le64_to_cpu(sb->device_sectors);

	if (memcmp(sb->magic, FASTOCI_META_MAGIC, sizeof(sb->magic)))
		return "meta: bad magic, not an assembled meta image";
	if (le32_to_cpu(sb->version) != FASTOCI_META_VERSION)
		return "meta: unsupported version";
	if (le32_to_cpu(sb->sb_bytes) != FASTOCI_META_SB_BYTES)
		return "meta: bad superblock size";
	if (!sb_crc_ok(sb, &sb->crc))
		return "meta: superblock checksum mismatch";
	if (le32_to_cpu(sb->incompat) & ~FASTOCI_META_INCOMPAT_KNOWN)
		return "meta: unknown incompatible feature";
	if (!all_zero(sb->reserved, sizeof(sb->reserved)))
		return "meta: reserved bytes of the superblock are not zero";
	if (!sectors || sectors > FASTOCI_MAX_DEVICE_SECTORS)
		return "meta: device size out of range";
	if (nr_blobs > FASTOCI_MAX_BLOBS)
		return "meta: too many blobs";
	if (!nr_extents || nr_extents > FASTOCI_MAX_EXTENTS)
		return "meta: number of extents out of range";
	if (le64_to_cpu(sb->total_bytes) > dev_bytes)
		return "meta: truncated, total_bytes exceeds the device";
	if (le64_to_cpu(sb->blobs.bytes) != (u64)nr_blobs * sizeof(struct fastoci_meta_blob))
		return "meta: blob table has the wrong size";
	if (le64_to_cpu(sb->keys.bytes) != (u64)nr_extents * sizeof(u32))
		return "meta: key table has the wrong size";
	if (le64_to_cpu(sb->payloads.bytes) != (u64)nr_extents * sizeof(u64))
		return "meta: payload table has the wrong size";
	return check_regions(sb);
}

char *fastoci_meta_check_blobs(const struct fastoci_meta_blob *blobs, u32 nr)
{
	u32 i;

	for (i = 0; i < nr; i++) {
		u64 bytes = le64_to_cpu(blobs[i].data_bytes);

		if (!bytes || bytes > FASTOCI_MAX_DATA_BYTES)
			return "meta: size of a data space out of range";
		if (blobs[i].flags)
			return "meta: unknown flag of a blob";
	}
	return NULL;
}

char *fastoci_cache_check_sb(const struct fastoci_cache_sb *sb, u64 dev_bytes)
{
	u32 shift = le32_to_cpu(sb->chunk_shift), nr = le32_to_cpu(sb->nr_slots);
	u64 offset = le64_to_cpu(sb->slots_offset);

	if (memcmp(sb->magic, FASTOCI_CACHE_MAGIC, sizeof(sb->magic)))
		return "cache: bad magic, not a cache device";
	if (le32_to_cpu(sb->version) != FASTOCI_CACHE_VERSION)
		return "cache: unsupported version";
	if (le32_to_cpu(sb->sb_bytes) != FASTOCI_CACHE_SB_BYTES)
		return "cache: bad superblock size";
	if (!sb_crc_ok(sb, &sb->crc))
		return "cache: superblock checksum mismatch";
	if (sb->incompat)
		return "cache: unknown incompatible feature";
	if (!all_zero(sb->reserved, sizeof(sb->reserved)))
		return "cache: reserved bytes of the superblock are not zero";
	if (shift < FASTOCI_MIN_CHUNK_SHIFT || shift > FASTOCI_MAX_CHUNK_SHIFT)
		return "cache: chunk size out of range";
	if (!nr || nr > FASTOCI_MAX_SLOTS)
		return "cache: number of slots out of range";
	if (!offset || offset & ((1ULL << shift) - 1))
		return "cache: the slots do not begin at a multiple of the chunk size";
	if (offset > dev_bytes || nr > (dev_bytes - offset) >> shift)
		return "cache: the slots do not fit the device";
	return NULL;
}
