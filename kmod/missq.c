// SPDX-License-Identifier: GPL-2.0
#include "missq.h"

#define OVERFLOW_RETRY_MS 10	/* reads without a miss entry */

static void (*release_read)(struct fastoci_parked *p);

/*
 * Whether @bio begins at least @bytes after the start of the bio that was submitted.
 * A split or a clone of a bio shares its vector and has the iterator moved on, so the
 * iterator still tells.
 */
static bool begins_behind(const struct bio *bio, u32 bytes)
{
	u32 i, before = mp_bvec_iter_offset(bio->bi_io_vec, bio->bi_iter) -
			bio->bi_io_vec[bio->bi_iter.bi_idx].bv_offset;

	for (i = 0; i < bio->bi_iter.bi_idx && before < bytes; i++)
		before += bio->bi_io_vec[i].bv_len;
	return before >= bytes;
}

static u8 bio_class(const struct bio *bio)
{
	if (!(bio->bi_opf & REQ_RAHEAD))
		return FASTOCI_CLASS_DEMAND;
	return begins_behind(bio, SZ_256K) ? FASTOCI_CLASS_AHEAD : FASTOCI_CLASS_MAYBE;
}

/*
 * Sets *@at to the time (jiffies) when a read that waits since @since has to be ended. False if
 * it may wait for ever.
 */
static bool deadline_of(const struct fastoci_waiters *w, unsigned long since, unsigned long *at)
{
	bool found = false;

	if (w->policy == FASTOCI_FAIL_AFTER) {
		*at = since + msecs_to_jiffies(w->fail_after_ms);
		found = true;
	}
	if (w->draining) {
		unsigned long drained = w->drain_since + msecs_to_jiffies(w->suspend_grace_ms);

		if (!found || time_before(drained, *at))
			*at = drained;
		found = true;
	}
	return found;
}

static void raise_event(struct work_struct *work)
{
	dm_table_event(container_of(work, struct fastoci_waiters, event_work)->ti->table);
}

void fastoci_waiters_setup(struct fastoci_waiters *w)
{
	INIT_LIST_HEAD(&w->parked);
	INIT_WORK(&w->event_work, raise_event);
}

void fastoci_waiters_event(struct fastoci_waiters *w)
{
	schedule_work(&w->event_work); /* dm's lock may be held by who waits for memory */
}

void fastoci_missq_event_locked(struct fastoci_missq *q)
{
	struct fastoci_waiters *w;

	fastoci_missq_assert_locked(q);
	list_for_each_entry(w, &q->images, node)
		fastoci_waiters_event(w);
}

void fastoci_waiters_add_locked(struct fastoci_waiters *w)
{
	fastoci_missq_assert_locked(w->missq);
	list_add_tail(&w->node, &w->missq->images);
}

void fastoci_waiters_remove(struct fastoci_waiters *w)
{
	fastoci_missq_lock(w->missq);
	WARN_ON_ONCE(w->nr_parked);
	list_del(&w->node);
	fastoci_missq_unlock(w->missq);
	cancel_work_sync(&w->event_work); /* off the list, nothing queues it any more */
}

/* Raises an event if the helper has stalled, or goes on again. */
static void note_stalled(struct fastoci_missq *q, bool stalled)
{
	fastoci_missq_assert_locked(q);
	if (q->told_stalled == stalled)
		return;
	q->told_stalled = stalled;
	fastoci_missq_event_locked(q);
}

void fastoci_note_miss(struct bio *bio, struct fastoci_parked *p)
{
	struct fastoci_missq *q = p->waiters->missq;
	u32 chunk_no = fastoci_chunk_of(&q->map, p);

	fastoci_missq_lock(q);
	if (!READ_ONCE(p->space->map[chunk_no]) && fastoci_helper_present())
		fastoci_miss_get(q, p->space->no, chunk_no, bio_class(bio));
	fastoci_missq_unlock(q);
}

/*
 * Whether device-mapper takes bios back. If a suspend is interrupted, it stops doing
 * so before it calls presuspend_undo, which clears @w->requeue. A requeue in between
 * would fail the read with EIO.
 */
static bool may_requeue(const struct fastoci_waiters *w)
{
	return w->requeue && dm_noflush_suspending(w->ti);
}

enum fastoci_park fastoci_park(struct bio *bio, struct fastoci_parked *p)
{
	struct fastoci_waiters *w = p->waiters;
	struct fastoci_missq *q = w->missq;
	u32 chunk_no = fastoci_chunk_of(&q->map, p);
	bool readahead = bio->bi_opf & REQ_RAHEAD;
	enum fastoci_park ret = FASTOCI_PARKED;
	struct fastoci_miss *miss;
	unsigned long at;

	fastoci_missq_lock(q);
	if (READ_ONCE(p->space->map[chunk_no])) {
		ret = FASTOCI_PRESENT;
	} else if (may_requeue(w)) {
		ret = FASTOCI_PARK_REQUEUE;
	} else if (readahead && fastoci_helper_state_locked(q) != FASTOCI_HELPER_READY) {
		ret = FASTOCI_PARK_FAIL;
	} else if (w->policy == FASTOCI_FAIL_AFTER && !w->fail_after_ms) {
		ret = FASTOCI_PARK_FAIL;
	} else {
		bio->bi_opf &= ~REQ_POLLED;
		if (!p->parked_before)
			p->parked_at = jiffies;
		p->parked_before = true;
		p->readahead = readahead;
		miss = fastoci_miss_get(q, p->space->no, chunk_no, bio_class(bio));
		list_add_tail(&p->node, miss ? &miss->reads : &q->overflow);
		list_add_tail(&p->image_node, &w->parked);
		w->nr_parked++;
		if (!miss)
			fastoci_missq_arm_timer_in_locked(q, OVERFLOW_RETRY_MS);
		if (deadline_of(w, p->parked_at, &at))
			fastoci_missq_arm_timer_locked(q, at);
	}
	fastoci_missq_unlock(q);
	return ret;
}

/* With BLK_STS_OK the read is looked up again, otherwise it ends with @verdict. */
static void release_locked(struct fastoci_missq *q, struct fastoci_parked *p,
			   blk_status_t verdict)
{
	fastoci_missq_assert_locked(q);
	p->verdict = verdict;
	list_del(&p->image_node);
	p->waiters->nr_parked--;
	list_move_tail(&p->node, &q->released);
	fastoci_missq_queue(&q->release_work);
}

/* Does the same for a read whose miss was not answered. Erases the miss if no read is left. */
static void give_up(struct fastoci_missq *q, struct fastoci_parked *p, blk_status_t verdict)
{
	struct fastoci_miss *miss =
		fastoci_miss_find(q, p->space->no, fastoci_chunk_of(&q->map, p));

	release_locked(q, p, verdict);
	if (miss && list_empty(&miss->reads))
		fastoci_miss_erase(q, miss);
}

void fastoci_sweep_locked(struct fastoci_waiters *w, blk_status_t verdict)
{
	struct fastoci_parked *p, *tmp;

	list_for_each_entry_safe(p, tmp, &w->parked, image_node)
		give_up(w->missq, p, verdict);
}

void fastoci_sweep(struct fastoci_waiters *w, blk_status_t verdict)
{
	fastoci_missq_lock(w->missq);
	fastoci_sweep_locked(w, verdict);
	fastoci_missq_unlock(w->missq);
}

void fastoci_release_in(struct fastoci_parked *p, u32 ms)
{
	struct fastoci_missq *q = p->waiters->missq;

	fastoci_missq_lock(q);
	p->retry_at = jiffies + msecs_to_jiffies(ms);
	list_add_tail(&p->node, &q->retries);
	fastoci_missq_arm_timer_locked(q, p->retry_at);
	fastoci_missq_unlock(q);
}

/* After it has passed on the last read of an image, it touches nothing of that image. */
static void release_reads(struct work_struct *work)
{
	struct fastoci_missq *q = container_of(work, struct fastoci_missq, release_work);
	struct fastoci_parked *p, *tmp;
	struct blk_plug plug;
	LIST_HEAD(list);

	fastoci_missq_lock(q);
	list_splice_init(&q->released, &list);
	fastoci_missq_unlock(q);
	blk_start_plug(&plug);
	list_for_each_entry_safe(p, tmp, &list, node) {
		release_read(p);
		cond_resched();
	}
	blk_finish_plug(&plug);
}

/* Without a helper no readahead may wait: a close would wait for it for ever. */
static void fail_readahead(struct fastoci_missq *q)
{
	struct fastoci_waiters *w;
	struct fastoci_parked *p, *tmp;

	fastoci_missq_assert_locked(q);
	list_for_each_entry(w, &q->images, node)
		list_for_each_entry_safe(p, tmp, &w->parked, image_node)
			if (p->readahead)
				give_up(q, p, BLK_STS_IOERR);
}

static void run_timer(struct work_struct *work)
{
	struct fastoci_missq *q =
		container_of(to_delayed_work(work), struct fastoci_missq, timer_work);
	enum fastoci_helper_state helper;
	struct fastoci_waiters *w;
	struct fastoci_parked *p, *tmp;
	unsigned long at;

	fastoci_missq_lock(q);
	q->timer_armed = false;
	helper = fastoci_helper_state_locked(q);
	note_stalled(q, helper == FASTOCI_HELPER_STALLED);
	fastoci_misses_ask_again_locked(q, helper);
	if (helper == FASTOCI_HELPER_STALLED)
		fail_readahead(q);
	list_for_each_entry(w, &q->images, node)
		list_for_each_entry_safe(p, tmp, &w->parked, image_node) {
			if (!deadline_of(w, p->parked_at, &at))
				break;
			if (time_after_eq(jiffies, at))
				give_up(q, p, BLK_STS_IOERR);
			else
				fastoci_missq_arm_timer_locked(q, at);
		}
	list_for_each_entry_safe(p, tmp, &q->retries, node) { /* in the order of time */
		if (time_before(jiffies, p->retry_at)) {
			fastoci_missq_arm_timer_locked(q, p->retry_at);
			break;
		}
		list_move_tail(&p->node, &q->released);
		fastoci_missq_queue(&q->release_work);
	}
	/* This comes last: it takes reads off their image's list, where deadlines are checked. */
	list_for_each_entry_safe(p, tmp, &q->overflow, node)
		release_locked(q, p, BLK_STS_OK);
	fastoci_missq_unlock(q);
}

void fastoci_missq_resend(struct fastoci_missq *q)
{
	fastoci_missq_lock(q);
	fastoci_misses_resend_locked(q);
	note_stalled(q, false);
	fastoci_missq_unlock(q);
}

void fastoci_missq_helper_came(struct fastoci_missq *q)
{
	fastoci_missq_resend(q);
	fastoci_missq_lock(q);
	fastoci_missq_event_locked(q);
	fastoci_missq_unlock(q);
}

void fastoci_missq_helper_lost(struct fastoci_missq *q)
{
	fastoci_missq_lock(q);
	if (!fastoci_helper_present()) {
		fail_readahead(q);
		fastoci_missq_event_locked(q);
	}
	fastoci_missq_unlock(q);
}

void fastoci_missq_ack(struct fastoci_missq *q, u32 count)
{
	fastoci_missq_lock(q);
	fastoci_misses_acked_locked(q, count);
	note_stalled(q, false);
	fastoci_missq_unlock(q);
}

/*
 * Ends the miss of a chunk. With BLK_STS_OK its reads are looked up again, otherwise they end
 * with @verdict.
 */
static void end_miss(struct fastoci_missq *q, u32 space, u32 chunk_no, blk_status_t verdict)
{
	struct fastoci_miss *miss =
		fastoci_miss_answered(q, space, chunk_no, verdict == BLK_STS_OK);
	struct fastoci_parked *p, *tmp;

	if (!miss)
		return;
	list_for_each_entry_safe(p, tmp, &miss->reads, node)
		release_locked(q, p, verdict);
	fastoci_miss_erase(q, miss);
}

int fastoci_missq_fill(struct fastoci_missq *q, u32 space, u32 chunk_no, u32 slot, u64 generation)
{
	int err;

	fastoci_missq_lock(q);
	err = fastoci_chunk_fill_locked(&q->map, space, chunk_no, slot, generation);
	if (!err)
		end_miss(q, space, chunk_no, BLK_STS_OK);
	fastoci_missq_unlock(q);
	return err;
}

/* What readers see. Codes that the block layer treats specially become EIO. */
static blk_status_t fail_status(u32 err)
{
	switch (err) {
	case ETIMEDOUT:
		return BLK_STS_TIMEOUT;
	case ENODATA:
		return BLK_STS_MEDIUM;
	case EILSEQ:
		return BLK_STS_PROTECTION;
	default:
		return BLK_STS_IOERR;
	}
}

int fastoci_missq_fail(struct fastoci_missq *q, u32 space_no, u32 chunk_no, u32 err)
{
	struct fastoci_space *space;
	int ret = -EINVAL;

	fastoci_missq_lock(q);
	space = fastoci_space_find_locked(&q->map, space_no);
	if (space && chunk_no < space->nr_chunks) {
		end_miss(q, space_no, chunk_no, fail_status(err));
		ret = 0;
	}
	fastoci_missq_unlock(q);
	return ret;
}

void fastoci_space_put(struct fastoci_missq *q, struct fastoci_space *space)
{
	LIST_HEAD(reaped);

	fastoci_missq_lock(q);
	if (space->nr_users == 1)
		fastoci_misses_drop_locked(q, space->no);
	fastoci_space_unuse_locked(&q->map, space, &reaped);
	fastoci_missq_unlock(q);
	fastoci_spaces_free(&reaped);
}

void fastoci_missq_setup(struct fastoci_missq *q)
{
	fastoci_asks_setup(q);
	INIT_LIST_HEAD(&q->images);
	INIT_LIST_HEAD(&q->overflow);
	INIT_LIST_HEAD(&q->retries);
	INIT_LIST_HEAD(&q->released);
	INIT_WORK(&q->release_work, release_reads);
	INIT_DELAYED_WORK(&q->timer_work, run_timer);
}

/*
 * No image is left, so there is no read. Each miss was dropped with the last user of its
 * space. So the timer queues no send. After the last send has ended, nobody arms the
 * timer.
 */
void fastoci_missq_stop(struct fastoci_missq *q)
{
	WARN_ON_ONCE(!RB_EMPTY_ROOT(&q->misses));
	cancel_work_sync(&q->send_work);
	cancel_delayed_work_sync(&q->timer_work);
	cancel_work_sync(&q->release_work);
}

int fastoci_missq_init(void (*release)(struct fastoci_parked *p))
{
	release_read = release;
	return fastoci_asks_init();
}

void fastoci_missq_exit(void)
{
	fastoci_asks_exit();
}
