// SPDX-License-Identifier: GPL-2.0
/*
 * end_io may run in an interrupt and takes no lock: it puts the bio on a
 * lock-free list for reread_work. A bio that failed stays in its read section
 * until then. So its slot still belongs to its chunk, or its eviction waits for
 * this bio. The bio leaves the section before it waits for another try.
 * DM_ENDIO_REQUEUE would be EIO outside of a no-flush suspend.
 */
#include <linux/bio.h>
#include <linux/module.h>

#include "lookup.h"
#include "reread.h"

#define RETRY_EVERY_MS 100
#define MAX_SLOTS 4	/* of one chunk that fail, for one bio */

static int set_retry_ms(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, 60000);
}

static const struct kernel_param_ops retry_ms_ops = { .set = set_retry_ms, .get = param_get_uint };

static uint retry_ms = 1000;
module_param_cb(retry_ms, &retry_ms_ops, &retry_ms, 0644);
MODULE_PARM_DESC(retry_ms, "how long a read of the cache device that fails is tried again (0..60000, default 1000)");

enum fastoci_reread fastoci_reread_verdict(blk_status_t status, u32 nr_tries, bool time_is_over)
{
	if (status == BLK_STS_MEDIUM || status == BLK_STS_PROTECTION)
		return nr_tries < 2 ? FASTOCI_TRY_AGAIN : FASTOCI_RETIRE;
	if (!time_is_over)
		return FASTOCI_TRY_AGAIN;
	return status == BLK_STS_IOERR || !blk_path_error(status) ? FASTOCI_RETIRE :
								    FASTOCI_GIVE_UP;
}

/* The bytes of the step that begins @fb->iter: up to the end of its chunk. */
static u32 step_bytes(const struct fastoci_bio *fb)
{
	u64 at = fb->parked.data_sector << SECTOR_SHIFT;
	u64 chunk = 1ULL << (fb->image->chunk_shift + SECTOR_SHIFT);

	return min_t(u64, fb->iter.bi_size, chunk - (at & (chunk - 1)));
}

bool fastoci_read_again(struct fastoci_bio *fb, const struct bio *bio, blk_status_t status)
{
	struct fastoci_image *image = fb->image;

	if (!status) {
		if (fb->iter.bi_size == step_bytes(fb))
			return false;
		fastoci_leave_section(fb);
	} else if (status == BLK_STS_AGAIN || status == BLK_STS_NOTSUPP ||
		   fastoci_status_is_invalid(status) || (bio->bi_opf & REQ_RAHEAD)) {
		/* These errors say nothing about the slot. Drivers give readahead up early. */
		return false;
	}
	fb->timed_at = 0; /* a read that goes on is no plain hit */
	fb->parked.verdict = status;
	fb->parked.waiters = &image->waiters;
	/* If the list was not empty, the bio may have ended by now, and the image may be gone. */
	if (llist_add(&fb->reread_node, &image->reread))
		fastoci_missq_queue(&image->reread_work);
	return true;
}

/* Makes the bio the first step of @fb->iter, as new: a device that read it has changed it. */
static void restart(struct fastoci_bio *fb, struct bio *bio)
{
	bio->bi_iter = fb->iter;
	bio->bi_iter.bi_size = step_bytes(fb);
	bio->bi_status = BLK_STS_OK;
	bio->bi_opf &= ~REQ_POLLED;
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
	atomic_set(&bio->__bi_remaining, 1); /* 0 if it was split */
}

/* Whether the superblock can be read. W: reread_work, which alone uses the page. */
static bool device_reads(const struct fastoci_image *image)
{
	struct bio_vec bvec;
	struct bio bio;
	int err;

	bio_init(&bio, image->cache_bdev, &bvec, 1, REQ_OP_READ);
	__bio_add_page(&bio, image->probe_page, SECTOR_SIZE, 0);
	err = submit_bio_wait(&bio);
	bio_uninit(&bio);
	return !err;
}

static void retire_slot(struct fastoci_bio *fb)
{
	struct fastoci_image *image = fb->image;
	struct fastoci_cache *cache = image->cache;

	if (fastoci_cache_retire(cache, fb->parked.space,
				 fastoci_chunk_of(&cache->missq.map, &fb->parked), fb->slot))
		DMWARN_LIMIT("%s: slot %u of cache %u cannot be read and is out of service: check the cache device %s",
			     fastoci_image_name(image), fb->slot, cache->no,
			     image->cache_dev->name);
}

/* A read of one slot failed. Sets the verdict; true if the slot is tried again after a while. */
static bool slot_failed(struct fastoci_bio *fb)
{
	blk_status_t *status = &fb->parked.verdict;
	enum fastoci_reread verdict;
	bool is_over;

	if (!fb->nr_tries || fb->tried_slot != fb->slot) {
		fb->nr_tries = 0;
		fb->tried_slot = fb->slot;
		fb->failing_since = jiffies;
	}
	fb->nr_tries = min(fb->nr_tries + 1, 2); /* more is not asked for */
	is_over = time_after_eq(jiffies, fb->failing_since + msecs_to_jiffies(READ_ONCE(retry_ms)));
	verdict = fastoci_reread_verdict(*status, fb->nr_tries, is_over);
	if (verdict == FASTOCI_RETIRE && !device_reads(fb->image))
		verdict = is_over ? FASTOCI_GIVE_UP : FASTOCI_TRY_AGAIN;
	if (verdict == FASTOCI_TRY_AGAIN) {
		*status = BLK_STS_OK;
		return true;
	}
	if (verdict == FASTOCI_RETIRE && fb->nr_retired + 1 < MAX_SLOTS) {
		fb->nr_retired++;
		fb->nr_tries = 0;
		retire_slot(fb);
		*status = BLK_STS_OK;
		return false;
	}
	DMERR_LIMIT("%s: a read fails with error %d of the cache device %s: check it",
		    fastoci_image_name(fb->image), blk_status_to_errno(*status),
		    fb->image->cache_dev->name);
	return false;
}

/* The read failed, or a step of it ended well: the next step. */
static void next_step(struct fastoci_bio *fb)
{
	struct bio *bio = dm_bio_from_per_bio_data(fb, sizeof(*fb));
	u32 bytes = step_bytes(fb);
	bool later = false;

	if (fb->parked.verdict == BLK_STS_OK) {
		bvec_iter_advance(bio->bi_io_vec, &fb->iter, bytes);
		fb->parked.data_sector += bytes >> SECTOR_SHIFT;
		fb->nr_tries = 0;
		fb->nr_retired = 0;
	} else {
		if (bio->bi_opf & REQ_NOWAIT)
			fb->parked.verdict = BLK_STS_AGAIN; /* another try may have to wait */
		else if (fb->in_steps || fb->iter.bi_size == bytes) /* one slot alone was read */
			later = slot_failed(fb);
		else
			fb->parked.verdict = BLK_STS_OK;
		fastoci_leave_section(fb);
		if (fb->parked.verdict == BLK_STS_AGAIN) {
			bio_wouldblock_error(bio);
			return;
		}
	}
	fb->in_steps = true;
	restart(fb, bio);
	if (later)
		fastoci_release_in(&fb->parked, RETRY_EVERY_MS);
	else
		fastoci_look_up_again(fb);
}

static void reread(struct work_struct *work)
{
	struct fastoci_image *image = container_of(work, struct fastoci_image, reread_work);
	struct fastoci_bio *fb, *tmp;

	llist_for_each_entry_safe(fb, tmp, llist_del_all(&image->reread), reread_node)
		next_step(fb);
}

void fastoci_reread_setup(struct fastoci_image *image)
{
	init_llist_head(&image->reread);
	INIT_WORK(&image->reread_work, reread);
}
