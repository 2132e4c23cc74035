// SPDX-License-Identifier: GPL-2.0
/*
 * Caches, data spaces, slots, misses and parked bios.
 *
 * A cache lives from its first table to its last and is known by its UUID.
 * Its spinlock guards every state change; readers of chunk maps take none:
 * they enter SRCU, load the slot, and leave in end_io. An evicted slot is
 * unpublished first and given back by an SRCU callback.
 *
 *   slot:  FREE -> RESERVED -> PRESENT -> EVICTING -> FREE
 *   chunk: absent -> (miss) -> present -> absent
 *   bio:   parked -> released -> resubmitted | parked again | ended
 *
 * A bio is parked under cache->lock after slot, helper, policy and suspend
 * state were looked at again; each of these changes its state first and sweeps
 * under the same lock after, so no wake-up is lost. Released bios are handled
 * by release_work alone, in a WQ_MEM_RECLAIM queue.
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "fastoci.h"

#define OVERFLOW_RETRY_MS 10

static uint stall_ms = 10000;
static int set_stall_ms(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 100, 3600000);
}

static const struct kernel_param_ops stall_ms_ops = { .set = set_stall_ms, .get = param_get_uint };
module_param_cb(stall_ms, &stall_ms_ops, &stall_ms, 0644);
MODULE_PARM_DESC(stall_ms, "a helper that acknowledges nothing for so long counts as absent (100..3600000, default 10000)");

static DEFINE_MUTEX(caches_mutex);
static LIST_HEAD(caches);
static u32 next_cache_no = 1;
static atomic_t nr_caches = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(caches_gone);
static struct kmem_cache *miss_slab;
struct workqueue_struct *fastoci_wq;
/* Frees caches: not in fastoci_wq, whose work items it waits for. */
static struct workqueue_struct *free_wq;

static void free_spaces(struct list_head *reaped);
static void erase_miss(struct fastoci_cache *cache, struct fastoci_miss *miss);

/* Freed by free_work, as the last reference may go where nobody may wait. */
static void free_cache(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, free_work);
	struct fastoci_miss *miss, *next;

	mutex_lock(&caches_mutex);
	list_del(&cache->node);
	mutex_unlock(&caches_mutex);
	fastoci_send_cache(cache, false);
	/* A send re-arms the timer, which queues sends: only the second cancel is final. */
	cancel_work_sync(&cache->send_work);
	cancel_delayed_work_sync(&cache->timer_work);
	cancel_work_sync(&cache->send_work);
	cancel_delayed_work_sync(&cache->timer_work);
	cancel_work_sync(&cache->release_work);
	/* No image is left, so no bio is: what remains are misses of readers that gave up. */
	rbtree_postorder_for_each_entry_safe(miss, next, &cache->misses, node)
		kmem_cache_free(miss_slab, miss);
	srcu_barrier(&cache->srcu);
	cleanup_srcu_struct(&cache->srcu);
	free_spaces(&cache->spaces);
	xa_destroy(&cache->spaces_by_no);
	vfree(cache->slots);
	vfree(cache->busy);
	vfree(cache->accessed);
	kfree(cache);
	if (atomic_dec_and_test(&nr_caches))
		wake_up(&caches_gone);
}

static void release_cache(struct kref *kref)
{
	struct fastoci_cache *cache = container_of(kref, struct fastoci_cache, kref);

	queue_work(free_wq, &cache->free_work);
}

void fastoci_cache_put(struct fastoci_cache *cache)
{
	kref_put(&cache->kref, release_cache);
}

struct fastoci_cache *fastoci_cache_by_no(u32 no)
{
	struct fastoci_cache *cache, *found = NULL;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node)
		if (cache->no == no && kref_get_unless_zero(&cache->kref)) {
			found = cache;
			break;
		}
	mutex_unlock(&caches_mutex);
	return found;
}

/* @fn runs under caches_mutex and may sleep. */
void fastoci_cache_for_each(void (*fn)(struct fastoci_cache *cache, void *arg), void *arg)
{
	struct fastoci_cache *cache;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node) {
		if (!kref_get_unless_zero(&cache->kref))
			continue;
		fn(cache, arg);
		fastoci_cache_put(cache); /* free_work needs the mutex, so the list stays */
	}
	mutex_unlock(&caches_mutex);
}

/* ---- data spaces ---- */

/* The space number @no, or NULL. */
static struct fastoci_space *find_space(struct fastoci_cache *cache, u32 no)
{
	lockdep_assert_held(&cache->lock);
	return xa_load(&cache->spaces_by_no, no);
}

static struct fastoci_space *find_space_by_id(struct fastoci_cache *cache, const u8 *id)
{
	struct fastoci_space *space;

	lockdep_assert_held(&cache->lock);
	list_for_each_entry(space, &cache->spaces, node)
		if (!memcmp(space->id, id, 32))
			return space;
	return NULL;
}

static void free_space(struct fastoci_space *space)
{
	if (!space)
		return;
	kvfree(space->map);
	kfree(space);
}

static void free_spaces(struct list_head *reaped)
{
	struct fastoci_space *space, *tmp;

	list_for_each_entry_safe(space, tmp, reaped, node)
		free_space(space);
}

static struct fastoci_space *make_space(const struct fastoci_cache *cache, const u8 *id,
					u64 data_bytes)
{
	u64 nr_chunks = fastoci_nr_chunks(cache, data_bytes);
	struct fastoci_space *space;

	if (!nr_chunks || nr_chunks > FASTOCI_MAX_IMAGE_CHUNKS)
		return ERR_PTR(-E2BIG);
	space = kzalloc(sizeof(*space), GFP_KERNEL);
	if (!space)
		return ERR_PTR(-ENOMEM);
	/* The size comes from a meta image: fail rather than call the OOM killer. */
	space->map = kvcalloc(nr_chunks, sizeof(u32),
			      GFP_KERNEL | __GFP_NOWARN | __GFP_RETRY_MAYFAIL);
	if (!space->map) {
		kfree(space);
		return ERR_PTR(-ENOMEM);
	}
	space->nr_chunks = nr_chunks;
	space->data_bytes = data_bytes;
	memcpy(space->id, id, 32);
	return space;
}

/*
 * The space @id, made if need be, with one user more; fastoci_space_put() drops
 * it. -EEXIST if it is known with another size. Process context, sleeps.
 */
struct fastoci_space *fastoci_space_get(struct fastoci_cache *cache, const u8 *id, u64 data_bytes)
{
	struct fastoci_space *space, *fresh = NULL;
	int err;

	spin_lock(&cache->lock);
	space = find_space_by_id(cache, id);
	if (!space) {
		spin_unlock(&cache->lock);
		fresh = make_space(cache, id, data_bytes);
		if (IS_ERR(fresh))
			return fresh;
		/* Reserves the number: a look-up gives NULL until the store below. */
		err = xa_alloc_cyclic(&cache->spaces_by_no, &fresh->no, NULL,
				      XA_LIMIT(1, FASTOCI_MAX_SPACE_NO), &cache->next_space,
				      GFP_KERNEL);
		if (err < 0) {
			free_space(fresh);
			return ERR_PTR(err);
		}
		spin_lock(&cache->lock);
		space = find_space_by_id(cache, id);
		if (!space) {
			space = fresh;
			xa_store(&cache->spaces_by_no, fresh->no, fresh, GFP_NOWAIT);
			list_add_tail(&fresh->node, &cache->spaces);
			fresh = NULL;
		} else {
			xa_erase(&cache->spaces_by_no, fresh->no);
		}
	}
	if (space->data_bytes == data_bytes)
		space->nr_users++;
	else
		space = ERR_PTR(-EEXIST);
	spin_unlock(&cache->lock);
	free_space(fresh);
	return space;
}

/* Takes an unused, empty space out of the cache; the caller frees what it returns. */
static struct fastoci_space *reap_space(struct fastoci_cache *cache, struct fastoci_space *space)
{
	struct rb_node *n, *next;

	lockdep_assert_held(&cache->lock);
	if (space->nr_users || space->nr_held)
		return NULL;
	/* Nobody waits for its chunks: no image is left. */
	for (n = rb_first(&cache->misses); n; n = next) {
		struct fastoci_miss *miss = rb_entry(n, struct fastoci_miss, node);

		next = rb_next(n);
		if (miss->key.space == space->no)
			erase_miss(cache, miss);
	}
	list_del(&space->node);
	xa_erase(&cache->spaces_by_no, space->no);
	return space;
}

void fastoci_space_put(struct fastoci_cache *cache, struct fastoci_space *space)
{
	spin_lock(&cache->lock);
	space->nr_users--;
	space = reap_space(cache, space);
	spin_unlock(&cache->lock);
	free_space(space);
}

/* ---- misses ---- */

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
	list_del(&miss->unsent);
	cache->nr_misses--;
	kmem_cache_free(miss_slab, miss);
}

static u8 bio_class(struct bio *bio, const struct fastoci_bio *pb)
{
	if (!(bio->bi_opf & REQ_RAHEAD))
		return FASTOCI_CLASS_DEMAND;
	return bio->bi_iter.bi_size <= SZ_256K ? FASTOCI_CLASS_MAYBE : FASTOCI_CLASS_AHEAD;
}

static u32 chunk_of(const struct fastoci_cache *cache, const struct fastoci_bio *pb)
{
	return pb->data_sector >> (cache->chunk_shift - SECTOR_SHIFT);
}

/* The miss of @pb's chunk, made or raised to @class; NULL without memory. */
static struct fastoci_miss *get_miss(struct fastoci_cache *cache, struct fastoci_bio *pb, u8 class)
{
	u32 chunk_no = chunk_of(cache, pb);
	struct fastoci_miss *miss = find_miss(cache, pb->space->no, chunk_no);

	lockdep_assert_held(&cache->lock);
	if (miss && miss->key.class >= class)
		return miss;
	if (!miss) {
		miss = kmem_cache_alloc(miss_slab, GFP_NOWAIT | __GFP_NOWARN);
		if (!miss)
			return NULL;
		miss->key = (struct fastoci_miss_key){ pb->space->no, chunk_no, class };
		miss->since = jiffies;
		INIT_LIST_HEAD(&miss->bios);
		INIT_LIST_HEAD(&miss->unsent);
		insert_miss(cache, miss);
	}
	miss->key.class = class;
	list_move_tail(&miss->unsent, &cache->unsent);
	queue_work(fastoci_wq, &cache->send_work);
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
	mod_delayed_work(fastoci_wq, &cache->timer_work,
			 time_after(at, jiffies) ? at - jiffies : 0);
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

	if (!spin_trylock(&cache->lock))
		return;
	if (!READ_ONCE(pb->space->map[chunk_of(cache, pb)]) && fastoci_helper_present())
		get_miss(cache, pb, bio_class(bio, pb));
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
	if (READ_ONCE(pb->space->map[chunk_of(cache, pb)])) {
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
		miss = get_miss(cache, pb, bio_class(bio, pb));
		list_add_tail(&pb->miss_node, miss ? &miss->bios : &cache->overflow);
		list_add_tail(&pb->image_node, &image->parked);
		image->nr_parked++;
		if (!miss)
			fastoci_cache_arm_timer(cache, jiffies + msecs_to_jiffies(OVERFLOW_RETRY_MS));
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
	queue_work(fastoci_wq, &cache->release_work);
}

void fastoci_sweep_locked(struct fastoci_image *image, blk_status_t verdict)
{
	struct fastoci_bio *pb, *tmp;

	list_for_each_entry_safe(pb, tmp, &image->parked, image_node)
		release_locked(image->cache, pb, verdict);
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

/* After its last bio has been passed on, nothing of the image is touched. */
static void release_bios(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, release_work);
	struct fastoci_bio *pb, *tmp;
	LIST_HEAD(list);

	spin_lock(&cache->lock);
	list_splice_init(&cache->released, &list);
	spin_unlock(&cache->lock);
	list_for_each_entry_safe(pb, tmp, &list, miss_node) {
		struct bio *bio = dm_bio_from_per_bio_data(pb, sizeof(*pb));

		if (pb->verdict == BLK_STS_OK && resubmit(bio, pb))
			continue; /* passed on or parked: no longer ours to look at */
		if (pb->verdict != BLK_STS_DM_REQUEUE)
			this_cpu_inc(pb->image->stats->errors);
		bio->bi_status = pb->verdict;
		bio_endio(bio);
	}
}

/* Without a helper nobody waits for readahead, or no close would ever end. */
static void fail_readahead(struct fastoci_cache *cache)
{
	struct fastoci_image *image;
	struct fastoci_bio *pb, *tmp;

	lockdep_assert_held(&cache->lock);
	list_for_each_entry(image, &cache->images, node)
		list_for_each_entry_safe(pb, tmp, &image->parked, image_node)
			if (dm_bio_from_per_bio_data(pb, sizeof(*pb))->bi_opf & REQ_RAHEAD)
				release_locked(cache, pb, BLK_STS_IOERR);
}

/* ---- timer: deadlines, draining suspends, overflow ---- */

static void run_timer(struct work_struct *work)
{
	struct fastoci_cache *cache =
		container_of(to_delayed_work(work), struct fastoci_cache, timer_work);
	struct fastoci_image *image;
	struct fastoci_bio *pb, *tmp;
	unsigned long at;

	spin_lock(&cache->lock);
	cache->timer_armed = false;
	if (!list_empty(&cache->unsent))
		queue_work(fastoci_wq, &cache->send_work);
	list_for_each_entry_safe(pb, tmp, &cache->overflow, miss_node)
		release_locked(cache, pb, BLK_STS_OK);
	if (fastoci_helper_state(cache) == FASTOCI_HELPER_STALLED)
		fail_readahead(cache);
	else if (cache->unacked)
		fastoci_cache_arm_timer(cache, cache->unacked_since +
					       msecs_to_jiffies(READ_ONCE(stall_ms)));
	list_for_each_entry(image, &cache->images, node)
		list_for_each_entry_safe(pb, tmp, &image->parked, image_node) {
			if (!deadline_of(image, pb->parked_at, &at))
				break;
			if (time_after_eq(jiffies, at))
				release_locked(cache, pb, BLK_STS_IOERR);
			else
				fastoci_cache_arm_timer(cache, at);
		}
	spin_unlock(&cache->lock);
}

/* ---- towards the helper ---- */

/* What is left of a batch that was not sent goes back to the front. */
static void unsend_batch(struct fastoci_cache *cache, u32 nr)
{
	struct fastoci_miss *miss;

	lockdep_assert_held(&cache->lock);
	cache->unacked -= min(nr, cache->unacked);
	while (nr--) {
		miss = find_miss(cache, cache->batch[nr].space, cache->batch[nr].chunk_no);
		if (miss)
			list_move(&miss->unsent, &cache->unsent);
	}
}

static void send_misses(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, send_work);
	struct fastoci_miss *miss, *tmp;
	u32 nr, resends;
	int err;

	for (;;) {
		nr = 0;
		spin_lock(&cache->lock);
		resends = cache->resends;
		if (!cache->silent)
			list_for_each_entry_safe(miss, tmp, &cache->unsent, unsent) {
				if (nr == FASTOCI_MAX_BATCH ||
				    cache->unacked + nr >= FASTOCI_MISS_WINDOW)
					break;
				cache->batch[nr++] = miss->key;
				list_del_init(&miss->unsent);
			}
		if (nr && !cache->unacked)
			cache->unacked_since = jiffies;
		cache->unacked += nr;
		if (nr)
			fastoci_cache_arm_timer(cache, cache->unacked_since +
						       msecs_to_jiffies(READ_ONCE(stall_ms)));
		spin_unlock(&cache->lock);
		if (!nr)
			return;
		err = fastoci_send_misses(cache, cache->batch, nr);
		if (!err)
			continue;
		/*
		 * Not lost: the next REGISTER or GET_PENDING sends all of them
		 * again, and if there was one meanwhile, it has. Without memory
		 * the helper saw no ENOBUFS and would not ask: the timer does.
		 */
		spin_lock(&cache->lock);
		if (err == -ENOMEM) {
			unsend_batch(cache, nr);
			fastoci_cache_arm_timer(cache, jiffies + msecs_to_jiffies(OVERFLOW_RETRY_MS));
		} else if (resends == cache->resends) {
			cache->silent = true;
		}
		spin_unlock(&cache->lock);
		if (err == -ENOMEM)
			return;
	}
}

/* Sends every pending miss again, to a new helper or after a lost message. */
void fastoci_cache_resend(struct fastoci_cache *cache, void *arg)
{
	struct rb_node *n, *next;

	spin_lock(&cache->lock);
	for (n = rb_first(&cache->misses); n; n = next) {
		struct fastoci_miss *miss = rb_entry(n, struct fastoci_miss, node);

		next = rb_next(n);
		if (list_empty(&miss->bios))
			erase_miss(cache, miss); /* all who waited were ended otherwise */
		else
			list_move_tail(&miss->unsent, &cache->unsent);
	}
	cache->unacked = 0;
	cache->silent = false;
	cache->resends++;
	spin_unlock(&cache->lock);
	queue_work(fastoci_wq, &cache->send_work);
}

void fastoci_cache_ack(struct fastoci_cache *cache, u32 count)
{
	spin_lock(&cache->lock);
	cache->unacked -= min(count, cache->unacked);
	cache->unacked_since = jiffies;
	spin_unlock(&cache->lock);
	queue_work(fastoci_wq, &cache->send_work);
}

static bool is_reserved_by(struct fastoci_cache *cache, u32 slot, u64 generation)
{
	return slot < cache->nr_slots &&
	       fastoci_slot_state(&cache->slots[slot]) == FASTOCI_SLOT_RESERVED &&
	       cache->slots[slot].chunk_no == (u32)generation;
}

static void free_slot(struct fastoci_cache *cache, u32 slot)
{
	lockdep_assert_held(&cache->lock);
	cache->slots[slot].space_state = 0;
	__clear_bit(slot, cache->busy);
	cache->nr_free++;
}

/*
 * A helper's socket is closed, so no write of its can be under way: the slots
 * of its generation (*@arg, u64) end their quarantine.
 */
void fastoci_cache_helper_lost(struct fastoci_cache *cache, void *arg)
{
	u32 slot, generation = *(u64 *)arg;

	spin_lock(&cache->lock);
	for (slot = 0; slot < cache->nr_slots && cache->nr_reserved; slot++)
		if (is_reserved_by(cache, slot, generation)) {
			cache->nr_reserved--;
			free_slot(cache, slot);
		}
	if (!fastoci_helper_present())
		fail_readahead(cache);
	spin_unlock(&cache->lock);
}

/* ---- slots ---- */

static void reserve_slot(struct fastoci_cache *cache, u32 slot, u64 generation)
{
	lockdep_assert_held(&cache->lock);
	cache->slots[slot].chunk_no = (u32)generation;
	cache->slots[slot].space_state = (u32)FASTOCI_SLOT_RESERVED << FASTOCI_SLOT_STATE_SHIFT;
	cache->nr_reserved++;
}

u32 fastoci_slots_alloc(struct fastoci_cache *cache, u32 *slots, u32 count, u64 generation)
{
	u32 n = 0, at;

	spin_lock(&cache->lock);
	while (n < count && cache->nr_free) {
		at = find_next_zero_bit(cache->busy, cache->nr_slots, cache->alloc_hint);
		if (at >= cache->nr_slots)
			at = find_first_zero_bit(cache->busy, cache->nr_slots);
		if (WARN_ON_ONCE(at >= cache->nr_slots))
			break;
		__set_bit(at, cache->busy);
		reserve_slot(cache, at, generation);
		cache->alloc_hint = at + 1;
		cache->nr_free--;
		slots[n++] = at;
	}
	spin_unlock(&cache->lock);
	return n;
}

/* Gives up a restored slot, whose content was wrong; an empty space goes to @reaped. */
static bool drop_restored(struct fastoci_cache *cache, u32 slot, struct list_head *reaped)
{
	struct fastoci_space *space;

	if (slot >= cache->nr_slots ||
	    fastoci_slot_state(&cache->slots[slot]) != FASTOCI_SLOT_RESTORED)
		return false;
	space = find_space(cache, fastoci_slot_space(&cache->slots[slot]));
	if (WARN_ON_ONCE(!space))
		return false;
	space->nr_held--;
	if (reap_space(cache, space))
		list_add(&space->node, reaped);
	return true;
}

int fastoci_slots_return(struct fastoci_cache *cache, const u32 *slots, u32 count, u64 generation)
{
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	spin_lock(&cache->lock);
	for (i = 0; i < count && !err; i++) {
		if (is_reserved_by(cache, slots[i], generation)) {
			cache->nr_reserved--;
			free_slot(cache, slots[i]);
		} else if (drop_restored(cache, slots[i], &reaped)) {
			free_slot(cache, slots[i]);
		} else {
			err = -EINVAL;
		}
	}
	spin_unlock(&cache->lock);
	free_spaces(&reaped);
	return err;
}

static bool is_restored(struct fastoci_cache *cache, u32 slot, u32 space, u32 chunk_no)
{
	const struct fastoci_slot *s = &cache->slots[slot];

	return fastoci_slot_state(s) == FASTOCI_SLOT_RESTORED && fastoci_slot_space(s) == space &&
	       s->chunk_no == chunk_no;
}

static void complete_miss(struct fastoci_cache *cache, u32 space, u32 chunk_no,
			  blk_status_t verdict)
{
	struct fastoci_miss *miss = find_miss(cache, space, chunk_no);
	struct fastoci_bio *pb, *tmp;

	if (!miss)
		return;
	list_for_each_entry_safe(pb, tmp, &miss->bios, miss_node)
		release_locked(cache, pb, verdict);
	erase_miss(cache, miss);
}

int fastoci_chunk_fill(struct fastoci_cache *cache, u32 space_no, u32 chunk_no, u32 slot,
		       u64 generation)
{
	struct fastoci_space *space;
	int err = -EINVAL;

	spin_lock(&cache->lock);
	space = find_space(cache, space_no);
	if (!space || chunk_no >= space->nr_chunks || slot >= cache->nr_slots)
		goto out;
	if (!READ_ONCE(space->map[chunk_no])) {
		err = -EPERM;
		if (is_restored(cache, slot, space_no, chunk_no)) {
			space->nr_held--; /* counted again below */
		} else if (is_reserved_by(cache, slot, generation)) {
			cache->nr_reserved--;
		} else {
			goto out;
		}
		cache->slots[slot].chunk_no = chunk_no;
		cache->slots[slot].space_state =
			(u32)FASTOCI_SLOT_PRESENT << FASTOCI_SLOT_STATE_SHIFT | space_no;
		set_bit(slot, cache->accessed);
		space->nr_present++;
		space->nr_held++;
		/* Pairs with READ_ONCE() in try_hit(): the slot's state is set before it is seen. */
		smp_store_release(&space->map[chunk_no], slot + 1);
	}
	complete_miss(cache, space_no, chunk_no, BLK_STS_OK);
	err = 0;
out:
	spin_unlock(&cache->lock);
	return err;
}

/* What readers see; everything that the block layer treats in a way of its own is EIO. */
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

int fastoci_chunk_fail(struct fastoci_cache *cache, u32 space_no, u32 chunk_no, u32 err)
{
	struct fastoci_space *space;
	int ret = -EINVAL;

	spin_lock(&cache->lock);
	space = find_space(cache, space_no);
	if (space && chunk_no < space->nr_chunks) {
		complete_miss(cache, space_no, chunk_no, fail_status(err));
		ret = 0;
	}
	spin_unlock(&cache->lock);
	return ret;
}

/*
 * Puts a slot that is free, or that the sender reserved, aside for a chunk
 * that its database knows; the chunk is served from its first FILL on.
 */
int fastoci_chunk_restore(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			  u32 slot, u64 generation)
{
	int err = -EINVAL;

	spin_lock(&cache->lock);
	if (chunk_no >= space->nr_chunks || slot >= cache->nr_slots)
		goto out;
	err = 0;
	if (is_restored(cache, slot, space->no, chunk_no))
		goto out;
	err = -EEXIST;
	if (READ_ONCE(space->map[chunk_no]))
		goto out;
	if (is_reserved_by(cache, slot, generation)) {
		cache->nr_reserved--;
	} else if (!test_bit(slot, cache->busy)) {
		__set_bit(slot, cache->busy);
		cache->nr_free--;
	} else {
		goto out;
	}
	cache->slots[slot].chunk_no = chunk_no;
	cache->slots[slot].space_state =
		(u32)FASTOCI_SLOT_RESTORED << FASTOCI_SLOT_STATE_SHIFT | space->no;
	space->nr_held++;
	err = 0;
out:
	spin_unlock(&cache->lock);
	return err;
}

/* False for a free slot. */
bool fastoci_slot_info(struct fastoci_cache *cache, u32 slot, struct fastoci_slot_info *info)
{
	const struct fastoci_slot *s = &cache->slots[slot];

	spin_lock(&cache->lock);
	info->state = fastoci_slot_state(s);
	info->space = fastoci_slot_space(s);
	info->chunk_no = s->chunk_no;
	info->accessed = test_bit(slot, cache->accessed);
	spin_unlock(&cache->lock);
	return info->state != FASTOCI_SLOT_FREE;
}

/* ---- eviction ---- */

struct evict_batch {
	struct rcu_head rcu;
	struct work_struct work;
	struct fastoci_cache *cache;	/* a reference */
	u64 reserve;			/* 0, or the generation that gets the slots */
	u32 nr;
	struct fastoci_miss_key keys[FASTOCI_MAX_BATCH];
	u32 slots[FASTOCI_MAX_BATCH];
};

static void evicted(struct work_struct *work)
{
	struct evict_batch *b = container_of(work, struct evict_batch, work);

	fastoci_send_evicted(b->cache, b->keys, b->slots, b->nr);
	fastoci_cache_put(b->cache);
	kfree(b);
}

/* No reader that saw a slot of this batch is left. */
static void grace_period_over(struct rcu_head *rcu)
{
	struct evict_batch *b = container_of(rcu, struct evict_batch, rcu);
	struct fastoci_cache *cache = b->cache;
	u32 i;

	spin_lock(&cache->lock);
	/* helper_lost() sweeps reserved slots after the generation ends: look under the lock. */
	for (i = 0; i < b->nr; i++) {
		if (b->reserve && fastoci_generation_alive(b->reserve))
			reserve_slot(cache, b->slots[i], b->reserve);
		else
			free_slot(cache, b->slots[i]);
	}
	spin_unlock(&cache->lock);
	queue_work(fastoci_wq, &b->work);
}

int fastoci_chunks_evict(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr,
			 u64 reserve)
{
	struct evict_batch *b = kzalloc(sizeof(*b), GFP_KERNEL);
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	if (!b)
		return -ENOMEM;
	INIT_WORK(&b->work, evicted);
	b->cache = cache;
	b->reserve = reserve;
	spin_lock(&cache->lock);
	for (i = 0; i < nr; i++) {
		struct fastoci_space *space = find_space(cache, keys[i].space);
		u32 slot;

		if (!space || keys[i].chunk_no >= space->nr_chunks) {
			err = -EINVAL;
			break;
		}
		slot = READ_ONCE(space->map[keys[i].chunk_no]);
		if (!slot)
			continue;
		slot--;
		WRITE_ONCE(space->map[keys[i].chunk_no], 0);
		space->nr_present--;
		space->nr_held--;
		cache->slots[slot].space_state =
			(u32)FASTOCI_SLOT_EVICTING << FASTOCI_SLOT_STATE_SHIFT | keys[i].space;
		clear_bit(slot, cache->accessed);
		b->keys[b->nr] = keys[i];
		b->slots[b->nr++] = slot;
		if (reap_space(cache, space))
			list_add(&space->node, &reaped);
	}
	spin_unlock(&cache->lock);
	free_spaces(&reaped);
	if (!b->nr) {
		kfree(b);
		return err;
	}
	kref_get(&cache->kref);
	call_srcu(&cache->srcu, &b->rcu, grace_period_over);
	return err;
}

/* ---- cache objects ---- */

static struct fastoci_cache *make_cache(struct block_device *bdev,
					const struct fastoci_cache_sb *sb)
{
	struct fastoci_cache *cache = kzalloc(sizeof(*cache), GFP_KERNEL);
	size_t words;

	if (!cache)
		return ERR_PTR(-ENOMEM);
	cache->nr_slots = le32_to_cpu(sb->nr_slots);
	cache->nr_free = cache->nr_slots;
	cache->chunk_shift = le32_to_cpu(sb->chunk_shift);
	cache->slots_sector = le64_to_cpu(sb->slots_offset) >> SECTOR_SHIFT;
	cache->dev = bdev->bd_dev;
	memcpy(cache->uuid, sb->uuid, 16);
	words = BITS_TO_LONGS(cache->nr_slots) * sizeof(long);
	cache->slots = vzalloc((u64)cache->nr_slots * sizeof(*cache->slots));
	cache->busy = vzalloc(words);
	cache->accessed = vzalloc(words);
	if (!cache->slots || !cache->busy || !cache->accessed || init_srcu_struct(&cache->srcu)) {
		vfree(cache->slots);
		vfree(cache->busy);
		vfree(cache->accessed);
		kfree(cache);
		return ERR_PTR(-ENOMEM);
	}
	kref_init(&cache->kref);
	spin_lock_init(&cache->lock);
	INIT_LIST_HEAD(&cache->images);
	INIT_LIST_HEAD(&cache->spaces);
	INIT_LIST_HEAD(&cache->unsent);
	INIT_LIST_HEAD(&cache->overflow);
	INIT_LIST_HEAD(&cache->released);
	xa_init_flags(&cache->spaces_by_no, XA_FLAGS_ALLOC1);
	cache->misses = RB_ROOT;
	INIT_WORK(&cache->send_work, send_misses);
	INIT_WORK(&cache->release_work, release_bios);
	INIT_DELAYED_WORK(&cache->timer_work, run_timer);
	INIT_WORK(&cache->free_work, free_cache);
	return cache;
}

struct fastoci_cache *fastoci_cache_get(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error)
{
	struct fastoci_cache *cache;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node) {
		if (memcmp(cache->uuid, sb->uuid, 16) || !kref_get_unless_zero(&cache->kref))
			continue;
		if (cache->dev != bdev->bd_dev) {
			*error = "cache: another device with this UUID is in use";
			fastoci_cache_put(cache);
			cache = ERR_PTR(-EBUSY);
		} else if (cache->chunk_shift != le32_to_cpu(sb->chunk_shift) ||
			   cache->nr_slots != le32_to_cpu(sb->nr_slots) ||
			   cache->slots_sector != le64_to_cpu(sb->slots_offset) >> SECTOR_SHIFT) {
			*error = "cache: the superblock changed while the cache is in use";
			fastoci_cache_put(cache);
			cache = ERR_PTR(-EBUSY);
		}
		goto out;
	}
	*error = "cache: out of memory";
	cache = make_cache(bdev, sb);
	if (IS_ERR(cache))
		goto out;
	cache->no = next_cache_no++;
	atomic_inc(&nr_caches);
	list_add_tail(&cache->node, &caches);
	fastoci_send_cache(cache, true);
out:
	mutex_unlock(&caches_mutex);
	return cache;
}

int fastoci_cache_init(void)
{
	miss_slab = KMEM_CACHE(fastoci_miss, 0);
	if (!miss_slab)
		return -ENOMEM;
	fastoci_wq = alloc_workqueue("fastoci", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	if (!fastoci_wq)
		goto destroy_slab;
	free_wq = alloc_workqueue("fastoci-free", WQ_UNBOUND, 0);
	if (!free_wq)
		goto destroy_wq;
	return 0;
destroy_wq:
	destroy_workqueue(fastoci_wq);
destroy_slab:
	kmem_cache_destroy(miss_slab);
	return -ENOMEM;
}

/* No table is left: what is under way are grace periods, which end by themselves. */
void fastoci_cache_exit(void)
{
	wait_event(caches_gone, !atomic_read(&nr_caches));
	destroy_workqueue(free_wq); /* the last free_cache() still returns */
	destroy_workqueue(fastoci_wq);
	kmem_cache_destroy(miss_slab);
}
