// SPDX-License-Identifier: GPL-2.0
/*
 * The device-mapper target: constructor, map, end_io, suspend, messages.
 *
 * map() takes no lock, allocates nothing and does not sleep on a hit. A bio is
 * cut to one extent and to one run of contiguous slots; what is left arrives
 * as a new bio.
 */
#include <linux/bio.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "fastoci.h"
#include "trace.h"

/* One hit of so many on a CPU is timed: to read the clock costs as much as a look-up. */
#define HITS_PER_TIMED 64

static atomic_t next_image_no = ATOMIC_INIT(0);

/*
 * Remaps @bio to the cache device if its first chunk is present; enters the
 * read section that end_io leaves. @may_split: inside map(), where a bio may
 * be cut; a released bio lies within one chunk.
 */
bool fastoci_try_hit(struct fastoci_image *image, struct fastoci_space *space, u64 data_sector,
		     struct bio *bio, struct fastoci_bio *pb, bool may_split)
{
	struct fastoci_cache *cache = image->cache;
	u32 shift = cache->chunk_shift - SECTOR_SHIFT;
	u32 chunk_no = data_sector >> shift;
	u32 offset = data_sector & ((1U << shift) - 1);
	u32 avail = (1U << shift) - offset;
	int idx = fastoci_srcu_enter(&cache->srcu);
	u32 slot = READ_ONCE(space->map[chunk_no]), first = slot;

	if (!slot) {
		fastoci_srcu_leave(&cache->srcu, idx);
		return false;
	}
	pb->srcu_idx = idx;
	for (;;) {
		if (!test_bit(slot - 1, cache->accessed))
			set_bit(slot - 1, cache->accessed);
		if (avail >= bio_sectors(bio) || ++chunk_no >= space->nr_chunks ||
		    READ_ONCE(space->map[chunk_no]) != slot + 1)
			break;
		slot++;
		avail += 1U << shift;
	}
	if (may_split && avail < bio_sectors(bio))
		dm_accept_partial_bio(bio, avail);
	bio_set_dev(bio, image->cache_dev->bdev);
	bio->bi_iter.bi_sector = cache->slots_sector + ((u64)(first - 1) << shift) + offset;
	pb->slot = first - 1;
	this_cpu_inc(image->stats->hits);
	return true;
}

static int miss(struct fastoci_image *image, u32 sector, struct bio *bio, struct fastoci_bio *pb)
{
	u32 shift = image->cache->chunk_shift - SECTOR_SHIFT;
	u32 avail = (1U << shift) - (pb->data_sector & ((1U << shift) - 1));

	if (avail < bio_sectors(bio))
		dm_accept_partial_bio(bio, avail);
	trace_fastoci_map(image, sector, bio, FASTOCI_EXTENT_BLOB, false);
	pb->image = image;
	pb->iter = bio->bi_iter;
	pb->timed_at = 0;
	this_cpu_inc(image->stats->misses);
	if (bio->bi_opf & REQ_NOWAIT) {
		fastoci_note_miss(pb, bio);
		bio_wouldblock_error(bio);
		return DM_MAPIO_SUBMITTED;
	}
	/* Another turn takes a fill and an eviction; REQUEUE would be EIO outside of a suspend. */
	for (;;) {
		switch (fastoci_park(bio, pb)) {
		case FASTOCI_PARKED:
			return DM_MAPIO_SUBMITTED;
		case FASTOCI_PRESENT: /* filled since the look-up */
			if (fastoci_try_hit(image, pb->space, pb->data_sector, bio, pb, true))
				return DM_MAPIO_REMAPPED;
			continue;
		case FASTOCI_PARK_REQUEUE:
			return DM_MAPIO_REQUEUE;
		default:
			this_cpu_inc(image->stats->errors);
			return DM_MAPIO_KILL;
		}
	}
}

static int fastoci_map(struct dm_target *ti, struct bio *bio)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_bio *pb = dm_per_bio_data(bio, sizeof(*pb));
	const struct fastoci_extents *t = &image->extents;
	u32 sector, i, left;
	u64 payload, target;

	pb->srcu_idx = -1;
	if (unlikely(bio_op(bio) != REQ_OP_READ))
		return DM_MAPIO_KILL;
	sector = dm_target_offset(ti, bio->bi_iter.bi_sector);
	i = fastoci_extent_find(t, sector);
	payload = t->payloads[i];
	left = t->keys[i + 1] - sector;
	if (left < bio_sectors(bio))
		dm_accept_partial_bio(bio, left);
	target = (payload & FASTOCI_EXTENT_SECTOR_MASK) + (sector - t->keys[i]);
	switch (payload >> FASTOCI_EXTENT_TYPE_SHIFT) {
	case FASTOCI_EXTENT_BLOB:
		pb->space = image->spaces[(payload >> FASTOCI_EXTENT_BLOB_SHIFT) &
					  FASTOCI_EXTENT_BLOB_MASK];
		pb->data_sector = target;
		pb->nr_failures = 0;
		pb->parked_before = false;
		pb->timed_at = 0;
		if (unlikely(!(this_cpu_read(image->stats->hits) % HITS_PER_TIMED)))
			pb->timed_at = ktime_get_ns();
		if (likely(fastoci_try_hit(image, pb->space, target, bio, pb, true))) {
			pb->iter = bio->bi_iter; /* as it was cut, for another try */
			trace_fastoci_map(image, sector, bio, FASTOCI_EXTENT_BLOB, true);
			return DM_MAPIO_REMAPPED;
		}
		return miss(image, sector, bio, pb);
	case FASTOCI_EXTENT_META:
		bio_set_dev(bio, image->meta_dev->bdev);
		bio->bi_iter.bi_sector = target;
		trace_fastoci_map(image, sector, bio, FASTOCI_EXTENT_META, true);
		return DM_MAPIO_REMAPPED;
	default:
		trace_fastoci_map(image, sector, bio, FASTOCI_EXTENT_ZERO, true);
		zero_fill_bio(bio);
		bio_endio(bio);
		return DM_MAPIO_SUBMITTED;
	}
}

static void count_hit_time(struct fastoci_image *image, u64 ns)
{
	this_cpu_inc(image->stats->hit_times[fastoci_hit_time_index(ns)]);
	this_cpu_add(image->stats->hit_ns, ns);
}

static int fastoci_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct fastoci_bio *pb = dm_per_bio_data(bio, sizeof(*pb));

	if (pb->srcu_idx >= 0) {
		struct fastoci_image *image = ti->private;

		if (unlikely(*error || pb->nr_failures) &&
		    fastoci_read_again(image, pb, bio, *error))
			return DM_ENDIO_INCOMPLETE;
		if (unlikely(pb->timed_at) && !*error)
			count_hit_time(image, ktime_get_ns() - pb->timed_at);
		fastoci_srcu_leave(&image->cache->srcu, pb->srcu_idx);
		pb->srcu_idx = -1;
	}
	return DM_ENDIO_DONE;
}

/* ---- table line ---- */

static int parse_options(struct dm_target *ti, struct dm_arg_set *as, struct fastoci_image *image)
{
	static const struct dm_arg args[] = {
		{ 0, 5, "bad number of options" },
		{ 0, 86400000, "fail_after_ms out of range (0..86400000)" },
		{ 0, 600000, "suspend_grace_ms out of range (0..600000)" },
	};
	unsigned int nr;
	int err;

	if (!as->argc)
		return 0;
	err = dm_read_arg_group(args, as, &nr, &ti->error);
	if (err)
		return err;
	while (nr) {
		const char *name = dm_shift_arg(as);

		nr--;
		if (!strcasecmp(name, "hold")) {
			image->policy = FASTOCI_HOLD;
		} else if (nr && !strcasecmp(name, "fail_after_ms")) {
			nr--;
			err = dm_read_arg(args + 1, as, &image->fail_after_ms, &ti->error);
			image->policy = FASTOCI_FAIL_AFTER;
		} else if (nr && !strcasecmp(name, "suspend_grace_ms")) {
			nr--;
			err = dm_read_arg(args + 2, as, &image->suspend_grace_ms, &ti->error);
		} else {
			ti->error = "unknown option or option without a value";
			err = -EINVAL;
		}
		if (err)
			return err;
	}
	if (as->argc) {
		ti->error = "more arguments than options";
		return -EINVAL;
	}
	return 0;
}

static int open_devices(struct dm_target *ti, char **argv, struct fastoci_image *image)
{
	int err = dm_get_device(ti, argv[0], dm_table_get_mode(ti->table), &image->meta_dev);

	if (err) {
		ti->error = "cannot open the meta device";
		return err;
	}
	err = dm_get_device(ti, argv[1], dm_table_get_mode(ti->table), &image->cache_dev);
	if (err) {
		ti->error = "cannot open the cache device";
		return err;
	}
	if (bdev_logical_block_size(image->meta_dev->bdev) != SECTOR_SIZE ||
	    bdev_logical_block_size(image->cache_dev->bdev) != SECTOR_SIZE) {
		ti->error = "both devices need logical blocks of 512 bytes";
		return -EINVAL;
	}
	return 0;
}

static int open_spaces(struct dm_target *ti, struct fastoci_image *image,
		       const struct fastoci_meta *meta)
{
	u64 nr_chunks = 0;
	u32 i;

	for (i = 0; i < meta->nr_blobs; i++)
		nr_chunks += fastoci_nr_chunks(image->cache,
					       le64_to_cpu(meta->blobs[i].data_bytes));
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
		struct fastoci_space *space = fastoci_space_get(image->cache, blob->data_space_id,
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

static void free_image(struct dm_target *ti, struct fastoci_image *image)
{
	while (image->nr_spaces)
		fastoci_space_put(image->cache, image->spaces[--image->nr_spaces]);
	kfree(image->spaces);
	if (image->cache)
		fastoci_cache_put(image->cache);
	fastoci_extents_free(&image->extents);
	free_percpu(image->stats);
	if (image->cache_dev)
		dm_put_device(ti, image->cache_dev);
	if (image->meta_dev)
		dm_put_device(ti, image->meta_dev);
	kfree(image);
}

static int load_image(struct dm_target *ti, struct fastoci_image *image)
{
	struct fastoci_cache_sb *sb = kmalloc(sizeof(*sb), GFP_KERNEL);
	struct fastoci_cache *cache;
	struct fastoci_meta meta;
	int err;

	if (!sb) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	err = fastoci_cache_sb_load(image->cache_dev->bdev, sb, &ti->error);
	if (!err) {
		cache = fastoci_cache_get(image->cache_dev->bdev, sb, &ti->error);
		err = PTR_ERR_OR_ZERO(cache);
		if (!err)
			image->cache = cache;
	}
	kfree(sb);
	if (err)
		return err;
	err = fastoci_meta_load(image->meta_dev->bdev, &meta, &ti->error);
	if (err)
		return err;
	if (meta.device_sectors != ti->len) {
		ti->error = "the table's length is not the image's device size";
		err = -EINVAL;
	} else {
		err = open_spaces(ti, image, &meta);
	}
	memcpy(image->image_id, meta.image_id, 32);
	image->extents = meta.extents; /* moves the tables */
	meta.extents = (struct fastoci_extents){};
	fastoci_meta_free(&meta);
	return err;
}

static int fastoci_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct fastoci_image *image;
	struct dm_arg_set as;
	int err;

	if (argc < 2) {
		ti->error = "needs <meta_dev> <cache_dev>";
		return -EINVAL;
	}
	if (dm_table_get_mode(ti->table) & FASTOCI_MODE_WRITE) {
		ti->error = "the table must be read-only (dmsetup create --readonly)";
		return -EINVAL;
	}
	if (ti->begin) {
		ti->error = "the target must start at sector 0";
		return -EINVAL;
	}
	image = kzalloc(sizeof(*image), GFP_KERNEL);
	if (!image) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	INIT_LIST_HEAD(&image->parked);
	image->suspend_grace_ms = 5000;
	image->stats = alloc_percpu(struct fastoci_stats);
	err = -ENOMEM;
	ti->error = "out of memory";
	if (!image->stats)
		goto fail;
	as.argc = argc - 2;
	as.argv = argv + 2;
	err = parse_options(ti, &as, image);
	if (!err)
		err = open_devices(ti, argv, image);
	if (!err)
		err = load_image(ti, image);
	if (err)
		goto fail;
	ti->error = NULL;
	ti->private = image;
	ti->num_flush_bios = 0;
	ti->per_io_data_size = sizeof(struct fastoci_bio);
	ti->accounts_remapped_io = true;
	spin_lock(&image->cache->lock);
	image->no = atomic_inc_return(&next_image_no); /* here: the list is in their order */
	list_add_tail(&image->node, &image->cache->images);
	spin_unlock(&image->cache->lock);
	fastoci_send_image(image, true);
	return 0;
fail:
	free_image(ti, image);
	return err;
}

static void fastoci_dtr(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;

	spin_lock(&image->cache->lock);
	WARN_ON_ONCE(image->nr_parked);
	list_del(&image->node);
	spin_unlock(&image->cache->lock);
	fastoci_send_image(image, false);
	free_image(ti, image);
}

/* ---- suspend ---- */

static void fastoci_presuspend(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;

	spin_lock(&image->cache->lock);
	if (dm_noflush_suspending(ti)) {
		image->requeue = true;
		fastoci_sweep_locked(image, BLK_STS_DM_REQUEUE);
	} else {
		image->draining = true;
		image->drain_since = jiffies;
		fastoci_cache_arm_timer(image->cache, jiffies);
	}
	spin_unlock(&image->cache->lock);
}

static void end_suspend(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;

	spin_lock(&image->cache->lock);
	image->requeue = false;
	image->draining = false;
	spin_unlock(&image->cache->lock);
}

/* ---- status and messages ---- */

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

static void fastoci_status(struct dm_target *ti, status_type_t type, unsigned int flags,
			   char *result, unsigned int maxlen)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_cache *cache = image->cache;
	u64 present = 0, total = 0;
	struct fastoci_stats sum;
	u32 fail_ms, grace_ms, pending, i;
	static const char *const helper_names[] = { "none", "stalled", "ready" };
	enum fastoci_helper_state helper;
	enum fastoci_policy policy;
	size_t sz = 0;

	spin_lock(&cache->lock);
	policy = image->policy;
	fail_ms = image->fail_after_ms;
	grace_ms = image->suspend_grace_ms;
	pending = image->nr_parked;
	helper = fastoci_helper_state(cache);
	for (i = 0; i < image->nr_spaces; i++) {
		present += image->spaces[i]->nr_present;
		total += image->spaces[i]->nr_chunks;
	}
	spin_unlock(&cache->lock);
	switch (type) {
	case STATUSTYPE_INFO:
		fastoci_image_count(image, &sum);
		DMEMIT("%*phN %u %llu/%llu %llu %llu %u %llu %s ", 32, image->image_id,
		       image->extents.nr, present, total, sum.hits, sum.misses, pending,
		       sum.errors, helper_names[helper]);
		if (policy == FASTOCI_HOLD)
			DMEMIT("hold");
		else
			DMEMIT("fail_after_ms:%u", fail_ms);
		break;
	case STATUSTYPE_TABLE:
		DMEMIT("%s %s ", image->meta_dev->name, image->cache_dev->name);
		if (policy == FASTOCI_HOLD)
			DMEMIT("3 hold suspend_grace_ms %u", grace_ms);
		else
			DMEMIT("4 fail_after_ms %u suspend_grace_ms %u", fail_ms, grace_ms);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",image_id=%*phN;", 32, image->image_id);
		break;
	}
}

static int fastoci_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
			   unsigned int maxlen)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_cache *cache = image->cache;
	u32 ms = 0;

	if (argc == 1 && !strcasecmp(argv[0], "fail_pending")) {
		fastoci_sweep(image, BLK_STS_IOERR);
		return 0;
	}
	if (argc == 1 && !strcasecmp(argv[0], "hold")) {
		spin_lock(&cache->lock);
		image->policy = FASTOCI_HOLD;
		spin_unlock(&cache->lock);
		return 0;
	}
	if (argc != 2 || kstrtou32(argv[1], 10, &ms))
		goto unknown;
	if (!strcasecmp(argv[0], "fail_after_ms") && ms <= 86400000) {
		spin_lock(&cache->lock);
		image->policy = FASTOCI_FAIL_AFTER;
		image->fail_after_ms = ms;
		fastoci_cache_arm_timer(cache, jiffies);
		spin_unlock(&cache->lock);
		return 0;
	}
	if (!strcasecmp(argv[0], "suspend_grace_ms") && ms <= 600000) {
		spin_lock(&cache->lock);
		image->suspend_grace_ms = ms;
		spin_unlock(&cache->lock);
		return 0;
	}
unknown:
	DMWARN("unknown message or value out of range: %s", argv[0]);
	return -EINVAL;
}

static int fastoci_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct fastoci_image *image = ti->private;
	int r = fn(ti, image->meta_dev, 0, bdev_nr_sectors(image->meta_dev->bdev), data);

	return r ? r : fn(ti, image->cache_dev, 0, bdev_nr_sectors(image->cache_dev->bdev), data);
}

static struct target_type fastoci_target = {
	.name = "fastoci",
	.version = { 0, 1, 0 },
	.features = DM_TARGET_NOWAIT | DM_TARGET_SINGLETON,
	.module = THIS_MODULE,
	.ctr = fastoci_ctr,
	.dtr = fastoci_dtr,
	.map = fastoci_map,
	.end_io = fastoci_end_io,
	.presuspend = fastoci_presuspend,
	.presuspend_undo = end_suspend,
	.resume = end_suspend,
	.status = fastoci_status,
	.message = fastoci_message,
	.iterate_devices = fastoci_iterate_devices,
};

int fastoci_target_init(void)
{
	return dm_register_target(&fastoci_target);
}

void fastoci_target_exit(void)
{
	dm_unregister_target(&fastoci_target);
}
