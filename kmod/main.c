// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>

#include "fastoci.h"

static int __init fastoci_init(void)
{
	int err = fastoci_missq_init();

	if (err)
		return err;
	err = fastoci_cache_init();
	if (err)
		goto exit_missq;
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
exit_missq:
	fastoci_missq_exit();
	return err;
}

static void __exit fastoci_exit(void)
{
	fastoci_target_exit();
	fastoci_cache_exit();
	fastoci_netlink_exit();
	fastoci_missq_exit();
}

module_init(fastoci_init);
module_exit(fastoci_exit);

MODULE_DESCRIPTION("device-mapper target for lazily loaded OCI images");
MODULE_LICENSE("GPL");
MODULE_VERSION("0.1.0");
MODULE_SOFTDEP("pre: crc32c");
