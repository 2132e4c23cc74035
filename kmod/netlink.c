// SPDX-License-Identifier: GPL-2.0
/*
 * Generic netlink family "fastoci", see fastoci_netlink.h. Parses and replies;
 * states change in chunkmap.c, slots.c and missq.c only.
 *
 * Slots that a helper reserved are its own until its socket is closed, also
 * after a takeover: so each registration is kept in helper.all until then.
 *
 * helper.lock serializes registration, its end and every state-changing
 * command, so that a command of an old generation cannot overtake its end.
 * portid is read without it where a stale value is harmless: a message to a
 * closed port is refused, and parking is repaired by the sweep that follows.
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <net/genetlink.h>
#include <net/net_namespace.h>

#include "fastoci.h"

static struct genl_family family;

static struct {
	struct mutex lock;	/* what L(lock) marks; a command runs under it whole */
	u32 portid;		/* L(lock), A: 0 without a helper */
	u64 generation;		/* L(lock), A: of the current helper */
	struct list_head all;	/* L(lock) of struct registration */
} helper = { .lock = __MUTEX_INITIALIZER(helper.lock), .all = LIST_HEAD_INIT(helper.all) };

struct registration {
	struct list_head node;
	u32 portid;
	u64 generation;
};

bool fastoci_helper_present(void)
{
	return READ_ONCE(helper.portid);
}

u64 fastoci_helper_generation(void)
{
	return fastoci_helper_present() ? READ_ONCE(helper.generation) : 0;
}

bool fastoci_generation_alive(u64 generation)
{
	return fastoci_helper_generation() == generation;
}

void fastoci_commands_stop(void)
{
	mutex_lock(&helper.lock);
}

void fastoci_commands_go_on(void)
{
	mutex_unlock(&helper.lock);
}

/* ---- events ---- */

static struct sk_buff *new_event(u8 cmd, size_t bytes, void **hdr)
{
	struct sk_buff *skb = genlmsg_new(bytes, GFP_NOIO);

	if (!skb)
		return NULL;
	*hdr = genlmsg_put(skb, 0, 0, &family, 0, cmd);
	if (!*hdr) {
		nlmsg_free(skb);
		return NULL;
	}
	return skb;
}

static int send_event(struct sk_buff *skb, void *hdr)
{
	u32 portid = READ_ONCE(helper.portid);

	if (!portid) {
		nlmsg_free(skb);
		return -ECONNREFUSED;
	}
	genlmsg_end(skb, hdr);
	return genlmsg_unicast(&init_net, skb, portid);
}

static int put_chunk(struct sk_buff *skb, const struct fastoci_miss_key *key, const u32 *slot,
		     bool class)
{
	struct nlattr *nest = nla_nest_start(skb, FASTOCI_A_CHUNK);

	if (!nest || nla_put_u32(skb, FASTOCI_C_SPACE, key->space) ||
	    nla_put_u32(skb, FASTOCI_C_CHUNK_NO, key->chunk_no) ||
	    (slot && nla_put_u32(skb, FASTOCI_C_SLOT, *slot)) ||
	    (class && nla_put_u8(skb, FASTOCI_C_CLASS, key->class)))
		return -EMSGSIZE;
	nla_nest_end(skb, nest);
	return 0;
}

#define CHUNK_NEST_BYTES nla_total_size(4 * nla_total_size(sizeof(u32)))

static int send_chunks(struct fastoci_cache *cache, u8 cmd, const struct fastoci_miss_key *keys,
		       const u32 *slots, u32 nr)
{
	struct nlattr *nest;
	struct sk_buff *skb;
	void *hdr;
	u32 i;

	if (!fastoci_helper_present())
		return -ECONNREFUSED;
	skb = new_event(cmd, 64 + nr * CHUNK_NEST_BYTES, &hdr);
	if (!skb)
		return -ENOMEM;
	if (nla_put_u32(skb, FASTOCI_A_CACHE, cache->no))
		goto fail;
	nest = nla_nest_start(skb, FASTOCI_A_CHUNKS);
	if (!nest)
		goto fail;
	for (i = 0; i < nr; i++)
		if (put_chunk(skb, &keys[i], slots ? &slots[i] : NULL, !slots))
			goto fail;
	nla_nest_end(skb, nest);
	return send_event(skb, hdr);
fail:
	WARN_ON_ONCE(1);
	nlmsg_free(skb);
	return -EMSGSIZE;
}

int fastoci_send_misses(struct fastoci_cache *cache, const struct fastoci_miss_key *keys, u32 nr)
{
	return send_chunks(cache, FASTOCI_CMD_MISS, keys, NULL, nr);
}

void fastoci_send_evicted(struct fastoci_cache *cache, const struct fastoci_miss_key *keys,
			  const u32 *slots, u32 nr)
{
	send_chunks(cache, FASTOCI_CMD_EVICTED, keys, slots, nr);
}

void fastoci_send_slot_bad(struct fastoci_cache *cache, const struct fastoci_miss_key *key,
			   u32 slot)
{
	send_chunks(cache, FASTOCI_CMD_SLOT_BAD, key, &slot, 1);
}

static int put_image(struct sk_buff *skb, const struct fastoci_image *image)
{
	return nla_put_u32(skb, FASTOCI_A_IMAGE, image->no) ||
	       nla_put_u32(skb, FASTOCI_A_CACHE, image->cache->no) ||
	       nla_put_u32(skb, FASTOCI_A_META_DEV, image->meta_dev->bdev->bd_dev) ||
	       nla_put_u32(skb, FASTOCI_A_CACHE_DEV, image->cache_dev->bdev->bd_dev) ||
	       nla_put(skb, FASTOCI_A_UUID, 16, image->cache->uuid) ||
	       nla_put(skb, FASTOCI_A_IMAGE_ID, 32, image->image_id);
}

void fastoci_send_image(struct fastoci_image *image, bool added)
{
	struct sk_buff *skb;
	void *hdr;

	if (!fastoci_helper_present())
		return;
	skb = new_event(added ? FASTOCI_CMD_IMAGE_ADDED : FASTOCI_CMD_IMAGE_REMOVED, 256, &hdr);
	if (!skb)
		return; /* the helper finds it by GET_IMAGES when a miss names it */
	if (put_image(skb, image))
		nlmsg_free(skb);
	else
		send_event(skb, hdr);
}

void fastoci_send_cache(struct fastoci_cache *cache, bool added)
{
	struct sk_buff *skb;
	void *hdr;

	if (!fastoci_helper_present())
		return;
	skb = new_event(added ? FASTOCI_CMD_CACHE_ADDED : FASTOCI_CMD_CACHE_REMOVED, 128, &hdr);
	if (!skb)
		return; /* IMAGE_ADDED names the cache, too */
	if (nla_put_u32(skb, FASTOCI_A_CACHE, cache->no) ||
	    nla_put(skb, FASTOCI_A_UUID, 16, cache->uuid) ||
	    nla_put_u32(skb, FASTOCI_A_CACHE_DEV, cache->dev))
		nlmsg_free(skb);
	else
		send_event(skb, hdr);
}

/* ---- commands ---- */

static struct registration *find_registration(u32 portid)
{
	struct registration *reg;

	lockdep_assert_held(&helper.lock);
	list_for_each_entry(reg, &helper.all, node)
		if (reg->portid == portid)
			return reg;
	return NULL;
}

static int register_helper(struct sk_buff *skb, struct genl_info *info)
{
	struct registration *reg;
	struct sk_buff *reply;
	bool takeover = false;
	u32 version;
	void *hdr;
	int err = 0;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return -EPERM;
	if (!info->attrs[FASTOCI_A_VERSION])
		return -EINVAL;
	version = nla_get_u32(info->attrs[FASTOCI_A_VERSION]);
	if (version != FASTOCI_PROTOCOL_VERSION) {
		if (version < FASTOCI_PROTOCOL_VERSION)
			NL_SET_ERR_MSG(info->extack, "the helper is older than dm-fastoci");
		else
			NL_SET_ERR_MSG(info->extack, "the helper is newer than dm-fastoci");
		return -EPROTONOSUPPORT;
	}
	if (info->attrs[FASTOCI_A_FLAGS])
		takeover = nla_get_u32(info->attrs[FASTOCI_A_FLAGS]) & FASTOCI_REGISTER_TAKEOVER;
	reply = genlmsg_new(64, GFP_KERNEL);
	reg = kzalloc(sizeof(*reg), GFP_KERNEL);
	if (!reply || !reg) {
		nlmsg_free(reply);
		kfree(reg);
		return -ENOMEM;
	}
	mutex_lock(&helper.lock);
	if (find_registration(info->snd_portid)) {
		NL_SET_ERR_MSG(info->extack, "this socket was registered before: open another");
		err = -EALREADY;
		kfree(reg);
	} else if (helper.portid && !takeover) {
		NL_SET_ERR_MSG(info->extack, "another helper is registered");
		err = -EBUSY;
		kfree(reg);
	} else {
		WRITE_ONCE(helper.generation, helper.generation + 1);
		WRITE_ONCE(helper.portid, info->snd_portid);
		reg->portid = info->snd_portid;
		reg->generation = helper.generation;
		list_add_tail(&reg->node, &helper.all);
		hdr = genlmsg_put_reply(reply, info, &family, 0, FASTOCI_CMD_REGISTER);
		if (!hdr || nla_put_u32(reply, FASTOCI_A_VERSION, FASTOCI_PROTOCOL_VERSION) ||
		    nla_put_u64_64bit(reply, FASTOCI_A_GENERATION, helper.generation,
				      FASTOCI_A_PAD))
			err = -EMSGSIZE;
		else
			genlmsg_end(reply, hdr);
	}
	mutex_unlock(&helper.lock);
	if (err) {
		nlmsg_free(reply);
		return err;
	}
	err = genlmsg_reply(reply, info);
	fastoci_cache_for_each(fastoci_cache_resend, NULL);
	return err;
}

static bool is_helper(u32 portid, const struct nlattr *generation)
{
	lockdep_assert_held(&helper.lock);
	return helper.portid == portid && nla_get_u64(generation) == helper.generation;
}

/* Checks the sender and takes helper.lock and a reference on the cache. */
static struct fastoci_cache *begin(struct sk_buff *skb, struct genl_info *info)
{
	struct fastoci_cache *cache;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return ERR_PTR(-EPERM);
	if (!info->attrs[FASTOCI_A_CACHE] || !info->attrs[FASTOCI_A_GENERATION])
		return ERR_PTR(-EINVAL);
	cache = fastoci_cache_by_no(nla_get_u32(info->attrs[FASTOCI_A_CACHE]));
	if (!cache)
		return ERR_PTR(-ENOENT);
	mutex_lock(&helper.lock);
	if (is_helper(info->snd_portid, info->attrs[FASTOCI_A_GENERATION]))
		return cache;
	mutex_unlock(&helper.lock);
	fastoci_cache_put(cache);
	return ERR_PTR(-ESTALE);
}

static void end(struct fastoci_cache *cache)
{
	mutex_unlock(&helper.lock);
	fastoci_cache_put(cache);
}

static int alloc_slots(struct sk_buff *skb, struct genl_info *info)
{
	struct fastoci_cache *cache;
	u32 *slots, count;
	struct sk_buff *reply;
	void *hdr;
	int err;

	if (!info->attrs[FASTOCI_A_COUNT])
		return -EINVAL;
	slots = kcalloc(FASTOCI_MAX_BATCH, sizeof(u32), GFP_KERNEL);
	reply = genlmsg_new(nla_total_size(FASTOCI_MAX_BATCH * sizeof(u32)) + 64, GFP_KERNEL);
	err = -ENOMEM;
	if (!slots || !reply)
		goto free;
	cache = begin(skb, info);
	err = PTR_ERR_OR_ZERO(cache);
	if (err)
		goto free;
	count = min_t(u32, nla_get_u32(info->attrs[FASTOCI_A_COUNT]), FASTOCI_MAX_BATCH);
	count = fastoci_slots_alloc(cache, slots, count, helper.generation);
	err = -ENOSPC;
	if (!count)
		goto end;
	hdr = genlmsg_put_reply(reply, info, &family, 0, FASTOCI_CMD_ALLOC);
	err = -EMSGSIZE;
	if (hdr && !nla_put_u32(reply, FASTOCI_A_CACHE, cache->no) &&
	    !nla_put(reply, FASTOCI_A_SLOTS, count * sizeof(u32), slots)) {
		genlmsg_end(reply, hdr);
		err = genlmsg_reply(reply, info);
		reply = NULL;
	}
	if (err) /* nobody would know of them */
		fastoci_slots_return(cache, slots, count, helper.generation);
end:
	end(cache);
free:
	kfree(slots);
	nlmsg_free(reply);
	return err;
}

static int return_slots(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *a = info->attrs[FASTOCI_A_SLOTS];
	struct fastoci_cache *cache;
	int err;

	if (!a || nla_len(a) % sizeof(u32) || nla_len(a) > FASTOCI_MAX_BATCH * sizeof(u32))
		return -EINVAL;
	cache = begin(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	err = fastoci_slots_return(cache, nla_data(a), nla_len(a) / sizeof(u32), helper.generation);
	end(cache);
	return err;
}

static int ack(struct sk_buff *skb, struct genl_info *info)
{
	struct fastoci_cache *cache;

	if (!info->attrs[FASTOCI_A_COUNT])
		return -EINVAL;
	cache = begin(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	fastoci_cache_ack(cache, nla_get_u32(info->attrs[FASTOCI_A_COUNT]));
	end(cache);
	return 0;
}

static const struct nla_policy chunk_policy[FASTOCI_C_MAX + 1] = {
	[FASTOCI_C_SPACE] = { .type = NLA_U32 },
	[FASTOCI_C_CHUNK_NO] = { .type = NLA_U32 },
	[FASTOCI_C_SLOT] = { .type = NLA_U32 },
	[FASTOCI_C_CLASS] = { .type = NLA_U8 },
	[FASTOCI_C_ERRNO] = NLA_POLICY_RANGE(NLA_U32, 1, 4095),
};

/* FILL, FAIL and EVICT. */
static int do_chunks(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *flags = info->attrs[FASTOCI_A_FLAGS];
	bool reserve = flags && (nla_get_u32(flags) & FASTOCI_EVICT_RESERVE);
	u8 cmd = info->genlhdr->cmd;
	struct nlattr *tb[FASTOCI_C_MAX + 1], *pos;
	struct fastoci_miss_key *keys;
	struct fastoci_cache *cache;
	u32 nr = 0;
	int rem, err = 0;

	if (!info->attrs[FASTOCI_A_CHUNKS])
		return -EINVAL;
	keys = kcalloc(FASTOCI_MAX_BATCH, sizeof(*keys), GFP_KERNEL);
	if (!keys)
		return -ENOMEM;
	cache = begin(skb, info);
	if (IS_ERR(cache)) {
		kfree(keys);
		return PTR_ERR(cache);
	}
	nla_for_each_nested(pos, info->attrs[FASTOCI_A_CHUNKS], rem) {
		struct fastoci_miss_key *k;

		err = -E2BIG;
		if (nr == FASTOCI_MAX_BATCH)
			break;
		err = nla_parse_nested(tb, FASTOCI_C_MAX, pos, chunk_policy, info->extack);
		if (err)
			break;
		err = -EINVAL;
		if (nla_type(pos) != FASTOCI_A_CHUNK || !tb[FASTOCI_C_SPACE] ||
		    !tb[FASTOCI_C_CHUNK_NO] ||
		    (cmd == FASTOCI_CMD_FILL && !tb[FASTOCI_C_SLOT]))
			break;
		k = &keys[nr++];
		k->space = nla_get_u32(tb[FASTOCI_C_SPACE]);
		k->chunk_no = nla_get_u32(tb[FASTOCI_C_CHUNK_NO]);
		if (cmd == FASTOCI_CMD_FILL)
			err = fastoci_chunk_fill(cache, k->space, k->chunk_no,
						 nla_get_u32(tb[FASTOCI_C_SLOT]),
						 helper.generation);
		else if (cmd == FASTOCI_CMD_FAIL)
			err = fastoci_chunk_fail(cache, k->space, k->chunk_no,
						 tb[FASTOCI_C_ERRNO] ?
							 nla_get_u32(tb[FASTOCI_C_ERRNO]) : EIO);
		else
			err = 0;
		if (err) {
			NL_SET_ERR_MSG_ATTR(info->extack, pos, "chunk refused");
			break;
		}
	}
	if (!err && cmd == FASTOCI_CMD_EVICT) {
		err = fastoci_chunks_evict(cache, keys, nr, reserve ? helper.generation : 0);
		if (err)
			NL_SET_ERR_MSG_ATTR(info->extack, info->attrs[FASTOCI_A_CHUNKS],
					    "chunk refused");
	}
	end(cache);
	kfree(keys);
	return err;
}

static int restore(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *tb[FASTOCI_C_MAX + 1], *pos, **a = info->attrs;
	struct fastoci_space *space;
	struct fastoci_cache *cache;
	int rem, err = 0;

	if (!a[FASTOCI_A_SPACE_ID] || !a[FASTOCI_A_DATA_BYTES] || !a[FASTOCI_A_CHUNKS])
		return -EINVAL;
	cache = begin(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	space = fastoci_space_get(cache, nla_data(a[FASTOCI_A_SPACE_ID]),
				  nla_get_u64(a[FASTOCI_A_DATA_BYTES]));
	if (IS_ERR(space)) {
		err = PTR_ERR(space);
		goto out;
	}
	nla_for_each_nested(pos, a[FASTOCI_A_CHUNKS], rem) {
		err = nla_parse_nested(tb, FASTOCI_C_MAX, pos, chunk_policy, info->extack);
		if (!err && (nla_type(pos) != FASTOCI_A_CHUNK || !tb[FASTOCI_C_CHUNK_NO] ||
			     !tb[FASTOCI_C_SLOT]))
			err = -EINVAL;
		if (!err)
			err = fastoci_chunk_restore(cache, space,
						    nla_get_u32(tb[FASTOCI_C_CHUNK_NO]),
						    nla_get_u32(tb[FASTOCI_C_SLOT]),
						    helper.generation);
		if (err) {
			NL_SET_ERR_MSG_ATTR(info->extack, pos, "chunk refused");
			break;
		}
	}
	fastoci_space_put(cache, space);
out:
	end(cache);
	return err;
}

/* ---- dumps ---- */

/*
 * A dump goes by numbers: (cache, image), (cache, space) or (cache, slot), which
 * grow. args[0] and args[1] are the first pair that was not told yet, so what
 * comes or goes between two messages neither hides an item nor repeats one.
 */
struct dump {
	struct sk_buff *skb;
	struct netlink_callback *cb;
	u8 cmd;
	bool full;
};

/* The first number of @cache that is to be told. */
static u32 first_of(const struct dump *d, const struct fastoci_cache *cache)
{
	return cache->no == d->cb->args[0] ? d->cb->args[1] : 0;
}

static void *begin_item(struct dump *d)
{
	void *hdr = genlmsg_put(d->skb, NETLINK_CB(d->cb->skb).portid, d->cb->nlh->nlmsg_seq,
				&family, NLM_F_MULTI, d->cmd);

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

/* Whether @cache was told as a whole, or the message has no room. */
static bool is_over(const struct dump *d, const struct fastoci_cache *cache)
{
	return d->full || cache->no < d->cb->args[0];
}

static void dump_cache(struct fastoci_cache *cache, void *arg)
{
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
			 nla_put_u32(d->skb, FASTOCI_A_CHUNK_SHIFT, cache->chunk_shift) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_SLOTS, cache->nr_slots) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_FREE, READ_ONCE(cache->nr_free)) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_PENDING, READ_ONCE(cache->nr_misses)),
			 cache->no, 0);
}

/* What an event does not tell: it changes with every read. L(lock) */
static int put_counts(struct sk_buff *skb, const struct fastoci_image *image)
{
	struct fastoci_stats sum;

	fastoci_image_count(image, &sum);
	return nla_put_u64_64bit(skb, FASTOCI_A_NR_HITS, sum.hits, FASTOCI_A_PAD) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_NR_MISSED, sum.misses, FASTOCI_A_PAD) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_NR_ERRORS, sum.errors, FASTOCI_A_PAD) ||
	       nla_put_u32(skb, FASTOCI_A_NR_PARKED, image->nr_parked) ||
	       nla_put(skb, FASTOCI_A_HIT_TIMES, sizeof(sum.hit_times), sum.hit_times) ||
	       nla_put_u64_64bit(skb, FASTOCI_A_HIT_NS, sum.hit_ns, FASTOCI_A_PAD);
}

static void dump_images_of(struct fastoci_cache *cache, void *arg)
{
	struct fastoci_image *image;
	struct dump *d = arg;
	void *hdr;

	if (is_over(d, cache))
		return;
	spin_lock(&cache->lock);
	list_for_each_entry(image, &cache->images, node) { /* in the order of numbers */
		if (image->no < first_of(d, cache))
			continue;
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr, put_image(d->skb, image) || put_counts(d->skb, image),
				 cache->no, image->no);
		if (d->full)
			break;
	}
	spin_unlock(&cache->lock);
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
	struct fastoci_space *space;
	struct dump *d = arg;
	unsigned long no;
	void *hdr;

	if (is_over(d, cache))
		return;
	spin_lock(&cache->lock);
	xa_for_each_start(&cache->spaces_by_no, no, space, first_of(d, cache)) {
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr, put_space(d->skb, cache, space), cache->no, no);
		if (d->full)
			break;
	}
	spin_unlock(&cache->lock);
}

static int start_dump(struct netlink_callback *cb)
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

static int dump_caches(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_CACHES, dump_cache);
}

static int dump_images(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_IMAGES, dump_images_of);
}

static int dump_spaces(struct sk_buff *skb, struct netlink_callback *cb)
{
	return dump_with(skb, cb, FASTOCI_CMD_GET_SPACES, dump_spaces_of);
}

static const struct nla_policy policy[FASTOCI_A_MAX + 1] = {
	[FASTOCI_A_VERSION] = { .type = NLA_U32 },
	[FASTOCI_A_GENERATION] = { .type = NLA_U64 },
	[FASTOCI_A_FLAGS] = { .type = NLA_U32 },
	[FASTOCI_A_CACHE] = { .type = NLA_U32 },
	[FASTOCI_A_SPACE_ID] = NLA_POLICY_EXACT_LEN(32),
	[FASTOCI_A_DATA_BYTES] = { .type = NLA_U64 },
	[FASTOCI_A_COUNT] = NLA_POLICY_MIN(NLA_U32, 1),
	[FASTOCI_A_SLOTS] = { .type = NLA_BINARY, .len = FASTOCI_MAX_BATCH * sizeof(u32) },
	[FASTOCI_A_CHUNKS] = { .type = NLA_NESTED },
};

/* It opens the window for messages again, so it is the helper's own. */
static int start_pending(struct netlink_callback *cb)
{
	const struct nlattr *generation = fastoci_dump_attrs(cb)[FASTOCI_A_GENERATION];
	int err = start_dump(cb);

	if (err)
		return err;
	if (!generation)
		return -EINVAL;
	mutex_lock(&helper.lock);
	err = is_helper(NETLINK_CB(cb->skb).portid, generation) ? 0 : -ESTALE;
	mutex_unlock(&helper.lock);
	return err;
}

/* Answers with an empty dump; what is pending comes as MISS events. */
static int dump_pending(struct sk_buff *skb, struct netlink_callback *cb)
{
	fastoci_cache_for_each(fastoci_cache_resend, NULL);
	return skb->len;
}

/* args: 0 cache, 1 next slot, 2 flags */
static int start_slots(struct netlink_callback *cb)
{
	struct nlattr **attrs = fastoci_dump_attrs(cb);
	int err = start_dump(cb);

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

static int dump_slots(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct fastoci_cache *cache = fastoci_cache_by_no(cb->args[0]);
	struct dump d = { .skb = skb, .cb = cb, .cmd = FASTOCI_CMD_GET_SLOTS };
	struct fastoci_slot_info info;
	u32 slot = cb->args[1];
	void *hdr;

	if (!cache)
		return -ENOENT;
	for (; fastoci_slot_next(cache, &slot, &info); slot++) {
		hdr = begin_item(&d);
		if (hdr)
			end_item(&d, hdr, put_slot(skb, slot, &info), cache->no, slot);
		if (d.full)
			break;
		if (cb->args[2] & FASTOCI_SLOTS_CLEAR_ACCESSED)
			clear_bit(slot, cache->accessed);
	}
	fastoci_cache_put(cache);
	return skb->len;
}

#define DO(c, fn) { .cmd = FASTOCI_CMD_##c, .flags = GENL_ADMIN_PERM, .doit = fn }
#define DUMP(c, fn) { .cmd = FASTOCI_CMD_GET_##c, .flags = GENL_ADMIN_PERM, \
		      .start = start_dump, .dumpit = fn }
static const struct genl_ops ops[] = {
	DO(REGISTER, register_helper), DO(ALLOC, alloc_slots), DO(RETURN, return_slots),
	DO(ACK, ack), DO(FILL, do_chunks), DO(FAIL, do_chunks), DO(EVICT, do_chunks),
	DO(RESTORE, restore),
	DUMP(CACHES, dump_caches), DUMP(IMAGES, dump_images), DUMP(SPACES, dump_spaces),
	{ .cmd = FASTOCI_CMD_GET_PENDING, .flags = GENL_ADMIN_PERM,
	  .start = start_pending, .dumpit = dump_pending },
	{ .cmd = FASTOCI_CMD_GET_SLOTS, .flags = GENL_ADMIN_PERM,
	  .start = start_slots, .dumpit = dump_slots },
};

static struct genl_family family __ro_after_init = {
	.name = FASTOCI_GENL_NAME,
	.version = FASTOCI_GENL_VERSION,
	.maxattr = FASTOCI_A_MAX,
	.policy = policy,
	.module = THIS_MODULE,
	.ops = ops,
	.n_ops = ARRAY_SIZE(ops),
	.parallel_ops = true,
};

/* The socket is closed only after its process left every system call. */
static int on_release(struct notifier_block *nb, unsigned long event, void *data)
{
	struct netlink_notify *n = data;
	struct registration *reg, *tmp;
	LIST_HEAD(lost);

	if (event != NETLINK_URELEASE || n->protocol != NETLINK_GENERIC ||
	    !net_eq(n->net, &init_net) || !n->portid)
		return NOTIFY_DONE;
	mutex_lock(&helper.lock);
	list_for_each_entry_safe(reg, tmp, &helper.all, node)
		if (reg->portid == n->portid)
			list_move_tail(&reg->node, &lost);
	if (n->portid == helper.portid)
		WRITE_ONCE(helper.portid, 0);
	mutex_unlock(&helper.lock);
	list_for_each_entry_safe(reg, tmp, &lost, node) {
		fastoci_cache_for_each(fastoci_cache_helper_lost, &reg->generation);
		fastoci_quarantine_end(reg->generation);
		kfree(reg);
	}
	return NOTIFY_DONE;
}

static struct notifier_block release_notifier = { .notifier_call = on_release };

int fastoci_netlink_init(void)
{
	int err = genl_register_family(&family);

	if (err)
		return err;
	err = netlink_register_notifier(&release_notifier);
	if (err)
		genl_unregister_family(&family);
	return err;
}

void fastoci_netlink_exit(void)
{
	struct registration *reg, *tmp;

	netlink_unregister_notifier(&release_notifier);
	genl_unregister_family(&family);
	list_for_each_entry_safe(reg, tmp, &helper.all, node)
		kfree(reg); /* of a helper that lives on without us */
}
