// SPDX-License-Identifier: GPL-2.0
/*
 * libFuzzer target: the checks of the assembled meta image and the extent
 * table, against a slow model. The input is an image; its superblock's checksum
 * is made right, as a fuzzer would not find it, and those of the tables are the
 * reader's, which is not built here.
 *
 * Held: the model, written from fastoci_meta.h alone and with arithmetic that
 * cannot overflow, accepts what the kernel accepts and nothing else; no byte
 * outside of the input is touched; every sector of an accepted device is found
 * in the extent that a linear search finds.
 */
#include <stdio.h>
#include <stdlib.h>

#include "../../extent.h"
#include "../../metacheck.h"
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/string.h>

typedef unsigned __int128 wide;

#define MUST(cond) do { \
	if (!(cond)) { \
		fprintf(stderr, "%s:%d: must hold: %s\n", __FILE__, __LINE__, #cond); \
		abort(); \
	} \
} while (0)

static bool model_region(const struct fastoci_meta_sb *sb, const struct fastoci_meta_region *r,
			 const struct fastoci_meta_region *const *before, int nr)
{
	wide begin = le64_to_cpu(r->offset), end = begin + le64_to_cpu(r->bytes);
	int i;

	if (r->reserved)
		return false;
	if (end == begin)
		return begin == 0;
	if (begin < 4096 || begin % 4096 || end > le64_to_cpu(sb->total_bytes))
		return false;
	for (i = 0; i < nr; i++) {
		wide b = le64_to_cpu(before[i]->offset);
		wide e = b + le64_to_cpu(before[i]->bytes);

		if (b != e && max(begin, b) < min(end, e))
			return false;
	}
	return true;
}

static bool model_sb(const struct fastoci_meta_sb *sb, u64 size)
{
	const struct fastoci_meta_region *r[] = { &sb->blobs, &sb->keys, &sb->payloads,
						  &sb->metadata, &sb->helper, &sb->json };
	u32 nr_blobs = le32_to_cpu(sb->nr_blobs), nr_extents = le32_to_cpu(sb->nr_extents);
	unsigned int i;

	if (memcmp(sb->magic, "FASTOCIm", 8) || le32_to_cpu(sb->version) != 1 ||
	    le32_to_cpu(sb->sb_bytes) != 4096 || sb->incompat)
		return false;
	for (i = 0; i < sizeof(sb->reserved); i++)
		if (sb->reserved[i])
			return false;
	if (!sb->device_sectors || le64_to_cpu(sb->device_sectors) >> 32 || nr_blobs > 256 ||
	    !nr_extents || nr_extents > 1 << 23 || le64_to_cpu(sb->total_bytes) > size)
		return false;
	if (le64_to_cpu(sb->blobs.bytes) != (wide)nr_blobs * 128 ||
	    le64_to_cpu(sb->keys.bytes) != (wide)nr_extents * 4 ||
	    le64_to_cpu(sb->payloads.bytes) != (wide)nr_extents * 8)
		return false;
	for (i = 0; i < ARRAY_SIZE(r); i++)
		if (!model_region(sb, r[i], r, i))
			return false;
	return true;
}

static bool model_tables(const u8 *image, const struct fastoci_meta_sb *sb)
{
	const struct fastoci_meta_blob *blobs =
		(const void *)(image + le64_to_cpu(sb->blobs.offset));
	const __le32 *keys = (const void *)(image + le64_to_cpu(sb->keys.offset));
	const __le64 *payloads = (const void *)(image + le64_to_cpu(sb->payloads.offset));
	u32 i, nr = le32_to_cpu(sb->nr_extents);

	for (i = 0; i < le32_to_cpu(sb->nr_blobs); i++)
		if (!blobs[i].data_bytes || le64_to_cpu(blobs[i].data_bytes) > 1ULL << 44 ||
		    blobs[i].flags)
			return false;
	for (i = 0; i < nr; i++) {
		u64 begin = le32_to_cpu(keys[i]), p = le64_to_cpu(payloads[i]);
		u64 end = i + 1 < nr ? le32_to_cpu(keys[i + 1]) : le64_to_cpu(sb->device_sectors);
		u64 type = p >> 62, blob = p >> 48 & 0x3fff;
		wide first = (wide)(p & 0xffffffffffffULL) * 512;
		wide last = first + (wide)(end - begin) * 512;

		if (begin >= end || (!i && begin))
			return false;
		if (type == 0 && p)
			return false;
		if (type == 1) {
			wide b = le64_to_cpu(sb->metadata.offset);
			wide e = b + le64_to_cpu(sb->metadata.bytes);

			if (blob || first < b || last > e - e % 512)
				return false;
		}
		if (type == 2) {
			wide space;

			if (blob >= le32_to_cpu(sb->nr_blobs))
				return false;
			space = le64_to_cpu(blobs[blob].data_bytes);
			if (last > space + (512 - space % 512) % 512)
				return false;
		}
		if (type == 3)
			return false;
	}
	return true;
}

static void *copy(const void *from, size_t bytes, size_t more)
{
	void *p = calloc(1, bytes + more);

	MUST(p);
	memcpy(p, from, bytes);
	return p;
}

static void look_up(const struct fastoci_extents *t, u64 sector)
{
	u32 i = 0;

	while (t->keys[i + 1] <= sector)
		i++;
	MUST(fastoci_extent_find(t, sector) == i);
}

static void check_image(const u8 *image, const struct fastoci_meta_sb *sb)
{
	u64 sectors = le64_to_cpu(sb->device_sectors);
	u64 first = le64_to_cpu(sb->metadata.offset) / 512;
	struct fastoci_extents t = { .nr = le32_to_cpu(sb->nr_extents) };
	u32 nr_blobs = le32_to_cpu(sb->nr_blobs), i, nr_starts;
	struct fastoci_meta_blob *blobs =
		copy(image + le64_to_cpu(sb->blobs.offset), nr_blobs * 128, 0);
	struct fastoci_extent_bounds bounds = {
		first, first + le64_to_cpu(sb->metadata.bytes) / 512, blobs, nr_blobs
	};
	char *error;

	t.keys = copy(image + le64_to_cpu(sb->keys.offset), t.nr * 4, 4);
	t.payloads = copy(image + le64_to_cpu(sb->payloads.offset), t.nr * 8, 0);
	error = fastoci_meta_check_blobs(blobs, nr_blobs);
	if (!error)
		error = fastoci_extents_check(&t, sectors, &bounds);
	MUST(!error == model_tables(image, sb));
	if (!error) {
		nr_starts = fastoci_extents_plan_starts(&t);
		MUST(nr_starts <= max(t.nr / 2, 2) + 1);
		t.starts = calloc(nr_starts, 4);
		MUST(t.starts);
		fastoci_extents_fill_starts(&t);
		for (i = 0; i < t.nr && i < 1000; i++) {
			look_up(&t, t.keys[i]);
			look_up(&t, t.keys[i + 1] - 1);
		}
		for (i = 0; i < 64; i++)
			look_up(&t, (sectors - 1) * i / 63);
		free(t.starts);
	}
	free(t.keys);
	free(t.payloads);
	free(blobs);
}

size_t LLVMFuzzerMutate(u8 *data, size_t size, size_t max_size);

/*
 * Every other time, one 64-bit field of the superblock (or two 32-bit ones)
 * gets a value from a place where limits are, as seen from the input's size.
 */
size_t LLVMFuzzerCustomMutator(u8 *data, size_t size, size_t max_size, unsigned int seed)
{
	u64 values[] = { 0, 1, 4096, 8192, size, size & ~4095ULL, size - 512, 1ULL << 32, ~0ULL,
			 ~4095ULL, 4096ULL * (seed >> 16 & 7), 8 + (seed >> 20 & 255) };
	size_t first = offsetof(struct fastoci_meta_sb, device_sectors);
	size_t nr_fields = (offsetof(struct fastoci_meta_sb, reserved) - first) / 8;
	u64 value = values[seed / 2 % ARRAY_SIZE(values)] + (seed >> 12 & 3) - 1;

	if (size < 4096 || seed & 1)
		return LLVMFuzzerMutate(data, size, max_size);
	if (!(seed >> 14 & 1))
		value += 1 - (seed >> 12 & 3); /* without the small difference */
	value = htole64(value);
	memcpy(data + first + seed / 64 % nr_fields * 8, &value, 8);
	return size;
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
	struct fastoci_meta_sb *sb;
	struct fastoci_cache_sb *cache;
	char *error;

	if (size < 4096)
		return 0;
	cache = copy(data, 4096, 0);
	fastoci_cache_check_sb(cache, size); /* mostly a bad magic */
	free(cache);
	sb = copy(data, 4096, 0);
	sb->crc = 0;
	sb->crc = htole32(fastoci_crc(sb, 4096));
	error = fastoci_meta_check_sb(sb, size);
	MUST(!error == model_sb(sb, size));
	if (!error)
		check_image(data, sb);
	free(sb);
	return 0;
}
