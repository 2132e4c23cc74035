// SPDX-License-Identifier: GPL-2.0
/* The dumps of the family, except GET_PENDING; see fastoci_netlink.h. */
#include "netlink_family.h"

/*
 * A dump lists its items in the order of their numbers: (cache, image), (cache, space)
 * or (cache, slot). args[0] and args[1] are the first pair that was not listed yet. So
 * items that come or go between two messages hide no other item and repeat none.
 */
struct dump {
	struct sk_buff *skb;
	struct netlink_callback *cb;
	u8 cmd;
	bool full;
};

/* The first number of @cache that is to be listed. */
static u32 first_of(const struct dump *d, const struct fastoci_cache *cache)
{
	return cache->no == d->cb->args[0] ? d->cb->args[1] : 0;
}

static void *begin_item(struct dump *d)
{
	void *hdr = genlmsg_put(d->skb, NETLINK_CB(d->cb->skb).portid, d->cb->nlh->nlmsg_seq,
				&fastoci_genl_family, NLM_F_MULTI, d->cmd);

	d->full = !hdr;
	return hdr;
}

static void end_item(struct dump *d, void *hdr, bool failed, u32 cache_no, u32 no)
{
	if (failed) {
		genlmsg_cancel(d->skb, hdr);
		d->full = true;
		return;
	}
	genlmsg_end(d->skb, hdr);
	d->cb->args[0] = cache_no;
	d->cb->args[1] = (long)no + 1;
}

/* Whether all of @cache was listed, or the message has no room. */
static bool is_over(const struct dump *d, const struct fastoci_cache *cache)
{
	return d->full || cache->no < d->cb->args[0];
}

static void dump_cache(struct fastoci_cache *cache, void *arg)
{
	const struct fastoci_missq *q = &cache->missq;
	struct dump *d = arg;
	void *hdr;

	if (is_over(d, cache) || first_of(d, cache))
		return;
	hdr = begin_item(d);
	if (hdr)
		end_item(d, hdr,
			 nla_put_u32(d->skb, FASTOCI_A_CACHE, cache->no) ||
			 nla_put(d->skb, FASTOCI_A_UUID, 16, cache->uuid) ||
			 nla_put_u32(d->skb, FASTOCI_A_CACHE_DEV, cache->dev) ||
			 nla_put_u32(d->skb, FASTOCI_A_CHUNK_SHIFT, q->map.chunk_shift) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_SLOTS, q->map.slots.nr) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_FREE, READ_ONCE(q->map.slots.nr_free)) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_PENDING, READ_ONCE(q->nr_misses)) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_BAD, READ_ONCE(q->map.slots.nr_bad)),
			 cache->no, 0);
}

/* What events leave out because it changes with every read. L(lock) */
static int put_counts(struct sk_buff *skb, const struct fastoci_image *image)
{
	struct fastoci_stats sum;

	fastoci_image_count(image, &sum);
	return nla_put_u64_64bit(skb, FASTOCI_A_NR_HITS, sum.hits, FASTOCI_A_PAD) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_NR_MISSED, sum.misses, FASTOCI_A_PAD) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_NR_ERRORS, sum.errors, FASTOCI_A_PAD) ||
	       nla_put_u32(skb, FASTOCI_A_NR_PARKED, image->waiters.nr_parked) ||
	       nla_put(skb, FASTOCI_A_HIT_TIMES, sizeof(sum.hit_times), sum.hit_times) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_HIT_NS, sum.hit_ns, FASTOCI_A_PAD);
}

/* False: there is none. */
static bool dump_next_image(struct dump *d, struct fastoci_cache *cache)
{
	struct fastoci_image *image;
	bool found = false;
	void *hdr;

	fastoci_cache_lock(cache);
	list_for_each_entry(image, &cache->missq.images, waiters.node) { /* by their numbers */
		/* cppcheck-suppress uninitvar ; it does not know the loop */
		if (image->no < first_of(d, cache))
			continue;
		found = true;
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr,
				 fastoci_put_image(d->skb, image) || put_counts(d->skb, image),
				 cache->no, image->no);
		break;
	}
	fastoci_cache_unlock(cache);
	return found;
}

static void dump_images_of(struct fastoci_cache *cache, void *arg)
{
	struct dump *d = arg;

	/* One at a time: the sums over all CPUs are made under the lock, for which misses spin. */
	while (!is_over(d, cache) && dump_next_image(d, cache))
		cond_resched();
}

static int put_space(struct sk_buff *skb, const struct fastoci_cache *cache,
		     const struct fastoci_space *space)
{
	return nla_put_u32(skb, FASTOCI_A_CACHE, cache->no) ||
	       nla_put_u32(skb, FASTOCI_A_SPACE, space->no) ||
	       nla_put(skb, FASTOCI_A_SPACE_ID, 32, space->id) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_DATA_BYTES, space->data_bytes, FASTOCI_A_PAD) ||
	       nla_put_u32(skb, FASTOCI_A_NR_CHUNKS, space->nr_chunks) ||
	       nla_put_u32(skb, FASTOCI_A_NR_PRESENT, space->nr_present) ||
	       nla_put_u32(skb, FASTOCI_A_NR_USERS, space->nr_users);
}

static void dump_spaces_of(struct fastoci_cache *cache, void *arg)
{
	struct fastoci_space *space = NULL;
	struct dump *d = arg;
	unsigned long no;
	void *hdr;

	if (is_over(d, cache))
		return;
	fastoci_cache_lock(cache);
	xa_for_each_start(&cache->missq.map.spaces_by_no, no, space, first_of(d, cache)) {
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr, put_space(d->skb, cache, space), cache->no, no);
		if (d->full)
			break;
	}
	fastoci_cache_unlock(cache);
}

int fastoci_dump_start(struct netlink_callback *cb)
{
	return netlink_capable(cb->skb, CAP_SYS_ADMIN) ? 0 : -EPERM;
}

static int dump_with(struct sk_buff *skb, struct netlink_callback *cb, u8 cmd,
		     void (*fn)(struct fastoci_cache *cache, void *arg))
{
	struct dump d = { .skb = skb, .cb = cb, .cmd = cmd };

	fastoci_cache_for_each(fn, &d);
	return skb->len;
}

int fastoci_dump_caches(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_CACHES, dump_cache);
}

int fastoci_dump_images(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_IMAGES, dump_images_of);
}

int fastoci_dump_spaces(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_SPACES, dump_spaces_of);
}

/* args: 0 cache, 1 next slot, 2 flags */
int fastoci_dump_slots_start(struct netlink_callback *cb)
{
	struct nlattr **attrs = fastoci_dump_attrs(cb);
	int err = fastoci_dump_start(cb);

	if (err)
		return err;
	if (!attrs[FASTOCI_A_CACHE])
		return -EINVAL;
	cb->args[0] = nla_get_u32(attrs[FASTOCI_A_CACHE]);
	cb->args[2] = attrs[FASTOCI_A_FLAGS] ? nla_get_u32(attrs[FASTOCI_A_FLAGS]) : 0;
	return 0;
}

static int put_slot(struct sk_buff *skb, u32 slot, const struct fastoci_slot_info *i)
{
	struct nlattr *nests = nla_nest_start(skb, FASTOCI_A_CHUNKS);
	struct nlattr *nest = nests ? nla_nest_start(skb, FASTOCI_A_CHUNK) : NULL;

	if (!nest || nla_put_u32(skb, FASTOCI_C_SLOT, slot) ||
	    nla_put_u8(skb, FASTOCI_C_STATE, i->state) ||
	    (i->state != FASTOCI_SLOT_RESERVED &&
	     (nla_put_u32(skb, FASTOCI_C_SPACE, i->space) ||
	      nla_put_u32(skb, FASTOCI_C_CHUNK_NO, i->chunk_no))) ||
	    (i->accessed && nla_put_flag(skb, FASTOCI_C_ACCESSED)))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	nla_nest_end(skb, nests);
	return 0;
}

int fastoci_dump_slots(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct fastoci_cache *cache = fastoci_cache_by_no(cb->args[0]);
	struct dump d = { .skb = skb, .cb = cb, .cmd = FASTOCI_CMD_GET_SLOTS };
	struct fastoci_slot_info info;
	struct fastoci_slots *slots;
	u32 slot = cb->args[1];
	void *hdr;

	if (!cache)
		return -ENOENT;
	slots = &cache->missq.map.slots;
	for (; fastoci_slots_next(slots, &slot, &info); slot++) {
		hdr = begin_item(&d);
		if (hdr)
			end_item(&d, hdr, put_slot(skb, slot, &info), cache->no, slot);
		if (d.full)
			break;
		if (cb->args[2] & FASTOCI_SLOTS_CLEAR_ACCESSED)
			clear_bit(slot, slots->accessed);
	}
	fastoci_cache_put(cache);
	return skb->len;
}
