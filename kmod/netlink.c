// SPDX-License-Identifier: GPL-2.0
/*
 * Generic netlink family "fastoci", see fastoci_netlink.h. Parses and replies;
 * states change in cache.c only.
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
	struct mutex lock;
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

bool fastoci_generation_alive(u64 generation)
{
	return fastoci_helper_present() && READ_ONCE(helper.generation) == generation;
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

static int register_helper(struct sk_buff *skb, struct genl_info *info)
{
	struct registration *reg;
	struct sk_buff *reply;
	bool takeover = false;
	void *hdr;
	int err = 0;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return -EPERM;
	if (!info->attrs[FASTOCI_A_VERSION] ||
	    nla_get_u32(info->attrs[FASTOCI_A_VERSION]) != FASTOCI_PROTOCOL_VERSION) {
		NL_SET_ERR_MSG(info->extack, "protocol version is not 1: helper too old or too new");
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
	if (helper.portid && helper.portid != info->snd_portid && !takeover) {
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

/* Checks the sender and takes helper.lock and a reference on the cache. */
static struct fastoci_cache *begin(struct sk_buff *skb, struct genl_info *info)
{
	struct fastoci_cache *cache;
	int err = 0;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return ERR_PTR(-EPERM);
	if (!info->attrs[FASTOCI_A_CACHE] || !info->attrs[FASTOCI_A_GENERATION])
		return ERR_PTR(-EINVAL);
	cache = fastoci_cache_by_no(nla_get_u32(info->attrs[FASTOCI_A_CACHE]));
	if (!cache)
		return ERR_PTR(-ENOENT);
	mutex_lock(&helper.lock);
	if (helper.portid != info->snd_portid ||
	    nla_get_u64(info->attrs[FASTOCI_A_GENERATION]) != helper.generation)
		err = -ESTALE;
	if (!err)
		return cache;
	mutex_unlock(&helper.lock);
	fastoci_cache_put(cache);
	return ERR_PTR(err);
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
	err = -ENOSPC;
	count = min_t(u32, nla_get_u32(info->attrs[FASTOCI_A_COUNT]), FASTOCI_MAX_BATCH);
	count = fastoci_slots_alloc(cache, slots, count, helper.generation);
	if (count) {
		hdr = genlmsg_put_reply(reply, info, &family, 0, FASTOCI_CMD_ALLOC);
		err = -EMSGSIZE;
		if (hdr && !nla_put_u32(reply, FASTOCI_A_CACHE, cache->no) &&
		    !nla_put(reply, FASTOCI_A_SLOTS, count * sizeof(u32), slots)) {
			genlmsg_end(reply, hdr);
			err = 0;
		} else {
			fastoci_slots_return(cache, slots, count, helper.generation);
		}
	}
	end(cache);
	if (!err) {
		kfree(slots);
		return genlmsg_reply(reply, info);
	}
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
		if (nla_type(pos) != FASTOCI_A_CHUNK || !tb[FASTOCI_C_SPACE] || !tb[FASTOCI_C_CHUNK_NO] ||
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
	if (!err && cmd == FASTOCI_CMD_EVICT)
		err = fastoci_chunks_evict(cache, keys, nr, reserve ? helper.generation : 0);
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
 * A dump walks its items in a fixed order and skips those before args[0]; an
 * item that comes or goes meanwhile is told by an event.
 */
struct dump {
	struct sk_buff *skb;
	struct netlink_callback *cb;
	u8 cmd;
	long at;	/* index of the item in hand */
	bool full;
};

static void *begin_item(struct dump *d)
{
	void *hdr;

	if (d->full || d->at++ < d->cb->args[0])
		return NULL;
	hdr = genlmsg_put(d->skb, NETLINK_CB(d->cb->skb).portid, d->cb->nlh->nlmsg_seq, &family,
			  NLM_F_MULTI, d->cmd);
	d->full = !hdr;
	return hdr;
}

static void end_item(struct dump *d, void *hdr, bool failed)
{
	if (failed) {
		genlmsg_cancel(d->skb, hdr);
		d->full = true;
		return;
	}
	genlmsg_end(d->skb, hdr);
	d->cb->args[0] = d->at;
}

static void dump_cache(struct fastoci_cache *cache, void *arg)
{
	struct dump *d = arg;
	void *hdr = begin_item(d);

	if (hdr)
		end_item(d, hdr,
			 nla_put_u32(d->skb, FASTOCI_A_CACHE, cache->no) ||
			 nla_put(d->skb, FASTOCI_A_UUID, 16, cache->uuid) ||
			 nla_put_u32(d->skb, FASTOCI_A_CACHE_DEV, cache->dev) ||
			 nla_put_u32(d->skb, FASTOCI_A_CHUNK_SHIFT, cache->chunk_shift) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_SLOTS, cache->nr_slots) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_FREE, READ_ONCE(cache->nr_free)) ||
			 nla_put_u32(d->skb, FASTOCI_A_NR_PENDING, READ_ONCE(cache->nr_misses)));
}

static void dump_images_of(struct fastoci_cache *cache, void *arg)
{
	struct fastoci_image *image;
	struct dump *d = arg;
	void *hdr;

	spin_lock(&cache->lock);
	list_for_each_entry(image, &cache->images, node) {
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr, put_image(d->skb, image));
	}
	spin_unlock(&cache->lock);
}

static void dump_spaces_of(struct fastoci_cache *cache, void *arg)
{
	struct fastoci_space *space;
	struct dump *d = arg;
	void *hdr;

	spin_lock(&cache->lock);
	list_for_each_entry(space, &cache->spaces, node) {
		hdr = begin_item(d);
		if (hdr)
			end_item(d, hdr,
				 nla_put_u32(d->skb, FASTOCI_A_CACHE, cache->no) ||
				 nla_put_u32(d->skb, FASTOCI_A_SPACE, space->no) ||
				 nla_put(d->skb, FASTOCI_A_SPACE_ID, 32, space->id) ||
				 nla_put_u64_64bit(d->skb, FASTOCI_A_DATA_BYTES, space->data_bytes,
						   FASTOCI_A_PAD) ||
				 nla_put_u32(d->skb, FASTOCI_A_NR_CHUNKS, space->nr_chunks) ||
				 nla_put_u32(d->skb, FASTOCI_A_NR_PRESENT, space->nr_present));
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

/* Answers with an empty dump; what is pending comes as MISS events. */
static int dump_pending(struct sk_buff *skb, struct netlink_callback *cb)
{
	fastoci_cache_for_each(fastoci_cache_resend, NULL);
	return skb->len;
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

/* args: 0 next slot, 1 cache, 2 flags */
static int start_slots(struct netlink_callback *cb)
{
	struct nlattr **tb;
	int err;

	if (!netlink_capable(cb->skb, CAP_SYS_ADMIN))
		return -EPERM;
	tb = kcalloc(FASTOCI_A_MAX + 1, sizeof(*tb), GFP_KERNEL);
	if (!tb)
		return -ENOMEM;
	err = nlmsg_parse(cb->nlh, GENL_HDRLEN, tb, FASTOCI_A_MAX, policy, cb->extack);
	if (!err && !tb[FASTOCI_A_CACHE])
		err = -EINVAL;
	if (!err) {
		cb->args[1] = nla_get_u32(tb[FASTOCI_A_CACHE]);
		cb->args[2] = tb[FASTOCI_A_FLAGS] ? nla_get_u32(tb[FASTOCI_A_FLAGS]) : 0;
	}
	kfree(tb);
	return err;
}

static int dump_slots(struct sk_buff *skb, struct netlink_callback *cb)
{
	struct fastoci_cache *cache = fastoci_cache_by_no(cb->args[1]);
	struct dump d = { .skb = skb, .cb = cb, .cmd = FASTOCI_CMD_GET_SLOTS };
	u32 slot = cb->args[0];

	if (!cache)
		return -ENOENT;
	for (; slot < cache->nr_slots && !d.full; slot++) {
		struct fastoci_slot_info i;
		struct nlattr *nests, *nest;
		void *hdr;

		if (!fastoci_slot_info(cache, slot, &i)) {
			cond_resched();
			continue;
		}
		d.at = slot;
		cb->args[0] = slot;
		hdr = begin_item(&d);
		if (!hdr)
			break;
		nests = nla_nest_start(skb, FASTOCI_A_CHUNKS);
		nest = nests ? nla_nest_start(skb, FASTOCI_A_CHUNK) : NULL;
		if (!nest || nla_put_u32(skb, FASTOCI_C_SLOT, slot) ||
		    nla_put_u8(skb, FASTOCI_C_STATE, i.state) ||
		    (i.state != FASTOCI_SLOT_RESERVED &&
		     (nla_put_u32(skb, FASTOCI_C_SPACE, i.space) ||
		      nla_put_u32(skb, FASTOCI_C_CHUNK_NO, i.chunk_no))) ||
		    (i.accessed && nla_put_flag(skb, FASTOCI_C_ACCESSED))) {
			end_item(&d, hdr, true);
			break;
		}
		nla_nest_end(skb, nest);
		nla_nest_end(skb, nests);
		end_item(&d, hdr, false);
		if (cb->args[2] & FASTOCI_SLOTS_CLEAR_ACCESSED)
			clear_bit(slot, cache->accessed);
	}
	cb->args[0] = slot;
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
	DUMP(PENDING, dump_pending),
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
	.resv_start_op = __FASTOCI_CMD_MAX,
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
