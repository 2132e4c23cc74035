// SPDX-License-Identifier: GPL-2.0
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/wait.h>

#include "cache.h"

static DEFINE_MUTEX(caches_mutex);
static LIST_HEAD(caches);	/* L(caches_mutex), as are the next two */
static LIST_HEAD(quarantines);
static u32 next_cache_no = 1;
static atomic_t nr_caches = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(caches_gone);
/* Frees caches and ends evictions. Not missq.c's queue: freeing a cache waits for work there. */
static struct workqueue_struct *free_wq;

/* ---- what is reserved when a cache goes ---- */

/*
 * Takes the slots of a dead cache. They do not change any more, as nobody has a
 * reference, not even an eviction. Allocates nothing, as caches_mutex is held.
 */
static void keep_reserved(struct fastoci_cache *cache)
{
	struct fastoci_quarantine *q = cache->quarantine;

	lockdep_assert_held(&caches_mutex);
	if (!cache->missq.map.slots.nr_reserved)
		return;
	memcpy(q->uuid, cache->uuid, 16);
	q->chunk_shift = cache->missq.map.chunk_shift;
	q->slots_sector = cache->slots_sector;
	fastoci_quarantine_fill(q, &cache->missq.map.slots);
	cache->quarantine = NULL;
	list_add_tail(&q->node, &quarantines);
}

static void end_quarantine(struct fastoci_quarantine *q)
{
	list_del(&q->node);
	fastoci_quarantine_free(q);
}

/*
 * One walk under the mutex. Otherwise a cache that goes or comes meanwhile could
 * move reservations from a place not reached yet to one already passed.
 */
void fastoci_generation_end(u64 generation)
{
	struct fastoci_quarantine *q, *tmp;
	struct fastoci_cache *cache;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node) { /* also those that are not freed yet */
		fastoci_missq_helper_lost(&cache->missq);
		fastoci_slots_release(&cache->missq.map.slots, generation);
	}
	list_for_each_entry_safe(q, tmp, &quarantines, node)
		if (!fastoci_quarantine_end(q, generation))
			end_quarantine(q);
	mutex_unlock(&caches_mutex);
}

/* Reserves in a new cache what is still reserved of its former ones. */
static int take_reserved(struct fastoci_cache *cache, char **error)
{
	struct fastoci_quarantine *q, *tmp;

	lockdep_assert_held(&caches_mutex);
	list_for_each_entry_safe(q, tmp, &quarantines, node) {
		if (memcmp(q->uuid, cache->uuid, 16))
			continue;
		if (q->chunk_shift != cache->missq.map.chunk_shift ||
		    q->nr != cache->missq.map.slots.nr || q->slots_sector != cache->slots_sector) {
			*error = "cache: a live helper owns slots of the former geometry: end it";
			return -EBUSY;
		}
		fastoci_quarantine_pass_on(q, &cache->missq.map.slots);
		end_quarantine(q);
	}
	return 0;
}

/* ---- lifetime ---- */

/* Frees a cache that nobody else can see. */
static void free_memory(struct fastoci_cache *cache)
{
	fastoci_chunkmap_exit(&cache->missq.map);
	kfree(cache->quarantine);
	kfree(cache);
}

/* The last reference may go where sleeping is not allowed, so a work item frees the cache. */
static void free_cache(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, free_work);

	mutex_lock(&caches_mutex);
	list_del(&cache->node);
	keep_reserved(cache);
	mutex_unlock(&caches_mutex);
	fastoci_helper_ops()->send_cache(cache, false);
	fastoci_missq_stop(&cache->missq);
	free_memory(cache);
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

static struct fastoci_cache *make_cache(struct block_device *bdev,
					const struct fastoci_cache_sb *sb)
{
	struct fastoci_cache *cache = kzalloc(sizeof(*cache), GFP_KERNEL);
	int err = -ENOMEM;

	if (!cache)
		return ERR_PTR(err);
	cache->slots_sector = le64_to_cpu(sb->slots_offset) >> SECTOR_SHIFT;
	cache->dev = bdev->bd_dev;
	memcpy(cache->uuid, sb->uuid, 16);
	kref_init(&cache->kref);
	INIT_WORK(&cache->free_work, free_cache);
	INIT_LIST_HEAD(&cache->evictions);
	fastoci_missq_setup(&cache->missq);
	cache->quarantine = kzalloc(sizeof(*cache->quarantine), GFP_KERNEL);
	if (cache->quarantine)
		err = fastoci_chunkmap_init(&cache->missq.map, le32_to_cpu(sb->chunk_shift),
					    le32_to_cpu(sb->nr_slots));
	if (!err)
		return cache;
	kfree(cache->quarantine);
	kfree(cache);
	return ERR_PTR(err);
}

/* The cache of that UUID with a reference, an error if the device or @sb does not fit, or NULL. */
static struct fastoci_cache *find_cache(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error)
{
	struct fastoci_cache *cache;

	lockdep_assert_held(&caches_mutex);
	list_for_each_entry(cache, &caches, node) {
		if (memcmp(cache->uuid, sb->uuid, 16))
			continue;
		if (!kref_get_unless_zero(&cache->kref)) {
			keep_reserved(cache); /* free_work comes too late for the new one */
			continue;
		}
		if (cache->dev == bdev->bd_dev &&
		    cache->missq.map.chunk_shift == le32_to_cpu(sb->chunk_shift) &&
		    cache->missq.map.slots.nr == le32_to_cpu(sb->nr_slots) &&
		    cache->slots_sector == le64_to_cpu(sb->slots_offset) >> SECTOR_SHIFT)
			return cache;
		*error = cache->dev != bdev->bd_dev ?
			 "cache: another device with this UUID is in use" :
			 "cache: the superblock changed while the cache is in use";
		fastoci_cache_put(cache);
		return ERR_PTR(-EBUSY);
	}
	return NULL;
}

static void publish_cache(struct fastoci_cache *cache)
{
	lockdep_assert_held(&caches_mutex);
	cache->no = next_cache_no++;
	cache->missq.cache_no = cache->no;
	atomic_inc(&nr_caches);
	list_add_tail(&cache->node, &caches);
}

/* Allocates without the mutex: tables may have 2 GiB, and the mutex holds up every command. */
struct fastoci_cache *fastoci_cache_get(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error)
{
	struct fastoci_cache *cache, *fresh;
	int err = 0;

	mutex_lock(&caches_mutex);
	cache = find_cache(bdev, sb, error);
	mutex_unlock(&caches_mutex);
	if (cache)
		return cache;
	fresh = make_cache(bdev, sb);
	if (IS_ERR(fresh)) {
		*error = "cache: out of memory";
		return fresh;
	}
	mutex_lock(&caches_mutex);
	cache = find_cache(bdev, sb, error);
	if (!cache) {
		err = take_reserved(fresh, error);
		if (!err)
			publish_cache(fresh);
	}
	mutex_unlock(&caches_mutex);
	if (cache || err) {
		free_memory(fresh);
		return cache ? cache : ERR_PTR(err);
	}
	fastoci_helper_ops()->send_cache(fresh, true);
	return fresh;
}

/* ---- evictions ---- */

/*
 * A slot is EVICTING if and only if it is in one eviction of its cache's list. So one that
 * becomes bad and is evicted again by REUSE is given back once, by the later eviction.
 */
struct fastoci_eviction {
	struct rcu_head rcu;
	struct work_struct work;
	struct list_head node;		/* L(lock) in cache->evictions */
	struct fastoci_cache *cache;	/* a reference */
	u64 reserve;			/* 0, or the generation that gets the slots */
	u32 nr;				/* L(lock) */
	u32 *slots;			/* L(lock) behind the keys */
	struct fastoci_chunk_key keys[]; /* L(lock) */
};

/*
 * No command runs between the return of the slots and the event. Otherwise a helper
 * could get a slot, fill it and evict it again. Then it would take the event of the
 * former eviction for the end of the new one, while the slot is still read.
 */
static void end_eviction(struct work_struct *work)
{
	struct fastoci_eviction *e = container_of(work, struct fastoci_eviction, work);
	struct fastoci_cache *cache = e->cache;
	u64 reserve;
	u32 i;

	fastoci_helper_lock();
	/* If it is, its end comes later and frees what is reserved for it here. */
	reserve = fastoci_helper_is_current(e->reserve) ? e->reserve : 0;
	fastoci_cache_lock(cache);
	list_del(&e->node);
	for (i = 0; i < e->nr; i++)
		fastoci_slot_give_back_locked(&cache->missq.map, e->slots[i], reserve);
	fastoci_cache_unlock(cache);
	if (e->nr)
		fastoci_helper_ops()->send_evicted(cache->no, e->keys, e->slots, e->nr);
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
	kfree(e);
}

/* No reader that saw a slot of this eviction is left. */
static void grace_period_over(struct rcu_head *rcu)
{
	queue_work(free_wq, &container_of(rcu, struct fastoci_eviction, rcu)->work);
}

struct fastoci_eviction *fastoci_eviction_new(u32 nr)
{
	struct fastoci_eviction *e =
		kzalloc(struct_size(e, keys, nr) + nr * sizeof(u32), GFP_KERNEL);

	if (!e)
		return NULL;
	INIT_WORK(&e->work, end_eviction);
	e->slots = (u32 *)(e->keys + nr);
	return e;
}

void fastoci_eviction_free(struct fastoci_eviction *e)
{
	kfree(e);
}

/* The slots of @e, all of them in EVICTING, come back when their last readers have left. */
static void start_eviction_locked(struct fastoci_eviction *e, struct fastoci_cache *cache,
				  u64 reserve)
{
	lockdep_assert_held(&cache->missq.map.slots.lock);
	if (!e->nr) {
		kfree(e);
		return;
	}
	e->cache = cache;
	e->reserve = reserve;
	list_add(&e->node, &cache->evictions);
	kref_get(&cache->kref);
	call_srcu(&cache->missq.map.srcu, &e->rcu, grace_period_over);
}

/* The slot became bad: the eviction that it is in, if there is one, ends without it. */
static void leave_eviction_locked(struct fastoci_cache *cache, u32 slot)
{
	struct fastoci_eviction *e;
	u32 i;

	lockdep_assert_held(&cache->missq.map.slots.lock);
	list_for_each_entry(e, &cache->evictions, node)
		for (i = 0; i < e->nr; i++)
			if (e->slots[i] == slot) {
				e->nr--;
				e->slots[i] = e->slots[e->nr];
				e->keys[i] = e->keys[e->nr];
				return;
			}
}

int fastoci_cache_evict(struct fastoci_cache *cache, struct fastoci_eviction *e,
			const struct fastoci_chunk_key *keys, u32 nr, u64 reserve)
{
	LIST_HEAD(reaped);
	int err = 0;
	u32 i;

	fastoci_cache_lock(cache);
	for (i = 0; i < nr && !err; i++)
		if (fastoci_chunk_unpublish_locked(&cache->missq.map, &keys[i], &e->slots[e->nr],
						   &reaped, &err))
			e->keys[e->nr++] = keys[i];
	start_eviction_locked(e, cache, reserve);
	fastoci_cache_unlock(cache);
	fastoci_spaces_free(&reaped);
	return err;
}

void fastoci_cache_reuse(struct fastoci_cache *cache, struct fastoci_eviction *e,
			 const u32 *slots, u32 nr, u64 generation)
{
	u32 i;

	fastoci_cache_lock(cache);
	for (i = 0; i < nr; i++)
		if (fastoci_slot_reuse_locked(&cache->missq.map, slots[i], &e->keys[e->nr]))
			e->slots[e->nr++] = slots[i];
	if (e->nr)
		fastoci_missq_event_locked(&cache->missq);
	start_eviction_locked(e, cache, generation);
	fastoci_cache_unlock(cache);
}

bool fastoci_cache_retire(struct fastoci_cache *cache, struct fastoci_space *space, u32 chunk_no,
			  u32 slot)
{
	struct fastoci_chunk_key key = { .space = space->no, .chunk_no = chunk_no };
	bool retired;

	fastoci_helper_lock();
	fastoci_cache_lock(cache);
	retired = fastoci_slot_retire_locked(&cache->missq.map, space, chunk_no, slot);
	if (retired) {
		leave_eviction_locked(cache, slot);
		fastoci_missq_event_locked(&cache->missq);
	}
	fastoci_cache_unlock(cache);
	if (retired)
		fastoci_helper_ops()->send_slot_bad(cache->no, &key, slot);
	fastoci_helper_unlock();
	return retired;
}

/* ---- module ---- */

int fastoci_cache_init(void)
{
	/* TINY_SRCU, which only KUnit's kernel has, is flushed on a queue without a rescuer. */
	unsigned int rescuer = IS_ENABLED(CONFIG_TINY_SRCU) ? 0 : WQ_MEM_RECLAIM;

	free_wq = alloc_workqueue("fastoci-free", rescuer | WQ_UNBOUND, 0);
	return free_wq ? 0 : -ENOMEM;
}

void fastoci_cache_drain(void)
{
	wait_event(caches_gone, !atomic_read(&nr_caches));
}

void fastoci_cache_exit(void)
{
	struct fastoci_quarantine *q, *tmp;

	destroy_workqueue(free_wq); /* the last free_cache() still returns */
	list_for_each_entry_safe(q, tmp, &quarantines, node)
		end_quarantine(q);
}
