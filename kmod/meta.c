// SPDX-License-Identifier: GPL-2.0
/*
 * Reads and validates the two on-disk formats. Everything is checked before
 * the first bio: after fastoci_meta_load() every extent is in bounds.
 */
#include <linux/crc32c.h>
#include <linux/dm-io.h>
#include <linux/vmalloc.h>

#include "fastoci.h"

static int read_bytes(struct dm_io_client *io, struct block_device *bdev, u64 offset, void *buf,
		      u64 bytes)
{
	struct dm_io_region region = {
		.bdev = bdev,
		.sector = offset >> SECTOR_SHIFT,
		.count = DIV_ROUND_UP_ULL(bytes, SECTOR_SIZE),
	};
	struct dm_io_request req = {
		.bi_opf = REQ_OP_READ,
		.mem.type = DM_IO_VMA,
		.mem.ptr.vma = buf,
		.client = io,
	};

	return dm_io(&req, 1, &region, NULL, IOPRIO_DEFAULT);
}

/* A region into fresh vmalloc memory with room for @extra bytes behind it. */
static void *read_region(struct dm_io_client *io, struct block_device *bdev,
			 const struct fastoci_meta_region *r, u64 extra)
{
	u64 bytes = le64_to_cpu(r->bytes);
	void *buf = vzalloc(round_up(bytes + extra, PAGE_SIZE));
	int err;

	if (!buf)
		return ERR_PTR(-ENOMEM);
	err = read_bytes(io, bdev, le64_to_cpu(r->offset), buf, bytes);
	if (!err && ~crc32c(~0U, buf, bytes) != le32_to_cpu(r->crc))
		err = -EBADMSG;
	if (err) {
		vfree(buf);
		return ERR_PTR(err);
	}
	memset(buf + bytes, 0, round_up(bytes + extra, PAGE_SIZE) - bytes);
	return buf;
}

static bool sb_crc_ok(void *sb, __le32 *field)
{
	u32 crc = le32_to_cpu(*field);

	*field = 0;
	return ~crc32c(~0U, sb, 4096) == crc;
}

static bool all_zero(const u8 *p, size_t n)
{
	return !memchr_inv(p, 0, n);
}

static char *check_regions(const struct fastoci_meta_sb *sb)
{
	const struct fastoci_meta_region *r[] = { &sb->blobs, &sb->keys, &sb->payloads,
						  &sb->metadata, &sb->helper, &sb->json };
	u64 total = le64_to_cpu(sb->total_bytes);
	int i, k;

	for (i = 0; i < ARRAY_SIZE(r); i++) {
		u64 off = le64_to_cpu(r[i]->offset), len = le64_to_cpu(r[i]->bytes);

		if (r[i]->reserved)
			return "meta: reserved bytes of a region are not zero";
		if (!len) {
			if (off)
				return "meta: an empty region has an offset";
			continue;
		}
		if (off < FASTOCI_META_SB_BYTES || off % FASTOCI_META_ALIGN)
			return "meta: a region is not aligned or covers the superblock";
		if (off > total || len > total - off)
			return "meta: a region ends behind total_bytes";
		for (k = 0; k < i; k++) {
			u64 o2 = le64_to_cpu(r[k]->offset), l2 = le64_to_cpu(r[k]->bytes);

			if (l2 && off < o2 + l2 && o2 < off + len)
				return "meta: regions overlap";
		}
	}
	return NULL;
}

static char *check_sb(struct fastoci_meta_sb *sb, u64 dev_bytes)
{
	u32 nr_blobs = le32_to_cpu(sb->nr_blobs), nr_extents = le32_to_cpu(sb->nr_extents);
	u64 sectors = le64_to_cpu(sb->device_sectors);

	if (memcmp(sb->magic, FASTOCI_META_MAGIC, 8))
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
	if (le64_to_cpu(sb->keys.bytes) != (u64)nr_extents * 4)
		return "meta: key table has the wrong size";
	if (le64_to_cpu(sb->payloads.bytes) != (u64)nr_extents * 8)
		return "meta: payload table has the wrong size";
	return check_regions(sb);
}

static char *check_blobs(const struct fastoci_meta *meta)
{
	u32 i;

	for (i = 0; i < meta->nr_blobs; i++) {
		u64 bytes = le64_to_cpu(meta->blobs[i].data_bytes);

		if (!bytes || bytes > FASTOCI_MAX_DATA_BYTES)
			return "meta: size of a data space out of range";
		if (meta->blobs[i].flags)
			return "meta: unknown flag of a blob";
	}
	return NULL;
}

/* Converts to host byte order in place and checks every extent. */
static char *check_extents(struct fastoci_meta *meta, const struct fastoci_meta_sb *sb)
{
	struct fastoci_extents *t = &meta->extents;
	u64 md_first = le64_to_cpu(sb->metadata.offset) >> SECTOR_SHIFT;
	u64 md_end = md_first + (le64_to_cpu(sb->metadata.bytes) >> SECTOR_SHIFT);
	u32 i;

	for (i = 0; i < t->nr; i++) {
		t->keys[i] = le32_to_cpu((__force __le32)t->keys[i]);
		t->payloads[i] = le64_to_cpu((__force __le64)t->payloads[i]);
	}
	t->keys[t->nr] = meta->device_sectors;
	if (t->keys[0])
		return "meta: the first extent does not begin at sector 0";
	for (i = 0; i < t->nr; i++) {
		u64 p = t->payloads[i], sector = p & FASTOCI_EXTENT_SECTOR_MASK, limit;
		u32 blob = (p >> FASTOCI_EXTENT_BLOB_SHIFT) & FASTOCI_EXTENT_BLOB_MASK;
		u64 len;

		if (t->keys[i + 1] <= t->keys[i])
			return "meta: extents are not sorted or exceed the device";
		len = t->keys[i + 1] - t->keys[i];
		switch (p >> FASTOCI_EXTENT_TYPE_SHIFT) {
		case FASTOCI_EXTENT_ZERO:
			if (p)
				return "meta: a zero extent has a target";
			break;
		case FASTOCI_EXTENT_META:
			if (blob || sector < md_first || sector > md_end || len > md_end - sector)
				return "meta: an extent points outside of the metadata area";
			break;
		case FASTOCI_EXTENT_BLOB:
			if (blob >= meta->nr_blobs)
				return "meta: an extent names a blob that does not exist";
			limit = DIV_ROUND_UP_ULL(le64_to_cpu(meta->blobs[blob].data_bytes),
						 SECTOR_SIZE);
			if (sector > limit || len > limit - sector)
				return "meta: an extent points behind its data space";
			break;
		default:
			return "meta: an extent has an unknown type";
		}
		if (!(i % 4096))
			cond_resched();
	}
	return NULL;
}

/* The buckets of a table that is known to be sorted. */
static int build_starts(struct fastoci_extents *t)
{
	u64 sectors = t->keys[t->nr];
	u32 nr_buckets, i = 0, b;

	t->shift = 0;
	while (t->shift < 31 && (sectors - 1) >> t->shift >= max(t->nr / 2, 1U))
		t->shift++;
	nr_buckets = ((sectors - 1) >> t->shift) + 1;
	t->starts = kvmalloc_array(nr_buckets + 1, sizeof(u32), GFP_KERNEL);
	if (!t->starts)
		return -ENOMEM;
	for (b = 0; b < nr_buckets; b++) {
		while (t->keys[i + 1] <= (u64)b << t->shift)
			i++;
		t->starts[b] = i;
		if (!(b % 4096))
			cond_resched();
	}
	t->starts[nr_buckets] = t->nr - 1;
	return 0;
}

int fastoci_meta_load(struct block_device *bdev, struct fastoci_meta *meta, char **error)
{
	struct dm_io_client *io = dm_io_client_create();
	struct fastoci_meta_sb *sb = NULL;
	void *p;
	int err = -ENOMEM;

	memset(meta, 0, sizeof(*meta));
	*error = "meta: out of memory";
	if (IS_ERR(io))
		return PTR_ERR(io);
	sb = vzalloc(FASTOCI_META_SB_BYTES);
	if (!sb)
		goto out;
	*error = "meta: cannot read the superblock";
	err = -EINVAL;
	if (bdev_nr_bytes(bdev) < FASTOCI_META_SB_BYTES)
		goto out;
	err = read_bytes(io, bdev, 0, sb, FASTOCI_META_SB_BYTES);
	if (err)
		goto out;
	err = -EINVAL;
	*error = check_sb(sb, bdev_nr_bytes(bdev));
	if (*error)
		goto out;
	meta->device_sectors = le64_to_cpu(sb->device_sectors);
	memcpy(meta->image_id, sb->image_id, 32);

	*error = "meta: blob table is unreadable or its checksum is wrong";
	if (sb->nr_blobs) {
		p = read_region(io, bdev, &sb->blobs, 0);
		if (IS_ERR(p)) {
			err = PTR_ERR(p);
			goto out;
		}
		meta->blobs = p;
		meta->nr_blobs = le32_to_cpu(sb->nr_blobs);
	}
	*error = "meta: key table is unreadable or its checksum is wrong";
	p = read_region(io, bdev, &sb->keys, 4);
	if (IS_ERR(p)) {
		err = PTR_ERR(p);
		goto out;
	}
	meta->extents.keys = p;
	*error = "meta: payload table is unreadable or its checksum is wrong";
	p = read_region(io, bdev, &sb->payloads, 0);
	if (IS_ERR(p)) {
		err = PTR_ERR(p);
		goto out;
	}
	meta->extents.payloads = p;
	meta->extents.nr = le32_to_cpu(sb->nr_extents);
	*error = check_blobs(meta);
	if (!*error)
		*error = check_extents(meta, sb);
	err = *error ? -EINVAL : 0;
	if (!err) {
		*error = "meta: out of memory";
		err = build_starts(&meta->extents);
	}
out:
	vfree(sb);
	dm_io_client_destroy(io);
	if (err)
		fastoci_meta_free(meta);
	return err;
}

void fastoci_extents_free(struct fastoci_extents *t)
{
	vfree(t->keys);
	vfree(t->payloads);
	kvfree(t->starts);
}

void fastoci_meta_free(struct fastoci_meta *meta)
{
	fastoci_extents_free(&meta->extents);
	vfree(meta->blobs);
	memset(meta, 0, sizeof(*meta));
}

int fastoci_cache_sb_load(struct block_device *bdev, struct fastoci_cache_sb *out, char **error)
{
	struct dm_io_client *io = dm_io_client_create();
	struct fastoci_cache_sb *sb;
	u64 offset, dev_bytes = bdev_nr_bytes(bdev);
	u32 shift, nr;
	int err;

	*error = "cache: cannot read the superblock";
	if (IS_ERR(io))
		return PTR_ERR(io);
	sb = vzalloc(FASTOCI_CACHE_SB_BYTES);
	err = -ENOMEM;
	if (!sb)
		goto out;
	err = dev_bytes < FASTOCI_CACHE_SB_BYTES ? -EINVAL : read_bytes(io, bdev, 0, sb, sizeof(*sb));
	if (err)
		goto out;
	err = -EINVAL;
	shift = le32_to_cpu(sb->chunk_shift);
	nr = le32_to_cpu(sb->nr_slots);
	offset = le64_to_cpu(sb->slots_offset);
	if (memcmp(sb->magic, FASTOCI_CACHE_MAGIC, 8))
		*error = "cache: bad magic, not a cache device";
	else if (le32_to_cpu(sb->version) != FASTOCI_CACHE_VERSION ||
		 le32_to_cpu(sb->sb_bytes) != FASTOCI_CACHE_SB_BYTES)
		*error = "cache: unsupported version";
	else if (!sb_crc_ok(sb, &sb->crc))
		*error = "cache: superblock checksum mismatch";
	else if (sb->incompat || !all_zero(sb->reserved, sizeof(sb->reserved)))
		*error = "cache: unknown incompatible feature";
	else if (shift < FASTOCI_MIN_CHUNK_SHIFT || shift > FASTOCI_MAX_CHUNK_SHIFT)
		*error = "cache: chunk size out of range";
	else if (!nr || nr > FASTOCI_MAX_SLOTS)
		*error = "cache: number of slots out of range";
	else if (!offset || offset & ((1ULL << shift) - 1) || offset > dev_bytes ||
		 nr > (dev_bytes - offset) >> shift)
		*error = "cache: the slots do not fit the device";
	else
		err = 0;
	if (!err)
		*out = *sb;
out:
	vfree(sb);
	dm_io_client_destroy(io);
	return err;
}
