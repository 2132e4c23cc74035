// SPDX-License-Identifier: GPL-2.0
/* The events that are sent to the helper; see fastoci_netlink.h. */
#include <net/genetlink.h>
#include <net/net_namespace.h>

#include "netlink_family.h"

static struct sk_buff *new_event(u8 cmd, size_t bytes, void **hdr)
{
	struct sk_buff *skb = genlmsg_new(bytes, GFP_NOIO);

	if (!skb)
		return NULL;
	*hdr = genlmsg_put(skb, 0, 0, &fastoci_genl_family, 0, cmd);
	if (!*hdr) {
		nlmsg_free(skb);
		return NULL;
	}
	return skb;
}

static int send_event(struct sk_buff *skb, void *hdr)
{
	u32 portid = fastoci_helper_portid();

	if (!portid) {
		nlmsg_free(skb);
		return -ECONNREFUSED;
	}
	genlmsg_end(skb, hdr);
	return genlmsg_unicast(&init_net, skb, portid);
}

static int put_chunk(struct sk_buff *skb, const struct fastoci_chunk_key *key, const u32 *slot,
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

static int send_chunks(u32 cache_no, u8 cmd, const struct fastoci_chunk_key *keys,
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
	if (nla_put_u32(skb, FASTOCI_A_CACHE, cache_no))
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

static int send_misses_event(u32 cache_no, const struct fastoci_chunk_key *keys, u32 nr)
{
	return send_chunks(cache_no, FASTOCI_CMD_MISS, keys, NULL, nr);
}

/* A full socket gives its owner ENOBUFS, who then dumps. Without memory nobody tells him. */
static void send_slots(u32 cache_no, u8 cmd, const struct fastoci_chunk_key *keys,
		       const u32 *slots, u32 nr)
{
	if (send_chunks(cache_no, cmd, keys, slots, nr) == -ENOMEM)
		DMERR_LIMIT("cache %u: no memory to tell the helper about slots: restart it",
			    cache_no);
}

static void send_evicted_event(u32 cache_no, const struct fastoci_chunk_key *keys,
			       const u32 *slots, u32 nr)
{
	send_slots(cache_no, FASTOCI_CMD_EVICTED, keys, slots, nr);
}

static void send_slot_bad_event(u32 cache_no, const struct fastoci_chunk_key *key, u32 slot)
{
	send_slots(cache_no, FASTOCI_CMD_SLOT_BAD, key, &slot, 1);
}

int fastoci_put_image(struct sk_buff *skb, const struct fastoci_image *image)
{
	return nla_put_u32(skb, FASTOCI_A_IMAGE, image->no) ||
	       nla_put_u32(skb, FASTOCI_A_CACHE, image->cache->no) ||
	       nla_put_u32(skb, FASTOCI_A_META_DEV, image->meta_dev->bdev->bd_dev) ||
	       nla_put_u32(skb, FASTOCI_A_CACHE_DEV, image->cache_dev->bdev->bd_dev) ||
	       nla_put(skb, FASTOCI_A_UUID, 16, image->cache->uuid) ||
	       nla_put(skb, FASTOCI_A_IMAGE_ID, 32, image->image_id);
}

static void send_image_event(const struct fastoci_image *image, bool added)
{
	struct sk_buff *skb;
	void *hdr;

	if (!fastoci_helper_present())
		return;
	skb = new_event(added ? FASTOCI_CMD_IMAGE_ADDED : FASTOCI_CMD_IMAGE_REMOVED, 256, &hdr);
	if (!skb)
		return; /* the helper finds it by GET_IMAGES when a miss names it */
	if (fastoci_put_image(skb, image))
		nlmsg_free(skb);
	else
		send_event(skb, hdr);
}

static void send_cache_event(const struct fastoci_cache *cache, bool added)
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

const struct fastoci_helper_ops fastoci_netlink_ops = {
	.send_misses = send_misses_event,
	.send_evicted = send_evicted_event,
	.send_slot_bad = send_slot_bad_event,
	.send_cache = send_cache_event,
	.send_image = send_image_event,
};
