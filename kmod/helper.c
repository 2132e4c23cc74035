// SPDX-License-Identifier: GPL-2.0
/*
 * Slots that a helper reserved are its own until its socket is closed, also
 * after a takeover. So each registration is kept until then.
 *
 * portid is read without the lock where an old value does no harm: a message to
 * a closed port is refused, and parking is repaired by the sweep that follows.
 */
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rculist.h>
#include <linux/slab.h>

#include "helper.h"

static struct {
	struct mutex lock;	/* guards what L(lock) marks; held during a whole command */
	u32 portid;		/* L(lock), A: 0 without a helper */
	u64 generation;		/* L(lock) of the last one that registered */
	struct list_head all;	/* L(lock) of struct registration; RCU for who only looks */
	const struct fastoci_helper_ops *ops; /* I: */
} helper = { .lock = __MUTEX_INITIALIZER(helper.lock), .all = LIST_HEAD_INIT(helper.all) };

struct registration {
	struct list_head node;
	u32 portid;
	u64 generation;
	struct rcu_head rcu;
};

void fastoci_helper_init(const struct fastoci_helper_ops *ops)
{
	helper.ops = ops;
}

void fastoci_helper_exit(void)
{
	struct registration *reg, *tmp;

	list_for_each_entry_safe(reg, tmp, &helper.all, node) {
		list_del(&reg->node);
		kfree(reg); /* of a helper that lives on without us */
	}
	helper.portid = 0;
}

const struct fastoci_helper_ops *fastoci_helper_ops(void)
{
	return helper.ops;
}

void fastoci_helper_lock(void)
	__acquires(fastoci_helper)
{
	mutex_lock(&helper.lock);
	__acquire(fastoci_helper);
}

void fastoci_helper_unlock(void)
	__releases(fastoci_helper)
{
	__release(fastoci_helper);
	mutex_unlock(&helper.lock);
}

static struct registration *find_registration(u32 portid)
{
	struct registration *reg;

	lockdep_assert_held(&helper.lock);
	list_for_each_entry(reg, &helper.all, node)
		if (reg->portid == portid)
			return reg;
	return NULL;
}

int fastoci_helper_register(u32 portid, bool takeover, u64 *generation)
{
	struct registration *reg = kzalloc(sizeof(*reg), GFP_KERNEL);
	int err = 0;

	if (!reg)
		return -ENOMEM;
	fastoci_helper_lock();
	if (find_registration(portid)) {
		err = -EALREADY;
	} else if (helper.portid && !takeover) {
		err = -EBUSY;
	} else {
		helper.generation++;
		WRITE_ONCE(helper.portid, portid);
		reg->portid = portid;
		reg->generation = helper.generation;
		list_add_tail_rcu(&reg->node, &helper.all);
		*generation = reg->generation;
	}
	fastoci_helper_unlock();
	if (err)
		kfree(reg);
	return err;
}

/* Without the lock. The end of a socket comes after its commands, so it sees what they did. */
static bool is_registered(u32 portid)
{
	struct registration *reg;
	bool found = false;

	rcu_read_lock();
	list_for_each_entry_rcu(reg, &helper.all, node)
		if (reg->portid == portid)
			found = true;
	rcu_read_unlock();
	return found;
}

bool fastoci_helper_release(u32 portid, u64 *generation)
{
	struct registration *reg;
	bool found;

	if (!is_registered(portid))
		return false; /* most sockets are not ours: they do not wait for our commands */
	fastoci_helper_lock();
	reg = find_registration(portid);
	found = reg;
	if (found) {
		*generation = reg->generation;
		list_del_rcu(&reg->node);
		kfree_rcu(reg, rcu);
	}
	if (portid == helper.portid)
		WRITE_ONCE(helper.portid, 0);
	fastoci_helper_unlock();
	return found;
}

int fastoci_helper_check(u32 portid, u64 generation)
{
	lockdep_assert_held(&helper.lock);
	return helper.portid == portid && helper.generation == generation ? 0 : -ESTALE;
}

u64 fastoci_helper_generation(void)
{
	lockdep_assert_held(&helper.lock);
	return helper.generation;
}

u32 fastoci_helper_portid(void)
{
	return READ_ONCE(helper.portid);
}

bool fastoci_helper_is_current(u64 generation)
{
	lockdep_assert_held(&helper.lock);
	return helper.portid && helper.generation == generation;
}
