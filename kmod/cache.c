// SPDX-License-Identifier: GPL-2.0
/*
 * Cache objects. A cache lives from its first table to its last and is known
 * by its UUID; tables and eviction batches hold references. Its spinlock guards
 * every state change of chunks (chunkmap.c), slots (slots.c) and misses
 * (missq.c).
 */
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/vmalloc.h>

#include "fastoci.h"

/* nr_slots comes from a device: fail rather than call the OOM killer. */
#define BIG (GFP_KERNEL | __GFP_ZERO | __GFP_NOWARN | __GFP_RETRY_MAYFAIL)

static DEFINE_MUTEX(caches_mutex);
static LIST_HEAD(caches);
static u32 next_cache_no = 1;
static atomic_t nr_caches = ATOMIC_INIT(0);
static DECLARE_WAIT_QUEUE_HEAD(caches_gone);
/* Frees caches, ends evictions: not where missq.c works, which freeing waits for. */
static struct workqueue_struct *free_wq;

/*
 * What helpers had reserved when a cache went. One that was taken over may still
 * write there and cannot be asked, so the next cache of that UUID keeps its
 * slots reserved; else they end with its socket. The helper itself gives its
 * reservations up with the cache: it writes no more there before it uses the
 * next one.
 */
struct quarantine {
	struct list_head node;		/* L(caches_mutex) in quarantines */
	u8 uuid[16];			/* I: */
	u32 chunk_shift;		/* I: */
	u32 nr_slots;			/* I: */
	sector_t slots_sector;		/* I: */
	u32 nr_reserved;		/* L(caches_mutex) */
	struct fastoci_slot *slots;	/* L(caches_mutex) of which the reserved ones count */
};

static LIST_HEAD(quarantines);

/* Takes the slots of a dead cache: without references, evictions' too, they change no more. */
static void keep_reserved(struct fastoci_cache *cache)
{
	struct quarantine *q;

	lockdep_assert_held(&caches_mutex);
	if (!cache->nr_reserved)
		return;
	q = kzalloc(sizeof(*q), GFP_KERNEL | __GFP_NOFAIL);
	memcpy(q->uuid, cache->uuid, 16);
	q->chunk_shift = cache->chunk_shift;
	q->nr_slots = cache->nr_slots;
	q->slots_sector = cache->slots_sector;
	q->nr_reserved = cache->nr_reserved;
	q->slots = cache->slots;
	cache->slots = NULL;
	cache->nr_reserved = 0;
	list_add_tail(&q->node, &quarantines);
}

static void free_quarantine(struct quarantine *q)
{
	list_del(&q->node);
	vfree(q->slots);
	kfree(q);
}

static bool is_reserved(const struct fastoci_slot *s)
{
	return fastoci_slot_state(s) == FASTOCI_SLOT_RESERVED;
}

void fastoci_quarantine_end(u64 generation)
{
	struct fastoci_cache *cache;
	struct quarantine *q, *tmp;
	u32 i;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node)
		if (!kref_read(&cache->kref)) /* dead, and not freed yet */
			fastoci_cache_helper_lost(cache, &generation);
	list_for_each_entry_safe(q, tmp, &quarantines, node) {
		for (i = 0; i < q->nr_slots && q->nr_reserved; i++) {
			if (is_reserved(&q->slots[i]) && q->slots[i].chunk_no == (u32)generation) {
				q->slots[i].space_state = 0;
				q->nr_reserved--;
			}
			if (!(i % 65536))
				cond_resched();
		}
		if (!q->nr_reserved)
			free_quarantine(q);
	}
	mutex_unlock(&caches_mutex);
}

/* Reserves in a new cache what others than the helper had reserved in its former ones. */
static int take_reserved(struct fastoci_cache *cache, char **error)
{
	u32 i, helper = fastoci_helper_generation();
	struct quarantine *q, *tmp;

	lockdep_assert_held(&caches_mutex);
	list_for_each_entry_safe(q, tmp, &quarantines, node) {
		if (memcmp(q->uuid, cache->uuid, 16))
			continue;
		if (q->chunk_shift != cache->chunk_shift || q->nr_slots != cache->nr_slots ||
		    q->slots_sector != cache->slots_sector) {
			*error = "cache: a former helper still owns slots of its former geometry";
			return -EBUSY;
		}
		for (i = 0; i < q->nr_slots; i++) {
			if (!(i % 65536))
				cond_resched();
			if (!is_reserved(&q->slots[i]) || q->slots[i].chunk_no == helper ||
			    __test_and_set_bit(i, cache->busy))
				continue;
			cache->slots[i] = q->slots[i];
			cache->nr_free--;
			cache->nr_reserved++;
		}
		free_quarantine(q);
	}
	return 0;
}

static void free_memory(struct fastoci_cache *cache)
{
	fastoci_spaces_free(&cache->spaces);
	xa_destroy(&cache->spaces_by_no);
	vfree(cache->slots);
	vfree(cache->busy);
	vfree(cache->accessed);
	kfree(cache);
}

/* Freed by free_work, as the last reference may go where nobody may wait. */
static void free_cache(struct work_struct *work)
{
	struct fastoci_cache *cache = container_of(work, struct fastoci_cache, free_work);

	mutex_lock(&caches_mutex);
	list_del(&cache->node);
	keep_reserved(cache);
	mutex_unlock(&caches_mutex);
	fastoci_send_cache(cache, false);
	fastoci_missq_free(cache);
	srcu_barrier(&cache->srcu);
	cleanup_srcu_struct(&cache->srcu);
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

static struct fastoci_cache *make_cache(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error)
{
	struct fastoci_cache *cache = kzalloc(sizeof(*cache), GFP_KERNEL);
	size_t words;
	int err;

	*error = "cache: out of memory";
	if (!cache)
		return ERR_PTR(-ENOMEM);
	cache->nr_slots = le32_to_cpu(sb->nr_slots);
	cache->nr_free = cache->nr_slots;
	cache->chunk_shift = le32_to_cpu(sb->chunk_shift);
	cache->slots_sector = le64_to_cpu(sb->slots_offset) >> SECTOR_SHIFT;
	cache->dev = bdev->bd_dev;
	memcpy(cache->uuid, sb->uuid, 16);
	kref_init(&cache->kref);
	spin_lock_init(&cache->lock);
	INIT_LIST_HEAD(&cache->images);
	INIT_LIST_HEAD(&cache->spaces);
	xa_init_flags(&cache->spaces_by_no, XA_FLAGS_ALLOC1);
	fastoci_missq_setup(cache);
	INIT_WORK(&cache->free_work, free_cache);
	words = BITS_TO_LONGS(cache->nr_slots) * sizeof(long);
	cache->slots = __vmalloc((u64)cache->nr_slots * sizeof(*cache->slots), BIG);
	cache->busy = __vmalloc(words, BIG);
	cache->accessed = __vmalloc(words, BIG);
	err = -ENOMEM;
	if (!cache->slots || !cache->busy || !cache->accessed)
		goto free;
	err = init_srcu_struct(&cache->srcu);
	if (err)
		goto free;
	err = take_reserved(cache, error);
	if (err)
		goto cleanup_srcu;
	return cache;
cleanup_srcu:
	cleanup_srcu_struct(&cache->srcu);
free:
	free_memory(cache);
	return ERR_PTR(err);
}

struct fastoci_cache *fastoci_cache_get(struct block_device *bdev,
					const struct fastoci_cache_sb *sb, char **error)
{
	struct fastoci_cache *cache;

	mutex_lock(&caches_mutex);
	list_for_each_entry(cache, &caches, node) {
		if (memcmp(cache->uuid, sb->uuid, 16))
			continue;
		if (!kref_get_unless_zero(&cache->kref)) {
			keep_reserved(cache); /* free_work comes too late for the new one */
			continue;
		}
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
	cache = make_cache(bdev, sb, error);
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

void fastoci_queue_evicted(struct work_struct *work)
{
	queue_work(free_wq, work);
}

int fastoci_cache_init(void)
{
	free_wq = alloc_workqueue("fastoci-free", WQ_MEM_RECLAIM | WQ_UNBOUND, 0);
	return free_wq ? 0 : -ENOMEM;
}

/* No table is left: what is under way are grace periods, which end by themselves. */
void fastoci_cache_exit(void)
{
	struct quarantine *q, *tmp;

	wait_event(caches_gone, !atomic_read(&nr_caches));
	destroy_workqueue(free_wq); /* the last free_cache() still returns */
	list_for_each_entry_safe(q, tmp, &quarantines, node)
		free_quarantine(q);
}
