// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

#include "cache.h"
#include "io.h"
#include "netlink.h"
#include "target.h"

/*
 * A reader of a slot may leave in an interrupt. TINY_SRCU counts readers with
 * plain additions, so an interrupt could lose a count and free a slot that is read.
 */
static_assert(IS_ENABLED(CONFIG_TREE_SRCU), "dm-fastoci needs a kernel with CONFIG_TREE_SRCU");

static int __init fastoci_init(void)
{
	int err = fastoci_io_init();

	if (err)
		return err;
	err = fastoci_cache_init();
	if (err)
		goto exit_io;
	err = fastoci_netlink_init();
	if (err)
		goto exit_cache;
	err = fastoci_target_init();
	if (err)
		goto exit_netlink;
	return 0;
exit_netlink:
	fastoci_netlink_exit();
exit_cache:
	fastoci_cache_exit();
exit_io:
	fastoci_io_exit();
	return err;
}

static void __exit fastoci_exit(void)
{
	fastoci_target_exit();
	fastoci_cache_drain(); /* it sends events */
	fastoci_netlink_exit();
	fastoci_cache_exit();
	fastoci_io_exit();
}

module_init(fastoci_init);
module_exit(fastoci_exit);

MODULE_DESCRIPTION("device-mapper target for lazily loaded OCI images");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
MODULE_SOFTDEP("pre: crc32c");
