// SPDX-License-Identifier: GPL-2.0
#include "lookup.h"

bool fastoci_try_hit(struct fastoci_bio *fb, struct bio *bio, bool may_split)
{
	const struct fastoci_space *space = fb->parked.space;
	struct fastoci_image *image = fb->image;
	u32 shift = image->chunk_shift;
	u32 chunk_no = fb->parked.data_sector >> shift;
	u32 offset = fb->parked.data_sector & ((1U << shift) - 1);
	u32 avail = (1U << shift) - offset;
	int idx = fastoci_srcu_enter(image->srcu);
	u32 slot = READ_ONCE(space->map[chunk_no]), first = slot;

	if (!slot) {
		fastoci_srcu_leave(image->srcu, idx);
		return false;
	}
	fb->srcu_idx = idx;
	for (;;) {
		if (!test_bit(slot - 1, image->accessed))
			set_bit(slot - 1, image->accessed);
		if (avail >= bio_sectors(bio) || ++chunk_no >= space->nr_chunks ||
		    READ_ONCE(space->map[chunk_no]) != slot + 1)
			break;
		slot++;
		avail += 1U << shift;
	}
	if (may_split && avail < bio_sectors(bio))
		dm_accept_partial_bio(bio, avail);
	bio_set_dev(bio, image->cache_bdev);
	bio->bi_iter.bi_sector = image->slots_sector + ((u64)(first - 1) << shift) + offset;
	fb->slot = first - 1;
	return true;
}

/* True if the bio was submitted or parked; else the verdict says how it ends. */
static bool resubmit(struct fastoci_bio *fb, struct bio *bio)
{
	for (;;) {
		if (fastoci_try_hit(fb, bio, false)) {
			dm_submit_bio_remap(bio, NULL);
			return true;
		}
		switch (fastoci_park(bio, &fb->parked)) {
		case FASTOCI_PARKED:
			return true;
		case FASTOCI_PRESENT:
			continue;
		case FASTOCI_PARK_REQUEUE:
			fb->parked.verdict = BLK_STS_DM_REQUEUE;
			return false;
		default:
			fb->parked.verdict = BLK_STS_IOERR;
			return false;
		}
	}
}

void fastoci_look_up_again(struct fastoci_bio *fb)
{
	struct bio *bio = dm_bio_from_per_bio_data(fb, sizeof(*fb));
	blk_status_t *verdict = &fb->parked.verdict;

	if (*verdict == BLK_STS_DM_REQUEUE && !dm_noflush_suspending(fb->image->waiters.ti))
		*verdict = BLK_STS_OK; /* that suspend was interrupted since the sweep */
	if (*verdict == BLK_STS_OK && resubmit(fb, bio))
		return; /* passed on or parked: the bio may be gone */
	if (*verdict != BLK_STS_DM_REQUEUE)
		fastoci_count_error(fb->image);
	bio->bi_status = *verdict;
	bio_endio(bio);
}
