// SPDX-License-Identifier: GPL-2.0
/*
 * Misses, parked bios and deadlines, and what is told to the helper.
 *
 * A chunk has one miss, which holds the bios that wait for it; each of them is
 * on its image's list as well, so that one device can be swept alone.
 *
 *   bio:   parked -> released -> resubmitted | parked again | ended
 *
 * A bio is parked under cache->lock after slot, helper, policy and suspend
 * state were looked at again; each of these changes its state first and sweeps
 * under the same lock after, so no wake-up is lost. Released bios are handled
 * by release_work alone, in a WQ_MEM_RECLAIM queue. Parking needs no memory
 * but the bio's own: without a miss entry the bio waits on the overflow list. A
 * bio whose read of the cache device failed comes back from reread.c.
 *
 *   miss:  unsent <-> asked -> gone
 *
 * A miss goes with its answer, or when the last bio that waited for it was ended
 * otherwise, so that the next reader asks anew. One whose message the socket
 * refused, or that was not answered for ask_again_ms, is unsent again: whatever
 * a helper loses, its readers wait no longer than that for another try.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "fastoci.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

#define OVERFLOW_RETRY_MS 10	/* bios without a miss entry */
#define SEND_RETRY_MS 100	/* a socket that is full, or no memory for a message */

static struct kmem_cache *miss_slab;
static struct workqueue_struct *wq;

static int set_ms(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 100, 3600000);
}

static const struct kernel_param_ops ms_ops = { .set = set_ms, .get = param_get_uint };

static uint stall_ms = 10000;
module_param_cb(stall_ms, &ms_ops, &stall_ms, 0644);
MODULE_PARM_DESC(stall_ms, "a helper that acknowledges nothing for so long counts as absent (100..3600000, default 10000)");

static uint ask_again_ms = 30000;
module_param_cb(ask_again_ms, &ms_ops, &ask_again_ms, 0644);
MODULE_PARM_DESC(ask_again_ms, "a miss that the helper does not answer for so long is sent again (100..3600000, default 30000)");

static u64 miss_order(const struct fastoci_miss_key *k)
{
	return (u64)k->space << 32 | k->chunk_no;
}

static struct fastoci_miss *find_miss(struct fastoci_cache *cache, u32 space, u32 chunk_no)
{
	struct rb_node *n = cache->misses.rb_node;
	u64 want = (u64)space << 32 | chunk_no;

	while (n) {
		struct fastoci_miss *m = rb_entry(n, struct fastoci_miss, node);
		u64 have = miss_order(&m->key);

		if (want == have)
			return m;
		n = want < have ? n->rb_left : n->rb_right;
	}
	return NULL;
}

static void insert_miss(struct fastoci_cache *cache, struct fastoci_miss *miss)
{
	struct rb_node **link = &cache->misses.rb_node, *parent = NULL;

	while (*link) {
		struct fastoci_miss *m = rb_entry(*link, struct fastoci_miss, node);

		parent = *link;
		link = miss_order(&miss->key) < miss_order(&m->key) ? &parent->rb_left :
								      &parent->rb_right;
	}
	rb_link_node(&miss->node, parent, link);
	rb_insert_color(&miss->node, &cache->misses);
	cache->nr_misses++;
}

static void erase_miss(struct fastoci_cache *cache, struct fastoci_miss *miss)
{
	lockdep_assert_held(&cache->lock);
	rb_erase(&miss->node, &cache->misses);
	list_del(&miss->queue);
	cache->nr_misses--;
	kmem_cache_free(miss_slab, miss);
}

static u8 bio_class(const struct bio *bio)
{
	if (!(bio->bi_opf & REQ_RAHEAD))
		return FASTOCI_CLASS_DEMAND;
	return bio->bi_iter.bi_size <= SZ_256K ? FASTOCI_CLASS_MAYBE : FASTOCI_CLASS_AHEAD;
}

/* Queues @miss behind those of its class; demand is sent before readahead. */
static void to_send(struct fastoci_cache *cache, struct fastoci_miss *miss)
{
	lockdep_assert_held(&cache->lock);
	list_move_tail(&miss->queue, &cache->unsent[miss->key.class]);
}

static struct fastoci_miss *first_unsent(struct fastoci_cache *cache)
{
	int class;

	lockdep_assert_held(&cache->lock);
	for (class = FASTOCI_CLASS_DEMAND; class >= 0; class--)
		if (!list_empty(&cache->unsent[class]))
			return list_first_entry(&cache->unsent[class], struct fastoci_miss, queue);
	return NULL;
}

/* The miss of @pb's chunk, made or raised to @class; NULL without memory. */
static struct fastoci_miss *get_miss(struct fastoci_cache *cache, struct fastoci_bio *pb, u8 class)
{
	u32 chunk_no = fastoci_chunk_of(cache, pb);
	struct fastoci_miss *miss = find_miss(cache, pb->space->no, chunk_no);

	lockdep_assert_held(&cache->lock);
	if (miss && miss->key.class >= class)
		return miss;
	if (!miss) {
		miss = kmem_cache_alloc(miss_slab, GFP_NOWAIT | __GFP_NOWARN);
		if (!miss)
			return NULL;
		miss->key = (struct fastoci_miss_key){ pb->space->no, chunk_no, class };
		miss->since_ns = ktime_get_ns();
		INIT_LIST_HEAD(&miss->bios);
		INIT_LIST_HEAD(&miss->queue);
		insert_miss(cache, miss);
	}
	miss->key.class = class;
	trace_fastoci_miss(cache, &miss->key);
	to_send(cache, miss);
	queue_work(wq, &cache->send_work);
	return miss;
}

/* Has the timer run at @at (jiffies) or before. */
void fastoci_cache_arm_timer(struct fastoci_cache *cache, unsigned long at)
{
	lockdep_assert_held(&cache->lock);
	if (cache->timer_armed && time_before_eq(cache->timer_at, at))
		return;
	cache->timer_armed = true;
	cache->timer_at = at;
	mod_delayed_work(wq, &cache->timer_work,
			 time_after(at, jiffies) ? at - jiffies : 0);
}

static void arm_timer_in(struct fastoci_cache *cache, u32 ms)
{
	fastoci_cache_arm_timer(cache, jiffies + msecs_to_jiffies(ms));
}

/* When a bio that waits since @since has to be ended; false: never. */
static bool deadline_of(const struct fastoci_image *image, unsigned long since, unsigned long *at)
{
	bool found = false;

	if (image->policy == FASTOCI_FAIL_AFTER) {
		*at = since + msecs_to_jiffies(image->fail_after_ms);
		found = true;
	}
	if (image->draining) {
		unsigned long drained = image->drain_since +
					msecs_to_jiffies(image->suspend_grace_ms);

		if (!found || time_before(drained, *at))
			*at = drained;
		found = true;
	}
	return found;
}

/* A helper that takes its messages. */
enum fastoci_helper_state fastoci_helper_state(struct fastoci_cache *cache)
{
	lockdep_assert_held(&cache->lock);
	if (!fastoci_helper_present())
		return FASTOCI_HELPER_NONE;
	if (cache->unacked &&
	    time_after_eq(jiffies, cache->unacked_since + msecs_to_jiffies(READ_ONCE(stall_ms))))
		return FASTOCI_HELPER_STALLED;
	return FASTOCI_HELPER_READY;
}

/* A NOWAIT bio does not park, but what it wants is fetched. */
void fastoci_note_miss(struct fastoci_bio *pb, struct bio *bio)
{
	struct fastoci_cache *cache = pb->image->cache;

	spin_lock(&cache->lock);
	if (!READ_ONCE(pb->space->map[fastoci_chunk_of(cache, pb)]) && fastoci_helper_present())
		get_miss(cache, pb, bio_class(bio));
	spin_unlock(&cache->lock);
}

enum fastoci_park fastoci_park(struct bio *bio, struct fastoci_bio *pb)
{
	struct fastoci_image *image = pb->image;
	struct fastoci_cache *cache = image->cache;
	enum fastoci_park ret = FASTOCI_PARKED;
	struct fastoci_miss *miss;
	unsigned long at;

	spin_lock(&cache->lock);
	if (READ_ONCE(pb->space->map[fastoci_chunk_of(cache, pb)])) {
		ret = FASTOCI_PRESENT;
	} else if (image->requeue) {
		ret = FASTOCI_PARK_REQUEUE;
	} else if ((bio->bi_opf & REQ_RAHEAD) &&
		   fastoci_helper_state(cache) != FASTOCI_HELPER_READY) {
		ret = FASTOCI_PARK_FAIL;
	} else if (image->policy == FASTOCI_FAIL_AFTER && !image->fail_after_ms) {
		ret = FASTOCI_PARK_FAIL;
	} else {
		bio->bi_opf &= ~REQ_POLLED;
		if (!pb->parked_before)
			pb->parked_at = jiffies;
		pb->parked_before = true;
		miss = get_miss(cache, pb, bio_class(bio));
		list_add_tail(&pb->miss_node, miss ? &miss->bios : &cache->overflow);
		list_add_tail(&pb->image_node, &image->parked);
		image->nr_parked++;
		if (!miss)
			arm_timer_in(cache, OVERFLOW_RETRY_MS);
		if (deadline_of(image, pb->parked_at, &at))
			fastoci_cache_arm_timer(cache, at);
	}
	spin_unlock(&cache->lock);
	return ret;
}

/* BLK_STS_OK: look it up again; else end it so. */
static void release_locked(struct fastoci_cache *cache, struct fastoci_bio *pb,
			   blk_status_t verdict)
{
	lockdep_assert_held(&cache->lock);
	pb->verdict = verdict;
	list_del(&pb->image_node);
	pb->image->nr_parked--;
	list_move_tail(&pb->miss_node, &cache->released);
	queue_work(wq, &cache->release_work);
}

/* The same before its miss was answered. */
static void give_up(struct fastoci_cache *cache, struct fastoci_bio *pb, blk_status_t verdict)
{
	struct fastoci_miss *miss = find_miss(cache, pb->space->no, fastoci_chunk_of(cache, pb));

	release_locked(cache, pb, verdict);
	if (miss && list_empty(&miss->bios))
		erase_miss(cache, miss);
}

void fastoci_sweep_locked(struct fastoci_image *image, blk_status_t verdict)
{
	struct fastoci_bio *pb, *tmp;

	list_for_each_entry_safe(pb, tmp, &image->parked, image_node)
		give_up(image->cache, pb, verdict);
}

void fastoci_sweep(struct fastoci_image *image, blk_status_t verdict)
{
	spin_lock(&image->cache->lock);
	fastoci_sweep_locked(image, verdict);
	spin_unlock(&image->cache->lock);
}

/* True if the bio was submitted or parked; else pb->verdict says how it ends. */
static bool resubmit(struct bio *bio, struct fastoci_bio *pb)
{
	for (;;) {
		if (fastoci_try_hit(pb->image, pb->space, pb->data_sector, bio, pb, false)) {
			dm_submit_bio_remap(bio, NULL);
			return true;
		}
		switch (fastoci_park(bio, pb)) {
		case FASTOCI_PARKED:
			return true;
		case FASTOCI_PRESENT:
			continue;
		case FASTOCI_PARK_REQUEUE:
			pb->verdict = BLK_STS_DM_REQUEUE;
			return false;
		default:
			pb->verdict = BLK_STS_IOERR;
			return false;
		}
	}
}

void fastoci_bio_go_on(struct fastoci_bio *pb)
{
	struct bio *bio = dm_bio_from_per_bio_data(pb, sizeof(*pb));

	if (pb->verdict == BLK_STS_OK && resubmit(bio, pb))
		return; /* passed on or parked: no longer ours to look at */
	if (pb->verdict != BLK_STS_DM_REQUEUE)
		this_cpu_inc(pb->image->stats->errors);
	bio->bi_status = pb->verdict;
	bio_endio(bio);
}

/* After its last bio has been passed on, nothing of the image is touched. */
static void release_bios(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, release_work);
	struct fastoci_bio *pb, *tmp;
	LIST_HEAD(list);

	spin_lock(&cache->lock);
	list_splice_init(&cache->released, &list);
	spin_unlock(&cache->lock);
	list_for_each_entry_safe(pb, tmp, &list, miss_node)
		fastoci_bio_go_on(pb);
}

/* Without a helper nobody waits for readahead, or no close would ever end. */
void fastoci_fail_readahead(struct fastoci_cache *cache)
{
	struct fastoci_image *image;
	struct fastoci_bio *pb, *tmp;

	lockdep_assert_held(&cache->lock);
	list_for_each_entry(image, &cache->images, node)
		list_for_each_entry_safe(pb, tmp, &image->parked, image_node)
			if (dm_bio_from_per_bio_data(pb, sizeof(*pb))->bi_opf & REQ_RAHEAD)
				give_up(cache, pb, BLK_STS_IOERR);
}

/* What was asked for and not answered is sent again, or forgotten if nobody waits for it. */
static void ask_again(struct fastoci_cache *cache)
{
	struct fastoci_miss *miss, *tmp;
	unsigned long at;

	lockdep_assert_held(&cache->lock);
	list_for_each_entry_safe(miss, tmp, &cache->asked, queue) {
		at = miss->asked_at + msecs_to_jiffies(READ_ONCE(ask_again_ms));
		if (time_before(jiffies, at)) {
			fastoci_cache_arm_timer(cache, at);
			return;
		}
		if (list_empty(&miss->bios))
			erase_miss(cache, miss);
		else
			to_send(cache, miss);
	}
}

static void run_timer(struct work_struct *work)
{
	struct fastoci_cache *cache =
		container_of(to_delayed_work(work), struct fastoci_cache, timer_work);
	enum fastoci_helper_state helper;
	struct fastoci_image *image;
	struct fastoci_bio *pb, *tmp;
	unsigned long at;

	spin_lock(&cache->lock);
	cache->timer_armed = false;
	helper = fastoci_helper_state(cache);
	ask_again(cache);
	if (first_unsent(cache))
		queue_work(wq, &cache->send_work);
	if (helper == FASTOCI_HELPER_STALLED)
		fastoci_fail_readahead(cache);
	else if (helper == FASTOCI_HELPER_READY && cache->unacked) /* in the future, then */
		fastoci_cache_arm_timer(cache, cache->unacked_since +
					       msecs_to_jiffies(READ_ONCE(stall_ms)));
	list_for_each_entry(image, &cache->images, node)
		list_for_each_entry_safe(pb, tmp, &image->parked, image_node) {
			if (!deadline_of(image, pb->parked_at, &at))
				break;
			if (time_after_eq(jiffies, at))
				give_up(cache, pb, BLK_STS_IOERR);
			else
				fastoci_cache_arm_timer(cache, at);
		}
	/* Last, as who is on his way back to the overflow list is on no other: deadlines hold. */
	list_for_each_entry_safe(pb, tmp, &cache->overflow, miss_node)
		release_locked(cache, pb, BLK_STS_OK);
	spin_unlock(&cache->lock);
}

/* Moves what may be sent now to cache->batch; how many that are. */
static u32 take_batch(struct fastoci_cache *cache)
{
	struct fastoci_miss *miss;
	u32 nr = 0;

	lockdep_assert_held(&cache->lock);
	while (nr < FASTOCI_MAX_BATCH && cache->unacked + nr < FASTOCI_MISS_WINDOW) {
		miss = first_unsent(cache);
		if (!miss)
			break;
		cache->batch[nr++] = miss->key;
		miss->asked_at = jiffies;
		list_move_tail(&miss->queue, &cache->asked);
	}
	if (!nr)
		return 0;
	if (!cache->unacked)
		cache->unacked_since = jiffies;
	cache->unacked += nr;
	fastoci_cache_arm_timer(cache, cache->unacked_since +
				       msecs_to_jiffies(READ_ONCE(stall_ms)));
	arm_timer_in(cache, READ_ONCE(ask_again_ms));
	return nr;
}

/* A batch that was not sent goes back to the front. */
static void unsend_batch(struct fastoci_cache *cache, u32 nr)
{
	struct fastoci_miss *miss;

	lockdep_assert_held(&cache->lock);
	cache->unacked -= min(nr, cache->unacked);
	while (nr--) {
		miss = find_miss(cache, cache->batch[nr].space, cache->batch[nr].chunk_no);
		if (miss)
			list_move(&miss->queue, &cache->unsent[miss->key.class]);
	}
}

static void send_misses(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, send_work);
	int err;
	u32 nr;

	for (;;) {
		spin_lock(&cache->lock);
		nr = take_batch(cache);
		spin_unlock(&cache->lock);
		if (!nr)
			return;
		err = fastoci_send_misses(cache, cache->batch, nr);
		if (!err)
			continue;
		/*
		 * Without a helper the next REGISTER sends. Else only the timer may be
		 * relied on: a socket reports ENOBUFS once until it was read empty, so
		 * the helper may not learn that this message was refused, too.
		 */
		spin_lock(&cache->lock);
		unsend_batch(cache, nr);
		if (err != -ECONNREFUSED)
			arm_timer_in(cache, SEND_RETRY_MS);
		spin_unlock(&cache->lock);
		return;
	}
}

/* Sends every pending miss again, to a new helper or to one that lost messages. */
void fastoci_cache_resend(struct fastoci_cache *cache, void *arg)
{
	struct rb_node *n, *next;

	spin_lock(&cache->lock);
	for (n = rb_first(&cache->misses); n; n = next) {
		struct fastoci_miss *miss = rb_entry(n, struct fastoci_miss, node);

		next = rb_next(n);
		if (list_empty(&miss->bios))
			erase_miss(cache, miss); /* of a NOWAIT read */
		else
			to_send(cache, miss);
	}
	cache->unacked = 0;
	spin_unlock(&cache->lock);
	queue_work(wq, &cache->send_work);
}

void fastoci_cache_ack(struct fastoci_cache *cache, u32 count)
{
	spin_lock(&cache->lock);
	cache->unacked -= min(count, cache->unacked);
	cache->unacked_since = jiffies;
	spin_unlock(&cache->lock);
	queue_work(wq, &cache->send_work);
}

/* Ends the miss of a chunk: its bios are looked up again (BLK_STS_OK) or end so. */
void fastoci_miss_complete(struct fastoci_cache *cache, u32 space, u32 chunk_no,
			   blk_status_t verdict)
{
	struct fastoci_miss *miss = find_miss(cache, space, chunk_no);
	struct fastoci_bio *pb, *tmp;

	if (!miss)
		return;
	if (verdict == BLK_STS_OK)
		trace_fastoci_fill(cache, &miss->key, ktime_get_ns() - miss->since_ns);
	else
		trace_fastoci_fail(cache, &miss->key, ktime_get_ns() - miss->since_ns);
	list_for_each_entry_safe(pb, tmp, &miss->bios, miss_node)
		release_locked(cache, pb, verdict);
	erase_miss(cache, miss);
}

/* No image uses the space @no any more, so nobody waits for its chunks. */
void fastoci_misses_drop(struct fastoci_cache *cache, u32 no)
{
	struct rb_node *n = cache->misses.rb_node, *first = NULL, *next;
	struct fastoci_miss *miss;

	lockdep_assert_held(&cache->lock);
	while (n) {
		miss = rb_entry(n, struct fastoci_miss, node);
		if (miss->key.space >= no)
			first = n;
		n = miss->key.space >= no ? n->rb_left : n->rb_right;
	}
	for (n = first; n; n = next) {
		miss = rb_entry(n, struct fastoci_miss, node);
		if (miss->key.space != no)
			return;
		next = rb_next(n);
		WARN_ON_ONCE(!list_empty(&miss->bios));
		erase_miss(cache, miss);
	}
}

void fastoci_missq_setup(struct fastoci_cache *cache)
{
	int class;

	for (class = 0; class < FASTOCI_NR_CLASSES; class++)
		INIT_LIST_HEAD(&cache->unsent[class]);
	INIT_LIST_HEAD(&cache->asked);
	INIT_LIST_HEAD(&cache->overflow);
	INIT_LIST_HEAD(&cache->released);
	cache->misses = RB_ROOT;
	INIT_WORK(&cache->send_work, send_misses);
	INIT_WORK(&cache->release_work, release_bios);
	INIT_DELAYED_WORK(&cache->timer_work, run_timer);
	fastoci_reread_setup(cache);
}

void fastoci_missq_queue(struct work_struct *work)
{
	queue_work(wq, work);
}

/*
 * No image is left, so no bio is, and misses went with their spaces' last user.
 * With nothing to send, the timer queues no send, and once the last send has
 * ended, nobody arms the timer.
 */
void fastoci_missq_free(struct fastoci_cache *cache)
{
	WARN_ON_ONCE(!RB_EMPTY_ROOT(&cache->misses));
	cancel_work_sync(&cache->reread_work);
	cancel_work_sync(&cache->send_work);
	cancel_delayed_work_sync(&cache->timer_work);
	cancel_work_sync(&cache->release_work);
}

int fastoci_missq_init(void)
{
	miss_slab = KMEM_CACHE(fastoci_miss, 0);
	if (!miss_slab)
		return -ENOMEM;
	wq = alloc_workqueue("fastoci", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!wq) {
		kmem_cache_destroy(miss_slab);
		return -ENOMEM;
	}
	return 0;
}

void fastoci_missq_exit(void)
{
	destroy_workqueue(wq);
	kmem_cache_destroy(miss_slab);
}
