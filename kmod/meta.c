// SPDX-License-Identifier: GPL-2.0
#include <linux/blkdev.h>
#include <linux/dm-io.h>
#include <linux/vmalloc.h>

#include "compat.h"
#include "meta.h"
#include "metacheck.h"

/* Sizes come from a device: fail rather than call the OOM killer. */
#define ALLOC_FLAGS (GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

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

	return FASTOCI_DM_IO(&req, &region);
}

struct table_words {
	char *memory, *unreadable, *corrupt;
};

#define TABLE_WORDS(what) { \
	.memory = "meta: out of memory for the " what " table", \
	.unreadable = "meta: cannot read the " what " table", \
	.corrupt = "meta: checksum of the " what " table is wrong", \
}

static const struct table_words blob_words = TABLE_WORDS("blob");
static const struct table_words key_words = TABLE_WORDS("key");
static const struct table_words payload_words = TABLE_WORDS("payload");

/* A table into fresh vmalloc memory with room for @extra zero bytes after it. */
static void *read_table(struct dm_io_client *io, struct block_device *bdev,
			const struct fastoci_meta_region *r, u64 extra,
			const struct table_words *words, char **error)
{
	u64 bytes = le64_to_cpu(r->bytes), size = round_up(bytes + extra, PAGE_SIZE);
	void *buf = __vmalloc(size, ALLOC_FLAGS);
	int err;

	*error = words->memory;
	if (!buf)
		return ERR_PTR(-ENOMEM);
	*error = words->unreadable;
	err = read_bytes(io, bdev, le64_to_cpu(r->offset), buf, bytes);
	if (!err && fastoci_crc(buf, bytes) != le32_to_cpu(r->crc)) {
		*error = words->corrupt;
		err = -EBADMSG;
	}
	if (err) {
		vfree(buf);
		return ERR_PTR(err);
	}
	memset(buf + bytes, 0, size - bytes);
	return buf;
}

/* A superblock, which has FASTOCI_META_SB_BYTES; the caller frees it with vfree(). */
static void *read_sb(struct dm_io_client *io, struct block_device *bdev)
{
	void *sb;
	int err;

	if (bdev_nr_bytes(bdev) < FASTOCI_META_SB_BYTES)
		return ERR_PTR(-ENODATA);
	sb = vmalloc(FASTOCI_META_SB_BYTES);
	if (!sb)
		return ERR_PTR(-ENOMEM);
	err = read_bytes(io, bdev, 0, sb, FASTOCI_META_SB_BYTES);
	if (err) {
		vfree(sb);
		return ERR_PTR(err);
	}
	return sb;
}

static int read_tables(struct dm_io_client *io, struct block_device *bdev,
		       const struct fastoci_meta_sb *sb, struct fastoci_meta *meta, char **error)
{
	void *p;

	if (sb->nr_blobs) {
		p = read_table(io, bdev, &sb->blobs, 0, &blob_words, error);
		if (IS_ERR(p))
			return PTR_ERR(p);
		meta->blobs = p;
		meta->nr_blobs = le32_to_cpu(sb->nr_blobs);
	}
	p = read_table(io, bdev, &sb->keys, sizeof(u32), &key_words, error);
	if (IS_ERR(p))
		return PTR_ERR(p);
	meta->extents.keys = p;
	p = read_table(io, bdev, &sb->payloads, 0, &payload_words, error);
	if (IS_ERR(p))
		return PTR_ERR(p);
	meta->extents.payloads = p;
	meta->extents.nr = le32_to_cpu(sb->nr_extents);
	return 0;
}

static int check_tables(const struct fastoci_meta_sb *sb, struct fastoci_meta *meta, char **error)
{
	u64 first = le64_to_cpu(sb->metadata.offset) >> SECTOR_SHIFT;
	struct fastoci_extent_bounds bounds = {
		.metadata_first = first,
		.metadata_end = first + (le64_to_cpu(sb->metadata.bytes) >> SECTOR_SHIFT),
		.blobs = meta->blobs,
		.nr_blobs = meta->nr_blobs,
	};

	*error = fastoci_meta_check_blobs(meta->blobs, meta->nr_blobs);
	if (!*error)
		*error = fastoci_extents_check(&meta->extents, meta->device_sectors, &bounds);
	return *error ? -EINVAL : 0;
}

static int build_starts(struct fastoci_extents *t)
{
	t->starts = kvmalloc_array(fastoci_extents_plan_starts(t), sizeof(u32), ALLOC_FLAGS);
	if (!t->starts)
		return -ENOMEM;
	fastoci_extents_fill_starts(t);
	return 0;
}

static int load(struct dm_io_client *io, struct block_device *bdev, struct fastoci_meta *meta,
		char **error)
{
	struct fastoci_meta_sb *sb = read_sb(io, bdev);
	int err;

	*error = "meta: cannot read the superblock";
	if (PTR_ERR(sb) == -ENODATA)
		*error = "meta: truncated, the device is smaller than a superblock";
	if (IS_ERR(sb))
		return PTR_ERR(sb);
	err = -EINVAL;
	*error = fastoci_meta_check_sb(sb, bdev_nr_bytes(bdev));
	if (*error)
		goto free_sb;
	meta->device_sectors = le64_to_cpu(sb->device_sectors);
	memcpy(meta->image_id, sb->image_id, sizeof(meta->image_id));
	err = read_tables(io, bdev, sb, meta, error);
	if (!err)
		err = check_tables(sb, meta, error);
	if (!err) {
		*error = "meta: out of memory for the extents' index";
		err = build_starts(&meta->extents);
	}
free_sb:
	vfree(sb);
	return err;
}

int fastoci_meta_load(struct block_device *bdev, struct fastoci_meta *meta, char **error)
{
	struct dm_io_client *io = dm_io_client_create();
	int err;

	memset(meta, 0, sizeof(*meta));
	if (IS_ERR(io)) {
		*error = "meta: out of memory";
		return PTR_ERR(io);
	}
	err = load(io, bdev, meta, error);
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
	int err = -EINVAL;

	if (IS_ERR(io)) {
		*error = "cache: out of memory";
		return PTR_ERR(io);
	}
	sb = read_sb(io, bdev);
	dm_io_client_destroy(io);
	*error = PTR_ERR(sb) == -ENODATA ? "cache: the device is smaller than a superblock" :
					   "cache: cannot read the superblock";
	if (IS_ERR(sb))
		return PTR_ERR(sb);
	*error = fastoci_cache_check_sb(sb, bdev_nr_bytes(bdev));
	if (!*error) {
		*out = *sb;
		err = 0;
	}
	vfree(sb);
	return err;
}
