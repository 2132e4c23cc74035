// SPDX-License-Identifier: GPL-2.0
/*
 * A miss is unsent again if the socket refused its message, or if the helper did not
 * answer it for ask_again_ms. So whatever a helper loses, readers wait no longer than
 * that for another try.
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "ask.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

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

static u64 miss_order(const struct fastoci_chunk_key *k)
{
	return (u64)k->space << 32 | k->chunk_no;
}

struct fastoci_miss *fastoci_miss_find(struct fastoci_missq *q, u32 space, u32 chunk_no)
{
	struct rb_node *n = q->misses.rb_node;
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

static void insert_miss(struct fastoci_missq *q, struct fastoci_miss *miss)
{
	struct rb_node **link = &q->misses.rb_node, *parent = NULL;

	while (*link) {
		struct fastoci_miss *m = rb_entry(*link, struct fastoci_miss, node);

		parent = *link;
		link = miss_order(&miss->key) < miss_order(&m->key) ? &parent->rb_left :
								      &parent->rb_right;
	}
	rb_link_node(&miss->node, parent, link);
	rb_insert_color(&miss->node, &q->misses);
	q->nr_misses++;
}

void fastoci_miss_erase(struct fastoci_missq *q, struct fastoci_miss *miss)
{
	fastoci_missq_assert_locked(q);
	rb_erase(&miss->node, &q->misses);
	list_del(&miss->queue);
	q->nr_misses--;
	kmem_cache_free(miss_slab, miss);
}

/* Queues @miss behind those of its class; demand is sent before readahead. */
static void queue_unsent(struct fastoci_missq *q, struct fastoci_miss *miss)
{
	fastoci_missq_assert_locked(q);
	list_move_tail(&miss->queue, &q->unsent[miss->key.class]);
}

static struct fastoci_miss *first_unsent(struct fastoci_missq *q)
{
	int class;

	fastoci_missq_assert_locked(q);
	for (class = FASTOCI_CLASS_DEMAND; class >= 0; class--)
		if (!list_empty(&q->unsent[class]))
			return list_first_entry(&q->unsent[class], struct fastoci_miss, queue);
	return NULL;
}

struct fastoci_miss *fastoci_miss_get(struct fastoci_missq *q, u32 space, u32 chunk_no, u8 class)
{
	struct fastoci_miss *miss = fastoci_miss_find(q, space, chunk_no);

	fastoci_missq_assert_locked(q);
	if (miss && miss->key.class >= class)
		return miss;
	if (!miss) {
		miss = kmem_cache_alloc(miss_slab, GFP_NOWAIT | __GFP_NOWARN);
		if (!miss)
			return NULL;
		miss->key = (struct fastoci_chunk_key){ space, chunk_no, class };
		miss->since_ns = ktime_get_ns();
		INIT_LIST_HEAD(&miss->reads);
		INIT_LIST_HEAD(&miss->queue);
		insert_miss(q, miss);
	}
	miss->key.class = class;
	trace_fastoci_miss(q->cache_no, &miss->key);
	queue_unsent(q, miss);
	queue_work(wq, &q->send_work);
	return miss;
}

struct fastoci_miss *fastoci_miss_answered(struct fastoci_missq *q, u32 space, u32 chunk_no,
					   bool filled)
{
	struct fastoci_miss *miss = fastoci_miss_find(q, space, chunk_no);

	fastoci_missq_assert_locked(q);
	if (miss && filled)
		trace_fastoci_fill(q->cache_no, &miss->key, ktime_get_ns() - miss->since_ns);
	else if (miss)
		trace_fastoci_fail(q->cache_no, &miss->key, ktime_get_ns() - miss->since_ns);
	return miss;
}

void fastoci_missq_arm_timer_locked(struct fastoci_missq *q, unsigned long at)
{
	fastoci_missq_assert_locked(q);
	if (q->timer_armed && time_before_eq(q->timer_at, at))
		return;
	q->timer_armed = true;
	q->timer_at = at;
	mod_delayed_work(wq, &q->timer_work, time_after(at, jiffies) ? at - jiffies : 0);
}

void fastoci_missq_arm_timer_in_locked(struct fastoci_missq *q, u32 ms)
{
	fastoci_missq_arm_timer_locked(q, jiffies + msecs_to_jiffies(ms));
}

enum fastoci_helper_state fastoci_helper_state_locked(struct fastoci_missq *q)
{
	fastoci_missq_assert_locked(q);
	if (!fastoci_helper_present())
		return FASTOCI_HELPER_NONE;
	if (q->unacked &&
	    time_after_eq(jiffies, q->unacked_since + msecs_to_jiffies(READ_ONCE(stall_ms))))
		return FASTOCI_HELPER_STALLED;
	return FASTOCI_HELPER_READY;
}

static void ask_again(struct fastoci_missq *q)
{
	struct fastoci_miss *miss, *tmp;
	unsigned long at;

	fastoci_missq_assert_locked(q);
	list_for_each_entry_safe(miss, tmp, &q->asked, queue) {
		at = miss->asked_at + msecs_to_jiffies(READ_ONCE(ask_again_ms));
		if (time_before(jiffies, at)) {
			fastoci_missq_arm_timer_locked(q, at);
			return;
		}
		if (list_empty(&miss->reads))
			fastoci_miss_erase(q, miss);
		else
			queue_unsent(q, miss);
	}
}

void fastoci_misses_ask_again_locked(struct fastoci_missq *q, enum fastoci_helper_state helper)
{
	ask_again(q);
	if (first_unsent(q))
		queue_work(wq, &q->send_work);
	if (q->unacked && helper == FASTOCI_HELPER_READY) /* as yet */
		fastoci_missq_arm_timer_locked(q, q->unacked_since +
						  msecs_to_jiffies(READ_ONCE(stall_ms)));
}

/* Moves misses that may be sent now to q->batch. Returns how many. */
static u32 take_batch(struct fastoci_missq *q)
{
	struct fastoci_miss *miss;
	u32 nr = 0;

	fastoci_missq_assert_locked(q);
	while (nr < FASTOCI_MAX_BATCH && q->unacked + nr < FASTOCI_MISS_WINDOW) {
		miss = first_unsent(q);
		if (!miss)
			break;
		q->batch[nr++] = miss->key;
		miss->asked_at = jiffies;
		list_move_tail(&miss->queue, &q->asked);
	}
	if (!nr)
		return 0;
	if (!q->unacked)
		q->unacked_since = jiffies;
	q->unacked += nr;
	fastoci_missq_arm_timer_locked(q, q->unacked_since +
					  msecs_to_jiffies(READ_ONCE(stall_ms)));
	fastoci_missq_arm_timer_in_locked(q, READ_ONCE(ask_again_ms));
	return nr;
}

/* A batch that was not sent goes back to the front. */
static void unsend_batch(struct fastoci_missq *q, u32 nr)
{
	struct fastoci_miss *miss;

	fastoci_missq_assert_locked(q);
	q->unacked -= min(nr, q->unacked);
	while (nr--) {
		miss = fastoci_miss_find(q, q->batch[nr].space, q->batch[nr].chunk_no);
		if (miss)
			list_move(&miss->queue, &q->unsent[miss->key.class]);
	}
}

static void send_misses(struct work_struct *work)
{
	struct fastoci_missq *q = container_of(work, struct fastoci_missq, send_work);
	int err;
	u32 nr;

	for (;;) {
		fastoci_missq_lock(q);
		nr = take_batch(q);
		fastoci_missq_unlock(q);
		if (!nr)
			return;
		err = fastoci_helper_ops()->send_misses(q->cache_no, q->batch, nr);
		if (!err)
			continue;
		/*
		 * Without a helper, the next REGISTER sends. Otherwise only the timer is
		 * certain to: a socket reports ENOBUFS once until it is read empty, so the
		 * helper may not learn that this message was refused too.
		 */
		fastoci_missq_lock(q);
		unsend_batch(q, nr);
		if (err != -ECONNREFUSED)
			fastoci_missq_arm_timer_in_locked(q, SEND_RETRY_MS);
		fastoci_missq_unlock(q);
		return;
	}
}

void fastoci_misses_resend_locked(struct fastoci_missq *q)
{
	struct rb_node *n, *next;

	fastoci_missq_assert_locked(q);
	for (n = rb_first(&q->misses); n; n = next) {
		struct fastoci_miss *miss = rb_entry(n, struct fastoci_miss, node);

		next = rb_next(n);
		if (list_empty(&miss->reads))
			fastoci_miss_erase(q, miss); /* of a NOWAIT read */
		else
			queue_unsent(q, miss);
	}
	q->unacked = 0;
	queue_work(wq, &q->send_work);
}

void fastoci_misses_acked_locked(struct fastoci_missq *q, u32 count)
{
	fastoci_missq_assert_locked(q);
	q->unacked -= min(count, q->unacked);
	q->unacked_since = jiffies;
	queue_work(wq, &q->send_work);
}

void fastoci_misses_drop_locked(struct fastoci_missq *q, u32 no)
{
	struct rb_node *n = q->misses.rb_node, *first = NULL, *next;
	struct fastoci_miss *miss;

	fastoci_missq_assert_locked(q);
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
		WARN_ON_ONCE(!list_empty(&miss->reads));
		fastoci_miss_erase(q, miss);
	}
}

void fastoci_missq_queue(struct work_struct *work)
{
	queue_work(wq, work);
}

void fastoci_asks_setup(struct fastoci_missq *q)
{
	int class;

	for (class = 0; class < FASTOCI_NR_CLASSES; class++)
		INIT_LIST_HEAD(&q->unsent[class]);
	INIT_LIST_HEAD(&q->asked);
	q->misses = RB_ROOT;
	INIT_WORK(&q->send_work, send_misses);
}

int fastoci_asks_init(void)
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

void fastoci_asks_exit(void)
{
	destroy_workqueue(wq);
	kmem_cache_destroy(miss_slab);
}
