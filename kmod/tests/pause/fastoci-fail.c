// SPDX-License-Identifier: GPL-2.0
/*
 * For the selftests: makes one call of a kernel function fail, of those that
 * fault injection does not reach (per-CPU areas, biosets, work queues, ...).
 *
 *	at	FUNCTION VALUE NTH, or nothing: the NTH call that the writing
 *		process makes returns VALUE and does nothing
 *	failed	whether there was such a call since (read only)
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/ptrace.h>
#include <linux/sched.h>

static struct kprobe probe;	/* under the parameters' lock */
static char name[64];
static bool active;
static long value;
static pid_t owner;
static atomic_t left = ATOMIC_INIT(0);

static bool failed;
module_param(failed, bool, 0444);

/* Is called in the function's place: the handler puts its address there. */
static noinline long stand_in(void)
{
	return value;
}

static int entered(struct kprobe *p, struct pt_regs *regs)
{
	if (current->tgid != owner || atomic_dec_return(&left))
		return 0;
	WRITE_ONCE(failed, true);
	instruction_pointer_set(regs, (unsigned long)stand_in);
	return 1;
}

/* A probe with one is not optimised: in an optimised one, what entered() changes is ignored. */
static void passed(struct kprobe *p, struct pt_regs *regs, unsigned long flags)
{
}

static void remove_probe(void)
{
	if (active)
		unregister_kprobe(&probe);
	active = false;
}

static int set_at(const char *val, const struct kernel_param *kp)
{
	int nth, err;

	remove_probe();
	WRITE_ONCE(failed, false);
	if (sscanf(val, "%63s %ld %d", name, &value, &nth) != 3)
		return 0;
	owner = current->tgid;
	atomic_set(&left, nth);
	probe = (struct kprobe){
		.symbol_name = name, .pre_handler = entered, .post_handler = passed,
	};
	err = register_kprobe(&probe);
	active = !err;
	return err;
}

static const struct kernel_param_ops at_ops = { .set = set_at };
module_param_cb(at, &at_ops, NULL, 0200);

static int __init fail_init(void)
{
	return 0;
}

static void __exit fail_exit(void)
{
	remove_probe();
}

module_init(fail_init);
module_exit(fail_exit);

MODULE_DESCRIPTION("Makes calls of the kernel fail, for the selftests of dm-fastoci");
MODULE_LICENSE("GPL");
