// SPDX-License-Identifier: GPL-2.0
/*
 * For the selftests: stops who enters a function of dm-fastoci, so that the
 * order of a race can be forced, or delays all who do. Kprobes find the
 * functions by name, so dm-fastoci itself has no hook for this.
 *
 *	at		FUNCTION[,FUNCTION...], or nothing; arms the pause again
 *	delay_us	each who enters waits for a random time up to this;
 *			0: the first ones are held, others pass
 *	holds		how many are held (1), each when the one before was let go
 *	go		how many of them are let go
 *	asleep		who is held sleeps, so that others can wait for all CPUs;
 *			for functions that may, and take up to six words
 *	entered		how many entered since "at" was written (read only)
 *	held		how many of them were held, or are (read only)
 *	expired		whether one was let go after HOLD_MS instead (read only)
 *
 * Handlers run without preemption, so they spin: who is to sleep is sent to a
 * function that does so and then calls the one that he entered.
 */
#include <linux/delay.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/random.h>
#include <linux/slab.h>

#define HOLD_MS		8000	/* below what the watchdogs allow */
#define MAX_DELAY_US	2000
#define MAX_PROBES	16

static struct kprobe probes[MAX_PROBES];	/* under the parameters' lock */
static char names[MAX_PROBES][64];
static int nr_probes;
static atomic_t left = ATOMIC_INIT(0);	/* who are still to be held */
static atomic_t armed = ATOMIC_INIT(0);	/* whether the next one is */
static atomic_t holding = ATOMIC_INIT(0);
static atomic_t nr_entered = ATOMIC_INIT(0);

static uint delay_us;
static int set_delay_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, MAX_DELAY_US);
}

static const struct kernel_param_ops delay_us_ops = {
	.set = set_delay_us, .get = param_get_uint
};
module_param_cb(delay_us, &delay_us_ops, &delay_us, 0644);

static int holds = 1, go, held;
static bool asleep, expired;
module_param(holds, int, 0644);
module_param(go, int, 0644);
module_param(asleep, bool, 0644);
module_param(held, int, 0444);
module_param(expired, bool, 0444);

static void hold(bool may_sleep)
{
	u64 end = ktime_get_mono_fast_ns() + HOLD_MS * (u64)NSEC_PER_MSEC;
	int nth = READ_ONCE(held) + 1;

	atomic_inc(&holding);
	WRITE_ONCE(held, nth);
	while (READ_ONCE(go) < nth) {
		if (ktime_get_mono_fast_ns() > end) {
			WRITE_ONCE(expired, true);
			break;
		}
		if (may_sleep)
			usleep_range(1000, 2000);
		else
			cpu_relax();
	}
	if (atomic_dec_return(&left) > 0)
		atomic_set(&armed, 1);
	atomic_dec(&holding);
}

typedef long (*entry_fn)(long a, long b, long c, long d, long e, long f);
static entry_fn entry;	/* of who is held asleep; the next is armed behind hold() */

static noinline long hold_asleep(long a, long b, long c, long d, long e, long f)
{
	entry_fn fn = entry;
	long ret;

	hold(true);
	atomic_dec(&nr_entered); /* now he enters again */
	ret = fn(a, b, c, d, e, f);
	module_put(THIS_MODULE);
	return ret;
}

static int entered(struct kprobe *p, struct pt_regs *regs)
{
	u32 us = READ_ONCE(delay_us);

	atomic_inc(&nr_entered);
	if (us) {
		udelay(get_random_u32() % us);
		return 0;
	}
	if (!atomic_xchg(&armed, 0))
		return 0;
	if (!READ_ONCE(asleep)) {
		hold(false);
		return 0;
	}
	__module_get(THIS_MODULE);
	entry = (entry_fn)p->addr;
	instruction_pointer_set(regs, (unsigned long)hold_asleep);
	return 1;
}

/* A probe with one is not optimised: in an optimised one, what entered() changes is ignored. */
static void passed(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

/* Nobody is held after it. */
static void remove_probes(void)
{
	atomic_set(&left, 0);
	atomic_set(&armed, 0);
	WRITE_ONCE(go, INT_MAX);
	while (nr_probes)
		unregister_kprobe(&probes[--nr_probes]);
	while (atomic_read(&holding))
		usleep_range(1000, 2000);
}

static int add_probe(const char *function)
{
	struct kprobe *p = &probes[nr_probes];
	int err;

	memset(p, 0, sizeof(*p));
	snprintf(names[nr_probes], sizeof(names[0]), "dm_fastoci:%s", function);
	p->symbol_name = names[nr_probes];
	p->pre_handler = entered;
	p->post_handler = passed;
	err = register_kprobe(p);
	if (!err)
		nr_probes++;
	return err;
}

static int set_at(const char *val, const struct kernel_param *kp)
{
	char *list = kstrdup(val, GFP_KERNEL), *rest = list, *function;
	int err = 0;

	if (!list)
		return -ENOMEM;
	remove_probes();
	WRITE_ONCE(go, 0);
	WRITE_ONCE(held, 0);
	WRITE_ONCE(expired, false);
	atomic_set(&nr_entered, 0);
	atomic_set(&left, READ_ONCE(holds));
	atomic_set(&armed, holds > 0);
	while (!err && (function = strsep(&rest, ",\n")))
		if (*function)
			err = nr_probes < MAX_PROBES ? add_probe(function) : -E2BIG;
	if (err)
		remove_probes();
	kfree(list);
	return err;
}

static const struct kernel_param_ops at_ops = { .set = set_at };
module_param_cb(at, &at_ops, NULL, 0200);

static int get_entered(char *buffer, const struct kernel_param *kp)
{
	return sysfs_emit(buffer, "%d\n", atomic_read(&nr_entered));
}

static const struct kernel_param_ops entered_ops = { .get = get_entered };
module_param_cb(entered, &entered_ops, NULL, 0444);

static int __init pause_init(void)
{
	return 0;
}

static void __exit pause_exit(void)
{
	remove_probes();
}

module_init(pause_init);
module_exit(pause_exit);

MODULE_DESCRIPTION("Forces the order of races in dm-fastoci, for its selftests");
MODULE_LICENSE("GPL");
