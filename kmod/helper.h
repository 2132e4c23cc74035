/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who the helper is: one netlink socket at a time. This file knows no netlink:
 * the events go through a table of functions that netlink.c fills in.
 *
 * The helper's lock serializes registration, its end, and every command that changes
 * a state. So no command of a generation comes after the end of that generation. It
 * is taken before the lock of a cache, and never together with the mutex of cache.c.
 */
#ifndef FASTOCI_HELPER_H
#define FASTOCI_HELPER_H

#include <linux/types.h>

struct fastoci_cache;
struct fastoci_image;

/* A chunk as events and commands name it. */
struct fastoci_chunk_key {
	u32 space;
	u32 chunk_no;
	u8 class;	/* enum fastoci_miss_class; of misses alone */
};

/* All of these may sleep. They allocate with GFP_NOIO. If there is no helper, they do nothing. */
struct fastoci_helper_ops {
	/* 0, -ECONNREFUSED (no helper), -EAGAIN (its socket is full) or -ENOMEM */
	int (*send_misses)(u32 cache_no, const struct fastoci_chunk_key *keys, u32 nr);
	void (*send_evicted)(u32 cache_no, const struct fastoci_chunk_key *keys, const u32 *slots,
			     u32 nr);
	void (*send_slot_bad)(u32 cache_no, const struct fastoci_chunk_key *key, u32 slot);
	void (*send_cache)(const struct fastoci_cache *cache, bool added);
	void (*send_image)(const struct fastoci_image *image, bool added);
};

/* Call it before there is a cache. @ops is static. */
void fastoci_helper_init(const struct fastoci_helper_ops *ops);
/* Call it after the last cache is freed. Frees the registrations that are left. */
void fastoci_helper_exit(void);
const struct fastoci_helper_ops *fastoci_helper_ops(void);

/* While it is held, no command runs and no registration begins or ends. Sleeps. */
void fastoci_helper_lock(void)
	__acquires(fastoci_helper);
void fastoci_helper_unlock(void)
	__releases(fastoci_helper);

/*
 * Makes the socket the helper, with a new generation. -EALREADY: this socket has
 * registered before; -EBUSY: another socket is the helper, and @takeover is false;
 * -ENOMEM. Sleeps.
 */
int fastoci_helper_register(u32 portid, bool takeover, u64 *generation);
/* The socket is closed. If it ever was the helper, returns true and its generation. Sleeps. */
bool fastoci_helper_release(u32 portid, u64 *generation);

/* With the lock held: 0, or -ESTALE if that is not the helper. */
int fastoci_helper_check(u32 portid, u64 generation);
/* The generation of the last socket that registered. With the lock held. */
u64 fastoci_helper_generation(void);

/* Any context. Without the lock, the helper may change before the answer is used. */
u32 fastoci_helper_portid(void);	/* 0: there is none */
static inline bool fastoci_helper_present(void)
{
	return fastoci_helper_portid();
}

/* With the lock held: whether @generation is the helper's. Only then may it get slots. */
bool fastoci_helper_is_current(u64 generation);

#endif /* FASTOCI_HELPER_H */
