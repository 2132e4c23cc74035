// SPDX-License-Identifier: GPL-2.0
#include "io.h"
#include "lookup.h"
#include "reread.h"
#include "trace.h"

/* On each CPU one of so many hits is timed: reading the clock costs as much as a look-up. */
#define HITS_PER_TIMED 64

static int map_miss(struct fastoci_bio *fb, u32 sector, struct bio *bio)
{
	struct fastoci_image *image = fb->image;
	struct fastoci_parked *p = &fb->parked;
	u32 chunk_sectors = 1U << image->chunk_shift;
	u32 avail = chunk_sectors - (p->data_sector & (chunk_sectors - 1));

	if (avail < bio_sectors(bio))
		dm_accept_partial_bio(bio, avail);
	trace_fastoci_map(image->no, sector, bio, FASTOCI_EXTENT_BLOB, false);
	p->waiters = &image->waiters;
	fb->iter = bio->bi_iter;
	fb->timed_at = 0;
	this_cpu_inc(image->stats->misses);
	if (bio->bi_opf & REQ_NOWAIT) {
		fastoci_note_miss(bio, p);
		bio_wouldblock_error(bio);
		return DM_MAPIO_SUBMITTED;
	}
	/* Another turn needs a fill and an eviction. REQUEUE outside of a suspend would be EIO. */
	for (;;) {
		switch (fastoci_park(bio, p)) {
		case FASTOCI_PARKED:
			return DM_MAPIO_SUBMITTED;
		case FASTOCI_PRESENT: /* filled since the look-up */
			if (fastoci_try_hit(fb, bio, true))
				return DM_MAPIO_REMAPPED;
			continue;
		case FASTOCI_PARK_REQUEUE:
			return DM_MAPIO_REQUEUE;
		default:
			fastoci_count_error(image);
			return DM_MAPIO_KILL;
		}
	}
}

int fastoci_map(struct dm_target *ti, struct bio *bio)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_bio *fb = dm_per_bio_data(bio, sizeof(*fb));
	const struct fastoci_extents *t = &image->extents;
	u32 sector, i, left;
	u64 payload, target;

	fb->srcu_idx = -1;
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
		fb->image = image;
		fb->parked.space = image->spaces[(payload >> FASTOCI_EXTENT_BLOB_SHIFT) &
						 FASTOCI_EXTENT_BLOB_MASK];
		fb->parked.data_sector = target;
		fb->parked.parked_before = false;
		fb->in_steps = false;
		fb->nr_tries = 0;
		fb->nr_retired = 0;
		fb->timed_at = 0;
		if (unlikely(!(this_cpu_read(image->stats->hits) % HITS_PER_TIMED)))
			fb->timed_at = ktime_get_ns();
		if (likely(fastoci_try_hit(fb, bio, true))) {
			fb->iter = bio->bi_iter; /* as it was cut, for another try */
			this_cpu_inc(image->stats->hits);
			trace_fastoci_map(image->no, sector, bio, FASTOCI_EXTENT_BLOB, true);
			return DM_MAPIO_REMAPPED;
		}
		return map_miss(fb, sector, bio);
	case FASTOCI_EXTENT_META:
		bio_set_dev(bio, image->meta_dev->bdev);
		bio->bi_iter.bi_sector = target;
		trace_fastoci_map(image->no, sector, bio, FASTOCI_EXTENT_META, true);
		return DM_MAPIO_REMAPPED;
	default:
		trace_fastoci_map(image->no, sector, bio, FASTOCI_EXTENT_ZERO, true);
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

int fastoci_end_io(struct dm_target *ti, struct bio *bio, blk_status_t *error)
{
	struct fastoci_bio *fb = dm_per_bio_data(bio, sizeof(*fb));

	if (fb->srcu_idx >= 0) {
		if (unlikely(*error || fb->in_steps) && fastoci_read_again(fb, bio, *error))
			return DM_ENDIO_INCOMPLETE;
		if (unlikely(fb->timed_at) && !*error)
			count_hit_time(fb->image, ktime_get_ns() - fb->timed_at);
		fastoci_leave_section(fb);
	}
	return DM_ENDIO_DONE;
}

static void release(struct fastoci_parked *p)
{
	fastoci_look_up_again(container_of(p, struct fastoci_bio, parked));
}

void fastoci_io_setup(struct fastoci_image *image)
{
	fastoci_waiters_setup(&image->waiters);
	fastoci_reread_setup(image);
}

void fastoci_io_stop(struct fastoci_image *image)
{
	fastoci_waiters_remove(&image->waiters);
	cancel_work_sync(&image->reread_work); /* it may still return */
}

int fastoci_io_init(void)
{
	return fastoci_missq_init(release);
}

void fastoci_io_exit(void)
{
	fastoci_missq_exit();
}
