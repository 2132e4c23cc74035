// SPDX-License-Identifier: GPL-2.0
/*
 * The family and its commands: parses, calls what changes a state, replies.
 *
 * A whole command that changes a state runs under fastoci_helper_lock(). Nothing
 * is allocated with GFP_KERNEL under it: reclaim may wait for a read whose
 * reread_work wants the lock. So each command allocates first.
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/slab.h>
#include <net/net_namespace.h>

#include "netlink.h"
#include "netlink_family.h"

static void serve_cache(struct fastoci_cache *cache, void *arg)
{
	fastoci_missq_helper_came(&cache->missq);
}

static int register_helper(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *version = info->attrs[FASTOCI_A_VERSION];
	struct nlattr *flags = info->attrs[FASTOCI_A_FLAGS];
	struct sk_buff *reply;
	u64 generation;
	void *hdr;
	int err;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return -EPERM;
	if (!version)
		return -EINVAL;
	if (nla_get_u32(version) < FASTOCI_PROTOCOL_VERSION) {
		NL_SET_ERR_MSG(info->extack, "the helper is older than dm-fastoci");
		return -EPROTONOSUPPORT;
	}
	if (nla_get_u32(version) > FASTOCI_PROTOCOL_VERSION) {
		NL_SET_ERR_MSG(info->extack, "the helper is newer than dm-fastoci");
		return -EPROTONOSUPPORT;
	}
	reply = genlmsg_new(64, GFP_KERNEL);
	if (!reply)
		return -ENOMEM;
	err = fastoci_helper_register(info->snd_portid,
				      flags && (nla_get_u32(flags) & FASTOCI_REGISTER_TAKEOVER),
				      &generation);
	if (err == -EALREADY)
		NL_SET_ERR_MSG(info->extack, "this socket was registered before: open another");
	if (err == -EBUSY)
		NL_SET_ERR_MSG(info->extack, "another helper is registered");
	if (err)
		goto free;
	err = -EMSGSIZE;
	hdr = genlmsg_put_reply(reply, info, &fastoci_genl_family, 0, FASTOCI_CMD_REGISTER);
	if (!hdr || nla_put_u32(reply, FASTOCI_A_VERSION, FASTOCI_PROTOCOL_VERSION) ||
	    nla_put_u64_64bit(reply, FASTOCI_A_GENERATION, generation, FASTOCI_A_PAD))
		goto free;
	genlmsg_end(reply, hdr);
	err = genlmsg_reply(reply, info);
	fastoci_cache_for_each(serve_cache, NULL);
	return err;
free:
	nlmsg_free(reply);
	return err;
}

/* Checks the sender's privilege; the cache that it names, with a reference. */
static struct fastoci_cache *cache_of(struct sk_buff *skb, struct genl_info *info)
{
	struct fastoci_cache *cache;

	if (!netlink_capable(skb, CAP_SYS_ADMIN))
		return ERR_PTR(-EPERM);
	if (!info->attrs[FASTOCI_A_CACHE] || !info->attrs[FASTOCI_A_GENERATION])
		return ERR_PTR(-EINVAL);
	cache = fastoci_cache_by_no(nla_get_u32(info->attrs[FASTOCI_A_CACHE]));
	return cache ? cache : ERR_PTR(-ENOENT);
}

/* With the helper's lock held: -ESTALE if the sender of a command is not the helper. */
static int check_sender(struct genl_info *info)
{
	return fastoci_helper_check(info->snd_portid,
				    nla_get_u64(info->attrs[FASTOCI_A_GENERATION]));
}

/* ---- slots ---- */

static int reply_slots(struct sk_buff *reply, struct genl_info *info, u32 cache_no,
		       const u32 *slots, u32 count)
{
	void *hdr = genlmsg_put_reply(reply, info, &fastoci_genl_family, 0, FASTOCI_CMD_ALLOC);

	if (!hdr || nla_put_u32(reply, FASTOCI_A_CACHE, cache_no) ||
	    nla_put(reply, FASTOCI_A_SLOTS, count * sizeof(u32), slots)) {
		nlmsg_free(reply);
		return -EMSGSIZE;
	}
	genlmsg_end(reply, hdr);
	return genlmsg_reply(reply, info);
}

static int alloc_slots(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *a = info->attrs[FASTOCI_A_COUNT];
	struct fastoci_cache *cache;
	struct sk_buff *reply;
	u32 *slots, count;
	int err;

	if (!a)
		return -EINVAL;
	slots = kcalloc(FASTOCI_MAX_BATCH, sizeof(u32), GFP_KERNEL);
	reply = genlmsg_new(nla_total_size(FASTOCI_MAX_BATCH * sizeof(u32)) + 64, GFP_KERNEL);
	err = -ENOMEM;
	if (!slots || !reply)
		goto free;
	cache = cache_of(skb, info);
	err = PTR_ERR_OR_ZERO(cache);
	if (err)
		goto free;
	fastoci_helper_lock();
	err = check_sender(info);
	if (err)
		goto unlock;
	count = min_t(u32, nla_get_u32(a), FASTOCI_MAX_BATCH);
	count = fastoci_slots_alloc(&cache->missq.map.slots, slots, count,
				    fastoci_helper_generation());
	err = -ENOSPC;
	if (!count)
		goto unlock;
	err = reply_slots(reply, info, cache->no, slots, count);
	reply = NULL;
	if (err) /* nobody would know of them */
		fastoci_slots_return(&cache->missq.map, slots, count, fastoci_helper_generation());
unlock:
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
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

	if (a && nla_len(a) % sizeof(u32))
		return -EINVAL;
	cache = cache_of(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	fastoci_helper_lock();
	err = check_sender(info);
	if (!err && a)
		err = fastoci_slots_return(&cache->missq.map, nla_data(a),
					   nla_len(a) / sizeof(u32), fastoci_helper_generation());
	else if (!err)
		fastoci_slots_release(&cache->missq.map.slots, fastoci_helper_generation());
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
	return err;
}

static int reuse_slots(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *a = info->attrs[FASTOCI_A_SLOTS];
	struct fastoci_eviction *eviction;
	struct fastoci_cache *cache;
	int err;

	if (!a || nla_len(a) % sizeof(u32))
		return -EINVAL;
	cache = cache_of(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	err = -ENOMEM;
	eviction = fastoci_eviction_new(nla_len(a) / sizeof(u32));
	if (!eviction)
		goto put;
	fastoci_helper_lock();
	err = check_sender(info);
	if (err)
		fastoci_eviction_free(eviction);
	else
		fastoci_cache_reuse(cache, eviction, nla_data(a), nla_len(a) / sizeof(u32),
				    fastoci_helper_generation());
	fastoci_helper_unlock();
put:
	fastoci_cache_put(cache);
	return err;
}

/* ---- chunks ---- */

static const struct nla_policy chunk_policy[FASTOCI_C_MAX + 1] = {
	[FASTOCI_C_SPACE] = { .type = NLA_U32 },
	[FASTOCI_C_CHUNK_NO] = { .type = NLA_U32 },
	[FASTOCI_C_SLOT] = { .type = NLA_U32 },
	[FASTOCI_C_CLASS] = { .type = NLA_U8 },
	[FASTOCI_C_ERRNO] = NLA_POLICY_RANGE(NLA_U32, 1, 4095),
};

struct chunk_entry {
	struct fastoci_chunk_key key;
	u32 slot;
	u32 err;
};

#define WANT_SPACE	BIT(FASTOCI_C_SPACE)
#define WANT_SLOT	BIT(FASTOCI_C_SLOT)

/* One entry of a batch, which must have CHUNK_NO and what @wants says. */
static int parse_chunk(const struct nlattr *nest, u32 wants, struct chunk_entry *entry,
		       struct netlink_ext_ack *extack)
{
	struct nlattr *tb[FASTOCI_C_MAX + 1];
	int err = nla_parse_nested(tb, FASTOCI_C_MAX, nest, chunk_policy, extack);

	if (err)
		return err;
	if (nla_type(nest) != FASTOCI_A_CHUNK || !tb[FASTOCI_C_CHUNK_NO] ||
	    ((wants & WANT_SPACE) && !tb[FASTOCI_C_SPACE]) ||
	    ((wants & WANT_SLOT) && !tb[FASTOCI_C_SLOT]))
		return -EINVAL;
	entry->key.chunk_no = nla_get_u32(tb[FASTOCI_C_CHUNK_NO]);
	entry->key.space = tb[FASTOCI_C_SPACE] ? nla_get_u32(tb[FASTOCI_C_SPACE]) : 0;
	entry->slot = tb[FASTOCI_C_SLOT] ? nla_get_u32(tb[FASTOCI_C_SLOT]) : 0;
	entry->err = tb[FASTOCI_C_ERRNO] ? nla_get_u32(tb[FASTOCI_C_ERRNO]) : EIO;
	return 0;
}

/* FILL and FAIL. */
static int answer_misses(struct sk_buff *skb, struct genl_info *info)
{
	bool fill = info->genlhdr->cmd == FASTOCI_CMD_FILL;
	struct nlattr *pos, *chunks = info->attrs[FASTOCI_A_CHUNKS];
	struct fastoci_cache *cache;
	struct chunk_entry entry;
	int rem, err, nr = 0;

	if (!chunks)
		return -EINVAL;
	cache = cache_of(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	fastoci_helper_lock();
	err = check_sender(info);
	if (err)
		goto unlock;
	nla_for_each_nested(pos, chunks, rem) {
		err = nr++ < FASTOCI_MAX_BATCH ? 0 : -E2BIG;
		if (err)
			break;
		err = parse_chunk(pos, WANT_SPACE | (fill ? WANT_SLOT : 0), &entry, info->extack);
		if (err)
			break;
		err = fill ? fastoci_missq_fill(&cache->missq, entry.key.space, entry.key.chunk_no,
						entry.slot, fastoci_helper_generation()) :
			     fastoci_missq_fail(&cache->missq, entry.key.space, entry.key.chunk_no,
						entry.err);
		if (err) {
			NL_SET_ERR_MSG_ATTR(info->extack, pos, "chunk refused");
			break;
		}
	}
unlock:
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
	return err;
}

/* The keys of a batch, at most FASTOCI_MAX_BATCH of them. */
static int parse_keys(const struct nlattr *chunks, struct fastoci_chunk_key *keys, u32 *nr,
		      struct netlink_ext_ack *extack)
{
	struct chunk_entry entry;
	struct nlattr *pos;
	int rem, err;

	nla_for_each_nested(pos, chunks, rem) {
		if (*nr == FASTOCI_MAX_BATCH)
			return -E2BIG;
		err = parse_chunk(pos, WANT_SPACE, &entry, extack);
		if (err)
			return err;
		keys[(*nr)++] = entry.key;
	}
	return 0;
}

static int evict_chunks(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *flags = info->attrs[FASTOCI_A_FLAGS];
	struct nlattr *chunks = info->attrs[FASTOCI_A_CHUNKS];
	bool reserve = flags && (nla_get_u32(flags) & FASTOCI_EVICT_RESERVE);
	struct fastoci_eviction *eviction;
	struct fastoci_chunk_key *keys;
	struct fastoci_cache *cache;
	u32 nr = 0;
	int err;

	if (!chunks)
		return -EINVAL;
	keys = kcalloc(FASTOCI_MAX_BATCH, sizeof(*keys), GFP_KERNEL);
	eviction = fastoci_eviction_new(FASTOCI_MAX_BATCH);
	err = -ENOMEM;
	if (!keys || !eviction)
		goto free;
	cache = cache_of(skb, info);
	err = PTR_ERR_OR_ZERO(cache);
	if (err)
		goto free;
	fastoci_helper_lock();
	err = check_sender(info);
	if (!err)
		err = parse_keys(chunks, keys, &nr, info->extack);
	if (!err) {
		err = fastoci_cache_evict(cache, eviction, keys, nr,
					  reserve ? fastoci_helper_generation() : 0);
		eviction = NULL;
		if (err)
			NL_SET_ERR_MSG_ATTR(info->extack, chunks, "chunk refused");
	}
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
free:
	fastoci_eviction_free(eviction);
	kfree(keys);
	return err;
}

static int restore_chunks(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *pos, **a = info->attrs;
	struct fastoci_space *space;
	struct fastoci_cache *cache;
	struct chunk_entry entry;
	int rem, err, nr = 0;

	if (!a[FASTOCI_A_SPACE_ID] || !a[FASTOCI_A_DATA_BYTES] || !a[FASTOCI_A_CHUNKS])
		return -EINVAL;
	cache = cache_of(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	space = fastoci_space_get(&cache->missq.map, nla_data(a[FASTOCI_A_SPACE_ID]),
				  nla_get_u64(a[FASTOCI_A_DATA_BYTES]));
	err = PTR_ERR_OR_ZERO(space);
	if (err)
		goto put_cache;
	fastoci_helper_lock();
	err = check_sender(info);
	if (err)
		goto unlock;
	nla_for_each_nested(pos, a[FASTOCI_A_CHUNKS], rem) {
		err = nr++ < FASTOCI_MAX_BATCH ? 0 : -E2BIG;
		if (!err)
			err = parse_chunk(pos, WANT_SLOT, &entry, info->extack);
		if (!err)
			err = fastoci_chunk_restore(&cache->missq.map, space, entry.key.chunk_no,
						    entry.slot, fastoci_helper_generation());
		if (err) {
			NL_SET_ERR_MSG_ATTR(info->extack, pos, "chunk refused");
			break;
		}
	}
unlock:
	fastoci_helper_unlock();
	fastoci_space_put(&cache->missq, space);
put_cache:
	fastoci_cache_put(cache);
	return err;
}

/* ---- misses ---- */

static int ack_misses(struct sk_buff *skb, struct genl_info *info)
{
	struct nlattr *count = info->attrs[FASTOCI_A_COUNT];
	struct fastoci_cache *cache;
	int err;

	if (!count)
		return -EINVAL;
	cache = cache_of(skb, info);
	if (IS_ERR(cache))
		return PTR_ERR(cache);
	fastoci_helper_lock();
	err = check_sender(info);
	if (!err)
		fastoci_missq_ack(&cache->missq, nla_get_u32(count));
	fastoci_helper_unlock();
	fastoci_cache_put(cache);
	return err;
}

/* It opens the window for messages again, so it is the helper's own. */
static int start_pending(struct netlink_callback *cb)
{
	const struct nlattr *generation = fastoci_dump_attrs(cb)[FASTOCI_A_GENERATION];
	int err = fastoci_dump_start(cb);

	if (err)
		return err;
	if (!generation)
		return -EINVAL;
	fastoci_helper_lock();
	err = fastoci_helper_check(NETLINK_CB(cb->skb).portid, nla_get_u64(generation));
	fastoci_helper_unlock();
	return err;
}

static void resend_misses(struct fastoci_cache *cache, void *arg)
{
	fastoci_missq_resend(&cache->missq);
}

/* Answers with an empty dump; what is pending comes as MISS events. */
static int dump_pending(struct sk_buff *skb, struct netlink_callback *cb)
{
	fastoci_cache_for_each(resend_misses, NULL);
	return skb->len;
}

/* ---- family ---- */

static const struct nla_policy policy[FASTOCI_A_MAX + 1] = {
	[FASTOCI_A_VERSION] = { .type = NLA_U32 },
	[FASTOCI_A_GENERATION] = { .type = NLA_U64 },
	[FASTOCI_A_FLAGS] = NLA_POLICY_MASK(NLA_U32, FASTOCI_REGISTER_TAKEOVER |
					    FASTOCI_EVICT_RESERVE | FASTOCI_SLOTS_CLEAR_ACCESSED),
	[FASTOCI_A_CACHE] = { .type = NLA_U32 },
	[FASTOCI_A_SPACE_ID] = NLA_POLICY_EXACT_LEN(32),
	[FASTOCI_A_DATA_BYTES] = { .type = NLA_U64 },
	[FASTOCI_A_COUNT] = NLA_POLICY_MIN(NLA_U32, 1),
	[FASTOCI_A_SLOTS] = { .type = NLA_BINARY, .len = FASTOCI_MAX_BATCH * sizeof(u32) },
	[FASTOCI_A_CHUNKS] = { .type = NLA_NESTED },
};

#define DO(c, fn) { .cmd = FASTOCI_CMD_##c, .flags = GENL_ADMIN_PERM, .doit = fn }
#define DUMP(c, first, fn) { .cmd = FASTOCI_CMD_GET_##c, .flags = GENL_ADMIN_PERM, \
			     .start = first, .dumpit = fn }
static const struct genl_ops ops[] = {
	DO(REGISTER, register_helper),
	DO(ALLOC, alloc_slots),
	DO(RETURN, return_slots),
	DO(ACK, ack_misses),
	DO(FILL, answer_misses),
	DO(FAIL, answer_misses),
	DO(EVICT, evict_chunks),
	DO(RESTORE, restore_chunks),
	DO(REUSE, reuse_slots),
	DUMP(CACHES, fastoci_dump_start, fastoci_dump_caches),
	DUMP(IMAGES, fastoci_dump_start, fastoci_dump_images),
	DUMP(SPACES, fastoci_dump_start, fastoci_dump_spaces),
	DUMP(SLOTS, fastoci_dump_slots_start, fastoci_dump_slots),
	DUMP(PENDING, start_pending, dump_pending),
};

/* Whoever looks the family up loads the module. */
MODULE_ALIAS_GENL_FAMILY(FASTOCI_GENL_NAME);

struct genl_family fastoci_genl_family __ro_after_init = {
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
	u64 generation;

	if (event != NETLINK_URELEASE || n->protocol != NETLINK_GENERIC ||
	    !net_eq(n->net, &init_net) || !n->portid)
		return NOTIFY_DONE;
	if (fastoci_helper_release(n->portid, &generation))
		fastoci_generation_end(generation);
	return NOTIFY_DONE;
}

static struct notifier_block release_notifier = { .notifier_call = on_release };

int fastoci_netlink_init(void)
{
	int err;

	fastoci_helper_init(&fastoci_netlink_ops);
	err = netlink_register_notifier(&release_notifier);
	if (err)
		return err;
	err = genl_register_family(&fastoci_genl_family); /* from now on a socket may register */
	if (err)
		netlink_unregister_notifier(&release_notifier);
	return err;
}

void fastoci_netlink_exit(void)
{
	genl_unregister_family(&fastoci_genl_family);
	netlink_unregister_notifier(&release_notifier);
	fastoci_helper_exit();
}
