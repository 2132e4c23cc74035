// SPDX-License-Identifier: GPL-2.0
#include <linux/blkdev.h>
#include <linux/slab.h>

#include "image.h"
#include "meta.h"

static int open_devices(struct fastoci_image *image, struct dm_target *ti, const char *meta_path,
			const char *cache_path)
{
	int err = dm_get_device(ti, meta_path, dm_table_get_mode(ti->table), &image->meta_dev);

	if (err) {
		ti->error = "cannot open the meta device";
		return err;
	}
	err = dm_get_device(ti, cache_path, dm_table_get_mode(ti->table), &image->cache_dev);
	if (err) {
		ti->error = "cannot open the cache device";
		return err;
	}
	image->cache_bdev = image->cache_dev->bdev;
	if (bdev_logical_block_size(image->meta_dev->bdev) != SECTOR_SIZE ||
	    bdev_logical_block_size(image->cache_bdev) != SECTOR_SIZE) {
		ti->error = "both devices need logical blocks of 512 bytes";
		return -EINVAL;
	}
	return 0;
}

static int open_cache(struct fastoci_image *image, struct dm_target *ti)
{
	struct fastoci_cache_sb *sb = kmalloc(sizeof(*sb), GFP_KERNEL);
	struct fastoci_cache *cache;
	int err;

	if (!sb) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	err = fastoci_cache_sb_load(image->cache_bdev, sb, &ti->error);
	if (!err) {
		cache = fastoci_cache_get(image->cache_bdev, sb, &ti->error);
		err = PTR_ERR_OR_ZERO(cache);
	}
	kfree(sb);
	if (err)
		return err;
	image->cache = cache;
	image->waiters.missq = &cache->missq;
	image->srcu = &cache->missq.map.srcu;
	image->accessed = cache->missq.map.slots.accessed;
	image->slots_sector = cache->slots_sector;
	image->chunk_shift = cache->missq.map.chunk_shift - SECTOR_SHIFT;
	return 0;
}

static int open_spaces(struct fastoci_image *image, struct dm_target *ti,
		       const struct fastoci_meta *meta)
{
	struct fastoci_chunkmap *map = &image->cache->missq.map;
	u64 nr_chunks = 0;
	u32 i;

	for (i = 0; i < meta->nr_blobs; i++)
		nr_chunks += fastoci_nr_chunks(map, le64_to_cpu(meta->blobs[i].data_bytes));
	if (nr_chunks > FASTOCI_MAX_IMAGE_CHUNKS) {
		ti->error = "too many chunks in all data spaces";
		return -E2BIG;
	}
	image->spaces = kcalloc(max(meta->nr_blobs, 1U), sizeof(*image->spaces), GFP_KERNEL);
	if (!image->spaces) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	for (i = 0; i < meta->nr_blobs; i++) {
		const struct fastoci_meta_blob *blob = &meta->blobs[i];
		struct fastoci_space *space = fastoci_space_get(map, blob->data_space_id,
								le64_to_cpu(blob->data_bytes));

		if (IS_ERR(space)) {
			ti->error = "out of memory for a chunk map";
			if (PTR_ERR(space) == -EEXIST)
				ti->error = "a data space is known with another size";
			return PTR_ERR(space);
		}
		image->spaces[image->nr_spaces++] = space;
	}
	return 0;
}

int fastoci_image_load(struct fastoci_image *image, struct dm_target *ti, const char *meta_path,
		       const char *cache_path)
{
	struct fastoci_meta meta;
	int err;

	image->stats = alloc_percpu(struct fastoci_stats);
	image->probe_page = alloc_page(GFP_KERNEL);
	if (!image->stats || !image->probe_page) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	err = open_devices(image, ti, meta_path, cache_path);
	if (!err)
		err = open_cache(image, ti);
	if (!err)
		err = fastoci_meta_load(image->meta_dev->bdev, &meta, &ti->error);
	if (err)
		return err;
	if (meta.device_sectors != ti->len) {
		ti->error = "the table's length is not the image's device size";
		err = -EINVAL;
	} else {
		err = open_spaces(image, ti, &meta);
	}
	memcpy(image->image_id, meta.image_id, 32);
	image->extents = meta.extents; /* moves the tables */
	meta.extents = (struct fastoci_extents){};
	fastoci_meta_free(&meta);
	return err;
}

void fastoci_image_free(struct fastoci_image *image, struct dm_target *ti)
{
	while (image->nr_spaces)
		fastoci_space_put(&image->cache->missq, image->spaces[--image->nr_spaces]);
	kfree(image->spaces);
	if (image->cache)
		fastoci_cache_put(image->cache);
	fastoci_extents_free(&image->extents);
	free_percpu(image->stats);
	if (image->probe_page)
		__free_page(image->probe_page);
	if (image->cache_dev)
		dm_put_device(ti, image->cache_dev);
	if (image->meta_dev)
		dm_put_device(ti, image->meta_dev);
	kfree(image);
}

void fastoci_image_count(const struct fastoci_image *image, struct fastoci_stats *sum)
{
	int cpu, i;

	*sum = (struct fastoci_stats){};
	for_each_possible_cpu(cpu) {
		const struct fastoci_stats *s = per_cpu_ptr(image->stats, cpu);

		sum->hits += READ_ONCE(s->hits);
		sum->misses += READ_ONCE(s->misses);
		sum->errors += READ_ONCE(s->errors);
		sum->hit_ns += READ_ONCE(s->hit_ns);
		for (i = 0; i < FASTOCI_NR_HIT_TIMES; i++)
			sum->hit_times[i] += READ_ONCE(s->hit_times[i]);
	}
}
