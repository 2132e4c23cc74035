// SPDX-License-Identifier: GPL-2.0
/*
 * Reads of the cache device that fail. A reader of a hit shall not see what a
 * bad slot does: the slot is taken out of service for good, and the bio goes on
 * as a miss does, by another slot.
 *
 *   bio: read -> failed -> looked up again -> read | parked | ended
 *
 * A bio may cover a run of slots, and its error names none of them. So one that
 * failed is read again chunk by chunk, in steps: each is the bio itself, cut to
 * what a chunk has of it, so it needs no memory and obeys every rule that holds
 * for a released bio (missq.c). A step that fails names its slot. A chunk that
 * fails MAX_FAILURES times ends its bio with the error, so a cache that is bad
 * as a whole never makes it turn for ever.
 *
 * end_io may run in an interrupt and takes no lock: it puts the bio on a
 * lock-free list for reread_work. A bio that failed keeps its read section
 * until then, so that its slot is still what it read from: its chunk's, or one
 * whose eviction waits for this bio. DM_ENDIO_REQUEUE would be EIO outside of a
 * no-flush suspend.
 */
#include <linux/bio.h>

#include "fastoci.h"

#define MAX_FAILURES 4	/* of one chunk's reads, for one bio */

/* The bytes of the step that begins @pb->iter: up to the end of its chunk. */
static u32 step_bytes(const struct fastoci_cache *cache, const struct fastoci_bio *pb)
{
	u64 at = pb->data_sector << SECTOR_SHIFT;
	u64 chunk = 1ULL << cache->chunk_shift;

	return min_t(u64, pb->iter.bi_size, chunk - (at & (chunk - 1)));
}

/*
 * Whether a read of the cache device, which ended with @status, is not over: it
 * goes on in reread_work. Any context.
 */
bool fastoci_read_again(struct fastoci_image *image, struct fastoci_bio *pb, const struct bio *bio,
			blk_status_t status)
{
	struct fastoci_cache *cache = image->cache;

	if (!status) {
		if (pb->iter.bi_size == step_bytes(cache, pb))
			return false;
		fastoci_srcu_leave(&cache->srcu, pb->srcu_idx);
		pb->srcu_idx = -1;
	} else if (pb->nr_failures + 1 == MAX_FAILURES) {
		this_cpu_inc(image->stats->errors);
		return false;
	} else if (status == BLK_STS_AGAIN || status == BLK_STS_NOTSUPP ||
		   (bio->bi_opf & REQ_RAHEAD)) {
		/* These say nothing of the slot: of readahead, drivers give up early. */
		return false;
	}
	pb->timed_at = 0; /* what goes on is no plain hit */
	pb->image = image;
	pb->verdict = status;
	/* Who finds the list empty queues: the others may be over, and their cache gone, by now. */
	if (llist_add(&pb->reread_node, &cache->reread))
		fastoci_missq_queue(&cache->reread_work);
	return true;
}

/* Makes the bio what @pb->iter begins with, as new: whoever read it has changed it. */
static void restart(struct fastoci_cache *cache, struct fastoci_bio *pb, struct bio *bio)
{
	bio->bi_iter = pb->iter;
	bio->bi_iter.bi_size = step_bytes(cache, pb);
	bio->bi_status = BLK_STS_OK;
	bio->bi_opf &= ~REQ_POLLED;
	bio_clear_flag(bio, BIO_QOS_THROTTLED);
	bio_clear_flag(bio, BIO_QOS_MERGED);
	atomic_set(&bio->__bi_remaining, 1); /* 0 if it was split */
}

/* The read failed, or a step of it ended well: the next step. */
static void next_step(struct fastoci_cache *cache, struct fastoci_bio *pb)
{
	struct bio *bio = dm_bio_from_per_bio_data(pb, sizeof(*pb));
	u32 bytes = step_bytes(cache, pb);

	if (pb->verdict == BLK_STS_OK) {
		bvec_iter_advance(bio->bi_io_vec, &pb->iter, bytes);
		pb->data_sector += bytes >> SECTOR_SHIFT;
		pb->nr_failures = 1; /* not 0: steps are left */
	} else {
		if (pb->nr_failures || pb->iter.bi_size == bytes) /* one slot alone was read */
			fastoci_slot_retire(cache, pb->space, fastoci_chunk_of(cache, pb),
					    pb->slot);
		pb->nr_failures++;
		fastoci_srcu_leave(&cache->srcu, pb->srcu_idx);
		pb->srcu_idx = -1;
	}
	restart(cache, pb, bio);
	if (bio->bi_opf & REQ_NOWAIT) { /* may not park */
		fastoci_note_miss(pb, bio);
		bio_wouldblock_error(bio);
		return;
	}
	pb->verdict = BLK_STS_OK;
	fastoci_bio_go_on(pb);
}

static void reread(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, reread_work);
	struct fastoci_bio *pb, *tmp;

	llist_for_each_entry_safe(pb, tmp, llist_del_all(&cache->reread), reread_node)
		next_step(cache, pb);
}

void fastoci_reread_setup(struct fastoci_cache *cache)
{
	init_llist_head(&cache->reread);
	INIT_WORK(&cache->reread_work, reread);
}
