// SPDX-License-Identifier: GPL-2.0
/* The device-mapper target: constructor and destructor, suspend, status, messages. */
#include <linux/module.h>
#include <linux/slab.h>

#include "compat.h"
#include "io.h"
#include "target.h"

#define MAX_FAIL_AFTER_MS	86400000
#define MAX_SUSPEND_GRACE_MS	600000

static atomic_t next_image_no = ATOMIC_INIT(0);

static const char *const helper_names[] = {
	[FASTOCI_HELPER_NONE] = "none",
	[FASTOCI_HELPER_STALLED] = "stalled",
	[FASTOCI_HELPER_READY] = "ready",
};

/* ---- table line ---- */

static int parse_options(struct dm_target *ti, struct dm_arg_set *as, struct fastoci_waiters *w)
{
	static const struct dm_arg args[] = {
		{ 0, 5, "bad number of options" },
		{ 0, MAX_FAIL_AFTER_MS, "fail_after_ms out of range (0..86400000)" },
		{ 0, MAX_SUSPEND_GRACE_MS, "suspend_grace_ms out of range (0..600000)" },
	};
	unsigned int nr;
	int err;

	if (!as->argc)
		return 0;
	err = dm_read_arg_group(args, as, &nr, &ti->error);
	if (err)
		return err;
	while (nr) {
		const char *name = dm_shift_arg(as);

		nr--;
		if (!strcasecmp(name, "hold")) {
			w->policy = FASTOCI_HOLD;
		} else if (nr && !strcasecmp(name, "fail_after_ms")) {
			nr--;
			err = dm_read_arg(args + 1, as, &w->fail_after_ms, &ti->error);
			w->policy = FASTOCI_FAIL_AFTER;
		} else if (nr && !strcasecmp(name, "suspend_grace_ms")) {
			nr--;
			err = dm_read_arg(args + 2, as, &w->suspend_grace_ms, &ti->error);
		} else {
			ti->error = "unknown option or option without a value";
			err = -EINVAL;
		}
		if (err)
			return err;
	}
	if (as->argc) {
		ti->error = "more arguments than options";
		return -EINVAL;
	}
	return 0;
}

static int fastoci_ctr(struct dm_target *ti, unsigned int argc, char **argv)
{
	struct fastoci_image *image;
	struct dm_arg_set as;
	int err;

	if (argc < 2) {
		ti->error = "needs <meta_dev> <cache_dev>";
		return -EINVAL;
	}
	if (dm_table_get_mode(ti->table) & FASTOCI_MODE_WRITE) {
		ti->error = "the table must be read-only (dmsetup create --readonly)";
		return -EINVAL;
	}
	if (ti->begin) {
		ti->error = "the target must start at sector 0";
		return -EINVAL;
	}
	image = kzalloc(sizeof(*image), GFP_KERNEL);
	if (!image) {
		ti->error = "out of memory";
		return -ENOMEM;
	}
	image->waiters.ti = ti;
	image->waiters.suspend_grace_ms = 5000;
	fastoci_io_setup(image);
	as.argc = argc - 2;
	as.argv = argv + 2;
	err = parse_options(ti, &as, &image->waiters);
	if (!err)
		err = fastoci_image_load(image, ti, argv[0], argv[1]);
	if (err) {
		fastoci_image_free(image, ti);
		return err;
	}
	ti->error = NULL;
	ti->private = image;
	ti->num_flush_bios = 0;
	ti->per_io_data_size = sizeof(struct fastoci_bio);
	ti->accounts_remapped_io = true;
	fastoci_cache_lock(image->cache);
	image->no = atomic_inc_return(&next_image_no); /* here: the list is in their order */
	fastoci_waiters_add_locked(&image->waiters);
	fastoci_cache_unlock(image->cache);
	fastoci_helper_ops()->send_image(image, true);
	return 0;
}

static void fastoci_dtr(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;

	fastoci_io_stop(image);
	fastoci_helper_ops()->send_image(image, false);
	fastoci_image_free(image, ti);
}

/* ---- suspend ---- */

static void fastoci_presuspend(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_waiters *w = &image->waiters;

	fastoci_missq_lock(w->missq);
	if (dm_noflush_suspending(ti)) {
		w->requeue = true;
		fastoci_sweep_locked(w, BLK_STS_DM_REQUEUE);
	} else {
		w->draining = true;
		w->drain_since = jiffies;
		fastoci_missq_arm_timer_locked(w->missq, jiffies);
	}
	fastoci_missq_unlock(w->missq);
}

static void end_suspend(struct dm_target *ti)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_waiters *w = &image->waiters;

	fastoci_missq_lock(w->missq);
	w->requeue = false;
	w->draining = false;
	fastoci_missq_unlock(w->missq);
}

/* ---- status and messages ---- */

static void emit_info(const struct fastoci_image *image, char *result, unsigned int maxlen)
{
	const struct fastoci_waiters *w = &image->waiters;
	u32 fail_after_ms, parked, bad, i;
	enum fastoci_helper_state helper;
	enum fastoci_policy policy;
	u64 present = 0, total = 0;
	struct fastoci_stats sum;
	size_t sz = 0;

	fastoci_missq_lock(w->missq);
	policy = w->policy;
	fail_after_ms = w->fail_after_ms;
	parked = w->nr_parked;
	bad = w->missq->map.slots.nr_bad;
	helper = fastoci_helper_state_locked(w->missq);
	for (i = 0; i < image->nr_spaces; i++) {
		present += image->spaces[i]->nr_present;
		total += image->spaces[i]->nr_chunks;
	}
	fastoci_missq_unlock(w->missq);
	fastoci_image_count(image, &sum);
	DMEMIT("%*phN %u %llu/%llu %llu %llu %u %llu %s ", 32, image->image_id, image->extents.nr,
	       present, total, sum.hits, sum.misses, parked, sum.errors, helper_names[helper]);
	if (policy == FASTOCI_HOLD)
		DMEMIT("hold");
	else
		DMEMIT("fail_after_ms:%u", fail_after_ms);
	DMEMIT(" %u", bad);
}

static void emit_table(const struct fastoci_image *image, char *result, unsigned int maxlen)
{
	const struct fastoci_waiters *w = &image->waiters;
	u32 fail_after_ms, suspend_grace_ms;
	enum fastoci_policy policy;
	size_t sz = 0;

	fastoci_missq_lock(w->missq);
	policy = w->policy;
	fail_after_ms = w->fail_after_ms;
	suspend_grace_ms = w->suspend_grace_ms;
	fastoci_missq_unlock(w->missq);
	DMEMIT("%s %s ", image->meta_dev->name, image->cache_dev->name);
	if (policy == FASTOCI_HOLD)
		DMEMIT("3 hold suspend_grace_ms %u", suspend_grace_ms);
	else
		DMEMIT("4 fail_after_ms %u suspend_grace_ms %u", fail_after_ms, suspend_grace_ms);
}

static void fastoci_status(struct dm_target *ti, status_type_t type, unsigned int flags,
			   char *result, unsigned int maxlen)
{
	const struct fastoci_image *image = ti->private;
	size_t sz = 0;

	switch (type) {
	case STATUSTYPE_INFO:
		emit_info(image, result, maxlen);
		break;
	case STATUSTYPE_TABLE:
		emit_table(image, result, maxlen);
		break;
	case STATUSTYPE_IMA:
		DMEMIT_TARGET_NAME_VERSION(ti->type);
		DMEMIT(",image_id=%*phN;", 32, image->image_id);
		break;
	}
}

static int fastoci_message(struct dm_target *ti, unsigned int argc, char **argv, char *result,
			   unsigned int maxlen)
{
	struct fastoci_image *image = ti->private;
	struct fastoci_waiters *w = &image->waiters;
	u32 ms = 0;

	if (argc == 1 && !strcasecmp(argv[0], "fail_pending")) {
		fastoci_sweep(w, BLK_STS_IOERR);
		return 0;
	}
	if (argc == 1 && !strcasecmp(argv[0], "hold")) {
		fastoci_missq_lock(w->missq);
		w->policy = FASTOCI_HOLD;
		fastoci_missq_unlock(w->missq);
		return 0;
	}
	if (argc != 2 || kstrtou32(argv[1], 10, &ms))
		goto unknown;
	if (!strcasecmp(argv[0], "fail_after_ms") && ms <= MAX_FAIL_AFTER_MS) {
		fastoci_missq_lock(w->missq);
		w->policy = FASTOCI_FAIL_AFTER;
		w->fail_after_ms = ms;
		fastoci_missq_arm_timer_locked(w->missq, jiffies);
		fastoci_missq_unlock(w->missq);
		return 0;
	}
	if (!strcasecmp(argv[0], "suspend_grace_ms") && ms <= MAX_SUSPEND_GRACE_MS) {
		fastoci_missq_lock(w->missq);
		w->suspend_grace_ms = ms;
		fastoci_missq_unlock(w->missq);
		return 0;
	}
unknown:
	DMWARN("%s: unknown message or value out of range: %s", fastoci_image_name(image),
	       argv[0]);
	return -EINVAL;
}

static int fastoci_iterate_devices(struct dm_target *ti, iterate_devices_callout_fn fn, void *data)
{
	struct fastoci_image *image = ti->private;
	int r = fn(ti, image->meta_dev, 0, bdev_nr_sectors(image->meta_dev->bdev), data);

	return r ? r : fn(ti, image->cache_dev, 0, bdev_nr_sectors(image->cache_dev->bdev), data);
}

static struct target_type fastoci_target = {
	.name = "fastoci",
	.version = { 0, 1, 0 },
	.features = DM_TARGET_NOWAIT | DM_TARGET_SINGLETON,
	.module = THIS_MODULE,
	.ctr = fastoci_ctr,
	.dtr = fastoci_dtr,
	.map = fastoci_map,
	.end_io = fastoci_end_io,
	.presuspend = fastoci_presuspend,
	.presuspend_undo = end_suspend,
	.resume = end_suspend,
	.status = fastoci_status,
	.message = fastoci_message,
	.iterate_devices = fastoci_iterate_devices,
};

int fastoci_target_init(void)
{
	return dm_register_target(&fastoci_target);
}

void fastoci_target_exit(void)
{
	dm_unregister_target(&fastoci_target);
}
